"""The plan of the house, read from its sources: modules, imports of our own code, circles, floors.

Every import counts, wherever it stands: at the top, inside a function, or for type checkers alone.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

MOST_FILES, MOST_LINES = 15, 400
# Folders by floor, from the ground up; a folder that is not named is on the floor of the one around it.
FLOORS = {
    "text_gym": 1,
    "text_gym.utils": 1,
    "text_gym.plot": 2,
    "text_gym.pages": 2,
    "text_gym.rewards": 2,
    "text_gym.tasks": 2,
    "text_gym.bridges": 2,
    "text_gym.envs": 2,
    "text_gym.models": 3,
    "text_gym.agents": 4,
    "text_gym.reward_models": 4,
    "text_gym.viewer": 5,
    "text_gym.runs": 5,
    "text_gym.rlhf": 5,
    "text_gym.bench": 5,
    "text_gym.validation": 5,
    "text_gym.cli": 5,
}
HEAVY = ("torch", "stable_baselines3")


@dataclass(frozen=True)
class Import:
    """One import of one module.

    Args:
        module: The module imported, by its full name.
        lazy: It stands inside a function.
        extra: It stands in a `try` that answers when an optional package is missing.
        typing: It is for type checkers alone.
        line: Of the file.
    """

    module: str
    lazy: bool
    extra: bool
    typing: bool
    line: int


class House:
    """The sources of the package.

    Args:
        root: Of the repository: the folders `text_gym`, `agents` and `reward_models` stand in it.
    """

    def __init__(self, root: Path) -> None:
        homes = {
            "text_gym": "text_gym",
            "text_gym.agents": "agents",
            "text_gym.reward_models": "reward_models",
        }
        self.files: dict[str, Path] = {}
        for package, folder in homes.items():
            for file in sorted((root / folder).rglob("*.py")):
                inside = file.relative_to(root / folder).with_suffix("").parts
                if folder == "text_gym" and inside[0] in ("agents", "reward_models"):  # links to the others
                    continue
                name = ".".join([package, *inside]).removesuffix(".__init__")
                self.files[name] = file
        self.trees = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in self.files.items()}

    def is_package(self, name: str) -> bool:
        """Whether a module is a package's `__init__`."""
        return self.files[name].stem == "__init__"

    @property
    def modules(self) -> list[str]:
        """All modules that are not packages."""
        return [name for name in self.files if not self.is_package(name)]

    def folder(self, name: str) -> str:
        """The package that a module stands in; the program's entry stands beside it, but belongs to `cli`."""
        if name == "text_gym.__main__":
            return "text_gym.cli"
        return name if self.is_package(name) else name.rpartition(".")[0]

    def floor(self, name: str) -> int:
        """The floor of a module."""
        name = self.folder(name)
        while name not in FLOORS:
            name = name.rpartition(".")[0]
        return FLOORS[name]

    def imports(self, name: str) -> Iterator[Import]:
        """Every import that a module makes; `from a import b` counts for `a.b` where that is a module."""
        yield from self._imports(name, self.trees[name], lazy=False, extra=False, typing=False)

    def _imports(
        self, name: str, node: ast.AST, *, lazy: bool, extra: bool, typing: bool
    ) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = lazy or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            guarded = extra or (isinstance(child, ast.Try) and _answers_missing(child))
            typed = typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, lazy, extra, typing, child.lineno)
            elif isinstance(child, ast.ImportFrom):
                base = self._absolute(name, child)
                for alias in child.names:
                    full = f"{base}.{alias.name}"
                    yield Import(full if full in self.files else base, lazy, extra, typing, child.lineno)
            else:
                yield from self._imports(name, child, lazy=inside, extra=guarded, typing=typed)

    def _absolute(self, name: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.folder(name)
        for _ in range(node.level - 1):
            package = package.rpartition(".")[0]
        return f"{package}.{node.module}" if node.module else package

    def arrows(self) -> dict[str, set[str]]:
        """The modules of our own that each module imports, packages' `__init__`s left out."""
        return {
            name: {i.module for i in self.imports(name) if i.module in self.files and i.module != name}
            for name in self.modules
        }


def _answers_missing(node: ast.Try) -> bool:
    return any("ModuleNotFoundError" in ast.unparse(h.type) for h in node.handlers if h.type is not None)


def faults(root: Path) -> list[str]:
    """All that is wrong with the house, in words; see `style` in CONTRIBUTING.md for the rules."""
    house = House(root)
    return [
        *circles_of_files(house),
        *circles_of_folders(house),
        *upward_arrows(house),
        *lazy_imports(house),
        *imports_of_packages(house),
        *full_folders(house),
        *names_defined_twice(house),
    ]


def circles_of_files(house: House) -> list[str]:
    """Files that import each other in a circle."""
    return _circle("files", house.arrows())


def circles_of_folders(house: House) -> list[str]:
    """Folders whose files import each other's in a circle."""
    arrows: dict[str, set[str]] = {}
    for name, targets in house.arrows().items():
        own = arrows.setdefault(house.folder(name), set())
        own |= {house.folder(t) for t in targets} - {house.folder(name)}
    return _circle("folders", arrows)


def upward_arrows(house: House) -> list[str]:
    """Imports of a higher floor, of agents by reward models or the other way round, of PyTorch too low."""
    found = []
    for name in house.modules:
        for i in house.imports(name):
            if i.module in house.files:
                pair = {name.split(".")[1], i.module.split(".")[1] if "." in i.module else ""}
                if house.floor(i.module) > house.floor(name) or pair == {"agents", "reward_models"}:
                    found.append(f"{name}, line {i.line}: imports {i.module}, which is above it or beside it")
            elif (
                i.module.split(".")[0] in HEAVY
                and house.floor(name) < FLOORS["text_gym.models"]
                and not i.typing
            ):
                found.append(f"{name}, line {i.line}: imports {i.module}, below the floor that needs it")
    return found


def lazy_imports(house: House) -> list[str]:
    """Imports of our own code inside functions, other than for an optional package."""
    return [
        f"{name}, line {i.line}: imports {i.module} inside a function"
        for name in house.modules
        for i in house.imports(name)
        if i.module in house.files and i.lazy and not i.extra
    ]


def imports_of_packages(house: House) -> list[str]:
    """Imports from a package's public names in place of the module that defines them."""
    return [
        f"{name}, line {i.line}: imports from the package {i.module}; name the module that defines it"
        for name in house.modules
        for i in house.imports(name)
        if i.module in house.files and house.is_package(i.module)
    ]


def full_folders(house: House) -> list[str]:
    """Folders with more source files than anyone reads at a glance, their `__init__` not counted."""
    count = Counter(house.folder(name) for name in house.modules)
    return [
        f"{folder} has {n} files, more than {MOST_FILES}" for folder, n in count.items() if n > MOST_FILES
    ]


def names_defined_twice(house: House) -> list[str]:
    """Public classes and functions whose name another module gives to something else.

    A program's `main` is exempt: nobody imports it but the command that starts it.
    """
    found: dict[str, list[str]] = {}
    for module, tree in house.trees.items():
        for name in dict.fromkeys(_defined(tree)):
            if not name.startswith("_") and name != "main":
                found.setdefault(name, []).append(module)
    return [f"{name} is defined twice: {', '.join(m)}" for name, m in found.items() if len(m) > 1]


def _defined(tree: ast.Module) -> Iterator[str]:
    """Names of a module's classes and functions, those behind an `if` or a `try` too."""
    todo: list[ast.AST] = list(tree.body)
    for node in todo:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.If, ast.Try, ast.ExceptHandler, ast.With)):
            todo += ast.iter_child_nodes(node)


def _circle(what: str, arrows: Mapping[str, set[str]]) -> list[str]:
    try:
        tuple(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        return [f"{what} import each other in a circle: {' → '.join(error.args[1])}"]
    return []
