"""The program's modules, and what each imports."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from tests.conftest import ROOT


@cache
def modules() -> dict[str, Path]:
    """The program's own modules by dotted name."""
    files = [
        *ROOT.glob("*.py"),
        *ROOT.glob("hermes/**/*.py"),
        *ROOT.glob("webapp/**/*.py"),
        *ROOT.glob("deploying/*.py"),
        *ROOT.glob("patching/*.py"),
    ]
    return {
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f
        for f in files
    }


@cache
def imports(name: str) -> set[str]:
    """The modules of ours that one of them imports."""
    found = set()
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & modules().keys()


def needed(name: str) -> set[str]:
    """A module and all that it needs of ours, with the packages and the programs they start."""
    found, new = set[str](), {name}
    while new:
        found |= new
        started = {"setup_hermes", "webapp.keep.worker"} if "webapp.sessions" in new else set()
        packages = {n.rpartition(".")[0] for n in new} & modules().keys()
        new = set[str]().union(packages, started, *map(imports, new)) - found
    return found
