"""What of a home directory is the user's, and worth bringing back after a restart.

`~/projects`, `~/.gitconfig`, and of `~/.hermes` the names below: all else there can be made again, or is a credential.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from webapp.keep.ignore import Ignore

MOST_IN_A_FILE, MOST_IN_ALL = 200 * 2**20, 2**30  # bytes
# Measured with hermes-agent 0.19.0; its own `hermes backup` knows the same names, and its credentials too.
HERMES = """
/sessions/ /memories/ /skills/ /skill-bundles/ /skins/ /scripts/ /hooks/ /cron/ /plugins/ /kanban/ /session-exports/
/*.db /HERMES.md /SOUL.md /config.yaml /.config.yaml.setup /.hermes_history
"""
# Both in gitignore's syntax; .keepignore may take back the first with a "!", and nothing of the second.
AGAIN = """
node_modules/ .venv/ __pycache__/ .cache/ .mypy_cache/ .pytest_cache/ .ruff_cache/ .hypothesis/ .tox/ .nox/
.ipynb_checkpoints/ *.pyc .DS_Store
"""
OURS = "/plugins/model-providers/databricks/"  # in ~/.hermes: setup brings it, in this version
CREDENTIALS = """
.env .env.* !.env.example !.env.sample !.env.template .envrc .databrickscfg* .netrc .pgpass .pypirc .npmrc .git-credentials
.aws/ .azure/ .ssh/ .kube/ .databricks/ auth.json credentials.json token.json *_token.json *_tokens.json id_rsa id_ecdsa
id_ed25519
"""
_CREDENTIAL = re.compile(  # by a key's name; `api_key_env` names a variable, and `secrets` is a section
    r"(api|access|private|secret|auth|account|client)[_-]?key(?!_env|_cmd)|token(?!iz)|secret(?!s$)|passw|authorization|credential"
    r"|bearer|cookie",
    re.IGNORECASE,
)
_TELLING = re.compile(  # by the value itself
    r"://[^/\s@]+@|[?&][^=&\s]*(key|token|secret)[^=&\s]*=[^&\s]|\b(bearer|basic) [\w.+/=-]{8}"
    r"|\b(dapi|sk-|gh[a-z]_|eyJ)[\w.-]{16}",
    re.IGNORECASE,
)
_PRIVATE_KEY = re.compile(rb"\s*-----BEGIN [A-Z ]*PRIVATE KEY")


@dataclass(frozen=True)
class Entry:
    """One file, link or folder. `path` is relative to the home directory; `target` is a link's alone."""

    path: str
    mode: int  # as stat has it, type included
    size: int
    mtime: int  # nanoseconds
    mark: tuple[
        int, ...
    ] = ()  # a file's, which changes when it does: sizes, times and more, in `_entry`'s order
    target: str = ""


class LeftOutError(Exception):
    """Why a file is not saved, in a few words."""


def walk(home: Path, leave_out: Callable[[str, str], None]) -> Iterator[Entry]:
    """Find what is the user's, Hermes's own files first, as each is at that moment.

    Arguments:
        home: the home directory.
        leave_out: told the path and the reason of each file that should be there and cannot.

    Returns:
        The entries; a folder comes before what is in it, and Git's objects after what names them.
    """
    try:
        patterns = (home / "projects" / ".keepignore").read_text(errors="replace").splitlines()
    except OSError:
        patterns = []
    rules = kept_rules(patterns)
    pending, total = [".gitconfig", ".hermes", "projects"][::-1], 0
    while pending:
        path = pending.pop()
        full = home / path
        try:
            info = full.stat() if path in ("projects", ".hermes") else full.lstat()
            folder = stat.S_ISDIR(info.st_mode)
            if not rules(path, folder):
                continue
            if folder:
                names = os.listdir(full)
                if (
                    "pyvenv.cfg" in names or "CACHEDIR.TAG" in names
                ):  # a virtual environment, a cache: both say so themselves
                    continue
                yield Entry(path, info.st_mode, 0, info.st_mtime_ns)
                # A commit made meanwhile then has its objects, or is not there.
                pending += [
                    f"{path}/{name}"
                    for name in sorted(
                        names, key=lambda name: (name == "objects", name), reverse=True
                    )
                ]
            elif stat.S_ISLNK(info.st_mode):
                yield Entry(path, info.st_mode, 0, info.st_mtime_ns, target=os.readlink(full))
            elif not stat.S_ISREG(info.st_mode):
                leave_out(path, "neither a file nor a folder")
            elif beside := re.fullmatch(r"(.+)-(wal|shm|journal)", str(full)):
                if not is_sqlite(Path(beside[1])):
                    yield _entry(path, full, info)
            else:
                entry = _entry(path, full, info)
                if entry.size > MOST_IN_A_FILE:
                    leave_out(path, f"over {MOST_IN_A_FILE // 2**20} MB")
                elif total + entry.size > MOST_IN_ALL:
                    leave_out(path, f"over {MOST_IN_ALL // 2**30} GB in all")
                else:
                    total += entry.size
                    yield entry
        except FileNotFoundError:  # gone meanwhile, or never there
            continue
        except OSError as error:
            leave_out(path, error.strerror or type(error).__name__)


def kept_rules(patterns: Iterable[str]) -> Callable[[str, bool], bool]:
    """What may be saved and restored, by its path alone.

    Arguments:
        patterns: the user's own for `~/projects`, in gitignore's syntax.

    Returns:
        A function of a path relative to the home directory, and whether it is a folder; a folder's answer goes for all in it.
    """
    again, secret, hermes = (
        Ignore([*AGAIN.split(), OURS]),
        Ignore(CREDENTIALS.split()),
        Ignore(HERMES.split()),
    )
    theirs = Ignore([*AGAIN.split(), *patterns])

    def rules(path: str, folder: bool) -> bool:
        root, _, rest = path.partition("/")
        if secret(path, folder):
            return False
        if not rest:
            return path == ".gitconfig" if not folder else root in ("projects", ".hermes")
        if root == ".hermes":
            return ("/" in rest or hermes(rest, folder)) and not again(rest, folder)
        return root == "projects" and not theirs(rest, folder)

    return rules


def read(home: Path, entry: Entry, scratch: Path, secrets: Iterable[bytes]) -> bytes:
    """A file's content as it is saved: a database whole, a config without keys.

    Arguments:
        home: the home directory.
        entry: of a file.
        scratch: a folder for copies.
        secrets: what must be in no file.

    Returns:
        The content.

    Raises:
        LeftOutError: where it cannot be saved, or holds a credential.
        OSError: where it cannot be read.
    """
    full, found = home / entry.path, [secret for secret in secrets if secret]
    if is_sqlite(full):
        data = _copy_database(full, scratch / "database", found)
    else:
        for _ in range(3):
            data = full.read_bytes()
            if _entry(entry.path, full, full.lstat()).mark == entry.mark:
                break
            entry = _entry(entry.path, full, full.lstat())
    name = entry.path.rpartition("/")[2]
    if entry.path == ".hermes/config.yaml":
        data, _ = clean_config(data)
    elif name == ".gitconfig" or entry.path.endswith(".git/config"):
        data = re.sub(rb"(://)[^/@\s]+@", rb"\1", re.sub(rb"(?im)^.*extraheader.*$\n?", b"", data))
    if len(data) > MOST_IN_A_FILE:
        raise LeftOutError(f"over {MOST_IN_A_FILE // 2**20} MB")
    if _PRIVATE_KEY.match(data) or any(secret in data for secret in found):
        raise LeftOutError("holds a credential")
    return data


def clean_config(data: bytes) -> tuple[bytes, set[bytes]]:
    """Empty every value in Hermes's config that is or may be a credential; comments and all else stay.

    Arguments:
        data: the file's bytes.

    Returns:
        The same without credentials (the setup puts ours in again), and what was taken out.

    Raises:
        LeftOutError: where it is no YAML that can be read.
    """
    empty: dict[int, int] = {}  # from where to where
    found: set[bytes] = set()
    try:
        text = data.decode()
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise LeftOutError("is not valid YAML") from None

    def look(node: yaml.Node | None, secret: bool, above: frozenset[int]) -> None:
        if node is None or id(node) in above:
            return
        if isinstance(node, yaml.ScalarNode):
            plain = node.tag in (
                "tag:yaml.org,2002:int",
                "tag:yaml.org,2002:bool",
                "tag:yaml.org,2002:null",
            )
            named = re.fullmatch(r"\$\{?\w+\}?", node.value)
            if node.value and not named and ((secret and not plain) or _TELLING.search(node.value)):
                empty[node.start_mark.index] = node.end_mark.index
                found.add(node.value.encode())
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                look(item, secret, above | {id(node)})
        else:
            for key, value in node.value:
                look(value, secret or bool(_CREDENTIAL.search(str(key.value))), above | {id(node)})

    look(tree, False, frozenset())
    for start in sorted(empty, reverse=True):
        block = text[start : empty[start]]
        text = text[:start] + ("''\n" if block[:1] in "|>" else "''") + text[empty[start] :]

    def shown(comment: re.Match[str]) -> str:
        return "" if _CREDENTIAL.search(comment[1]) or _TELLING.search(comment[1]) else comment[0]

    text = re.sub(r"(?<!\S)#([^\r\n]*)", shown, text)
    try:
        yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise LeftOutError("its credentials cannot be taken out") from None
    return text.encode(), found


def is_sqlite(path: Path) -> bool:
    """Whether a file is an SQLite database, by its first bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError:
        return False


def last_change(full: Path, info: os.stat_result) -> int:
    """When a file was changed last, in nanoseconds: a database's changes may be in its log alone."""
    return max([info.st_mtime_ns, *(beside.st_mtime_ns for beside in _beside(full))])


def _entry(path: str, full: Path, info: os.stat_result) -> Entry:
    beside = [value for other in _beside(full) for value in (other.st_size, other.st_mtime_ns)]
    mark = (info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, info.st_mode, *beside)
    return Entry(path, info.st_mode, info.st_size, last_change(full, info), mark)


def _beside(full: Path) -> Iterator[os.stat_result]:
    for suffix in ("-wal", "-journal"):
        with suppress(OSError):
            yield os.stat(f"{full}{suffix}")


def _copy_database(full: Path, copy: Path, secrets: list[bytes]) -> bytes:
    """A database's bytes through SQLite's own backup, whole also while it is written to."""
    copy.unlink(missing_ok=True)
    until = time.monotonic() + 5

    def give_up(status: int, remaining: int, total: int) -> None:
        if status in (5, 6) and time.monotonic() > until:  # SQLITE_BUSY, SQLITE_LOCKED
            raise OSError(errno.EBUSY, "a database that is locked")

    try:
        with (
            closing(sqlite3.connect(f"{full.as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target, progress=give_up)
        data = copy.read_bytes()
        if any(secret in data for secret in secrets):
            # In a conversation, for one. Its beginning stays: so it stays in its place in an index.
            for secret in secrets:
                data = data.replace(secret, secret[:8] + b"x" * (len(secret) - 8))
            copy.write_bytes(data)
            with closing(sqlite3.connect(copy)) as target:
                if target.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                    raise LeftOutError("holds a credential")
        return data
    except sqlite3.Error as error:
        raise OSError(errno.EIO, f"a database that cannot be copied: {error}") from None
    finally:
        copy.unlink(missing_ok=True)
