"""The house: what `ls pruner` shows, how long modules are, what imports what, and that each fact has one room."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.project import PROJECT

MOST_ENTRIES, MOST_LINES, MOST_LEVELS = 22, 350, 14
TRAVELS = "pruner.compact.load_pruned"  # with every export, as one file
# From the top down: a package imports only what stands above it.
ORDER = (
    "version",
    *("errors", "progress", "lstm", "recipe", "files", "calibration", "importance", "compact", "compensation"),
    *("pipeline", "exports", "result", "search", "in_memory", "examples", "views", "lessons", "cli", "dashboard"),
)


def sources() -> dict[str, Path]:
    """{module: file} of the product, the pages and the app."""
    paths = [*(PROJECT / "pruner").rglob("*.py"), *(PROJECT / "pages").glob("*.py"), PROJECT / "app.py"]
    named = {".".join(path.relative_to(PROJECT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in sorted(named.items())}


@cache
def imports() -> dict[str, set[str]]:
    """{module: modules of the project that it imports}."""
    known = sources()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & known.keys()
            elif isinstance(node, ast.ImportFrom) and node.module in known:
                inside = {f"{node.module}.{alias.name}" for alias in node.names}
                # `from pruner.files import formats` imports a module; the package itself holds nothing else.
                found[name] |= (inside & known.keys()) or {node.module}
    return found


def levels() -> dict[str, int]:
    """{module: how many modules stand on each other up to it}. Raises RecursionError where they form a circle."""
    found: dict[str, int] = {}

    def level(name: str) -> int:
        if name not in found:
            found[name] = 1 + max((level(other) for other in imports()[name] if other != name), default=0)
        return found[name]

    return {name: level(name) for name in imports()}


def test_whoever_lists_the_package_sees_few_names() -> None:
    entries = [path.name for path in (PROJECT / "pruner").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


def test_a_module_is_read_in_one_sitting() -> None:
    long = {name: len(path.read_text().splitlines()) for name, path in sources().items() if name != TRAVELS}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}


def test_modules_stand_on_few_levels_and_form_no_circle() -> None:
    found = levels()
    assert max(found.values()) <= MOST_LEVELS, sorted(found.items(), key=lambda each: -each[1])[:5]


def test_packages_import_only_what_stands_above_them() -> None:
    def rank(module: str) -> int:
        return ORDER.index(module.split(".")[1])

    wrong = [
        (name, other)
        for name, others in imports().items()
        if name.startswith("pruner.") and name != "pruner.__main__"
        for other in others
        if other != "pruner" and rank(other) > rank(name)
    ]
    assert wrong == []


def test_only_the_dashboard_knows_streamlit() -> None:
    knows = {
        name for name, path in sources().items() if re.search(r"^\s*(import|from) streamlit", path.read_text(), re.M)
    }
    assert {name for name in knows if not name.startswith(("app", "pages.", "pruner.dashboard"))} == set()


def test_no_module_has_the_name_of_another_thing() -> None:
    """Not of one of the standard library, nor of a function that `pruner` exports, but for the file that exports hold."""
    import sys

    import pruner

    names = {name.rpartition(".")[2] for name in sources() if name.startswith("pruner.")}
    taken = names & {*sys.stdlib_module_names, *pruner.__all__} - {
        "__main__",
        "calibration",
        TRAVELS.rpartition(".")[2],
    }
    assert taken == set()


@pytest.mark.parametrize(
    ("fact", "pattern"),
    [
        ("rows of kept units", r"gate \* [\w.]*hidden_size \+"),
        ("columns of kept units", r"\b(block|place|direction|side) \* [\w.]*hidden_size \+"),
        ("parameter count", r"^def parameters\("),
        ("multiply-accumulate count", r"^def macs_per_step\("),
        ("keys of the manifest", r"\bcertificate: dict"),
    ],
)
def test_each_fact_has_one_room(fact: str, pattern: str) -> None:
    rooms = {name for name, path in sources().items() if re.search(pattern, path.read_text(), re.M)}
    assert len(rooms) == 1, (fact, rooms)


def test_no_test_is_too_long_or_imports_another() -> None:
    for path in (PROJECT / "tests").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 500, path.name
        assert not re.search(r"^from tests\.(\w+\.)*(test_\w+|conftest)\b", text, re.M), path.name
