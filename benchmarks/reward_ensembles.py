"""Coste et al. (2023), "Reward model ensembles help mitigate overoptimization": best-of-n on products.

    python benchmarks/reward_ensembles.py --json benchmarks/results/reward_ensembles.json

N-gram reward models are fitted to the same preferences, a quarter of which are turned round, and choose
among many texts: one model, the mean of an ensemble, its worst member, the mean less half the variance, and
the mean less the standard deviation, which is the package's `Ensemble(k=1)`. Linear models have no seed of
initialisation to differ in, so the members are fitted to bootstrap resamples of the pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from machine import save
from text_pool import Pairs, Pool, count_features, write_texts

from text_gym import load_task
from text_gym.bench.analysis.results import CellResult
from text_gym.bench.analysis.statistics import contrast, mean_of_strata
from text_gym.episode import FloatArray
from text_gym.reward_models.learned.configs import NgramConfig
from text_gym.utils.interval import shown

Row = dict[str, Any]
# What an ensemble pays, from the members' rewards `(members, N, k)`, each of mean 0 and deviation 1.
RULES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "one model": lambda r: r[0],
    "mean": lambda r: r[1:].mean(axis=0),
    "worst case": lambda r: r[1:].min(axis=0),
    "mean − ½ variance": lambda r: r[1:].mean(axis=0) - 0.5 * r[1:].var(axis=0),
    "mean − deviation": lambda r: r[1:].mean(axis=0) - r[1:].std(axis=0),
}


@dataclass(frozen=True)
class Options:
    """Compare what an ensemble of reward models may pay.

    Args:
        prompts: Held-out prompts.
        candidates: Texts of each, the largest n.
        pairs: Preferences.
        label_noise: Shares of them that are turned round.
        members: Of an ensemble.
        features: Of a member, at most; few are easy to over-optimise.
        seeds: Preferences, noise and resamples of one run each.
        json: File for the rows.
    """

    prompts: int = 24
    candidates: int = 128
    pairs: int = 1000
    label_noise: tuple[float, ...] = (0.0, 0.25)
    members: int = 5
    features: tuple[int, ...] = (30, 3000)
    seeds: tuple[int, ...] = tuple(range(10))
    json: Path | None = None


def member_rewards(
    pool: Pool, pairs: Pairs, options: Options, features: int, noise: float, seed: int
) -> FloatArray:
    """Rewards `(1 + members, N, k)`: of a model of all pairs, then of the members."""
    rng = np.random.default_rng([seed, 23])
    chosen = rng.permutation(len(pairs))[: options.pairs]
    turned = set(chosen[rng.random(len(chosen)) < noise].tolist())
    other = {"left": "right", "right": "left", "tie": "tie"}
    answers = [other[a] if i in turned else a for i, a in enumerate(pairs.ask(0.0, seed))]
    config = NgramConfig(max_features=features, alpha=1.0)
    rows = [chosen, *(rng.choice(chosen, len(chosen)) for _ in range(options.members))]
    found = np.stack([pool.scores(pairs.fit(r.tolist(), answers, config)) for r in rows])
    spread = found.std(axis=(1, 2), keepdims=True)
    standard: FloatArray = (found - found.mean(axis=(1, 2), keepdims=True)) / spread
    return standard


def gains(cells: Sequence[CellResult], pick: Callable[[FloatArray], float]) -> dict[int, float]:
    """Seed -> gain of gold along the curve, in standard deviations over the starting texts."""
    return {c.row["seed"]: pick((c.along("gold") - c.along("gold")[0]) / c["gold_std_start"]) for c in cells}


def main(options: Options) -> None:
    """Run everything and print the table."""
    task, config = load_task("products"), NgramConfig()
    texts = write_texts(task, task.held_out[: options.prompts], options.candidates, seed=3)
    gold = task.reward(texts).totals.reshape(options.prompts, options.candidates)
    pool = Pool(count_features(texts, config), gold)
    asked = write_texts(task, task.prompts[: options.pairs * 3 // 2], 2, seed=4)
    pairs = Pairs(task, asked, count_features(asked, config))
    rows: list[Row] = []
    headings = ["features", "labels turned round", "pays", "best gain", "at the end", "ahead of one model"]
    print(f"| {' | '.join(headings)} |\n" + "|---" * len(headings) + "|")
    for features, noise in product(options.features, options.label_noise):
        curves: dict[str, list[CellResult]] = {name: [] for name in RULES}
        for seed in options.seeds:
            rewards = member_rewards(pool, pairs, options, features, noise, seed)
            for name, rule in RULES.items():
                curves[name].append(pool.curve(rule(rewards), seed))
        alone = gains(curves["one model"], lambda g: float(g[-1]))
        for name, cells in curves.items():
            end, best = gains(cells, lambda g: float(g[-1])), gains(cells, lambda g: float(g.max()))
            ahead = contrast([end, alone], [1.0, -1.0])
            at_end, at_best = mean_of_strata([end]), mean_of_strata([best])
            row = {"features": features, "label_noise": noise, "rule": name, "end": at_end.summary()}
            row |= {"best": at_best.summary(), "ahead_of_one": ahead.summary()}
            row |= {"gold": np.mean([c.along("gold") for c in cells], axis=0).tolist()}
            rows.append(row | {"kl_nats": cells[0].along("kl_nats").tolist()})
            figures = [shown(at_best), shown(at_end), shown(ahead, sign=True)]
            print(f"| {features:,} | {noise:.0%} | {name} | {' | '.join(figures)} |", flush=True)
    print(f"{time.process_time():.0f} s")
    if options.json:
        save(options.json, rows)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="reward_ensembles.py"))
