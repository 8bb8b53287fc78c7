"""A checkout of CODA: what the fix changes in it, planned whole before anything is written.

What was there before is kept in hermes/coda.json, beside the code: so it can be given back from a
checkout that was committed, pushed and cloned again too.
"""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hermes.small_file import read_small_file
from hermes.urls import SettingError
from patching.app_yaml import add_settings, take_out
from patching.source import Change, Module, Patch, decode, encode, imports_hermes, patch, restore

OURS = Path(__file__).resolve().parent.parent
RECORD = "hermes/coda.json"
FORMAT = 1
FIX = (
    "get_gateway_host",
    "_derive_workspace_id_from_host",
    "_build_gateway_candidate",
    "_probe_gateway",
)
SETTINGS = {  # as YAML
    "ENABLE_HERMES": '"true"',
    "HERMES_MODEL": "databricks-claude-opus-4-7",
    "HERMES_FALLBACK_MODEL": "databricks-claude-opus-4-6",
}
APP_YAMLS = ("app.yaml", "app.yaml.template")
SETUP, LATER_SETUP = "setup_hermes.py", "setup/setup_hermes.py"  # CODA moved its own in summer 2026
EXPECTED = "expected the folder of a CODA checkout"

Texts = dict[str, str | None]  # of files, by their path in the checkout; None: there is no file


@dataclass(frozen=True)
class Kept:
    """A whole file that the fix put in: the text before (None: no file), and the hash of ours."""

    old: str | None
    new: str


@dataclass(frozen=True)
class Record:
    """What the fix changed, as it is kept in the checkout."""

    utils: Patch
    files: Mapping[str, Kept]
    settings: Mapping[str, tuple[str, ...]]  # for each app.yaml, the lines that were added
    format: int = FORMAT


@dataclass(frozen=True)
class Plan:
    """The files that change, and a line each on what a person should know."""

    files: Texts
    notes: list[str]


class Checkout:
    """A CODA checkout, as it is on disk."""

    def __init__(self, folder: Path) -> None:
        """Look at a folder.

        Raises:
            SettingError: where it is not a checkout of CODA.
        """
        self.folder = folder
        problem = ""
        if not folder.is_dir():
            problem = "no such folder"
        elif folder.resolve() == OURS:
            problem = "it is this project"
        elif not (folder / "utils.py").is_file():
            problem = "it has no utils.py"
        if problem:
            raise SettingError(f"CODA: {str(folder)!r} is not valid ({problem}); {EXPECTED}")

    def text(self, name: str) -> str | None:
        """A file's text, None where there is none.

        Raises:
            SettingError: where it is reached through a link, so that it may not be the checkout's,
                or is not a regular file.
            OSError: where it cannot be read, or is too large.
        """
        path = self.folder
        for part in PurePosixPath(name).parts:
            path /= part
            if path.is_symlink():
                raise SettingError(f"{name}: it is not valid (a link); expected a file of its own")
        if not path.exists():
            return None
        if not path.is_file():
            raise SettingError(f"{name}: it is not valid (not a file); expected a regular file")
        return decode(read_small_file(path))

    def committed(self, name: str) -> str:
        """A file's text in the last commit, "" where there is none."""
        command = ["git", "-C", str(self.folder), "show", f"HEAD:./{name}"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=30)
        except (OSError, subprocess.SubprocessError):
            return ""
        return decode(done.stdout) if done.returncode == 0 else ""

    def record(self) -> Record | None:
        """What the fix changed, None where it is not in.

        Raises:
            SettingError: where that cannot be read.
        """
        text = self.text(RECORD)
        if text is None:
            return None
        try:
            return _read_record(json.loads(text))
        except (ValueError, TypeError, LookupError, AttributeError):
            raise SettingError(
                f"{RECORD}: it is not valid; expected it as it was written"
            ) from None


def plan_fix(checkout: Checkout) -> Plan:
    """Plan to put the fix in, or to bring it up to date.

    Raises:
        SettingError: where that is not possible.
    """
    record = checkout.record()
    before = _without_fix(checkout, record) if record else Plan({}, [])
    utils = _utils(before.files.get("utils.py") or checkout.text("utils.py"))
    if record is None:
        _refuse_what_is_theirs(checkout, utils)

    def original(name: str) -> str | None:
        return before.files[name] if name in before.files else checkout.text(name)

    fixed, done = patch(utils, _fix_for(utils), FIX[0])
    ours = _our_files(at_setup_folder=original(LATER_SETUP) is not None)
    kept = {name: Kept(original(name), _hash(text)) for name, text in ours.items()}
    files: Texts = {**before.files, **ours, "utils.py": fixed.text}
    settings, notes = {}, before.notes
    for name in APP_YAMLS:
        text = original(name)
        if text is None:
            continue
        files[name], settings[name] = add_settings(name, text, SETTINGS)
        if not settings[name] and any(setting not in text for setting in SETTINGS):
            notes.append(f"{name}: env is not a list with one entry a line; nothing was added.")
    record_text = json.dumps(asdict(Record(done, kept, settings)), indent=1) + "\n"
    # The record first: an interrupted run can be taken back too.
    return Plan(_changed(checkout, {RECORD: record_text, **files}), notes)


