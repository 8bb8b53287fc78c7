"""Functions and imports of a Python module, replaced by their place in its syntax tree.

Only whole lines change: line ends, encoding, comments and all other code stay as they are. What a
patch replaced is in the patch, so that `restore` can give it back.
"""

from __future__ import annotations

import ast
import re
import symtable
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hermes.urls import SettingError

_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")  # a form feed ends no line of Python
_BOM = "\ufeff"


@dataclass(frozen=True)
class Change:
    """A function that was put in.

    Attributes:
        old: its text before, "" where there was none.
        new: its text now.
    """

    old: str
    new: str


@dataclass(frozen=True)
class Patch:
    """What was put into a module: functions by name, and import statements."""

    functions: Mapping[str, Change]
    imports: tuple[str, ...]


@dataclass(frozen=True)
class Edit:
    """Lines from `start` up to `end` and the text that they become."""

    start: int
    end: int
    text: str


class Module:
    """A Python module's text and its syntax tree."""

    def __init__(self, name: str, text: str) -> None:
        """Parse a module.

        Arguments:
            name: the file's, for messages.
            text: the file's bytes, decoded as `decode` does.

        Raises:
            SettingError: where it is not Python.
        """
        self.name, self.text = name, text
        self.bom = _BOM if text.startswith(_BOM) else ""
        self.lines = _LINE.findall(text[len(self.bom) :])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about somebody else's code
                source = encode(text)
                self.tree = ast.parse(source)
                self.symbols = symtable.symtable(source, name, "exec")  # type: ignore[arg-type]
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = f"{type(error).__name__} in line {getattr(error, 'lineno', None) or '?'}"
            raise SettingError(f"{name}: it is not valid Python ({reason})") from None

    @property
    def newline(self) -> str:
        """How its first line ends."""
        first = self.lines[0] if self.lines else ""
        return first[len(first.rstrip("\r\n")) :] or "\n"

    def functions(self) -> list[ast.FunctionDef]:
        """The functions at its top level."""
        return [node for node in self.tree.body if isinstance(node, ast.FunctionDef)]

    def function(self, name: str) -> ast.FunctionDef | None:
        """The function of that name at the module's top level.

        Raises:
            SettingError: where the name is something else, or more than one thing.
        """
        found = [node for node in self.functions() if node.name == name]
        if len(found) > 1 or (not found and self.binds(name)):
            raise SettingError(f"{self.name}: {name} is not valid; expected one plain function")
        return found[0] if found else None

    def binds(self, name: str) -> bool:
        """Whether the module gives that name a meaning at its top level."""
        if name not in self.symbols.get_identifiers():
            return False
        symbol = self.symbols.lookup(name)
        return symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()

    def span(self, node: ast.stmt) -> tuple[int, int]:
        """The lines of a statement, decorators included."""
        decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
        start = min([node.lineno, *(d.lineno for d in decorators)])
        return start - 1, node.end_lineno or node.lineno

    def text_of(self, node: ast.stmt) -> str:
        """The text of a statement's lines."""
        start, end = self.span(node)
        return "".join(self.lines[start:end])

    def imports(self) -> dict[str, ast.stmt]:
        """The imports at its top level: one statement for each name, and where it stands."""
        return {
            ast.unparse(single): node
            for node in self.tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for single in _singles(node)
        }

    def used_names(self) -> set[str]:
        """Every name that its code uses, at any level."""
        return {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}

    def edited(self, edits: Iterable[Edit]) -> Module:
        """The module with some of its lines replaced."""
        lines, newline = list(self.lines), self.newline
        for edit in sorted(edits, key=lambda e: e.start, reverse=True):
            text = edit.text
            if text and not text.endswith(("\r", "\n")) and edit.end < len(lines):
                text += newline
            lines[edit.start : edit.end] = [text] if text else []
        return Module(self.name, self.bom + "".join(lines))


def decode(data: bytes) -> str:
    """A file's bytes as text, whatever its encoding; `encode` gives the same bytes again."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes that `decode` read."""
    return text.encode("utf-8", "surrogateescape")


def patch(theirs: Module, fix: Module, first: str) -> tuple[Module, Patch]:
    """Put functions into a module, with the imports that they need.

    Arguments:
        theirs: the module.
        fix: the functions, and imports. A function that `theirs` has is replaced where it stands.
        first: one of them that `theirs` must have; those that it lacks follow this one.

    Raises:
        SettingError: where that cannot be done without a change to anything else.
    """
    newline = theirs.newline
    new = {n.name: _ended(fix.text_of(n), newline) for n in fix.functions()}
    nodes = {name: node for name in new if (node := theirs.function(name))}
    if first not in nodes:
        raise SettingError(f"{theirs.name}: it has no {first}; expected the utils.py of CODA")
    lacking = [text for name, text in new.items() if name not in nodes]
    texts = {**new, first: (newline * 2).join([new[first], *lacking])}
    edits = [_replacement(theirs, node, texts[name]) for name, node in nodes.items()]
    imports, place = _missing_imports(theirs, fix), _after_imports(theirs)
    lines = "".join(line + newline for line in imports)
    patched = theirs.edited([*edits, Edit(place, place, lines)])
    if _others(patched, new, imports) != _others(theirs, new, ()):
        raise SettingError(f"{theirs.name}: it cannot be changed without changing other code")
    old = {name: theirs.text_of(node) for name, node in nodes.items()}
    changes = {name: Change(old.get(name, ""), text) for name, text in new.items()}
    return patched, Patch(changes, imports)


