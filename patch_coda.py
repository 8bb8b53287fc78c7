"""Put Hermes on Databricks into a checkout of CODA, or take it out again.

In CODA's utils.py the functions that find the AI Gateway are replaced, its setup_hermes.py too;
hermes/ comes beside them. CODA's other code stays as it is. A second run changes nothing. What was
there before is kept in hermes/coda.json.

Exit codes: 0 done, 1 a file cannot be written, 2 not possible in this folder.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from hermes.urls import SettingError
from patching.checkout import RECORD, Checkout, Plan, plan_fix, plan_undo
from patching.files import write_all
from patching.source import encode


def main(argv: list[str]) -> int:
    """Run the program.

    Arguments:
        argv: the arguments; see `--help`.

    Returns:
        The exit code; see the module's text.
    """
    parser = argparse.ArgumentParser(prog="patch_coda.py", description=__doc__)
    parser.add_argument("folder", help="the checkout of CODA")
    parser.add_argument("--undo", action="store_true", help="give back what was there before")
    options = parser.parse_args(argv)
    try:
        if not options.folder.strip():
            raise SettingError("CODA: it is not set; expected the folder of a CODA checkout")
        checkout = Checkout(Path(options.folder))
        plan = plan_undo(checkout) if options.undo else plan_fix(checkout)
        lines = report(checkout, plan, options.undo)
        files = {name: None if t is None else encode(t) for name, t in plan.files.items()}
        write_all(checkout.folder, files)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"CODA: {error}; nothing was changed.", file=sys.stderr)
        return 1
    print(*lines, sep="\n")
    return 0


def report(checkout: Checkout, plan: Plan, undo: bool) -> list[str]:
    """What a plan changes, for a person: the difference in utils.py, the other files, what to do.

    Arguments:
        checkout: as it is before the plan is carried out.
        plan: what is to be written.
        undo: whether the fix is taken out.
    """
    if not plan.files:
        state = "The fix is not in it" if undo else "The fix is in it"
        return [*plan.notes, f"{state}: nothing to change."]
    others = [name for name in plan.files if not name.startswith(("hermes/", "utils.py"))]
    done = ", ".join(["hermes/", *others])
    lines = ", and the lines of utils.py above" if "utils.py" in plan.files else ""
    next_step = "Next: commit and deploy CODA as before."
    more = [
        f"{next_step} The models are HERMES_* in its app.yaml.",
        f"Commit {RECORD} too: UNDO needs it in a clone.",
    ]
    return [
        *_difference(checkout.text("utils.py"), plan.files.get("utils.py")),
        f"{'Taken out' if undo else 'Put in'}: {done}{lines}.",
        *plan.notes,
        *([next_step] if undo else more),
    ]


def _difference(old: str | None, new: str | None) -> list[str]:
    """The difference of utils.py; none where it does not change."""
    if old is None or new is None:
        return []
    return [
        *difflib.unified_diff(_lines(old), _lines(new), "a/utils.py", "b/utils.py", lineterm="")
    ]


def _lines(text: str) -> list[str]:
    """The lines of a text that may be shown on any terminal."""
    return [
        line.rstrip("\r").encode("ascii", "backslashreplace").decode() for line in text.split("\n")
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
