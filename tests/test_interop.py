"""The job that tries other libraries: what it reads and writes, and what of it the dev extra can run."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.interop import __main__ as job
from tests.interop import block, library
from tests.interop.library import Library, Recipe, mean_return

NAMES = job.names()
PAGE = """# Page

## Other

```py title="recipe"
x = 0
```

## Mine

```py title="first lines"
y = 1
```

```py title="recipe"
env_id = "text_gym/Reverse-v0"
seed = 0
steps = 1_000
```
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A library whose section stands on a page of two."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    monkeypatch.setattr(library, "PAGE", page)
    found = Library("Mine", (), (Recipe(lambda names, env_id: names["seed"] + len(env_id)),), ("numpy",))
    monkeypatch.setattr(block, "load", lambda name: found)
    monkeypatch.setattr(job, "load", lambda name: found)
    return found


def test_a_recipe_is_run_with_another_id_seed_and_number_of_steps(mine: Library) -> None:
    assert mine.blocks()["first lines"] == "y = 1\n"
    found = block.run("mine", "recipe", "text_gym/Sort-v0", seed=7, steps=50)
    assert (found["steps"], found["return"]) == (50, 7 + len("text_gym/Sort-v0"))
    assert block.run("mine", "recipe")["steps"] == 1000
    assert "return" not in block.run("mine", "first lines")


def test_a_row_says_what_ran_and_what_did_not(
    mine: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "environment", lambda *_, **__: Path(sys.executable))
    answers = iter([{"error": "ValueError: no"}, {"steps": 5, "seconds": 1.0, "return": 0.5}, {"error": "x"}])
    monkeypatch.setattr(job, "run_block", lambda *_: next(answers))
    args = argparse.Namespace(folder=tmp_path, fresh=False, only=None, seeds=[3], steps=None)
    row = job.try_library("mine", args)
    assert row["blocks"] == {"first lines": "ValueError: no"}
    assert [(r["env_id"], r["seed"], r.get("return")) for r in row["recipes"]] == [
        ("text_gym/Reverse-v0", 3, 0.5),
        ("text_gym/Sort-v0", 3, None),
    ]
    assert row["versions"] == {"numpy": np.__version__}


def test_blocks_that_are_run_again_replace_their_part_of_the_row(tmp_path: Path) -> None:
    file = tmp_path / "rows" / "mine.json"
    job.keep(file, {"blocks": {"a": "runs"}, "recipes": [{"title": "r", "return": 0}]}, None)
    job.keep(file, {"blocks": {"b": "runs"}, "recipes": [{"title": "s", "return": 1}]}, ["b", "s"])
    kept = json.loads(file.read_text())
    assert kept["blocks"] == {"a": "runs", "b": "runs"}
    assert [r["return"] for r in kept["recipes"]] == [0, 1]


def test_a_block_that_fails_says_how(tmp_path: Path) -> None:
    python = Path(sys.executable)
    assert "no_such_library" in job.run_block(python, tmp_path, "no_such_library", "recipe")["error"]


def test_the_return_is_that_of_whole_episodes() -> None:
    """Reverse pays 0.2 for each right letter and for the end; the prompt has four letters."""

    def perfect(observation: dict[str, np.ndarray]) -> np.ndarray:
        tokens, n = observation["tokens"], observation["length"][:, 0]
        wanted = np.concatenate([tokens[:, 3::-1], np.full((len(tokens), 1), 3)], axis=1)
        return np.asarray(wanted[np.arange(len(n)), n - 4])

    assert mean_return(perfect, "text_gym/Reverse-v0", episodes=300) == pytest.approx(1.0)
    first_only = mean_return(lambda o: np.full(len(o["length"]), 3), "text_gym/Reverse-v0", episodes=300)
    assert first_only < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_every_library_has_its_section_and_short_recipes(name: str) -> None:
    found = block.load(name)
    blocks = found.blocks()
    assert "first lines" in blocks
    for recipe in found.recipes:
        code = block.written(blocks[recipe.title], recipe, recipe.env_ids[-1], 1, 512)
        compile(code, name, "exec")
        lines = [line for line in code.splitlines() if line and not line.startswith(("import ", "from "))]
        assert len(lines) <= 20, recipe.title


@pytest.mark.skipif(find_spec("torchrl") is None, reason="needs the extra torchrl")
@pytest.mark.parametrize(("title", "steps", "least"), [("recipe", 4096, 0.3), ("language model", 4096, 0.5)])
def test_recipes_of_torchrl_run_and_learn_a_little(title: str, steps: int, least: float) -> None:
    assert block.run("torchrl", title, steps=steps)["return"] > least
