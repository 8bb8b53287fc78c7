"""patch_coda.py: the fix in a checkout of CODA, on each kind of it, put in, used and taken out."""

from __future__ import annotations

import ast
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import patch_coda
from hermes.urls import SettingError
from patching import checkout as coda_checkout
from patching.app_yaml import add_settings, take_out
from patching.checkout import FIX, OURS, RECORD
from patching.files import write_all
from patching.source import Module, decode, encode, patch, restore
from tests.conftest import ROOT

# As CODA was in April: six functions, and an empty DATABRICKS_GATEWAY_HOST says nothing.
SIX = '''"""Shared helpers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path


def get_npm_version(package_name):
    """Ask npm."""
    done = subprocess.run(["npm", "view", package_name, "version"], capture_output=True, text=True)
    return done.stdout.strip() or None


def adapt_instructions_file(source_path, target_path, new_header, cli_name) -> bool:
    """Adapt CLAUDE.md."""
    text = re.sub(r"^# .*$", new_header, Path(source_path).read_text(), count=1, flags=re.M)
    Path(target_path).write_text(text)
    return True


def _probe_gateway(url: str, timeout: float = 2.0) -> bool:
    """Any answer will do."""
    import requests

    try:
        requests.get(url, timeout=timeout)
    except Exception:
        return False
    return True


def get_gateway_host() -> str:
    """Find the gateway."""
    if (known := os.environ.get("_GATEWAY_RESOLVED")) is not None:
        return known
    # An explicit one is trusted.
    explicit = os.environ.get("DATABRICKS_GATEWAY_HOST", "").strip()
    if explicit:
        return ensure_https(explicit)
    number = os.environ.get("DATABRICKS_WORKSPACE_ID", "").strip()
    url = f"https://{number}.ai-gateway.cloud.databricks.com"
    return url if number and _probe_gateway(url) else ""


def resolve_and_cache_gateway() -> str:
    """Find it once."""
    os.environ["_GATEWAY_RESOLVED"] = found = get_gateway_host()
    return found


def ensure_https(url: str) -> str:
    """Add the scheme."""
    return url if not url or url.startswith("http") else f"https://{url}"
'''

# As it is today: more functions that its other scripts use, and an empty one says "no gateway".
MANY = '''#!/usr/bin/env python
# Copyright: the people of CODA.
"""Shared helpers; \\t\\N{BULLET} in every script."""

from __future__ import annotations

import functools, json
import os
import re  # for names
from contextlib import contextmanager
from pathlib import Path

try:
    import requests
except ImportError:
    requests = None

_NAME = re.compile(
    r"^claude-(opus|sonnet)-(\\d+)$"
)
if os.environ.get("NEVER"):
    def discover(): pass
\x0c
class Picker(dict):
    """Models."""

    def get_gateway_host(self): return "not this one"

    @property
    def first(self):
        return next(iter(self), "")


def pick_in_geo_model(preferred: list[str], available: set[str], fallback: str) -> str:
    return next((m for m in preferred if m in available), fallback)


@functools.lru_cache(maxsize=None)
def ensure_https(url: str) -> str: return url if "://" in url else f"https://{url}"


@contextmanager
def lock(path):
    yield path


# --- The gateway ---------------------------------------------------------------------------------
# Keep in step with docs/gateway.md.
@functools.lru_cache(
    maxsize=None,
)
def get_gateway_host() -> str:
    """Find the gateway: `"adb-1.2"`, or none."""
    def inner(): return 1

    if "DATABRICKS_GATEWAY_HOST" in os.environ:
        return os.environ["DATABRICKS_GATEWAY_HOST"]
    number = _derive_workspace_id_from_host(os.environ["DATABRICKS_HOST"])
    url = _build_gateway_candidate(number, "")
    return url if _probe_gateway(url) else ""  # the end
# A comment right below it.

def _derive_workspace_id_from_host(host: str) -> str:
    return re.sub(r"\\D", "", host)
def _build_gateway_candidate(workspace_id: str, host: str) -> str:
    return (
        f"https://{workspace_id}.example"
    )

def resolve_and_cache_gateway() -> str:
    os.environ["_GATEWAY_RESOLVED"] = found = get_gateway_host()
    return found


def pat_only_env(base=None):
    """Blank the others."""
    return {**(base or os.environ), "DATABRICKS_CLIENT_ID": ""}


def adapt_instructions_file(source_path, target_path, new_header, cli_name): return True


get_npm_version = lambda package_name, min_age_days=7: None


def _probe_gateway(url, timeout=2.0):
    """The last function of all."""
    if requests is None: return False
    return True'''

