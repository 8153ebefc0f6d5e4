"""Imports run down the floors of docs/contributing.md's table, wherever a statement stands, and nothing circles."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "slowfast_zoo"
Imports = Mapping[str, Mapping[str, set[str]]]  # file -> imported file -> names


def floors(page: str) -> list[str]:
    """The rooms of the table, from the ground up: what stands in backquotes in its first column."""
    return [room for row in re.findall(r"^\|([^|]*)\|", page, re.MULTILINE) for room in re.findall(r"`([\w./]+)`", row)]


def modules(root: Path) -> dict[str, Path]:
    """Dotted names of the package's modules, with their files; a package stands for its __init__.py."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports_of(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Each module of the package that a module imports, with the name that it takes from there."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                # The function evaluate and the module evaluate may have one name: the module is meant if it is a file.
                if inner in known:
                    yield inner, alias.name
                elif module in known:
                    yield module, alias.name


def read_imports(root: Path) -> Imports:
    known = modules(root)
    found: dict[str, dict[str, set[str]]] = {name: defaultdict(set) for name in known}
    for name, path in known.items():
        for imported, what in imports_of(name, path, known):
            found[name][imported].add(what)
    return found


def room_of(module: str) -> str:
    """The room that a module is in: the folder under the package, or the file there."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def upward(imports: Imports, rooms: list[str]) -> list[str]:
    """A line for each import that goes up."""
    level = {room: number for number, room in enumerate(rooms)}
    return [
        f"{name} imports {', '.join(sorted(what))} from {imported}, which is above it"
        for name, inner in imports.items()
        for imported, what in inner.items()
        if level[room_of(imported)] > level[room_of(name)]
    ]


def circle(imports: Imports) -> list[str]:
    """One circle of modules, or nothing."""
    try:
        TopologicalSorter({name: set(inner) - {name} for name, inner in imports.items()}).prepare()
    except CycleError as error:
        names = error.args[1]
        return [f"{b} imports {', '.join(sorted(imports[b][a]))} from {a}" for a, b in pairwise(names)]
    return []


def test_every_room_is_in_the_table() -> None:
    rooms = floors((ROOT / "docs" / "contributing.md").read_text(encoding="utf-8"))
    assert len(rooms) == len(set(rooms))
    assert {room_of(name) for name in modules(ROOT)} == set(rooms)


def test_imports_run_down() -> None:
    rooms = floors((ROOT / "docs" / "contributing.md").read_text(encoding="utf-8"))
    assert not upward(read_imports(ROOT), rooms)


def test_no_import_circles() -> None:
    assert not circle(read_imports(ROOT))


@pytest.mark.parametrize(
    "statement", ["from slowfast_zoo.upper.a import f", "from ..upper.a import f", "from ..upper import a"]
)
@pytest.mark.parametrize(
    "where", ["", "def g():\n    ", "if TYPE_CHECKING:\n    ", "class C:\n    def m(self):\n        "]
)
def test_a_fault_would_be_seen(tmp_path: Path, statement: str, where: str) -> None:
    for name in ("lower", "upper"):
        (tmp_path / PACKAGE / name).mkdir(parents=True)
        (tmp_path / PACKAGE / name / "__init__.py").touch()
    (tmp_path / PACKAGE / "__init__.py").touch()
    (tmp_path / PACKAGE / "lower" / "b.py").write_text(where + statement + "\n")
    (tmp_path / PACKAGE / "upper" / "a.py").write_text("from slowfast_zoo.lower.b import g\n")
    imports = read_imports(tmp_path)
    (told,) = upward(imports, floors("| `lower` | x |\n| `upper` `__init__` | y |\n"))
    assert told.startswith("slowfast_zoo.lower.b imports")
    assert "slowfast_zoo.upper.a" in told
    assert len(circle(imports)) == 2


def test_make_runs_every_folder_of_tests() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    folders = {path.parent.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    assert folders == set(re.findall(r"tests/(\w+)(?=[ '])", text)) - {"test_"}