def restore(module: Module, patch: Patch) -> Module:
    """Take a patch out of a module again; everything else that was edited since stays.

    Functions that are as they were before the patch stay too: it may have been taken out in part.

    Raises:
        SettingError: where a function of the patch was edited since, or other code uses the fix.
    """
    edits = [_way_back(module, name, change) for name, change in patch.functions.items()]
    restored = module.edited(edit for edit in edits if edit)
    restored = restored.edited(_without_imports(restored, patch.imports))
    if imports_hermes(restored):
        raise SettingError(f"{module.name}: other code of it uses hermes/; expected none that does")
    return restored


def _without_imports(module: Module, added: Iterable[str]) -> list[Edit]:
    """What takes imports out again, but for those that other code uses by now."""
    used = module.used_names()
    unused = {line for line in added if line.rpartition(" ")[2] not in used}
    return [
        Edit(*module.span(node), "")
        for line, node in module.imports().items()
        if line in unused and module.text_of(node).strip() == line
    ]


def _way_back(module: Module, name: str, change: Change) -> Edit | None:
    """What gives one function back; None where it is as it was."""
    node = module.function(name)
    text = module.text_of(node) if node else ""
    if _ended(text, "\n").rstrip("\n") == _ended(change.old, "\n").rstrip("\n"):
        return None
    put_in = Module(f"{name} in the record", change.new).tree
    if node is None or ast.dump(ast.Module([node], [])) != ast.dump(put_in):
        raise SettingError(
            f"{module.name}: {name} was edited since the fix was put in; expected it unedited"
        )
    same_ends = ("\r\n" in text) == ("\r\n" in change.new)
    old = change.old if same_ends else _ended(change.old, module.newline)  # git changed the others
    start, end = module.span(node)
    if not old:  # the two empty lines before it came with it
        above = "".join(module.lines[max(start - 2, 0) : start])
        start -= 0 if above.strip() else min(start, 2)
    return Edit(start, end, old)


def _ended(text: str, newline: str) -> str:
    """A text with other line ends."""
    return re.sub("\r\n|\r|\n", newline, text)


def imports_hermes(module: Module) -> bool:
    """Whether the module imports from hermes/ at its top level."""
    return any(re.match(r"(from|import) hermes\b", line) for line in module.imports())


def _singles(node: ast.Import | ast.ImportFrom) -> list[ast.stmt]:
    """An import statement, one for each name."""
    if isinstance(node, ast.Import):
        return [ast.Import([alias]) for alias in node.names]
    return [ast.ImportFrom(node.module, [alias], node.level) for alias in node.names]


def _missing_imports(theirs: Module, fix: Module) -> tuple[str, ...]:
    """The imports that the fix needs and the module lacks."""
    used, there = fix.used_names(), theirs.imports()
    missing = [line for line in fix.imports() if line.split()[-1] in used and line not in there]
    taken = [line for line in missing if theirs.binds(line.split()[-1])]
    if taken:
        name = taken[0].split()[-1]
        raise SettingError(f"{theirs.name}: {name} is not valid; the fix needs this name")
    return tuple(missing)


def _after_imports(module: Module) -> int:
    """The line after the docstring and the imports with which a module begins."""
    place = 0
    for node in module.tree.body:
        start, end = module.span(node)
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not (is_docstring or isinstance(node, ast.Import | ast.ImportFrom)) and start >= place:
            return place or start
        place = end  # a statement that begins on the line of an import counts too
    return place


def _replacement(module: Module, node: ast.stmt, text: str) -> Edit:
    """What replaces a statement, without a line end at its end where there was none."""
    ends = module.text_of(node).endswith(("\r", "\n"))
    return Edit(*module.span(node), text if ends else text.rstrip("\r\n"))


def _others(module: Module, names: Iterable[str], imports: Iterable[str]) -> list[str]:
    """All code of a module but some functions and imports."""
    left_out = {*names}
    return [
        ast.dump(node)
        for node in module.tree.body
        if not (isinstance(node, ast.FunctionDef) and node.name in left_out)
        and ast.unparse(node) not in imports
    ]
