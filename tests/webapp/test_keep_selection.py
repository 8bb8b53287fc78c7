"""What is saved of a home directory: by name, by kind, and without the keys that are ours."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import PATIENCE, ROOT
from webapp.keep import selection
from webapp.keep.content import LeftOutError, copy_database, read_whole
from webapp.keep.ignore import Ignore
from webapp.keep.redact import empty_our_keys
from webapp.keep.selection import (
    CACHE,
    CACHE_TAG,
    CREDENTIAL,
    IGNORED,
    MADE_AGAIN,
    NOT_KEPT,
    PARTS,
    walk,
)


def write(home: Path, *names: str) -> None:
    """Files with their names in them."""
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)


def walked(home: Path) -> tuple[list[str], dict[str, str]]:
    """The files that are saved, and the reason of each path that is not."""
    left_out: dict[str, str] = {}
    entries = list(walk(home, lambda one: left_out.update({one.path: one.reason})))
    return [entry.path for entry in entries if entry.mark], left_out


# A path, and why it is left out with the folder above it, where that is what is left out; "" where it is saved.
SELECTED = {
    ".gitconfig": "",
    "projects/kept.log": "",
    "projects/design_tokens.json": "",
    "projects/token.json": "",
    "projects/auth.json": "",
    "projects/credentials.json": "",
    "projects/.env.example": "",
    "projects/.env": CREDENTIAL,
    "projects/a/.env.local": CREDENTIAL,
    "projects/id_rsa": CREDENTIAL,
    "projects/.netrc": CREDENTIAL,
    "projects/.aws/": CREDENTIAL,
    "projects/node_modules/": MADE_AGAIN,
    f"projects/uploads/.upload-{'0f' * 16}": MADE_AGAIN,
    "projects/uploads/.upload-notes.txt": "",
    "projects/a/.venv/": MADE_AGAIN,
    "projects/__pycache__/": MADE_AGAIN,
    "projects/data/big.csv": IGNORED,
    "projects/data/small.csv": "",
    "projects/.tox/mine": "",
    ".hermes/plugins/mine/__init__.py": "",
    ".hermes/memories/MEMORY.md": "",
    ".hermes/skills/token.json": "",
    ".hermes/token.json": CREDENTIAL,
    ".hermes/auth.json": CREDENTIAL,
    ".hermes/.env": CREDENTIAL,
    ".hermes/logs/": NOT_KEPT,
    ".hermes/plugins/model-providers/databricks/": MADE_AGAIN,
}


def test_what_is_saved_and_why_the_rest_is_not(tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}x" if name.endswith("/") else name for name in SELECTED))
    write(tmp_path, ".bashrc", ".local/bin/hermes")
    rules = "# mine\n/data/*\n!/data/small.csv\n!.tox/\n!.env\n"
    (tmp_path / "projects" / ".keepignore").write_text(rules)
    saved, left_out = walked(tmp_path)
    expected = {name.rstrip("/"): why for name, why in SELECTED.items() if why}
    assert left_out == expected
    assert sorted(saved) == sorted(
        [name for name, why in SELECTED.items() if not why] + ["projects/.keepignore"]
    )


def test_only_an_environments_own_parts_are_left_out_of_a_project(tmp_path: Path) -> None:
    """`python -m venv .` in a project's root, and `uv venv .`, which calls it a cache too."""
    root = tmp_path / "projects" / "mine"
    mine = [
        "main.py",
        "lib/util.py",
        "include/mine.h",
        "share/data.csv",
        "bin/deploy.sh",
        "bin/a/b",
        "bin/activate_account.sh",
        "bin/run.sh",
    ]
    write(root, *mine)
    (root / "bin" / "run.sh").write_text(f"#!/bin/sh\ncd {root}\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root], check=True)
    (root / "CACHEDIR.TAG").write_bytes(CACHE_TAG)
    (root / "bin" / "tool").write_text(f"#!{root}/bin/python\nimport tool\n")
    (root / "bin" / "long").write_text(f"#!/bin/sh\n'''exec' {root}/bin/python \"$0\"\n")
    (root / "bin" / "compiled").write_bytes(b"\x7fELF...")
    write(root, "lib/python3.11/site-packages/x.py")
    saved, left_out = walked(tmp_path)
    assert sorted(saved) == sorted(f"projects/mine/{name}" for name in mine)
    assert left_out == {"projects/mine": PARTS}


def test_a_cache_says_so_itself_but_a_project_is_none(tmp_path: Path) -> None:
    tagged = ["a/target", "a/sub", "b", "c/repo"]
    for folder in tagged:
        write(tmp_path / "projects" / folder, "x")
        (tmp_path / "projects" / folder / "CACHEDIR.TAG").write_bytes(CACHE_TAG + b"\n")
    (tmp_path / "projects" / "a" / "sub" / "CACHEDIR.TAG").write_text("only the name")
    (tmp_path / "projects" / "c" / "repo" / ".git").mkdir()
    saved, left_out = walked(tmp_path)
    assert left_out == {"projects/a/target": CACHE}
    assert {f"projects/{folder}/x" for folder in tagged[1:]} <= set(saved)


def test_a_commit_made_meanwhile_has_its_objects(tmp_path: Path) -> None:
    """What names them is read first: then it names none that is not there yet."""
    git = "projects/repo/.git"
    write(
        tmp_path,
        *(f"{git}/{n}" for n in ("objects/ab/cd", "refs/heads/main", "packed-refs", "HEAD")),
    )
    saved, _ = walked(tmp_path)
    assert saved[-1] == f"{git}/objects/ab/cd"


def test_what_cannot_be_saved_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MOST_IN_A_FILE", 2 * 2**20)
    monkeypatch.setattr(selection, "MOST_IN_ALL", 3 * 2**20)
    for name, size in (("a-big", 2**21 + 1), ("b", 2**21), ("c-too-much", 2**20 + 1), ("d", 5)):
        write(tmp_path, f"projects/{name}")
        os.truncate(tmp_path / "projects" / name, size)
    os.mkfifo(tmp_path / "projects" / "fifo")
    saved, left_out = walked(tmp_path)
    assert saved == ["projects/b", "projects/d"]
    assert left_out == {
        "projects/a-big": "over 2 MB",
        "projects/c-too-much": "over 0 GB in all",
        "projects/fifo": "neither a file nor a folder",
    }


@pytest.mark.parametrize("folder", ["projects/dot/hermes", "projects"])
def test_what_hermes_folder_is_a_link_to_is_a_project_too_without_credentials(
    tmp_path: Path, folder: str
) -> None:
    mine = ["SOUL.md", "README.md", ".git/HEAD", "notes/auth.json"]
    secret = ["auth.json", ".env", "google_token.json", "mcp-tokens", "config.yaml.1.bak"]
    write(tmp_path / folder, *mine, *(n for n in secret if n != "mcp-tokens"), "mcp-tokens/a.json")
    (tmp_path / ".hermes").symlink_to(folder)
    saved, left_out = walked(tmp_path)
    assert sorted(saved) == [".hermes/SOUL.md", *sorted(f"{folder}/{name}" for name in mine)]
    named = {name: why for name, why in left_out.items() if name.startswith(folder)}
    assert named == {f"{folder}/{name}": CREDENTIAL for name in secret}


# --- What hangs or fills the memory ------------------------------------------


def fifo_for_keepignore(home: Path) -> None:
    os.mkfifo(home / "projects" / ".keepignore")


def fifo_beside_a_log(home: Path) -> None:
    os.mkfifo(home / "projects" / "pipe")
    write(home, "projects/pipe-wal")


def link_to_a_device(home: Path) -> None:
    (home / "projects" / ".keepignore").symlink_to("/dev/zero")


def huge_keepignore(home: Path) -> None:
    (home / "projects" / ".keepignore").write_bytes(b"x\n" * 2**20)


@pytest.mark.parametrize(
    "trap", [fifo_for_keepignore, fifo_beside_a_log, link_to_a_device, huge_keepignore]
)
def test_an_odd_file_is_named_and_stops_nothing(
    tmp_path: Path, trap: Callable[[Path], None]
) -> None:
    write(tmp_path, "projects/a")
    trap(tmp_path)
    found: list[tuple[list[str], dict[str, str]]] = []
    looking = threading.Thread(target=lambda: found.append(walked(tmp_path)), daemon=True)
    looking.start()
    looking.join(20)
    assert found, "it hangs"
    saved, left_out = found[0]
    assert "projects/a" in saved
    assert left_out


def test_a_file_is_read_within_a_bound_and_only_a_regular_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(2049))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(LeftOutError, match="over 2 kB"):
        read_whole(tmp_path / "a", 2048)
    with pytest.raises(OSError, match="not a regular file"):
        read_whole(tmp_path / "fifo", 10)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="symbolic links"):
        read_whole(tmp_path / "link", 3000)
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as database:
        database.execute("CREATE TABLE t (a)")
    os.mkfifo(tmp_path / "x.db-wal")
    with pytest.raises(LeftOutError, match="log is not a regular file"):
        copy_database(tmp_path / "x.db", tmp_path / "copy", 2**20)


