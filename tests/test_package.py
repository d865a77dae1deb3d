"""What holds for the package as a whole: its floors and imports, its public names, doctests, linters."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import house
from tests.house import House
from text_gym.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent
HOUSE = House(ROOT)
PUBLIC = {
    "text_gym": 33,  # 29, three of conversations (Respondent, Reply, Turn), and validate
    "text_gym.agents": 38,  # three of generators, HackingDetector
    "text_gym.reward_models": 31,  # 28 with label_widget, which only notebooks need; LocalJudge; two of steps
    "text_gym.bench": 10,
    "text_gym.plot": 18,  # 17 and coloured_text, the same as HTML
    "text_gym.tasks.enumerable": 10,
}  # at most
# The reference, the API pages and the changelog have every name there is and show nobody how to use one.
GUIDES = sorted(
    set((ROOT / "docs").rglob("*.md")) - {ROOT / "docs" / "reference.md"} - set((ROOT / "docs/api").iterdir())
)
# Extras that not every installation has.
OPTIONAL = {
    "array_api_compat",
    "datasets",
    "sb3_contrib",
    "torchrl",
    "verifiers",
    "tianshou",
    "ray",
    "trl",
    "minari",
    "peft",
    "skrl",
    "starlette",
    "uvicorn",
    "anywidget",
}


# Floors and imports


def test_the_house_stands() -> None:
    assert house.faults(ROOT) == []


def plant(root: Path) -> None:
    """A small house without faults."""
    files = {
        "text_gym/episode.py": "import numpy\n",
        "text_gym/utils/files.py": "from text_gym.episode import Episode\n",
        "text_gym/envs/vector.py": "from text_gym.utils.files import read\n",
        "text_gym/cli/main.py": "from text_gym.agents.ppo import PPO\n"
        "def main():\n    _f()\ndef _f():\n    pass\n",
        "agents/ppo.py": "import torch\nfrom text_gym.envs.vector import TextVectorEnv\n",
        "reward_models/learned.py": "def f():\n    try:\n        from .page import Page\n"
        "    except ModuleNotFoundError:\n        pass\n",
        "reward_models/page.py": "import starlette\n\n\nclass Page:\n    def main(self):\n        pass\n",
        "reward_models/serve.py": "def main():\n    pass\n\n\ndef _f():\n    pass\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        (root / name).with_name("__init__.py").touch()
    (root / "text_gym/__init__.py").touch()


def add(file: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / file).write_text((root / file).read_text() + text)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda root: None, None),
        (add("agents/ppo.py", "def f():\n    from text_gym.episode import Episode\n"), "inside a function"),
        (add("text_gym/episode.py", "from .utils.files import read\n"), "files import each other"),
        (
            add("text_gym/episode.py", "if TYPE_CHECKING:\n    from .utils.files import read\n"),
            "files import each other",
        ),
        (add("text_gym/episode.py", "from .envs import vector\n"), "above it"),
        (add("text_gym/envs/vector.py", "def f():\n    import torch\n"), "below the floor"),
        (add("reward_models/learned.py", "from text_gym.agents.ppo import PPO\n"), "beside it"),
        (add("agents/ppo.py", "from text_gym import Episode\n"), "from the package text_gym"),
        (
            lambda root: [(root / f"agents/a{i}.py").touch() for i in range(15)],
            "text_gym.agents has 16 files",
        ),
        (add("agents/ppo.py", "class Page:\n    pass\n"), "Page is defined twice"),
        (add("agents/ppo.py", "if True:\n    def f():\n        pass\n"), "f is defined twice"),
    ],
)
def test_planted_faults_are_found(harm: Callable[[Path], object], said: str | None, tmp_path: Path) -> None:
    plant(tmp_path)
    harm(tmp_path)
    found = house.faults(tmp_path)
    assert (found == []) if said is None else any(said in fault for fault in found), found


def test_a_circle_of_folders_without_one_of_files_is_found(tmp_path: Path) -> None:
    plant(tmp_path)
    (tmp_path / "text_gym/envs/masks.py").touch()
    (tmp_path / "text_gym/tasks").mkdir()
    (tmp_path / "text_gym/tasks/task.py").write_text("from text_gym.envs.vector import TextVectorEnv\n")
    assert house.circles_of_folders(House(tmp_path)) == []
    (tmp_path / "text_gym/tasks/sort.py").touch()
    (tmp_path / "text_gym/envs/masks.py").write_text("from text_gym.tasks.sort import sort\n")
    assert house.circles_of_files(House(tmp_path)) == []
    assert "folders" in house.circles_of_folders(House(tmp_path))[0]


def drawings(root: Path) -> list[str]:
    """Places outside `text_gym.plot` that draw by themselves."""
    found = []
    for folder in ("text_gym", "agents", "reward_models", "benchmarks", "docs", "course"):
        for file in sorted((root / folder).rglob("*")):
            place = file.relative_to(root).as_posix()
            if place.startswith(("text_gym/plot/", "benchmarks/results/")):
                continue
            if file.suffix in (".py", ".html", ".js", ".ipynb") and re.search(
                r"(?:import|from) matplotlib|<svg|<polyline|createElementNS", file.read_text(encoding="utf-8")
            ):
                found.append(place)
    return found


def test_nobody_but_the_plots_draws() -> None:
    assert drawings(ROOT) == []


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("benchmarks/mine.py", "def f():\n    from matplotlib.figure import Figure\n", True),
        ("reward_models/page.html", "<svg viewBox='0 0 1 1'>", True),
        ("text_gym/plot/canvas.py", "import matplotlib\n", False),
    ],
)
def test_another_place_that_draws_is_found(file: str, text: str, fault: bool, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert drawings(tmp_path) == ([file] if fault else [])


def test_no_public_name_is_defined_twice() -> None:
    assert house.names_defined_twice(HOUSE) == []


def test_files_are_short() -> None:
    lines = {name: len(file.read_text().splitlines()) for name, file in HOUSE.files.items()}
    assert {name: n for name, n in lines.items() if n > house.MOST_LINES} == {}


def test_every_module_says_what_it_is_in_a_few_lines() -> None:
    for name, tree in HOUSE.trees.items():
        doc = ast.get_docstring(tree)
        assert doc, name
        assert len(doc.splitlines()) <= 14, name


def test_tests_mirror_the_packages() -> None:
    """Every folder of tests stands where its package does, and every package with modules has one."""
    packages = {Path(*HOUSE.folder(name).split(".")[1:]) for name in HOUSE.modules}
    folders = {f.parent.relative_to(ROOT / "tests") for f in (ROOT / "tests").rglob("test_*.py")}
    others = {Path(name) for name in ("benchmarks", "course", "fuzz", "mutants", "real")}
    assert folders - packages - others == set()
    assert packages - folders - {Path("cli/options")} == set()


# Public names


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names_load_and_stand_on_a_page_of_the_docs(package: str) -> None:
    pages = "\n".join(p.read_text() for p in [ROOT / "README.md", *GUIDES])
    module = importlib.import_module(package)
    assert len(module.__all__) <= PUBLIC[package]
    for name in module.__all__:
        assert getattr(module, name).__doc__ or not callable(getattr(module, name)), name
    assert [n for n in module.__all__ if not re.search(rf"\b{n}\b", pages)] == []


def test_the_reference_is_that_of_the_sources() -> None:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "docs" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.reference() == (ROOT / "docs" / "reference.md").read_text(), "run python docs/make.py"


@pytest.mark.parametrize(
    "module",
    [
        "text_gym",
        "text_gym.cli.main",
        "text_gym.agents",
        "text_gym.agents.algorithms.configs",
        "text_gym.reward_models",
        "text_gym.bench",
        "text_gym.plot.lines",
        "text_gym.pages.page",
    ],
)
def test_importing_loads_no_torch(module: str) -> None:
    heavy = "{'torch', 'transformers', 'stable_baselines3', 'matplotlib'}"
    program = f"import sys, {module}\nprint(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["--no-such-option", "1"]])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_mistakes_load_no_torch(command: str, arguments: list[str]) -> None:
    program = (
        "import sys\nfrom text_gym.cli.main import main\n"
        f"try:\n    main({[*command.split(), *arguments]!r})\n"
        "except SystemExit:\n    pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True, timeout=120
    )
    assert done.stderr.splitlines()[-1] == "False"
    assert done.stdout or len(done.stderr.splitlines()) > 1


# Documentation that runs


@pytest.mark.parametrize("name", sorted(HOUSE.files))
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


@pytest.mark.skipif(sys.version_info < (3, 11), reason="NumPy's stubs for Python 3.10 know fewer types")
@pytest.mark.timeout(1500)
def test_mypy() -> None:
    pytest.importorskip("mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy"], capture_output=True, text=True, cwd=ROOT, check=False, timeout=1200
    )
    assert done.returncode == 0, done.stdout + done.stderr
