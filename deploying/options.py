"""What a run is asked to do: its arguments, and the settings in them."""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from hermes.settings import read_flag
from hermes.urls import SettingError

COMMANDS = ("deploy", "status", "undeploy")
IN_CLEAR = (
    "DATABRICKS_TOKEN would lie open in app.yaml; expected a secret of the app, bound there with"
    " `valueFrom`"
)


@dataclass(frozen=True)
class Options:
    """The arguments, checked.

    Arguments:
        command: one of COMMANDS.
        app: the app's name.
        profile: a profile of the Databricks CLI, or "".
        host: a workspace to log in to with the browser, or "".
        settings: for app.yaml, by name; "" takes back what was given before.
        dry: read only.
        force: deploy without a route for the model, or over another's app.
    """

    command: str
    app: str = "hermes"
    profile: str = ""
    host: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    dry: bool = False
    force: bool = False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, like every other refusal."""
        raise SettingError(f"deploy.py: {message}; --help lists what can be given")


def read_options(argv: list[str], about: str, known: list[str]) -> Options:
    """Read the arguments.

    Arguments:
        argv: without the program's name.
        about: what `--help` begins with.
        known: every setting of the app.

    Raises:
        SettingError: for the first one that is not valid.
        SystemExit: after `--help`.
    """
    parser = _Parser(
        prog="deploy.py", description=about, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--app", default="", metavar="NAME", help="the app's name: hermes")
    parser.add_argument("--profile", default="", help="a profile of the Databricks CLI")
    parser.add_argument("--host", default="", metavar="URL", help="log in with the browser")
    parser.add_argument("--set", default="", metavar='"NAME=value ..."', help="for app.yaml")
    parser.add_argument("--volume", default="", metavar="CATALOG.SCHEMA.VOLUME")
    for name, use in (("dry", "read only"), ("force", "without a route, or for another's app")):
        parser.add_argument(f"--{name}", nargs="?", const="1", default="0", help=use)
    found = {name: value.strip() for name, value in vars(parser.parse_args(argv)).items()}
    if found["profile"] and found["host"]:
        raise SettingError("HOST: it is set, and PROFILE too; expected one of them")
    return Options(
        found["command"],
        _read_name(found["app"] or Options.app),
        found["profile"],
        found["host"],
        read_set(found["set"], known) | read_volume(found["volume"]),
        read_flag({"DRY": found["dry"] or "0"}, "DRY"),
        read_flag({"FORCE": found["force"] or "0"}, "FORCE"),
    )


def _read_name(name: str) -> str:
    if not re.fullmatch("[a-z0-9-]{2,30}", name):
        raise SettingError(
            f"APP: {name[:100]!r} is not valid; expected 2 to 30 lower-case letters, digits and"
            " hyphens"
        )
    return name


def known_settings(root: Path) -> list[str]:
    """Every setting of the app that can be given: what a checkout's app.yaml.template holds."""
    template = (root / "app.yaml.template").read_text()
    return re.findall(r"- name: (?!DATABRICKS_TOKEN$)(\w+)", template, re.MULTILINE)


def read_set(text: str, known: list[str]) -> dict[str, str]:
    """Read `SET`: `NAME=value` pairs, quoted as in a shell where a value holds a space.

    Raises:
        SettingError: for what is no setting of the app, and for a token.
    """
    try:
        pairs = [word.partition("=") for word in shlex.split(text)]
    except ValueError as error:
        raise SettingError(f"SET: {error}; expected NAME=value pairs") from None
    for name, equals, _ in pairs:
        _check_pair(name, bool(equals), known)
    return {name: value for name, _, value in pairs}


def _check_pair(name: str, has_value: bool, known: list[str]) -> None:
    """Refuse a pair; what may be a token is not shown."""
    if name == "DATABRICKS_TOKEN":
        raise SettingError(f"SET: {IN_CLEAR}")
    if name in known and has_value:
        return
    if name in known:
        raise SettingError(f"SET: {name} has no value; expected {name}=value")
    if not has_value:
        raise SettingError(
            "SET: a word of it has no '=' (not shown); expected NAME=value pairs, quoted where"
            " there is a space"
        )
    shown = repr(name) if re.fullmatch("[A-Z_]{1,50}", name) else "one of its names (not shown)"
    raise SettingError(f"SET: {shown} is no setting of the app; expected {', '.join(known)}")


def read_volume(volume: str) -> dict[str, str]:
    """Read `VOLUME`; what it sets in app.yaml.

    Raises:
        SettingError: where it is no volume's name.
    """
    if volume and not re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", volume):
        raise SettingError(f"VOLUME: {volume[:100]!r} is not valid; expected catalog.schema.volume")
    return {"HERMES_VOLUME": f"/Volumes/{volume.replace('.', '/')}"} if volume else {}