def test_no_alias_makes_a_config_take_for_ever() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 60)]
    text = "\n".join(
        [*lines, "model: {base_url: 'https://x.cloud.databricks.com/y', api_key: k}", ""]
    )
    emptied = empty_our_keys(text.encode()).decode()
    assert emptied == text.replace("api_key: k", "api_key: ''")


# --- Hermes's config ---------------------------------------------------------

TOKEN = "dapi0123456789abcdef0123456789abcdef"
CONFIG = f"""\
# my config; api_key: {TOKEN}
model:  # the model
  default: databricks-claude-opus-4-7
  base_url: https://gw.example/openai
  api_key: {TOKEN}
  max_tokens: 4096
custom_providers:
- name: databricks-gateway
  base_url: https://gw.example/openai
  api_key: '{TOKEN}'
  key_cmd: python -m a.command
- {{name: mine, base_url: "https://u:p4ssw0rd@x.example/v1", api_key: sk-mine-0123456789abcdef}}
- {{name: local, base_url: "http://localhost:1/v1", api_key: not-needed}}
- name: by-coda
  base_url: https://gw.example/v1
  api_key: {TOKEN}
mcp_servers:
  exa:
    url: https://mcp.exa.ai/mcp?exaApiKey=0123456789abcdef
    headers: {{Authorization: "Bearer {TOKEN}", X-Plain: yes}}
agent:
  system_prompt: teach the basic concepts first, then the secret token of success
  rules: |
    # Token budget
    api_key: as you like
theme: dark  # mine
"""


