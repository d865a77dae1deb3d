"""The Python in README.md and docs/ runs, and the figures of the classic tasks' table are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import gymnasium as gym
import pytest

from text_gym import Episode, TextEnv, load_task
from text_gym.bench import Settings
from text_gym.bench.matrix.designs import load_design
from text_gym.bench.matrix.start import DesignInputs
from text_gym.tasks.task import ENV_IDS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def code_of(page: Path) -> list[tuple[int, str]]:
    """Line number and text of every Python block."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, found.start(1)), found[1]) for found in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in code_of(page):
        # Blank lines in front make a traceback name the page's own lines.
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def test_blocks_are_found_where_they_stand(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n```python\nx = 1\n\ny = 2\n```\n```sh\nls\n```\n```python\nz = 3\n```\n")
    assert code_of(page) == [(3, "x = 1\n\ny = 2\n"), (11, "z = 3\n")]
    assert all(code_of(p) for p in PAGES if p.name in ("README.md", "bring-your-own-algorithm.md"))


def test_pages_link_to_files_that_are_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([\w./-]+)", page.read_text(encoding="utf-8")):
            made_by_a_command = target.endswith(".png")
            assert made_by_a_command or (page.parent / target).exists(), f"{page.name} links to {target}"


# docs/benchmark-rewards.md


def test_the_own_reward_of_the_page_is_a_design_as_it_stands(tmp_path: Path) -> None:
    (_, code), *_ = code_of(ROOT / "docs" / "benchmark-rewards.md")
    file = tmp_path / "warm.py"
    file.write_text(code, encoding="utf-8")
    assert len([line for line in code.splitlines() if line]) <= 10
    design = load_design(str(file))
    assert design.name == "warm"
    prompt = load_task("products").held_out[0]
    texts = [f"You and your {prompt.columns['price']}.", "The best."]
    source = design.make(DesignInputs(Settings(), tmp_path), 0)
    assert source(
        [Episode.of(prompt, t, load_task("products").tokenizer) for t in texts]
    ).totals.tolist() == [2, -1]


# docs/classic-tasks.md

TABLE_ROW = re.compile(r"^\| `(text_gym/[\w-]+)` \|(.*)\|$", re.MULTILINE)


def classic_table() -> dict[str, list[str]]:
    text = (ROOT / "docs" / "classic-tasks.md").read_text(encoding="utf-8")
    return {found[1]: [cell.strip() for cell in found[2].split("|")] for found in TABLE_ROW.finditer(text)}


def test_the_table_has_every_task_whose_random_return_is_known() -> None:
    known = []
    for env_id in ENV_IDS:
        env = gym.make(env_id).unwrapped
        assert isinstance(env, TextEnv)
        assert env.vector.task is not None
        if env.vector.task.random_return is not None:
            known.append(env_id)
    assert sorted(classic_table()) == sorted(known)


@pytest.mark.parametrize("env_id", classic_table())
def test_the_figures_of_the_table_are_those_of_the_code(env_id: str) -> None:
    state, action, reward, optimum, random_return = classic_table()[env_id]
    env = gym.make(env_id).unwrapped
    assert isinstance(env, TextEnv)
    task = env.vector.task
    assert task is not None
    assert task.random_return is not None
    assert state
    assert reward
    assert action.endswith(f"V = {task.tokenizer.vocab_size}")
    assert float(optimum) == task.optimum
    assert random_return == f"{task.random_return:.4f}"
