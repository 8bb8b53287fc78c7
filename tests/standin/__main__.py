"""`python -m tests.standin [options] -- COMMAND`: see `workspace.main`."""

import sys

from tests.standin.workspace import main

sys.exit(main(sys.argv[1:]))