def plan_undo(checkout: Checkout) -> Plan:
    """Plan to give back what was there before the fix.

    Raises:
        SettingError: where something of the fix was edited since.
    """
    record = checkout.record()
    if record is None:
        _refuse_what_is_theirs(checkout, _utils(checkout.text("utils.py")))
        return Plan({}, [])
    before = _without_fix(checkout, record)
    return Plan(_changed(checkout, {**before.files, RECORD: None}), before.notes)


def _without_fix(checkout: Checkout, record: Record) -> Plan:
    """The files of the fix as they are without it."""
    utils = restore(_utils(checkout.text("utils.py")), record.utils)
    files: Texts = {"utils.py": utils.text}
    edited = []
    for name, kept in record.files.items():
        text = checkout.text(name)
        if text not in (None, kept.old) and _hash(text or "") != kept.new:
            edited.append(name)
        files[name] = kept.old
    if edited:
        raise SettingError(
            f"{', '.join(edited)}: edited since the fix was put in; expected no edits there"
        )
    notes = []
    for name, added in record.settings.items():
        text = checkout.text(name)
        if text is not None:
            files[name], stay = take_out(text, added)
            notes += [f"{name}: {setting} was edited since, and stays." for setting in stay]
    return Plan(files, notes)


def _refuse_what_is_theirs(checkout: Checkout, utils: Module) -> None:
    """Refuse a checkout without a record in which the fix would meet what is not known."""
    if (checkout.folder / "hermes").exists():
        raise SettingError(f"hermes: it is there, and {RECORD} is not; expected no such folder")
    if imports_hermes(utils):
        raise SettingError(f"utils.py: it imports hermes, and {RECORD} is not there")
    committed = checkout.committed("utils.py")
    last = Module("utils.py of the last commit", committed)
    for name in FIX:
        if committed and _function_text(utils, name) != _function_text(last, name):
            raise SettingError(f"utils.py: {name} has uncommitted changes; expected none there")


def _function_text(module: Module, name: str) -> str:
    """A function's text, whatever git made of its line ends; "" where there is none."""
    node = module.function(name)
    return module.text_of(node).replace("\r\n", "\n") if node else ""


def _utils(text: str | None) -> Module:
    """CODA's utils.py."""
    return Module("utils.py", text or "")


def _fix_for(utils: Module) -> Module:
    """The functions of the fix, for a CODA of that utils.py.

    An empty `DATABRICKS_GATEWAY_HOST` means what it means there: nothing, or "no gateway" in a CODA
    that asks whether the variable is there at all.
    """
    ours = Module("utils.py", (OURS / "utils.py").read_text(encoding="utf-8"))
    wanted = [node for name in FIX if (node := ours.function(name))]
    imports = "\n".join(ours.imports())
    text = "\n\n".join([imports, *(ours.text_of(node) for node in wanted)])
    theirs = utils.function(FIX[0])
    if theirs and "'DATABRICKS_GATEWAY_HOST' in " in ast.unparse(theirs):
        text = text.replace("empty_is_none=False", "empty_is_none=True")
    return Module("utils.py", text)


def _our_files(at_setup_folder: bool) -> dict[str, str]:
    """Our files by their path in a checkout.

    Arguments:
        at_setup_folder: whether CODA's own setup is in setup/: there ours is started from there.
    """
    paths = [OURS / SETUP, *sorted((OURS / "hermes").rglob("*"))]
    files = {
        path.relative_to(OURS).as_posix(): decode(path.read_bytes())
        for path in paths
        if path.suffix in (".py", ".yaml") and path.is_file()
    }
    if at_setup_folder:
        files[LATER_SETUP] = decode((OURS / "patching" / "launcher.py").read_bytes())
    return files


def _read_record(given: Any) -> Record:
    """A record from its JSON; ValueError, TypeError or LookupError where it is not one."""
    utils = given["utils"]
    functions = {n: Change(str(c["old"]), str(c["new"])) for n, c in utils["functions"].items()}
    files = {
        name: Kept(None if kept["old"] is None else str(kept["old"]), str(kept["new"]))
        for name, kept in given["files"].items()
    }
    settings = {name: tuple(map(str, added)) for name, added in given["settings"].items()}
    known = all(_may_be_ours(name) for name in files) and {*settings} <= {*APP_YAMLS}
    if given["format"] != FORMAT or not known:
        raise ValueError
    return Record(Patch(functions, tuple(map(str, utils["imports"]))), files, settings)


def _may_be_ours(name: str) -> bool:
    """Whether a path is one at which the fix puts a file."""
    parts = PurePosixPath(name).parts
    return name in (SETUP, LATER_SETUP) or (parts[0] == "hermes" and ".." not in parts)


def _changed(checkout: Checkout, files: Texts) -> Texts:
    """Those of some files that are different now."""
    return {name: text for name, text in files.items() if text != checkout.text(name)}


def _hash(text: str) -> str:
    """A text's hash, whatever git made of its line ends."""
    return hashlib.sha256(encode(text.replace("\r\n", "\n"))).hexdigest()
