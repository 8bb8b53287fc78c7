"""Putting the app on Databricks: only deploy.py imports it."""

import sys
from importlib.util import find_spec

import webapp  # noqa: F401 (ends where Python is too old)

if not all(map(find_spec, ("requests", "yaml", "databricks", "databricks.sdk"))):
    sys.exit("deploy.py needs what requirements.txt lists; `make deploy` installs that in .venv.")
