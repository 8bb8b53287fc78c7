"""The app: Hermes in a terminal in its owner's browser."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (what runs in CODA needs 3.10, and the app more)
    sys.exit(f"The app needs Python 3.11 or later; this is {sys.version.split()[0]}.")