def test_our_keys_are_emptied_in_a_config_and_nothing_else() -> None:
    """A prompt, a comment, another vendor's key and a URL with a key in it stay as they are."""
    emptied = empty_our_keys(CONFIG.encode()).decode()
    quoted = CONFIG.replace(f"'{TOKEN}'", "''").replace(f"  api_key: {TOKEN}", "  api_key: ''")
    assert emptied == quoted.replace(TOKEN, "")
    assert empty_our_keys(emptied.encode()).decode() == emptied  # as it was brought back
    assert yaml.safe_load(emptied)["custom_providers"][0]["key_cmd"] == "python -m a.command"


@pytest.mark.parametrize(
    ("text", "emptied"),
    [
        ("", ""),
        ("just words\n", "just words\n"),
        ("custom_providers: {name: databricks-direct, api_key: k}\n", "custom_providers: {name: databricks-direct, api_key: ''}\n"),
        ("providers:\n  databricks-gateway: {api_key: k}\n", "providers:\n  databricks-gateway: {api_key: ''}\n"),
        ("model: {base_url: 'https://a.azuredatabricks.net/x', api_key: k}\n", "model: {base_url: 'https://a.azuredatabricks.net/x', api_key: ''}\n"),
        ("model: {base_url: 'https://elsewhere.example', api_key: k}\n", "model: {base_url: 'https://elsewhere.example', api_key: k}\n"),
        ("a: &x [*x]\napi_key: dapi0123456789\n", "a: &x [*x]\napi_key: dapi0123456789\n"),
        ("providers:\n  databricks-gateway:\n    api_key: |-\n      k\n", "providers:\n  databricks-gateway:\n    api_key: ''\n"),
        (f"providers: {{databricks-gateway: {{api_key: &k {TOKEN}}}}}\nmine: *k\n", "providers: {databricks-gateway: {api_key: &k }}\nmine: *k\n"),
        ("x: &x {api_key: k}\nproviders: {databricks-gateway: {<<: *x}}\n", "x: &x {api_key: ''}\nproviders: {databricks-gateway: {<<: *x}}\n"),
        ("x: &x {api_key: k}\ncustom_providers: [{<<: [*x], name: databricks-direct}]\n", "x: &x {api_key: ''}\ncustom_providers: [{<<: [*x], name: databricks-direct}]\n"),
        ("custom_providers: [&x {name: databricks-direct, api_key: k}, {<<: *x, name: mine, api_key: m}]\n", "custom_providers: [&x {name: databricks-direct, api_key: ''}, {<<: *x, name: mine, api_key: m}]\n"),
        ("custom_providers: [{name: databricks-direct, api_key: k, api_key: l}]\ncustom_providers: []\n", "custom_providers: [{name: databricks-direct, api_key: '', api_key: ''}]\ncustom_providers: []\n"),
    ],
)  # fmt: skip
def test_odd_configs_are_emptied_too(text: str, emptied: str) -> None:
    assert empty_our_keys(text.encode()).decode() == emptied
    list(yaml.parse(emptied))


