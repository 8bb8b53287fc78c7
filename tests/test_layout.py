"""How the project hangs together: its layers, its documents, what is deployed."""

from __future__ import annotations

import ast
import re

import pytest
import yaml

from tests.conftest import FAULTS, ROOT
from tests.modules import imports, modules, needed

# Set by Databricks Apps, by CODA's parent process, or databricks-sdk's or Hermes's own.
PLATFORM = {
    "COLORFGBG",
    "PATH",
    "DATABRICKS_APP_NAME",
    "DATABRICKS_CLIENT_ID",
    "DATABRICKS_CLIENT_SECRET",
}
PLATFORM |= {"_GATEWAY_RESOLVED", "DATABRICKS_CONFIG_FILE", "HERMES_HOME"}
LAPTOP = {"DATABRICKS_CONFIG_PROFILE", "DATABRICKS_APP_PORT"}  # no business of an app.yaml


# --- Layers --------------------------------------------------------------------------------------


def layer(module: str) -> int:
    """Where a module stands: entry points above the packages, hermes, utils and urls below."""
    if module in ("hermes.urls", "hermes.provider"):
        return 0
    return {"utils": 1, "hermes": 2, "webapp": 3, "deploying": 4, "patching": 4}.get(
        module.partition(".")[0], 5
    )


def test_arrows_point_down() -> None:
    """An import goes to the same package or to a lower layer; nothing imports an entry point."""
    for module in modules():
        for other in imports(module) - {"hermes", "webapp", "deploying", "patching"}:
            same = module.partition(".")[0] == other.partition(".")[0]
            assert layer(other) < 5, f"{module} imports the entry point {other}"
            assert same or layer(other) < layer(module), f"{module} imports {other}"
        if layer(module) == 0:
            assert imports(module) - {"hermes"} == set(), module


def test_no_module_imports_anothers_private_name() -> None:
    for name, file in modules().items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in modules():
                assert not [a.name for a in node.names if a.name.startswith("_")], name


def test_the_runtime_is_pinned_throughout() -> None:
    """Each of the five lines exactly, and below them all that is installed with them."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[\w-]+==[\d.]+", line)] == [
        "-c constraints.txt"
    ]
    assert len(lines) == 6
    constraints = (ROOT / "constraints.txt").read_text().lower()
    for line in lines[:-1]:
        assert f"\n{line.lower()}\n" in constraints
    assert "://" not in constraints


def test_the_drawing_is_what_is_imported() -> None:
    """CONTRIBUTING's: an arrow for each import between packages; hermes.urls is anybody's."""

    def box(module: str) -> str:
        return module if module == "hermes.urls" else module.partition(".")[0]

    imported = {(box(m), box(other)) for m in modules() for other in imports(m) - {"hermes"}}
    text = (ROOT / "CONTRIBUTING.md").read_text()
    names = {"setup": "setup_hermes", "patch": "patch_coda", "urls": "hermes.urls"}
    arrows = re.findall(r"^    (\w+)(?:\[.*?\])? --> (\w+)", text, re.MULTILINE)
    drawn = {(names.get(start, start), names.get(end, end)) for start, end in arrows}
    anybodys = {(start, "hermes.urls") for start, _ in imported}
    assert {(a, b) for a, b in imported if a != b} - anybodys == drawn - anybodys


def test_no_test_imports_from_another() -> None:
    """What tests share is in a conftest.py, or in a module that holds no test."""
    found = [
        f"{file.relative_to(ROOT)}: {module}"
        for file in (ROOT / "tests").rglob("*.py")
        for module in re.findall(
            r"^ *(?:from|import) (tests[\w.]*\.test_\w+)", file.read_text(), re.M
        )
    ]
    assert found == []


# --- Documents -----------------------------------------------------------------------------------


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160
    for file in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!https?:)(.*?)\)|src=\"(.*?)\"", file.read_text()):
            name, _, anchor = "".join(target).partition("#")
            other = file.parent / name if name else file
            assert other.is_file(), f"{file.name}: {name}"
            titles = re.findall(r"^#+ (.*)$", other.read_text(), re.M) if anchor else []
            anchors = {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}
            assert not anchor or anchor in anchors, f"{file.name}: #{anchor}"


def test_each_message_of_the_document_is_the_programs() -> None:
    """What docs/messages.md quotes, up to what differs, is in a string or a script of ours."""
    trees = (ast.walk(ast.parse(file.read_text())) for file in modules().values())
    texts = [n.value for t in trees for n in t if isinstance(n, ast.Constant)]
    scripts = [file.read_text() for file in [*ROOT.glob("webapp/**/*.js"), ROOT / "Makefile"]]
    said = "\n".join([*(text for text in texts if isinstance(text, str)), *scripts])
    cells = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "messages.md").read_text(), re.M)
    assert len(cells) > 90
    for message in re.findall(r"`(.*?)`", "\n".join(cells)):
        parts = [part.strip() for part in re.split("[…:;,()]", message)]
        assert [part for part in parts if len(part) > 8 and part not in said] == [], message


def settings_in_code() -> set[str]:
    """Every variable that the code reads from its environment."""
    code = "".join(modules()[name].read_text() for name in needed("app"))
    reads = re.findall(
        r'env(?:\.get\(|\[)"(\w+)"|(?:read_flag|number|_read_model)\((?:env, )?"(\w+)"'
        r'|\("(\w+_MCP_URL)"',
        code,
    )
    return {name for names in reads for name in names if name} | {"_GATEWAY_RESOLVED"}


def test_every_setting_is_in_the_readme_once_and_in_the_template() -> None:
    code = settings_in_code()
    assert {
        "HERMES_MODEL",
        "DATABRICKS_GATEWAY_HOST",
        "MAX_CONCURRENT_SESSIONS",
        "EXA_MCP_URL",
        "HOME",
    } <= code
    table = (ROOT / "README.md").read_text().partition("## Settings\n")[2].partition("\n## ")[0]
    rows = [
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    assert sorted(rows) == sorted(code - PLATFORM)
    template = (ROOT / "app.yaml.template").read_text()
    assert sorted(re.findall(r"- name: (\w+)", template)) == sorted({*rows} - LAPTOP)
    for name in {*rows} - LAPTOP:
        assert re.search(rf"^  # [A-Z\"].*\n  (# )?- name: {name}$", template, re.MULTILINE), (
            f"{name} has no line of its own"
        )


def test_every_kind_of_fault_is_tried_and_in_the_document() -> None:
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    rows = re.findall(
        r"^\| ([\w -]+) \| nothing \| (.*) \|$", (ROOT / "docs" / "faults.md").read_text(), re.M
    )
    assert dict(rows) == FAULTS
    assert [kind for kind in FAULTS if f'fault("{kind}"' not in tests] == []


@pytest.mark.parametrize("name", ["app.yaml", "app.yaml.template"])
def test_the_apps_configuration_is_valid(name: str) -> None:
    config = yaml.safe_load((ROOT / name).read_text())
    assert config["command"] == ["python", "app.py"]
    values = {entry["name"]: entry["value"] for entry in config["env"]}
    assert all(isinstance(value, str) for value in values.values())
    assert {"HOME", "ENABLE_HERMES", "HERMES_MODEL", "HERMES_FALLBACK_MODEL"} == set(values)


def test_the_commented_template_is_valid_too() -> None:
    text = re.sub(
        r"^  # (- name|  value)",
        r"  \1",
        (ROOT / "app.yaml.template").read_text(),
        flags=re.MULTILINE,
    )
    names = [entry["name"] for entry in yaml.safe_load(text)["env"]]
    assert len(names) == len(set(names)) >= 15
