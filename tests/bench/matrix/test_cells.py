"""Cells: what is measured, against the same quantities found another way."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench_world import FEW_PAIRS, TINY, prepared, tiny_cell
from text_gym import TextVectorEnv, as_reward_source, load_task
from text_gym.agents import RLOO, RLOOConfig, evaluate
from text_gym.agents.algorithms.best_of_n import best_of_n_kl_bound
from text_gym.bench.matrix.cells import COLUMNS, Cell, _best
from text_gym.bench.matrix.designs import Design
from text_gym.bench.matrix.engines import pack, unpack
from text_gym.bench.matrix.settings import OPTIMISERS
from text_gym.bench.matrix.start import DesignInputs, starting_policy
from text_gym.rewards.source import RewardSource


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


def finished(cell: Cell, folder: Path) -> dict[str, Any]:
    prepared(cell, folder).run(folder)
    return cell.read(folder)


def test_a_row_has_all_columns_and_the_criteria(folder: Path) -> None:
    row = finished(tiny_cell(FEW_PAIRS, "rloo", 0.1), folder)["row"]
    assert tuple(row)[: len(COLUMNS)] == COLUMNS
    names = {f"gold_{name}" for name in ("accuracy", "clarity", "persuasiveness")}
    assert set(row) - set(COLUMNS) == names | {f"{name}_start" for name in names}
    criteria = [row[f"gold_{name}"] for name in ("accuracy", "clarity", "persuasiveness")]
    assert row["gold"] == pytest.approx(np.mean(criteria))
    assert (row["kl_kind"], row["n"], row["kl_coefficient"]) == ("estimate", None, 0.1)
    assert row["episodes"] == TINY.iterations * TINY.episodes
    assert row["diversity"] == row["distinct_2"]


def test_the_same_cell_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    cell = tiny_cell(FEW_PAIRS, "ppo", 0.1)
    finished(cell, folder)
    finished(cell, tmp_path)
    assert (folder / cell.place).read_bytes() == (tmp_path / cell.place).read_bytes()


def test_kept_rollouts_change_no_result_and_have_a_page(folder: Path, tmp_path: Path) -> None:
    cell = tiny_cell("gold", "ppo", 0.1)
    finished(cell, folder)
    kept = replace(cell, keep_rollouts=2)
    assert kept.makes == [cell.place, f"rollouts/{cell.key}.html"]
    finished(kept, tmp_path)
    assert (folder / cell.place).read_bytes() == (tmp_path / cell.place).read_bytes()
    page = (tmp_path / kept.makes[1]).read_text()
    (about,) = re.findall(r'id="about">(.*?)</script>', page)
    assert json.loads(about)["iterations"] == ["iteration 1", "iteration 2"]
    iterations = [json.loads(text) for text in re.findall(r'class="iteration">(.*?)</script>', page)]
    assert {"reward", "kl"} <= iterations[0]["metrics"].keys()
    unpack(pack(tmp_path, kept.makes), tmp_path / "far")
    assert (tmp_path / "far" / kept.makes[1]).read_text() == page
    assert replace(cell, optimiser="best_of_n", keep_rollouts=2).makes[1:] == []


def test_what_was_learnt_is_what_the_agent_learns_by_itself(folder: Path) -> None:
    """The reward is paid in standard deviations at the start; the looks on the way change nothing."""
    cell = tiny_cell("accuracy", "rloo", 0.05, seed=3)
    found = finished(cell, folder)
    policy, task = starting_policy(TINY), load_task("products")
    start = DesignInputs(TINY, folder).start
    scale = 1 / start.terms["accuracy"].std()

    def accuracy(episodes: Any) -> Any:
        return scale * task.reward(episodes).terms["accuracy"]

    env = TextVectorEnv(**task.env_kwargs(reward=as_reward_source(accuracy)), num_envs=8, numbering="global")
    settings = {**OPTIMISERS["rloo"], "iterations": TINY.iterations, "kl_coef": 0.05, "seed": 3}
    agent = RLOO(policy, env, RLOOConfig(**settings)).learn()
    gold = TextVectorEnv(**task.env_kwargs(prompts=task.held_out[: TINY.held_out]), shuffle=False)
    report = evaluate(agent.policy, gold, reference=agent.reference, seed=2_000_003)
    assert found["row"]["gold"] == pytest.approx(report.reward.mean, abs=1e-6)
    assert found["row"]["kl_nats"] == pytest.approx(report.kl.mean, abs=1e-4)
    assert found["row"]["terminated"] == report.terminated


def test_the_curve_begins_at_the_start_and_ends_with_the_row(folder: Path) -> None:
    found = finished(tiny_cell("gold", "grpo", 0.0), folder)
    curve = found["curve"]
    assert [point["step"] for point in curve] == [0, 1, 2]
    assert [point["episodes"] for point in curve] == [0, 8, 16]
    assert curve[0]["kl_nats"] == 0.0
    assert curve[-1]["gold"] == found["row"]["gold"]
    assert found["row"]["gold_best"] == max(point["gold"] for point in curve)
    assert curve[-1]["proxy"] == curve[-1]["gold"]  # the design is gold


def test_best_of_n_is_measured_by_all_candidates(folder: Path) -> None:
    cell = tiny_cell("gold", "best_of_n", None)
    found = finished(cell, folder)
    candidates = DesignInputs(TINY, folder).candidates(0).gold
    curve, row = found["curve"], found["row"]
    assert [point["step"] for point in curve] == [1, 2, 4]
    assert curve[0]["gold"] == pytest.approx(candidates.mean())
    assert row["gold"] == curve[-1]["gold"] == pytest.approx(candidates.max(axis=1).mean())
    assert [point["kl_nats"] for point in curve] == [best_of_n_kl_bound(n) for n in (1, 2, 4)]
    assert (row["kl_kind"], row["n"], row["episodes"]) == ("bound", 4, 0)
    assert row["gold"] == pytest.approx(
        np.mean([row[f"gold_{k}"] for k in ("accuracy", "clarity", "persuasiveness")])
    )


def test_over_optimisation_is_the_gain_of_proxy_without_gold(folder: Path) -> None:
    assert finished(tiny_cell("gold", "best_of_n", None), folder)["row"][
        "over_optimisation"
    ] == pytest.approx(0)
    row = finished(tiny_cell("keywords", "best_of_n", None), folder)["row"]
    start = DesignInputs(TINY, folder).start
    proxy = (row["proxy"] - row["proxy_start"]) / row["proxy_std_start"]
    gold = (row["gold"] - start.gold.mean()) / start.gold.std()
    assert row["over_optimisation"] == pytest.approx(proxy - gold)


def test_the_best_point_is_that_of_gold() -> None:
    curve: list[dict[str, Any]] = [
        {"gold": None, "proxy": 9.0},
        {"gold": 0.7, "proxy": 0.0},
        {"gold": 0.5, "proxy": 4.0},
    ]
    assert _best(curve) == 1
    assert _best(curve[::-1]) == 1


def test_samples_are_texts_of_the_same_prompts(folder: Path) -> None:
    for optimiser, beta, count in (("rloo", 0.0, 8), ("best_of_n", None, TINY.prompts)):
        samples = finished(tiny_cell("keywords", optimiser, beta), folder)["samples"]
        assert [s["prompt"] for s in samples] == [p.text for p in load_task("products").held_out[:count]]
        for sample in samples:
            assert [t["when"] for t in sample["texts"]] == ["start", "best", "end"]
            assert all(t["words"] == len(t["text"].split()) for t in sample["texts"])


def test_texts_that_say_something_twice_are_counted(folder: Path) -> None:
    def twice(text: str) -> bool:  # by string search, not by sets of words
        words = re.sub(r"[^\w'’]+", " ", text.lower()).split()
        line = f" {' '.join(words)} "
        return any(
            len(re.findall(f"(?= {' '.join(words[i : i + 4])} )", line)) > 1 for i in range(len(words) - 3)
        )

    row = finished(tiny_cell("keywords", "rloo", 0.0), folder)["row"]
    start = DesignInputs(TINY, folder).start
    assert row["repetitive_start"] == pytest.approx(np.mean([twice(e.completion) for e in start.episodes]))
    assert 0 <= row["repetitive"] <= 1


def constant(inputs: DesignInputs, seed: int) -> RewardSource:
    return as_reward_source(lambda completion: 1.0)


def sometimes(inputs: DesignInputs, seed: int) -> RewardSource:
    from text_gym import FunctionReward

    return FunctionReward(
        lambda completion: None if "jacket" in completion else 1.0 * len(completion), abstains=True
    )


@pytest.mark.parametrize("optimiser", ["rloo", "best_of_n"])
def test_rewards_without_spread_or_opinion_give_rows_too(optimiser: str, folder: Path) -> None:
    row = finished(tiny_cell(Design("c", "g", "d", constant), optimiser, 0.0), folder)["row"]
    assert row["over_optimisation"] is None
    assert (row["proxy"], row["static_accuracy"]) == (1.0, 0.5)
    row = finished(tiny_cell(Design("s", "g", "d", sometimes), optimiser, 0.0), folder)["row"]
    assert row["proxy"] > 10
    json.dumps(row, allow_nan=False)


def test_keys_follow_from_all_that_results_depend_on() -> None:
    cell = tiny_cell(FEW_PAIRS, "rloo", 0.1)
    others = [
        tiny_cell("gold", "rloo", 0.1),
        tiny_cell(FEW_PAIRS, "grpo", 0.1),
        tiny_cell(FEW_PAIRS, "rloo", 0.2),
        tiny_cell(FEW_PAIRS, "rloo", 0.1, seed=1),
        replace(cell, settings=replace(TINY, iterations=3)),
        replace(cell, settings=replace(TINY, override={"rloo": {"epochs": 2}})),
    ]
    assert len({c.key for c in (cell, *others)}) == 7
    assert replace(cell, settings=replace(TINY, candidates=2)).key == cell.key  # best-of-n's alone
    chosen = tiny_cell("gold", "best_of_n", None)
    assert replace(chosen, settings=replace(TINY, iterations=3)).key == chosen.key
    assert replace(chosen, settings=replace(TINY, candidates=2)).key != chosen.key
