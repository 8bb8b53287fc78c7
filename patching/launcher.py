"""Runs setup_hermes.py of the folder above, in which hermes/ and utils.py are too."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    folder = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(folder))
    runpy.run_path(str(folder / "setup_hermes.py"), run_name="__main__")
