"""What of a home directory is the user's, and worth bringing back after a restart.

`~/projects`, `~/.gitconfig`, and of `~/.hermes` the names below: all else there can be made again,
or is a credential.
No content is searched for credentials: a file's name says what is one.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from webapp.keep.content import LeftOutError, head, is_sqlite, last_change, read_whole, side_files
from webapp.keep.ignore import Ignore

MOST_IN_A_FILE, MOST_IN_ALL = 200 * 2**20, 2**30  # bytes
MOST_PATTERNS = 2**16  # bytes of .keepignore
ROOTS = (".gitconfig", ".hermes", "projects")
# Measured with hermes-agent 0.19.0; its own `hermes backup` knows the same names, and credentials.
HERMES = """
/sessions/ /memories/ /skills/ /skill-bundles/ /skins/ /scripts/ /hooks/ /cron/ /plugins/ /kanban/
/session-exports/ /*.db /HERMES.md /SOUL.md /config.yaml /.config.yaml.setup /.hermes_history
"""
# In gitignore's syntax, as what follows; .keepignore may take these back with a "!", no others.
AGAIN = """
node_modules/ .venv/ __pycache__/ .cache/ .mypy_cache/ .pytest_cache/ .ruff_cache/ .hypothesis/
.tox/ .nox/ .ipynb_checkpoints/ *.pyc .DS_Store
"""
# A file on its way in, by the name that webapp/files gives it.
UPLOAD = f".upload-{'[0-9a-f]' * 32}"
OURS = "/plugins/model-providers/databricks/"  # in ~/.hermes: setup brings it, in this version
CREDENTIALS = """
.env .env.* !.env.example !.env.sample !.env.template .envrc .databrickscfg* .netrc .pgpass .pypirc
.npmrc .git-credentials .aws/ .azure/ .ssh/ .kube/ .databricks/ id_rsa id_ecdsa id_ed25519
"""
# At the top of ~/.hermes alone: below it, a file of such a name may be the user's work.
HERMES_CREDENTIALS = "/auth.json /credentials.json /token.json /*_token.json /*_tokens.json"
# More that has credentials, for a project that ~/.hermes is a link to: ~/.hermes itself keeps none.
LINKED_CREDENTIALS = f"""{HERMES_CREDENTIALS}
/auth.json* /*_client_secret.json /.*_oauth.json /config.yaml*.bak* /mcp-tokens/ /pairing/ /cache/
/platforms/ /profiles/ /whatsapp/ /backups/ /state-snapshots/ /hindsight/ /mem0.json /honcho.json
/supermemory.json
"""
# The scripts of a virtual environment that name no place of their own.
ACTIVATE = re.compile(
    r"[Aa]ctivate(\.(csh|fish|nu|bat|ps1))?|activate_this\.py|deactivate\.(bat|nu)|pydoc\.bat"
)
# Of a virtual environment; what stands in its bin is looked at, as a project may have a bin too.
ENVIRONMENT = """
/pyvenv.cfg /CACHEDIR.TAG /lib64 /lib/python*/ /lib/site-packages/ /Lib/site-packages/
/include/python*/ /include/site/ /share/man/ /share/jupyter/ /etc/jupyter/
"""
CACHE_TAG = b"Signature: 8a477f597d28d172789f06886806bc55"  # https://bford.info/cachedir/

CREDENTIAL = "a credential by its name"
MADE_AGAIN = "can be made again"
IGNORED = "named in .keepignore"
NOT_KEPT = "not kept of ~/.hermes"
PARTS = "the virtual environment's own parts: can be made again"
CACHE = "a cache (CACHEDIR.TAG)"


@dataclass(frozen=True)
class Entry:
    """One file, link or folder."""

    path: str  # relative to the home directory
    mode: int  # as stat has it, type included
    size: int
    mtime: int  # nanoseconds
    # A file's, which changes when it does, or when a database's log does.
    mark: tuple[int, ...] = ()
    touched: int = 0  # when that was, in nanoseconds
    target: str = ""  # a link's


class LeftOut(NamedTuple):
    """What is not saved, and why."""

    path: str
    reason: str
    by_rule: bool = False  # as it is meant, rather than because something stands in the way


class Rules:
    """What may be saved, by its path alone.

    Arguments:
        patterns: the user's own for `~/projects`, in gitignore's syntax.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._credentials = Ignore(CREDENTIALS.split())
        self._hermes_credentials = Ignore(HERMES_CREDENTIALS.split())
        self._hermes = Ignore(HERMES.split())
        self._again = Ignore([*AGAIN.split(), UPLOAD, OURS])
        self._both = Ignore([*AGAIN.split(), UPLOAD, *patterns])

    def why_not(self, path: str, folder: bool) -> str:
        """Why a path is not saved; "" where it is. A folder's answer goes for all that is in it.

        Arguments:
            path: relative to the home directory.
            folder: whether it is one.
        """
        root, _, rest = path.partition("/")
        if why := self.forbidden(path, folder):
            return why
        if root == ".hermes" and rest:
            return MADE_AGAIN if self._again(rest, folder) else ""
        if root == "projects" and rest and self._both(rest, folder):
            return MADE_AGAIN if self._again(rest, folder) else IGNORED
        return ""

    def forbidden(self, path: str, folder: bool) -> str:
        """Why a path is neither saved nor brought back, whoever says so; "" where it may be."""
        root, _, rest = path.partition("/")
        if self._credentials(path, folder):
            return CREDENTIAL
        if not rest:
            expected = (".gitconfig",) if not folder else (".hermes", "projects")
            return "" if path in expected else "not a place that is kept"
        if root == ".hermes":
            kept = "/" in rest or self._hermes(rest, folder)
            secret = self._hermes_credentials(rest, folder)
            return CREDENTIAL if secret else "" if kept else NOT_KEPT
        return "" if root == "projects" else "not a place that is kept"


