"""`python -m tests.standin [options] -- COMMAND`: see `command.main`."""

import sys

from tests.standin.command import main

try:
    sys.exit(main(sys.argv[1:]))
except KeyboardInterrupt:  # Ctrl-C before the command has begun
    sys.exit(130)
