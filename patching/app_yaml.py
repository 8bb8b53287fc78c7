"""Settings in the `env` list of an app.yaml, added and taken out again as text: comments stay."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import yaml

from hermes.urls import SettingError


def add_settings(name: str, text: str, wanted: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Add the settings that are missing, at the head of the list.

    Arguments:
        name: the file's, for messages.
        text: the file's.
        wanted: each setting and its value, as YAML.

    Returns:
        The new text, and the lines that were added, an item for each setting; none where `env` is
        not a list of one entry a line.

    Raises:
        SettingError: where the file is not valid YAML.
    """
    try:
        root, config = yaml.compose(text), yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise SettingError(f"{name}: it is not valid YAML") from None
    key, env = _find_env(root)
    if key is None or env is None:
        return text, ()
    newline = "\r\n" if "\r\n" in text else "\n"
    dash, column = env.start_mark.column, env.value[0].start_mark.column
    present = _names(config["env"])
    added = tuple(
        f"{'-':>{dash + 1}}".ljust(column) + f"name: {setting}{newline}"
        f"{'value':>{column + 5}}: {value}{newline}"
        for setting, value in wanted.items()
        if setting not in present
    )
    place = text.find("\n", key.end_mark.index) + 1
    changed = text[:place] + "".join(added) + text[place:]
    new = [{"name": s, "value": yaml.safe_load(v)} for s, v in wanted.items() if s not in present]
    if not _reads_as(changed, {**config, "env": [*new, *config["env"]]}):
        return text, ()
    return changed, added


def take_out(text: str, added: Iterable[str]) -> tuple[str, list[str]]:
    """Take settings out again, where they are as they were added.

    Arguments:
        text: the file's.
        added: the lines, as `add_settings` returned them.

    Returns:
        The new text, and the names of the settings that were edited since and stay.
    """
    stay = []
    for lines in added:
        name = lines.partition("name: ")[2].partition("\n")[0].strip()
        # Git may have changed the line ends of the file.
        pattern = "".join(rf"{re.escape(line)}\r?\n" for line in lines.splitlines())
        if len(re.findall(pattern, text)) == 1:
            text = re.sub(pattern, "", text)
        elif re.search(rf"^ *- +name: {name}\s*$", text, re.MULTILINE):
            stay.append(name)
    return text, stay


def _find_env(root: yaml.Node | None) -> tuple[yaml.Node | None, yaml.SequenceNode | None]:
    """The key `env` and its list, where the list has an entry a line."""
    pairs = root.value if isinstance(root, yaml.MappingNode) and not root.flow_style else []
    for key, value in pairs:
        is_list = isinstance(value, yaml.SequenceNode) and not value.flow_style
        if key.value == "env" and is_list and isinstance(value.value[0], yaml.MappingNode):
            return key, value
    return None, None


def _reads_as(text: str, expected: object) -> bool:
    try:
        return bool(yaml.safe_load(text) == expected)
    except (yaml.YAMLError, RecursionError):  # the list stands elsewhere, or holds itself
        return False


def _names(env: object) -> list[object]:
    """The names of the settings in an `env` list; a name may be anything."""
    entries = env if isinstance(env, list) else []
    return [entry.get("name") for entry in entries if isinstance(entry, dict)]