def walk(home: Path, leave_out: Callable[[LeftOut], None]) -> Iterator[Entry]:
    """Find what is the user's, Hermes's own files first, as each is at that moment.

    Arguments:
        home: the home directory.
        leave_out: is called for each file or folder that is not saved.

    Returns:
        The entries; a folder comes before what is in it, and Git's objects after what names them.
    """
    walker = _Walker(home, leave_out)
    pending = list(reversed(ROOTS))
    while pending:
        path = pending.pop()
        try:
            entry, below = walker.look(path)
        except FileNotFoundError:  # gone meanwhile, or never there
            continue
        except LeftOutError as reason:
            leave_out(LeftOut(path, str(reason)))
        except OSError as error:
            leave_out(LeftOut(path, error.strerror or type(error).__name__))
        else:
            pending += below
            if entry:
                yield entry


class _Walker:
    """Looks at one path after the other; a folder is looked at before what is in it."""

    def __init__(self, home: Path, leave_out: Callable[[LeftOut], None]) -> None:
        self.home, self.leave_out = home, leave_out
        self._rules = Rules(_patterns(home, leave_out))
        self._own = Ignore(ENVIRONMENT.split())
        self._environments: list[str] = []  # virtual ones, by path
        self._hermes: os.stat_result | None = None  # what ~/.hermes is, or leads to
        self._linked: str | None = None  # where it leads to, once that was seen
        self._linked_credentials = Ignore(LINKED_CREDENTIALS.split())
        self._size = 0  # of all files so far

    def look(self, path: str) -> tuple[Entry | None, list[str]]:
        """What is saved of a path, and what is to be looked at after it, the first one last.

        Raises:
            LeftOutError: where it cannot be saved.
            OSError: where it cannot be read.
        """
        full = self.home / path
        info = full.stat() if path in (".hermes", "projects") else full.lstat()
        folder = stat.S_ISDIR(info.st_mode)
        if not folder and _is_log(full):
            return None, []
        self._find_hermes(path, info)
        names = os.listdir(full) if folder else []
        if skipped := self._skipped(path, folder, names):
            self.leave_out(skipped)
            return None, []
        if not folder:
            return self._file(path, full, info), []
        if "pyvenv.cfg" in names:
            self._environments.append(path)
        # Git's objects come last: a commit made meanwhile then has them, or is not there.
        ordered = sorted(names, key=lambda name: (name == "objects", name), reverse=True)
        return Entry(path, info.st_mode, 0, info.st_mtime_ns), [f"{path}/{n}" for n in ordered]

    def _find_hermes(self, path: str, info: os.stat_result) -> None:
        """Learn what ~/.hermes is, and where it leads to."""
        if path == ".hermes":
            self._hermes = info
        elif self._hermes and os.path.samestat(info, self._hermes):
            self._linked = path

    def _skipped(self, path: str, folder: bool, names: list[str]) -> LeftOut | None:
        """What is left out by rule, if it is."""
        parent, _, name = path.rpartition("/")
        if parent == self._linked and self._linked_credentials(name, folder):
            return LeftOut(path, CREDENTIAL, by_rule=True)
        if why := self._rules.why_not(path, folder):
            return LeftOut(path, why, by_rule=True)
        for root in self._environments:
            if path.startswith(f"{root}/") and self._is_part(root, path, folder):
                return LeftOut(root, PARTS, by_rule=True)
        if "CACHEDIR.TAG" in names and self._is_cache(path, names):
            return LeftOut(path, CACHE, by_rule=True)
        return None

    def _is_part(self, root: str, path: str, folder: bool) -> bool:
        """Whether a path is a virtual environment's own."""
        rest, full = path.removeprefix(f"{root}/"), self.home / path
        if self._own(rest, folder):
            return True
        if folder or not re.fullmatch("(bin|Scripts)/[^/]+", rest):
            return False
        if full.is_symlink():
            return full.name.startswith("python")
        if ACTIVATE.fullmatch(full.name):
            return True
        # An installed program is compiled, or its first line names the environment's Python; where
        # that is too long for a first line, pip writes it into the second. All else is the user's.
        beginning = head(full, 4096)
        lines = beginning.split(b"\n", 2)[:2]
        named = [line for line in lines if line.startswith((b"#!", b"'''exec'"))]
        place = os.fsencode(self.home / root)
        return beginning[:4] == b"\x7fELF" or any(place in line for line in named)

    def _is_cache(self, path: str, names: list[str]) -> bool:
        """Whether a folder says that it is a cache; a project's root is none."""
        if path.count("/") < 2 or {".git", "pyvenv.cfg"} & set(names):
            return False
        return head(self.home / path / "CACHEDIR.TAG", len(CACHE_TAG)) == CACHE_TAG

    def _file(self, path: str, full: Path, info: os.stat_result) -> Entry:
        if stat.S_ISLNK(info.st_mode):
            return Entry(path, info.st_mode, 0, info.st_mtime_ns, target=os.readlink(full))
        if not stat.S_ISREG(info.st_mode):
            raise LeftOutError("neither a file nor a folder")
        entry = _as_entry(path, full, info)
        if entry.size > MOST_IN_A_FILE:
            raise LeftOutError(f"over {MOST_IN_A_FILE // 2**20} MB")
        if self._size + entry.size > MOST_IN_ALL:
            raise LeftOutError(f"over {MOST_IN_ALL // 2**30} GB in all")
        self._size += entry.size
        return entry


