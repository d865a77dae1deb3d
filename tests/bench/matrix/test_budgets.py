"""Budgets: which cells there are, and that each dimension can be replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench_e2e import write_table
from text_gym.bench.matrix.budgets import (
    AGENT_SEEDS,
    AGENT_TASKS,
    AGENTS,
    SEEDS,
    SWEEPS,
    budget_settings,
    budgeted,
    plan_agents,
    plan_rewards,
)
from text_gym.bench.matrix.cells import Cell
from text_gym.bench.matrix.designs import DESIGNS, Design, suite
from text_gym.bench.matrix.recipes import Words
from text_gym.bench.matrix.settings import BEST_OF_N, OwnAlgorithm, Settings

OWN = Design("mine", "yours", "my own", Words(("you",)))


def shape(cells: list[Cell]) -> set[tuple[str, str, float | None]]:
    return {(c.design.name, c.optimiser, c.kl_coefficient) for c in cells}


@pytest.mark.parametrize("budget", ["small", "full"])
def test_budgets_name_designs_that_exist_and_cells_are_different(budget: str) -> None:
    assert all(name in DESIGNS for sweep in SWEEPS[budget] for name in sweep.designs)
    cells = plan_rewards(Settings(), budget, list(DESIGNS.values()))
    assert len({c.key for c in cells}) == len(cells) == len(shape(cells)) * len(SEEDS[budget])
    assert len(SEEDS[budget]) >= 2


def test_the_small_budget_can_show_what_it_is_there_to_show() -> None:
    cells = shape(plan_rewards(Settings(), "small", [DESIGNS[n] for n in budgeted("small")]))
    for name in ("pairs-128", "pairs-512", "length-biased-512", "keywords", "ensemble-512"):
        assert {(name, "rloo", 0.0), (name, "rloo", 0.1), (name, BEST_OF_N, None)} <= cells
    assert ("gold-per-token", "ppo", 0.1) in cells


def test_the_full_budget_extends_the_small_one() -> None:
    everything = list(DESIGNS.values())
    small = {c.key for c in plan_rewards(Settings(), "small", everything)}
    assert small < {c.key for c in plan_rewards(Settings(), "full", everything)}


def test_the_full_budget_has_all_designs_at_three_coefficients() -> None:
    cells = plan_rewards(Settings(), "full", list(DESIGNS.values()))
    for name in set(DESIGNS) - {"gold-per-token"}:
        assert len({c.kl_coefficient for c in cells if c.design.name == name and c.optimiser == "rloo"}) == 3
    assert budgeted("full") == list(DESIGNS)


def test_ones_own_designs_join_the_general_sweeps() -> None:
    cells = shape(plan_rewards(Settings(), "small", [OWN]))
    assert cells == {("mine", BEST_OF_N, None), ("mine", "rloo", 0.0), ("mine", "rloo", 0.1)}
    asked_for = shape(plan_rewards(Settings(), "small", [DESIGNS["transformer-512"]]))
    assert {("transformer-512", "rloo", 0.0), ("transformer-512", "rloo", 0.1)} < asked_for


def test_e2e_has_its_own_suite_and_sweeps(tmp_path: Path) -> None:
    own = Settings(task="e2e", data=str(write_table(tmp_path)))
    designs = list(suite("e2e").values())
    assert {"fluency", "accuracy", "keywords"} < {d.name for d in designs}
    assert "clarity" not in {d.name for d in designs}  # a term of products
    named = [d for d in designs if d.name in budgeted("small", "e2e")]
    small, full = shape(plan_rewards(own, "small", named)), shape(plan_rewards(own, "full", designs))
    assert small < full
    for name in ("gold", "pairs-512"):
        assert {(name, "dpo", 0.1), (name, "distillation", 0.0), (name, "rloo", 0.0)} <= small
    assert {name for name, _, _ in full} == set(suite("e2e"))
    assert budgeted("full", "e2e") == list(suite("e2e"))
    # What was learnt from pairs means the same on both tasks.
    assert all(suite("e2e")[d.name].fingerprint == d.fingerprint for d in DESIGNS.values() if d.trained)
    assert budget_settings("small", "keywords", "e2e") == {(o, b) for n, o, b in small if n == "keywords"}


def test_dpo_needs_a_penalty_and_distillation_has_none() -> None:
    designs = [DESIGNS["gold"]]
    both = ["dpo", "distillation"]
    cells = shape(plan_rewards(Settings(), "small", designs, optimisers=both, kl_coefficients=[0.0, 0.5]))
    assert cells == {("gold", "dpo", 0.5), ("gold", "distillation", 0.0)}
    agents = plan_agents(["products", "sort"], "small", optimisers=both, seeds=[0])
    assert [(c.settings.task, c.optimiser, c.kl_coefficient) for c in agents] == [
        ("products", "dpo", 0.02),
        ("products", "distillation", 0.0),
        ("sort", "distillation", 0.0),
    ]


def test_dimensions_can_be_replaced() -> None:
    designs = [DESIGNS["gold"], OWN]
    cells = plan_rewards(
        Settings(), "small", designs, optimisers=["grpo", BEST_OF_N], kl_coefficients=[0.5], seeds=[7]
    )
    names = ("gold", "mine")
    assert shape(cells) == {(n, "grpo", 0.5) for n in names} | {(n, BEST_OF_N, None) for n in names}
    assert {c.seed for c in cells} == {7}
    assert {b for _, o, b in shape(plan_rewards(Settings(), "small", designs, optimisers=["ppo"]))} == {
        0.0,
        0.1,
    }


def test_agents_learn_the_same_tasks_with_as_many_episodes() -> None:
    cells = plan_agents(list(AGENT_TASKS), "small")
    assert {(c.settings.task, c.optimiser) for c in cells} == {(t, a) for t in AGENT_TASKS for a in AGENTS}
    for task in AGENT_TASKS:
        own = [c for c in cells if c.settings.task == task]
        assert len({(c.settings.iterations, c.settings.episodes, c.kl_coefficient) for c in own}) == 1
    assert {c.settings.iterations for c in plan_agents(["sort"], "small", iterations=3)} == {3}


def test_ones_own_agents_run_beside_the_others_with_as_many_seeds() -> None:
    own = {"Mine": OwnAlgorithm("mine.py:Mine", "abc")}
    cells = plan_agents(["sort", "reverse"], "small", algorithms=own)
    assert {(c.settings.task, c.optimiser) for c in cells} == {
        (t, a) for t in ("sort", "reverse") for a in ("Mine", *AGENTS)
    }
    assert {c.seed for c in cells if c.optimiser == "Mine"} == set(AGENT_SEEDS["small"])
    assert len(AGENT_SEEDS["full"]) > len(AGENT_SEEDS["small"]) >= 3
    changed = plan_agents(["sort"], "small", algorithms={"Mine": OwnAlgorithm("mine.py:Mine", "abd")})
    keys = [{c.key for c in some if c.settings.task == "sort"} for some in (cells, changed)]
    assert len(keys[0] & keys[1]) == len(AGENTS) * 3  # results of other code are none of this one's
    alone = plan_agents(["sort"], "small", algorithms=own, optimisers=[], seeds=[7])
    assert [(c.optimiser, c.seed) for c in alone] == [("Mine", 7)]