APP_YAML = """# CODA's own.
command:
  - gunicorn
env:  # of the app
  # The home.
  - name: HOME
    value: /app/python/source_code
  # - name: HERMES_MODEL
  #   value: commented-out
  - name: MODEL_CACHE
    value: 0
"""
THEIR_SETUP = "#!/usr/bin/env python\nfrom utils import ensure_https\nprint('the setup of CODA')\n"


def python_3_10() -> str:
    """A Python 3.10 where the machine has one, else the one that runs the tests."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path(pwd.getpwuid(os.getuid()).pw_dir) / ".pyenv")
    found = [*sorted(pyenv.glob("versions/3.10*/bin/python3.10")), shutil.which("python3.10")]
    for python in found:
        if (
            python
            and subprocess.run([python, "--version"], capture_output=True, check=False).returncode
            == 0
        ):
            return str(python)
    return sys.executable


def make_coda(folder: Path, kind: str) -> Path:
    """A checkout of CODA: of April (`six`), or of today (`many`), with its setup in setup/."""
    setup = folder / ("setup_hermes.py" if kind == "six" else "setup/setup_hermes.py")
    setup.parent.mkdir(parents=True)
    setup.write_text(THEIR_SETUP)
    setup.chmod(0o755)
    (folder / "utils.py").write_text(SIX if kind == "six" else MANY)
    (folder / "app.yaml").write_text(APP_YAML)
    (folder / "app.yaml.template").write_text(APP_YAML.replace("\n", "\r\n"), newline="")
    (folder / "CLAUDE.md").write_text("# Claude\nrules\n")
    return folder


def commit(folder: Path) -> None:
    """Commit everything in a folder."""
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "all"],
    ):
        subprocess.run(["git", "-C", str(folder), *command], check=True)


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file of a folder but git's: its bytes and its mode."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode)
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.parts and "__pycache__" not in path.parts
    }


@pytest.fixture(params=["six", "many"])
def coda(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_coda(tmp_path / "coda", request.param)


def run(folder: Path, *options: str) -> int:
    return patch_coda.main([str(folder), *options])


# --- Put in, used, taken out ---------------------------------------------------------------------


def test_put_in_twice_and_taken_out(coda: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(coda)
    assert run(coda) == 0
    out = capsys.readouterr().out
    changed = [line for line in out.splitlines() if line[:1] in "+-"]
    assert "+from hermes import urls" in changed
    assert 20 < len(out.splitlines()) < 120
    assert out.splitlines()[-3].endswith(", and the lines of utils.py above.")
    assert out.splitlines()[-2].startswith("Next: ")
    assert out.splitlines()[-1] == "Commit hermes/coda.json too: UNDO needs it in a clone."
    fixed = tree(coda)
    ours = {f"hermes/{p.relative_to(ROOT / 'hermes')}" for p in ROOT.glob("hermes/**/*.py")}
    assert ours < {*fixed}
    names = [entry["name"] for entry in yaml.safe_load((coda / "app.yaml").read_text())["env"]]
    assert names == [
        "ENABLE_HERMES",
        "HERMES_MODEL",
        "HERMES_FALLBACK_MODEL",
        "HOME",
        "MODEL_CACHE",
    ]
    assert {*APP_YAML.splitlines()} < {*(coda / "app.yaml").read_text().splitlines()}

    assert run(coda) == 0
    assert capsys.readouterr().out == "The fix is in it: nothing to change.\n"
    assert tree(coda) == fixed
    assert run(coda, "--undo") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Next: commit and deploy CODA as before."
    assert tree(coda) == before
    assert not (coda / "hermes").exists()
    assert run(coda, "--undo") == 0
    assert tree(coda) == before


def test_taken_out_of_a_clone_with_their_edits_kept(coda: Path, tmp_path: Path) -> None:
    """As after a deployment from Git: nothing but the commit is left."""
    before = tree(coda)
    run(coda)
    commit(coda)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(coda), str(clone)], check=True)
    utils = clone / "utils.py"
    utils.write_text(
        utils.read_text().replace("import re", "import sys, re", 1)
        + "\n\ndef theirs() -> int:\n    return 1\n"
    )
    app = clone / "app.yaml"
    app.write_text(
        app.read_text().replace("opus-4-7", "sonnet-5") + "  - name: NEW\n    value: x\n"
    )
    assert run(clone, "--undo") == 0
    left = tree(clone)
    assert {name for name in before if left[name] != before[name]} == {"utils.py", "app.yaml"}
    old = before["utils.py"][0].decode().replace("import re", "import sys, re", 1)
    assert utils.read_text() == old + "\n\ndef theirs() -> int:\n    return 1\n"
    names = [entry["name"] for entry in yaml.safe_load(app.read_text())["env"]]
    assert names == [
        "HERMES_MODEL",
        "HOME",
        "MODEL_CACHE",
        "NEW",
    ]  # the one that they changed stays


@pytest.mark.parametrize("there", ["true", "input"])
def test_line_ends_that_git_changed_do_not_count(coda: Path, tmp_path: Path, there: str) -> None:
    """Put in with the line ends of one system, updated and taken out with those of another."""
    if there == "input":
        for name in ("utils.py", "app.yaml"):
            (coda / name).write_bytes((coda / name).read_bytes().replace(b"\n", b"\r\n"))
    before = {name: (coda / name).read_bytes() for name in ("utils.py", "app.yaml")}
    run(coda)
    commit(coda)
    for updated in (False, True):
        clone = tmp_path / f"clone{updated}"
        shutil.copytree(coda, clone)
        for name in before:
            lines = (clone / name).read_bytes().replace(b"\r\n", b"\n")
            ends = b"\r\n" if there == "true" else b"\n"
            (clone / name).write_bytes(lines.replace(b"\n", ends))
        assert not updated or run(clone) == 0
        assert run(clone, "--undo") == 0
        for name, old in before.items():
            assert (clone / name).read_bytes() == old.replace(b"\r\n", b"\n").replace(b"\n", ends)


def test_a_newer_version_updates_it(
    coda: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(coda)
    older = tmp_path / "older"
    older.mkdir()
    for name in ("setup_hermes.py", "patching", "hermes"):
        (older / name).symlink_to(ROOT / name)
    text = (ROOT / "utils.py").read_text()
    (older / "utils.py").write_text(text.replace("given is not None", "given is not None and 1"))
    (older / "hermes").unlink()
    shutil.copytree(ROOT / "hermes", older / "hermes")
    (older / "hermes" / "gone.py").touch()
    with monkeypatch.context() as patched:
        patched.setattr(coda_checkout, "OURS", older)
        run(coda)
    assert "None and 1" in (coda / "utils.py").read_text()
    assert (coda / "hermes" / "gone.py").exists()
    assert run(coda) == 0
    updated = tree(coda)
    assert "None and 1" not in (coda / "utils.py").read_text()
    assert "hermes/gone.py" not in updated
    run(coda, "--undo")
    assert tree(coda) == before
    run(coda)
    assert tree(coda) == updated


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python, 3.10 where there is one, that has only requests and PyYAML."""
    folder = tmp_path_factory.mktemp("python")
    subprocess.run([python_3_10(), "-m", "venv", "--without-pip", str(folder)], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    # As they are installed here, where all but what is compiled is for any Python.
    for name in ("yaml", "requests", "urllib3", "idna", "certifi", "charset_normalizer"):
        found = find_spec(name)
        assert found
        assert found.origin
        (packages / name).symlink_to(Path(found.origin).parent)
    return str(folder / "bin" / "python")


# As CODA runs its steps: the parent finds the gateway once, each setup is a child.
PARENT = """
import subprocess, sys
from utils import (
    ensure_https, get_gateway_host, resolve_and_cache_gateway, adapt_instructions_file,
    get_npm_version, _probe_gateway,
)
resolve_and_cache_gateway()
done = subprocess.run([sys.executable, sys.argv[1]], capture_output=True, text=True)
print(done.stdout, done.stderr, sep="", end="")
sys.exit(done.returncode)
"""


def test_the_setup_runs_in_coda(coda: Path, python: str, hermes_home: Path) -> None:
    pytest.importorskip("trustme", reason="trustme is missing: the stand-in workspace needs it")
    from tests.standin import OPUS_4_7, StandIn

    assert run(coda) == 0
    setup = "setup/setup_hermes.py" if (coda / "setup").exists() else "setup_hermes.py"
    with StandIn() as workspace:
        env = workspace.env | {"HOME": str(hermes_home)}

        def start(**more: str) -> str:
            """Run CODA's parent process; what it printed."""
            command = [python, "-c", PARENT, setup]
            done = subprocess.run(command, cwd=coda, env=env | more, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
            return done.stdout

        gateway = f"https://{workspace.gateway_host}"
        assert f"Model:     {OPUS_4_7} on {gateway}/openai (it answered)" in start()
        asked = [r for r in workspace.requests if r.host == workspace.gateway_host]
        assert [r.path for r in asked if r.method == "GET" and r.path == "/"] == ["/"]
        config = yaml.safe_load((hermes_home / ".hermes" / "config.yaml").read_text())
        assert config["model"]["base_url"] == f"{gateway}/openai"
        if setup == "setup_hermes.py":  # the other kind's adapt_instructions_file writes nothing
            written = (hermes_home / ".hermes" / "HERMES.md").read_text()
            assert written == "# Hermes Agent on Databricks\nrules\n"
        else:  # by way of the launcher
            workspace.reject_token = True
            assert "check DATABRICKS_TOKEN" in start()
            assert "No Databricks token yet" in start(DATABRICKS_TOKEN="")


# CODA's own tests patch the probe in utils and call get_gateway_host, with the environment alone.
ASK = """
import json, os, sys
from unittest import mock
from utils import get_gateway_host
for env in json.loads(sys.argv[1]):
    asked = []
    probe = mock.patch("utils._probe_gateway", side_effect=lambda url: not asked.append(url))
    with mock.patch.dict(os.environ, env, clear=True), probe:
        print(json.dumps([get_gateway_host(), asked]))
"""
AZURE = {"DATABRICKS_HOST": "adb-123.4.azuredatabricks.net"}
AWS = "https://12345.ai-gateway.cloud.databricks.com"
DERIVED = "https://123.0.ai-gateway.azuredatabricks.net"


def test_the_gateway_is_found_as_codas_own_tests_hold_it(coda: Path, python: str) -> None:
    run(coda)
    empty_is_none = (coda / "setup").exists()
    cases: list[tuple[dict[str, str], str]] = [
        (AZURE, DERIVED),
        ({"DATABRICKS_WORKSPACE_ID": " 12345 "}, AWS),
        (AZURE | {"DATABRICKS_GATEWAY_HOST": " "}, "" if empty_is_none else DERIVED),
        ({"DATABRICKS_GATEWAY_HOST": "custom.example/"}, "https://custom.example"),
        (AZURE | {"_GATEWAY_RESOLVED": ""}, ""),
        ({}, ""),
    ]
    command = [python, "-c", ASK, json.dumps([env for env, _ in cases])]
    answers = subprocess.check_output(command, cwd=coda, env={}, text=True).splitlines()
    assert [json.loads(answer) for answer in answers] == [
        [found, [found] if found in (AWS, DERIVED) else []] for _, found in cases
    ]


def test_what_runs_in_coda_is_python_3_10() -> None:
    """Its syntax; `python` runs it on 3.10 where there is one."""
    files = [*ROOT.glob("hermes/**/*.py"), *map(ROOT.joinpath, ("utils.py", "setup_hermes.py"))]
    newer = {"UTC", "Self", "StrEnum", "TaskGroup", "ExceptionGroup", "LiteralString", "tomllib"}
    for file in [*files, ROOT / "patching" / "launcher.py"]:
        parsed = ast.parse(file.read_text(), feature_version=(3, 10))
        names = {n.name for n in ast.walk(parsed) if isinstance(n, ast.alias)}
        names |= {n.attr for n in ast.walk(parsed) if isinstance(n, ast.Attribute)}
        assert not names & newer, file
        assert not any(isinstance(n, ast.TryStar) for n in ast.walk(parsed)), file


# --- Every other byte stays ----------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "BOM": lambda text: text.encode("utf-8-sig"),
    "latin-1": lambda text: f"# coding: latin-1 é\n{text}".encode("latin-1"),
    "no line end": lambda text: text.rstrip("\n").encode(),
    "no imports": lambda text: (
        text.partition("\ndef get_")[2].join(["def get_", "\nimport os\n"]).encode()
    ),
    "the last function": lambda text: (
        text.replace("def get_gateway_host", "def gone") + "\n\ndef get_gateway_host(): return 1"
    ).encode(),
    "on one line": lambda text: (
        f"import os; x = [\n1]\n{text.partition('annotations')[2]}".encode()
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("text", [SIX, MANY], ids=["six", "many"])
def test_every_other_byte_stays(layout: str, text: str) -> None:
    original = LAYOUTS[layout](text)
    theirs = Module("utils.py", decode(original))
    fixed, done = patch(theirs, coda_checkout._fix_for(theirs), FIX[0])
    assert encode(restore(fixed, done).text) == original

    def others(module: Module) -> list[str]:
        named = [n for n in module.tree.body if getattr(n, "name", "") not in FIX]
        return [module.text_of(n) for n in named if ast.unparse(n) not in done.imports]

    assert others(fixed) == others(theirs)
    ends = {line[len(line.rstrip("\r\n")) :] for line in fixed.lines} - {""}
    assert len(ends) == 1
    assert {*FIX} <= {f.name for f in fixed.functions()}
    assert fixed.text.splitlines()[0] == theirs.text.splitlines()[0] or layout == "no imports"


def test_a_formatter_that_ran_over_it_does_not_matter() -> None:
    theirs = Module("utils.py", SIX)
    fixed, done = patch(theirs, coda_checkout._fix_for(theirs), FIX[0])
    other = Module(
        "utils.py", fixed.text.replace("empty_is_none=False)", "\n empty_is_none = False,)")
    )
    assert restore(other, done).text == SIX


def test_an_import_that_they_use_by_now_stays() -> None:
    theirs = Module("utils.py", SIX.replace("import os\n", "").replace("os.environ", "environ"))
    fixed, done = patch(theirs, coda_checkout._fix_for(theirs), FIX[0])
    assert "import os" in done.imports
    used = Module("utils.py", fixed.text + "\nHERE = os.getcwd()\n")
    assert restore(used, done).text.count("import os\n") == 1
    with pytest.raises(SettingError, match="uses hermes/"):
        restore(Module("utils.py", fixed.text + "\nurls.warn('')\n"), done)


# --- What is refused -----------------------------------------------------------------------------

Spoil = Callable[[Path], object]


def edit(name: str, old: str, new: str) -> Spoil:
    def spoil(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return spoil


def write(name: str, text: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return spoil


def uncommitted(folder: Path) -> None:
    commit(folder)
    edit("utils.py", "Any answer will do.", "My own probe.")(folder)


def linked(folder: Path) -> None:
    (folder / "app.yaml").rename(folder.parent / "elsewhere.yaml")
    (folder / "app.yaml").symlink_to(folder.parent / "elsewhere.yaml")


def in_place_of_app_yaml(make: Callable[[Path], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "app.yaml").unlink()
        make(folder / "app.yaml")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: shutil.rmtree(f), "no such folder"),
        (lambda f: (f / "utils.py").unlink(), "it has no utils.py"),
        (write("utils.py", "def f(:\n"), "not valid Python (SyntaxError in line 1)"),
        (write("utils.py", "x = 1\0\n"), "not valid Python"),
        (write("utils.py", "def f(): pass\n"), "utils.py: it has no get_gateway_host"),
        (write("utils.py", f"{SIX}\n{SIX}"), "expected one plain function"),
        (
            edit("utils.py", "def _probe_gateway(", "async def _probe_gateway("),
            "one plain function",
        ),
        (edit("utils.py", "import os\n", "import os\nurls = []\n"), "utils.py: urls is not valid"),
        (edit("utils.py", "import os\n", "import os\nimport hermes.urls\n"), "it imports hermes"),
        (write("hermes/theirs.py", ""), "hermes: it is there, and hermes/coda.json is not"),
        (write(RECORD, "{}"), "hermes/coda.json: it is not valid"),
        (write("app.yaml", "env: [\n"), "app.yaml: it is not valid YAML"),
        (uncommitted, "utils.py: _probe_gateway has uncommitted changes"),
        (linked, "app.yaml: it is not valid (a link)"),
        (in_place_of_app_yaml(os.mkfifo), "app.yaml: it is not valid (not a file)"),
        (in_place_of_app_yaml(os.mkdir), "app.yaml: it is not valid (not a file)"),
    ],
)
def test_what_is_refused_changes_nothing(
    spoil: Spoil, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coda = make_coda(tmp_path / "coda", "six")
    spoil(coda)
    before = tree(coda)
    assert run(coda) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert tree(coda) == before


def record_with(value: object, *place: str) -> Spoil:
    """A record that holds something else in one place."""

    def spoil(folder: Path) -> None:
        record = found = json.loads((folder / RECORD).read_text())
        for key in place[:-1]:
            found = found[key]
        found[place[-1]] = value
        (folder / RECORD).write_text(json.dumps(record))

    return spoil


ONE_MORE = {"old": "x", "new": ""}
CHANGED = ("utils", "functions", "get_gateway_host")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            edit("utils.py", "if given is not None", "if given"),
            "utils.py: get_gateway_host was edited",
        ),
        (
            edit("utils.py", "def _probe_gateway(", "def probe("),
            "utils.py: _probe_gateway was edited",
        ),
        (edit("hermes/urls.py", "def warn", "def _warn"), "hermes/urls.py: edited since"),
        (edit("setup_hermes.py", "main", "main_"), "setup_hermes.py: edited since"),
        (lambda f: (f / RECORD).unlink(), "hermes/coda.json is not"),
        (record_with(ONE_MORE, "files", "hermes/../../outside.py"), "coda.json: it is not valid"),
        (record_with(ONE_MORE, "files", ""), "hermes/coda.json: it is not valid"),
        (record_with(["", " x", 3], "utils", "imports"), "other code of it uses hermes/"),
        (record_with(3, *CHANGED, "new"), "utils.py: get_gateway_host was edited"),
        (record_with("(", *CHANGED, "new"), "get_gateway_host in the record: it is not valid"),
        (record_with({"old": 3, "new": "", "more": 1}, *CHANGED), "get_gateway_host was edited"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--undo"]])
def test_edits_of_the_fix_itself_are_not_lost(
    spoil: Spoil, said: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coda = make_coda(tmp_path / "coda", "six")
    run(coda)
    spoil(coda)
    before = tree(coda)
    capsys.readouterr()
    assert run(coda, *options) == 2
    assert said in capsys.readouterr().err
    assert tree(coda) == before
    assert not (tmp_path / "outside.py").exists()


@pytest.mark.parametrize("folder", ["", " ", str(ROOT), "no/such/folder", "utils.py"])
def test_a_folder_that_is_none(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert patch_coda.main([folder]) == 2
    assert "expected the folder of a CODA checkout" in capsys.readouterr().err
    assert OURS == ROOT


def test_an_interrupted_run_is_finished_or_taken_back(coda: Path) -> None:
    before = tree(coda)
    run(coda)
    fixed = tree(coda)
    for options, expected in ([], fixed), (["--undo"], before):
        for name in ("utils.py", "app.yaml"):
            (coda / name).write_bytes(before[name][0])
        (coda / "hermes" / "merge.py").unlink()
        assert run(coda, *options) == 0
        assert tree(coda) == expected


@pytest.mark.fault("killed")
def test_a_run_that_was_killed_at_its_first_file_can_be_taken_back(
    coda: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, replace, done = tree(coda), Path.replace, list[Path]()

    def killed(path: Path, target: Path) -> Path:
        if done:
            raise KeyboardInterrupt
        done.append(target)
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run(coda)
    assert run(coda, "--undo") == 0
    assert {name: tree(coda)[name] for name in before} == before
    assert not (coda / "hermes" / "coda.json").exists()


@pytest.mark.fault("file")
def test_all_files_or_none(tmp_path: Path) -> None:
    (tmp_path / "there.py").write_bytes(b"old")
    (tmp_path / ".there.py.new").write_bytes(b"somebody's")
    (tmp_path / "gone.py").write_bytes(b"old")
    (tmp_path / "in the way" / "file").mkdir(parents=True)
    files = {"there.py": b"new", "new/file.py": b"new", "gone.py": None, "in the way": b"new"}
    with pytest.raises(OSError, match="in the way"):
        write_all(tmp_path, files)
    assert (tmp_path / "there.py").read_bytes() == (tmp_path / "gone.py").read_bytes() == b"old"
    left = [".there.py.new", "gone.py", "in the way", "there.py"]
    assert sorted(p.name for p in tmp_path.iterdir()) == left
    del files["in the way"]
    write_all(tmp_path, files)
    assert (tmp_path / ".there.py.new").read_bytes() == b"somebody's"
    assert (tmp_path / "there.py").read_bytes() == (tmp_path / "new" / "file.py").read_bytes()
    assert not (tmp_path / "gone.py").exists()


# --- app.yaml ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        APP_YAML,
        APP_YAML.replace("\n", "\r\n"),
        APP_YAML.replace("  - name", "- name").replace("    value", "  value"),
        APP_YAML.replace("  - name", "    -   name").replace("    value", "        value"),
        "env:\n  - {name: A, value: b}",
        "\ufeffenv:\n  - name: A\n    valueFrom: secret\n",
        'env:\n  - name: HERMES_MODEL\n    value: "mine"\ncommand: [x]\n',
        "env:\n  - name: [a]\n    value: b\n  - name: {a: b}\n    value: c\n",
    ],
)
def test_settings_are_added_and_taken_out(text: str) -> None:
    changed, added = add_settings("app.yaml", text, coda_checkout.SETTINGS)
    old, new = (yaml.safe_load(t)["env"] for t in (text, changed))
    assert new[len(added) :] == old
    names = [entry["name"] for entry in new]
    assert [names.count(setting) for setting in coda_checkout.SETTINGS] == [1, 1, 1]
    assert add_settings("app.yaml", changed, coda_checkout.SETTINGS) == (changed, ())
    assert take_out(changed, added) == (text, [])
    twice = text + "".join(added) * 2  # which of them was ours is not known
    assert take_out(twice, added)[0] == twice


@pytest.mark.parametrize(
    "text",
    [
        "",
        "env:\n",
        "env: []\n",
        "env: [{name: A, value: b}]\n",
        "- a\n",
        APP_YAML.replace("\n", "\r"),
        "x: &e\n  - name: A\n    value: b\nenv: *e\n",
        "env: &e\n  - name: A\n    value: *e\n",
    ],
)
def test_an_env_that_is_no_list_stays(
    text: str, coda: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (coda / "app.yaml").write_bytes(text.encode())
    assert run(coda) == 0
    assert (coda / "app.yaml").read_bytes() == text.encode()
    assert "app.yaml: env is not a list with one entry a line" in capsys.readouterr().out
