"""What holds for the package as a whole: layout, imports, doctests, the README, linters."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = (
    {"text_gym": "text_gym"}
    | {f"text_gym.{name}": f"text_gym/{name}" for name in ("tasks", "bench")}
    | {f"text_gym.{name}": name for name in ("agents", "reward_models")}
)
SOURCES = {
    f"{package}.{file.stem}": file
    for package, folder in FOLDERS.items()
    for file in sorted((ROOT / folder).glob("*.py"))
    if file.stem != "__init__"
}
PACKAGES = {package: ROOT / folder / "__init__.py" for package, folder in FOLDERS.items()}
# Extras that not every installation has.
OPTIONAL = {
    "array_api_compat",
    "datasets",
    "sb3_contrib",
    "torchrl",
    "tianshou",
    "ray",
    "trl",
    "peft",
    "starlette",
    "uvicorn",
}


def test_every_module_has_its_tests() -> None:
    tests = {file.name for file in (ROOT / "tests").glob("test_*.py")}
    stems = [
        name.removeprefix("text_gym.").replace(".", "_")  # bench.report beside report
        if under(name, "text_gym.bench")
        else name.rpartition(".")[2]
        for name in SOURCES
    ]
    assert [s for s in stems if f"test_{s}.py" not in tests] == []
    assert sorted(s for s in stems if stems.count(s) > 1) == []  # they would share a file of tests


def test_every_module_says_what_it_is_in_a_few_lines() -> None:
    for name, file in {**SOURCES, **PACKAGES}.items():
        doc = ast.get_docstring(ast.parse(file.read_text()))
        assert doc, name
        assert len(doc.splitlines()) <= 14, name


@pytest.mark.parametrize("module", ["text_gym", "text_gym.cli", "text_gym.checker"])
def test_importing_the_core_loads_no_torch(module: str) -> None:
    heavy = "{'torch', 'transformers', 'stable_baselines3'}"
    program = f"import sys, {module}\nprint(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


# Imports


def imports(file: Path, name: str, everywhere: bool = False) -> Iterator[str]:
    """Modules that a file imports when it is loaded (or anywhere), by their full names."""
    tree = ast.parse(file.read_text())
    package = name if file.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(tree) if everywhere else top_level(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def top_level(tree: ast.AST) -> Iterator[ast.stmt]:
    """Statements that run on import: not those of functions, nor what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.stmt):
            yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from top_level(node)


def under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


AGENTS, REWARDS = "text_gym.agents", "text_gym.reward_models"


@pytest.mark.parametrize("name", [*SOURCES, *PACKAGES])
def test_imports_point_in_one_direction(name: str) -> None:
    file = SOURCES.get(name) or PACKAGES[name]
    now, ever = set(imports(file, name)), set(imports(file, name, everywhere=True))
    if under(name, AGENTS):
        assert not any(under(i, REWARDS) for i in ever)
    elif under(name, REWARDS):
        assert not any(under(i, AGENTS) for i in ever)
    else:
        forbidden = (AGENTS, REWARDS, "torch", "transformers", "stable_baselines3")
        assert not [i for i in now if any(under(i, f) for f in forbidden)]


@pytest.mark.parametrize("name", [*SOURCES, *PACKAGES])
def test_other_folders_are_imported_at_package_level(name: str) -> None:
    file = SOURCES.get(name) or PACKAGES[name]
    home = next((p for p in (AGENTS, REWARDS) if under(name, p)), "text_gym")
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for package in (AGENTS, REWARDS):
                if package != home and under(node.module, package):
                    assert node.module == package, f"{name} imports {node.module}"


def test_no_circles() -> None:
    graph = {
        name: {i for i in imports(file, name) if i in SOURCES and i != name} for name, file in SOURCES.items()
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {error.args[1]}")


# Documentation that runs


@pytest.mark.parametrize("name", sorted({*SOURCES, *PACKAGES}))
def test_doctests(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in OPTIONAL:
            pytest.skip(f"{error.name} is not installed")
        raise
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README.md")
    blocks = re.findall(r"^```python\n(.*?)^```", readme.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    program = tmp_path / "readme.py"
    program.write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**__import__("os").environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


# Linters and types


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]])
def test_ruff(arguments: list[str]) -> None:
    pytest.importorskip("ruff")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "."], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy() -> None:
    pytest.importorskip("mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy"], capture_output=True, text=True, cwd=ROOT, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
