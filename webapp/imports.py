"""What the app imports, it imports before a terminal may put a module of that name in its way.

The app alone holds the service principal's secret. On Databricks Apps, `HOME` is the folder of the
app's source, and on a laptop it may be: a terminal writes there what it likes.
"""

from __future__ import annotations

import importlib
import site
import sys
from pathlib import Path

from webapp.settings import AppSettings


def finish_imports(settings: AppSettings) -> None:
    """Import what is needed later, and search no folder for modules but Python's own from now on.

    Packages that are loaded still find their own parts. Takes a second where databricks-sdk is
    needed.
    """
    if settings.logs_in:
        importlib.import_module("databricks.sdk")
    sys.path[:] = [folder for folder in sys.path if _is_pythons(Path(folder).resolve(), settings)]


def _is_pythons(folder: Path, settings: AppSettings) -> bool:
    """Whether Python itself is there, or what is installed for it."""
    source = Path(__file__).resolve().parents[1]
    own = (sys.prefix, sys.base_prefix, site.getusersitepackages())
    return folder not in (source, settings.home.resolve()) and any(
        folder.is_relative_to(Path(parent).resolve()) for parent in own
    )
