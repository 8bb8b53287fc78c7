"""`python -m tests.standin [--home FOLDER] [options] -- COMMAND`: see `workspace.main`.

With `--home`, COMMAND has a new home below FOLDER, in which FOLDER's .local is: Hermes is installed
once, and two runs share nothing else. It is deleted at the end.
"""

import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.standin.workspace import main


def main_in_own_home(argv: list[str]) -> int:
    """Run the command, in a home of its own where that is asked for."""
    if argv[:1] != ["--home"]:
        return main(argv)
    folder = Path(argv[1])
    with TemporaryDirectory(prefix="run.", dir=folder, ignore_cleanup_errors=True) as home:
        Path(home, ".local").symlink_to(folder / ".local")
        os.environ["HOME"] = home
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))  # the terminal was closed
        return main(argv[2:])


try:
    sys.exit(main_in_own_home(sys.argv[1:]))
except KeyboardInterrupt:  # Ctrl-C before the command has begun
    sys.exit(130)