@pytest.mark.parametrize(
    "text",
    [
        *("a: [", "\x00", "a: &x secret\nb: *y", "\xff", "[" * 2000, "#" * (2**20 + 1)),
        "providers: {databricks-direct: {api_key: &k short}}\nmine: *k\n",
        f'providers: {{databricks-direct: {{api_key: {TOKEN}}}}}\nmine: "Bearer \\x64{TOKEN[1:]}"\n',
    ],
)
def test_a_config_that_cannot_be_emptied_surely_is_left_out(text: str) -> None:
    with pytest.raises(LeftOutError):
        empty_our_keys(text.encode("latin-1"))


# --- Patterns ----------------------------------------------------------------

PATTERNS = (
    r"""
*.log|/top|build/|docs/*.md|**/deep/*.txt|a/**/z|a/**|!keep.log|foo[0-9].c|[!a]x|[^a]y|\#hash|\!bang|sp\ ace|**/x/**|?|*a*b
[[:digit:]]q|[a-c]w|z[]]k|q[\]]k|un[closed|back\|*.[ch]|d/e/|/d/*|!/d/e|**|x**z|a\*b|!**|d|!d/e|tr\ |[z-a]x|[]-^]x|*/e
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
NAMES = r"""
a b x y z k q w d e top keep.log 1.log foo1.c fooa.c ax bx ay by #hash !bang deep 1q aq cw z]k q]k un[closed build docs r.md
t.txt x.h ab xaxb xz a*b back back\ _x ]x
"""


def test_patterns_mean_what_git_says(tmp_path: Path) -> None:
    if not shutil.which("git"):
        pytest.skip("git, the judge of these patterns, is missing")
    rng = random.Random(11)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    words = [*NAMES.split(), "sp ace", "tr "]
    for _ in range(200):
        path = tmp_path.joinpath(*rng.choices(words, k=rng.randint(1, 4)))
        with contextlib.suppress(
            OSError
        ):  # a file where a folder should be, or the other way round
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    asked = [
        str(path.relative_to(tmp_path))
        for path in sorted(tmp_path.rglob("*"))
        if ".git" not in path.parts
    ]
    cases = 0
    for _ in range(60):
        lines = [*rng.sample(PATTERNS, 3), " ", "#c", "docs  "]
        (tmp_path / ".git" / "info" / "exclude").write_text("\n".join(lines) + "\n")
        command = ["git", "check-ignore", "--no-index", "--stdin", "-z"]
        answer = subprocess.run(
            command, input="\0".join(asked), cwd=tmp_path, capture_output=True, text=True
        )
        git = set(answer.stdout.split("\0")) - {""}
        ignore = Ignore(lines)
        ours = set[str]()
        for name in asked:
            above = {str(parent) for parent in Path(name).parents} & ours
            if above or ignore(name, (tmp_path / name).is_dir()):
                ours.add(name)
        assert ours == git, lines
        cases += len(git)
    assert cases > 1000


@pytest.mark.parametrize(
    "line",
    ["*" * 24 + "b", "**/" * 24 + "b", "*a" * 20 + "b", "**/*a/" * 20 + "b", "*a" * 20 + "/b"],
)
def test_no_pattern_takes_for_ever(line: str) -> None:
    program = (
        "import sys; from webapp.keep.ignore import Ignore;"
        "print(*(Ignore(sys.argv[1:2])(path, 1) for path in sys.argv[2:]))"
    )
    command = [sys.executable, "-c", program, line, "a" * 200, "/".join(["da"] * 60)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "False False\n"
