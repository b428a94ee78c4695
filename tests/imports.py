"""What our modules import, read off their source: for the tests of the architecture."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Each floor may import what stands on those before it; modules of one floor that are not below one name do not know
# each other. A name is a module or a folder of the package.
Floors = Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Source:
    """One module: its dotted name, whether it is a package's `__init__`, and its text."""

    name: str
    text: str
    is_package: bool = False

    @property
    def package(self) -> str:
        return self.name.split(".")[0]

    @property
    def place(self) -> str:
        """The first part of its name below the package, "" for the package itself."""
        return self.name.split(".")[1] if "." in self.name else ""


def sources_of(roots: Mapping[str, Path]) -> list[Source]:
    """Every module below the packages, whatever folder it is in."""
    return [
        Source(
            ".".join((package, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"),
            path.read_text(encoding="utf-8"),
            path.name == "__init__.py",
        )
        for package, root in roots.items()
        for path in sorted(root.rglob("*.py"))
    ]


def imported(source: Source, known: Iterable[str] = ()) -> Iterator[tuple[str, bool]]:
    """(module, whether it is imported when this one is), for every import anywhere in the source.

    `from package import module` names the module when it is among `known`.
    """
    modules = set(known)
    tree = ast.parse(source.text)
    lazy = {id(inner) for node in ast.walk(tree) if _is_lazy(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source.name}: relative import"
            base = str(node.module)
            names = {f"{base}.{alias.name}" for alias in node.names} & modules
            yield from ((name, id(node) not in lazy) for name in names or {base})


def _is_lazy(node: ast.AST) -> bool:
    """Whether what is in it runs later, or never."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def floor_faults(sources: Sequence[Source], floors: Mapping[str, Floors]) -> list[str]:
    """Modules that no rule covers, and imports that go up or across; imports inside functions and for types count."""
    known = {source.name for source in sources}
    faults = []
    for source in sources:
        if source.place == "":
            continue  # a package's face may name everything in it
        floor = _floor(source.name, floors)
        if floor is None:
            faults.append(f"{source.name} stands on no floor")
            continue
        for target, _ in imported(source, known):
            inside = target.split(".")[0] == source.package and "." in target
            if not inside or target.split(".")[1] == source.place:
                continue
            other = _floor(target, floors)
            if other is None or other >= floor:
                faults.append(f"{source.name} imports {target}, which is not below it")
    return faults


def _floor(name: str, floors: Mapping[str, Floors]) -> int | None:
    package, place = name.split(".")[:2]
    return next((number for number, floor in enumerate(floors[package]) if place in floor), None)


def circles(sources: Sequence[Source]) -> list[list[str]]:
    """Modules that import each other in a circle when they are loaded or for types, one path each."""
    known = {source.name for source in sources}
    graph = {
        source.name: sorted({target for target, _ in imported(source, known)} & known - {source.name})
        for source in sources
    }
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in graph[name]:
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found
