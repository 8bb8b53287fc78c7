"""Hermes itself, its folders, and which MCP servers answer."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hermes import provider
from hermes.config import write_whole
from hermes.learnt import PLUGIN, Learnt, read_files, write_learnt
from hermes.settings import HERMES, MCP_DEFAULTS, HermesSettings
from hermes.urls import host_name, unreachable
from utils import adapt_instructions_file

NULL = subprocess.DEVNULL
# What the extra mcp of hermes-agent 0.19.0 pins, where HERMES_PIP_URL names no such extra: each
# version pins another.
MCP = "mcp==1.26.0"


def install_hermes(home: Path, package: str) -> bool:
    """Install Hermes in an environment of its own in `.local`, unless it is there.

    Returns:
        False where that failed; why is on stderr.
    """
    binary = home / ".local" / "bin" / "hermes"
    if binary.exists():
        print(f"Hermes:    {binary}")
        if package != HERMES:
            print(
                "HERMES_PIP_URL is passed over, as Hermes is there; to install that:"
                f" rm {binary}, and run this again."
            )
        return True
    uv = [shutil.which("uv") or ""]
    if importlib.util.find_spec("uv"):
        uv = [sys.executable, "-m", "uv"]
    if not uv[-1]:
        print(
            "Hermes cannot be installed: uv is missing; `pip install uv` brings it.",
            file=sys.stderr,
        )
        return False
    print(f"Hermes:    installing {package} ...", flush=True)
    quiet = [] if sys.stderr.isatty() else ["--quiet"]  # it takes long: a person sees how far it is
    own_mcp = re.search(r"\[[^]]*\bmcp\b", package) is not None
    command = [*uv, "tool", "install", *quiet, "--force", package]
    command += [] if own_mcp else ["--with", MCP]
    env = os.environ | {"HOME": str(home), "UV_TOOL_BIN_DIR": str(binary.parent)}
    done = subprocess.run(command, env=env, check=False)
    if done.returncode != 0 or not binary.exists():
        print(
            f"Hermes could not be installed (uv ended with {done.returncode});"
            " uv's own words are above.",
            file=sys.stderr,
        )
        return False
    print(f"Hermes:    {binary}")
    return True


def compile_hermes(home: Path) -> None:
    """Start to compile Hermes's source, where that was not done: its start takes twice as long
    without.

    It goes on by itself, at low priority, while routes are asked and beside Hermes's first start.
    Python itself would compile at each start where PYTHONDONTWRITEBYTECODE is set.
    """
    python = (home / ".local" / "bin" / "hermes").resolve().with_name("python")
    for packages in python.parent.parent.glob("lib/python3*/site-packages"):
        if not any(packages.glob("__pycache__/cli.*.pyc")):
            command = ["nice", str(python), "-m", "compileall", "-q", "-j", "0", str(packages)]
            with contextlib.suppress(OSError):
                subprocess.Popen(
                    command, stdin=NULL, stdout=NULL, stderr=NULL, start_new_session=True, env={}
                )


def install_plugin(settings: HermesSettings, learnt: Learnt, cap: int = 0) -> None:
    """Put Hermes's own plugin beside its config, and what was learnt beside the plugin. Files of
    somebody else stay.

    Arguments:
        settings: with the gateway, whose name may not tell that it is Databricks'.
        learnt: what the plugin is to know.
        cap: the user's own cap on output tokens, which the plugin keeps below the endpoint's; 0 for
            none.

    Raises:
        OSError: where it cannot be written; each file is whole all the same.
    """
    folder, before = settings.home / PLUGIN, read_files(settings.home)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    # __init__.py last: it imports the others.
    for source in sorted(Path(provider.__file__).parent.glob("*.*"), reverse=True):
        ours, target = source.read_bytes(), folder / source.name
        there = target.read_bytes() if target.exists() else None
        files[source.name] = _hash(ours)
        if there not in (None, ours) and _hash(there) != before.get(source.name):
            print(f"Plugin:    {target} is not ours and stays; remove it to have ours.")
        elif there != ours:
            write_whole(target, ours)
    hosts = [host_name(url) for url in (settings.gateway, settings.host) if url]
    write_learnt(settings.home, learnt, hosts, cap, files)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def prepare_home(home: Path, checkout: Path) -> None:
    """Make `~/.hermes`, `~/projects`, and `~/.hermes/HERMES.md` from the CLAUDE.md in CODA's
    checkout where the user has none.

    Raises:
        OSError: where `~/.hermes` cannot be made.
    """
    (home / ".hermes").mkdir(mode=0o700, exist_ok=True)
    source, target = checkout / "CLAUDE.md", home / ".hermes" / "HERMES.md"
    try:
        (home / "projects").mkdir(exist_ok=True)
        if source.is_file() and not target.exists():
            adapt_instructions_file(source, target, "# Hermes Agent on Databricks", "Hermes")
    except OSError as error:
        print(f"Left out: {error}", file=sys.stderr)  # Hermes works without them


def answering_servers(servers: dict[str, str]) -> dict[str, str]:
    """Leave out the default MCP servers that do not answer: Hermes would wait for them at every
    start.

    Arguments:
        servers: URL by name; "" means left out.

    Returns:
        The same, with "" for those that did not answer; they are named on stdout.
    """
    asked = [name for name, (_, url) in MCP_DEFAULTS.items() if servers.get(name) == url]
    with ThreadPoolExecutor() as pool:
        reasons = pool.map(unreachable, [servers[name] for name in asked])
        gone = {name: why for name, why in zip(asked, reasons, strict=True) if why}
    if gone:
        said = ", ".join(f"{name} ({why})" for name, why in gone.items())
        print(f"MCP:       left out, as they do not answer: {said}")
    return {name: "" if name in gone else url for name, url in servers.items()}