def changed(home: Path, entry: Entry) -> Entry | None:
    """A file as it is now, where that is not as it was; None where it is."""
    full = home / entry.path
    new = _as_entry(entry.path, full, full.lstat())
    return None if new.mark == entry.mark else new


def _patterns(home: Path, leave_out: Callable[[LeftOut], None]) -> list[str]:
    """The lines of `~/projects/.keepignore`."""
    try:
        data = read_whole(home / "projects" / ".keepignore", MOST_PATTERNS)
    except FileNotFoundError:
        return []
    except (OSError, LeftOutError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        leave_out(LeftOut("projects/.keepignore", f"cannot be read ({reason}): it has no effect"))
        return []
    return data.decode(errors="replace").splitlines()


def _is_log(full: Path) -> bool:
    """Whether a file goes with the database beside it."""
    beside = re.fullmatch(r"(.+)-(wal|shm|journal)", str(full), re.DOTALL)
    return bool(beside and is_sqlite(Path(beside[1])))


def _as_entry(path: str, full: Path, info: os.stat_result) -> Entry:
    stats = [info, *side_files(full)]
    mark = [info.st_mode, info.st_ino]
    for one in stats:
        mark += [one.st_size, one.st_mtime_ns, one.st_ctime_ns]
    touched = max(one.st_ctime_ns for one in stats)
    mtime = last_change(full, info)
    return Entry(path, info.st_mode, info.st_size, mtime, tuple(mark), touched)
