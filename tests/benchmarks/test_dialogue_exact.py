"""`benchmarks/dialogue_exact.py`: its optimum against the closed form of conversations, and its runs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from text_gym import load_task
from text_gym.tasks.conversations.enumerable_dialogue import dialogue_returns, dialogues
from text_gym.tasks.enumerable import optimal_policy

ALGORITHMS = ("ppo", "grpo", "rloo", "reinforce")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("dialogue_exact")


@pytest.mark.parametrize("seed", range(3))
def test_backward_induction_finds_the_closed_form(script: Any, seed: int) -> None:
    """Whoever draws a conversation whole has as optimum the reference times e^(return / β), normalised."""
    task = load_task("enumerable-dialogue", seed=seed)
    every = dialogues(task)
    rng = np.random.default_rng(seed)
    chances: dict[tuple[int, ...], np.ndarray[Any, np.dtype[np.float64]]] = {}
    reference = np.ones(len(every))
    for i, episode in enumerate(every):  # a policy drawn at random, token by token
        said = episode.agent_ids.tolist()
        for t, token in enumerate(said):
            reference[i] *= chances.setdefault(tuple(said[:t]), rng.dirichlet(np.ones(4)))[token]
    assert reference.sum() == pytest.approx(1)
    found = script.optimum(task, every, reference, 0.7)
    expected = optimal_policy(reference, dialogue_returns(task, every), 0.7)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("single_turn", [False, True])
def test_a_short_run_comes_nearer(script: Any, single_turn: bool) -> None:
    row = script.run("rloo", 3, script.Options(longer=0.1, single_turn=single_turn))
    assert row["reached"] < 0.8 * row["began"]


@pytest.mark.nightly
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("seed", range(10))
def test_the_optimum_of_a_conversation_is_reached(script: Any, algorithm: str, seed: int) -> None:
    row = script.run(algorithm, seed, script.Options())
    assert row["began"] > 0.05
    assert row["reached"] <= script.LIMIT
