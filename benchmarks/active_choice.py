"""Does choosing what to ask save labels? Ways of asking at equal budgets on simulated raters, with intervals.

    python benchmarks/active_choice.py --json benchmarks/results/active_choice.json

Texts are the shipped policy's. A reward model learns from batches of labels, each batch chosen with what the
model knows by then (the first one at random for all ways). Judged is the gold reward of the best of n texts
of held-out prompts by that model: what optimising it a little would give. Differences to random choice are
paired by seed; intervals are 95 % by bootstrap over seeds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from machine import save
from rich.console import Console
from rich.table import Table

from text_gym import Episode, RewardSource, TextVectorEnv, load_task
from text_gym.agents import Policy, rollout
from text_gym.episode import FloatArray
from text_gym.reward_models import Ensemble, NgramModel, PreferencePair, Rating
from text_gym.reward_models.learned.configs import NgramConfig
from text_gym.reward_models.learned.ensembles import bagged
from text_gym.reward_models.people.acquisition import ACQUISITIONS, choose_pairs, choose_texts, member_scores
from text_gym.reward_models.people.acquisition import Pool as TextPool
from text_gym.reward_models.people.raters import collect_pairs, collect_ratings
from text_gym.reward_models.people.simulated import SimulatedRater, Vices
from text_gym.tasks.task import Task
from text_gym.utils.interval import mean_interval

CRITERIA = ("accuracy", "clarity", "persuasiveness")


@dataclass(frozen=True)
class Options:
    """Compare ways of choosing what to ask.

    Args:
        budgets: Labels after each batch, rising.
        seeds: Repetitions: other raters, other chance, the same texts.
        prompts: Prompts of the pool; four texts each.
        held_out: Prompts to judge on.
        n: Texts of each of these.
        noise: Of the raters, in units of the gold reward.
        members: Of the ensembles.
        json: File for the rows.
    """

    budgets: tuple[int, ...] = (20, 40, 80, 160)
    seeds: int = 10
    prompts: int = 128
    held_out: int = 64
    n: int = 8
    noise: float = 0.1
    members: int = 3
    json: Path | None = None


def write(task: Task, prompts: int, each: int, held_out: bool, seed: int = 0) -> list[Episode]:
    """`each` texts of each prompt, by the task's own policy."""
    assert task.policy is not None
    policy = Policy.from_pretrained(task.policy, device="cpu")
    chosen = list((task.held_out if held_out else task.prompts)[:prompts])
    env = TextVectorEnv(
        **task.env_kwargs(prompts=chosen),
        num_envs=64,
        numbering="global",
        group_size=each,
        shuffle=False,
        context=policy.context,
    )
    episodes: list[Episode] = []
    while len(episodes) < prompts * each:
        episodes += rollout(policy, env, len(episodes) + np.arange(64), seed=seed).episodes
    return episodes[: prompts * each]


def learn(opinions: list[Any], kind: str, members: int, seed: int) -> Ensemble:
    """The reward model that follows from opinions."""
    criteria = CRITERIA if kind == "ratings" else ("reward",)

    def member(own: list[Any], number: int) -> RewardSource:
        # A fixed penalty, so that no way of asking is favoured by how well it can be cross-validated.
        return NgramModel.fit(own, criteria, NgramConfig(alpha=0.3, seed=number))

    return bagged(member, opinions, members=members, k=0.0, seed=seed)


def ask(
    kind: str, how: str, pool: TextPool, count: int, rater: SimulatedRater, seed: int
) -> tuple[list[Rating] | list[PreferencePair], set[tuple[str, str]]]:
    """Choose and ask; opinions and the texts that they are about."""
    episodes, texts = pool.episodes, pool.texts
    if kind == "ratings":
        chosen = choose_texts(pool, count, how, seed)
        return collect_ratings(rater, [episodes[i] for i in chosen]), {texts[i] for i in chosen}
    pairs = choose_pairs(pool, count, how, seed)
    left, right = ([episodes[p[side]] for p in pairs] for side in (0, 1))
    return collect_pairs(rater, left, right), {texts[i] for p in pairs for i in p}


def one(
    kind: Literal["ratings", "pairs"],
    how: str,
    seed: int,
    options: Options,
    task: Task,
    pool: list[Episode],
    judged: list[Episode],
    gold: FloatArray,
) -> list[float]:
    """Gold of the best of n by what was learnt, after each budget."""
    rater = SimulatedRater(
        task.reward, Vices(noise=options.noise), criteria=CRITERIA, scale=(1, 5), seed=seed
    )
    opinions: list[Any] = []
    asked: set[tuple[str, str]] = set()
    model: Ensemble | None = None
    found = []
    for budget in options.budgets:
        scores = None if model is None or how in ("random", "diversity") else member_scores(model, pool)
        way = "random" if model is None else how
        known = TextPool(pool, scores, frozenset(asked))
        new, texts = ask(kind, way, known, budget - len(opinions), rater, seed * 1000 + budget)
        opinions += new
        asked |= texts
        model = learn(opinions, kind, options.members, seed)
        best = model(judged).totals.reshape(-1, options.n).argmax(axis=1)
        found.append(float(gold[np.arange(len(best)), best].mean()))
    return found


def interval(values: FloatArray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds."""
    found = mean_interval(values, seed, resamples=4000)
    return found.low, found.high


def main(options: Options) -> None:
    started = time.perf_counter()
    console = Console(highlight=False)
    task = load_task("products")
    pool = write(task, options.prompts, 4, held_out=False)
    judged = write(task, options.held_out, options.n, held_out=True)
    gold = task.reward(judged).totals.reshape(-1, options.n)
    console.print(
        f"{len(pool)} texts to ask about; best of {options.n} on {options.held_out} prompts: "
        f"by chance {gold.mean():.3f}, by gold {gold.max(axis=1).mean():.3f}"
    )
    rows: list[dict[str, Any]] = []
    for kind in ("ratings", "pairs"):
        table = Table(
            "way", *(f"{b} labels" for b in options.budgets), title=f"{kind}: gold of the best of n"
        )
        base: FloatArray | None = None
        for how in ACQUISITIONS:
            seeds = range(options.seeds)
            runs = np.array([one(kind, how, s, options, task, pool, judged, gold) for s in seeds])
            base = runs if base is None else base
            cells = []
            for i, budget in enumerate(options.budgets):
                ahead = runs[:, i] - base[:, i]
                row: dict[str, Any] = {
                    "kind": kind,
                    "way": how,
                    "labels": budget,
                    "gold": float(runs[:, i].mean()),
                }
                row |= {"gold_ci95": interval(runs[:, i]), "ahead": float(ahead.mean())}
                rows.append(row | {"ahead_ci95": interval(ahead)})
                low, high = interval(ahead)
                shown = "" if how == "random" else f"  {ahead.mean():+.4f} ({low:+.4f} to {high:+.4f})"
                cells.append(f"{runs[:, i].mean():.4f}{shown}")
            table.add_row(how, *cells)
        console.print(table)
    seconds = time.perf_counter() - started
    console.print(f"{seconds:.0f} s")
    if options.json is not None:
        save(options.json, rows, options=vars(options), seconds=seconds)


if __name__ == "__main__":
    main(tyro.cli(Options))
