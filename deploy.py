"""Put the app on Databricks: what is missing is made, what has changed is uploaded, the rest stays.

    make deploy     creates the app if needed, gives it its models, uploads, deploys
    make status     shows the app, its resources and its last deployment
    make undeploy   deletes the app, once its name has been typed

with any of APP=name (hermes), PROFILE=name or HOST=https://... (logs in with the browser),
SET="NAME=value ..." for app.yaml, VOLUME=catalog.schema.volume, DRY=1 (reads only), FORCE=1
(without a route for the model, or for another's app). Settings stay until SET="NAME=" takes one
back.

Exit codes: 0 done, 1 it cannot be done, 2 bad settings.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from deploying.options import known_settings, read_options
from hermes.urls import SettingError

ROOT = Path(__file__).resolve().parent


def main(argv: list[str], env: Mapping[str, str]) -> int:
    """Run the program.

    Arguments:
        argv: the arguments; see `deploying.options`.
        env: the environment, in which a login may be.

    Returns:
        The exit code; see the module's text.
    """
    try:
        options = read_options(argv, __doc__ or "", known_settings(ROOT))
        from deploying.commands import run  # databricks-sdk takes two seconds

        return run(options, env, ROOT)
    except ModuleNotFoundError:
        lacks = "deploy.py needs what requirements.txt lists"
        print(f"{lacks}; `make deploy` installs that in .venv.", file=sys.stderr)
        return 1
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped: run this again, it goes on from there.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    # In step with stderr where both go to one pipe.
    cast(io.TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)
    sys.exit(main(sys.argv[1:], os.environ))
