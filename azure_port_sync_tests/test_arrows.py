"""The imports between the rooms of the package run one way, and the sandbox shares nothing with the product.

definitions -> defs -> engine -> (resource_graph, port, state) -> core. A cycle or a short cut through the rooms would
make it impossible to read, test or replace one of them alone. The sandbox is a witness: a rule that it took from the
product would be wrong on both sides, and every test would stay green.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import azure_port_sync

_PACKAGE = "azure_port_sync"
_ROOT = Path(azure_port_sync.__file__).parent

_EDGES = {"core"}
_ENGINE = {*_EDGES, "resource_graph", "port", "state"}
_DEFS = {*_ENGINE, "engine", "settings"}

#: The rooms that each room may import besides itself.
_MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "core": set(),
    "setting_types": {"core"},
    "settings": {"core", "setting_types"},
    "resource_graph": _EDGES,
    "port": _EDGES,
    "state": _EDGES,
    "engine": _ENGINE,
    "defs": _DEFS,
    "definitions": {*_DEFS, "defs"},
    "cli": {*_DEFS, "defs"},  # as definitions; it starts the sandbox as a process and does not import it
    "__main__": {"cli"},
    "sandbox": set(),
}
_MAY_IMPORT_DAGSTER = {"defs", "definitions"}


def _room(module: str) -> str:
    """The room of a module of ours: the first part of its name below the package."""
    return module.split(".")[1] if "." in module else "__init__"


def _imported(path: Path) -> Iterator[str]:
    """The full names of all that a file imports, at its top, inside a function or for the types alone."""
    package = [_PACKAGE, *path.relative_to(_ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            module = base if node.level else node.module or ""
            # `from azure_port_sync import sandbox` names a room as well.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _imports() -> Iterator[tuple[str, str, str]]:
    """Each import in the package: the room and the file it stands in, and the name of what is imported."""
    for path in sorted(_ROOT.rglob("*.py")):
        file = path.relative_to(_ROOT)
        for name in _imported(path):
            yield file.parts[0].removesuffix(".py"), file.as_posix(), name


def test_every_room_has_its_rule() -> None:
    """A new room is a decision, not an accident."""
    assert {path.relative_to(_ROOT).parts[0].removesuffix(".py") for path in _ROOT.rglob("*.py")} == set(_MAY_IMPORT)


def test_imports_run_one_way() -> None:
    against = {
        (file, name)
        for room, file, name in _imports()
        if name.startswith(f"{_PACKAGE}.") and _room(name) not in {room, "__version__"} | _MAY_IMPORT[room]
    }
    assert against == set()


def test_dagster_is_imported_in_defs_and_definitions_alone() -> None:
    against = {
        (file, name)
        for room, file, name in _imports()
        if name.split(".")[0].startswith("dagster") and room not in _MAY_IMPORT_DAGSTER
    }
    assert against == set()


def test_the_sandbox_and_the_product_import_nothing_of_each_other() -> None:
    """In neither direction, whatever the rooms may import otherwise."""
    across = [
        (file, name)
        for room, file, name in _imports()
        if name.startswith(f"{_PACKAGE}.") and (room == "sandbox") != (_room(name) == "sandbox")
    ]
    assert across == []
