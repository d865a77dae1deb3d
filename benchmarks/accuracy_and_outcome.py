"""Do measures of a reward model foretell what optimising it gives? 36 models on products.

    python benchmarks/accuracy_and_outcome.py --json benchmarks/results/accuracy_and_outcome.json

Models of three sizes learn from four numbers of preferences of three raters: one who follows gold, a noisy
one, and one who likes long texts. Of each is told, on texts that it never saw,

- `accuracy`: the share of pairs of texts for one prompt that it orders as gold does;
- `best_of_4`: how often it picks from four texts the one that gold does, as in RewardBench 2 (Malik et al.
  2025); 0.25 by chance;
- the outcome, gold's gain by the best of `n` texts, in standard deviations of the starting texts.

Raters are judges of outcomes, too: `win_rate` is how often the long-text rater prefers the model's best of
64 to a text of the start. `win_rate_lc` is that with equal lengths, as in AlpacaEval 2 (Dubois et al. 2024):
a logistic regression of its verdicts on the difference of lengths, of which the intercept is kept. Both are
held against `win_rate_gold`, how often gold prefers it. Intervals are the bootstrap's over the models (95 %).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from machine import save
from scipy.optimize import minimize
from scipy.special import expit
from text_pool import Pairs, Pool, count_features, write_texts

from text_gym import load_task
from text_gym.episode import FloatArray
from text_gym.reward_models.learned.configs import NgramConfig
from text_gym.reward_models.people.simulated import SimulatedRater, Vices
from text_gym.utils.interval import rank_correlation

Row = dict[str, Any]
RATERS = {"careful": Vices(), "noisy": Vices(noise=0.3), "likes length": Vices(length=0.2)}
MEASURES, NS = ("accuracy", "best_of_4"), (16, 64, 1000)
DRAWS = 64  # of 64 candidates of a prompt, for win rates


@dataclass(frozen=True)
class Options:
    """Measure models before and after.

    Args:
        prompts: Held-out prompts.
        candidates: Texts of each.
        sizes: Features of a model, at most.
        pairs: Preferences it learns from.
        seeds: Raters and pairs; a model's figures are means over them.
        json: File for the rows.
    """

    prompts: int = 24
    candidates: int = 1000
    sizes: tuple[int, ...] = (30, 300, 3000)
    pairs: tuple[int, ...] = (50, 150, 500, 2000)
    seeds: tuple[int, ...] = (0, 1, 2)
    json: Path | None = None


def accuracy(proxy: FloatArray, gold: FloatArray) -> float:
    """The share of neighbouring texts, `(N, k)`, that the proxy orders as gold does; its ties count half.

    >>> accuracy(np.array([[1.0, 2.0, 5.0, 5.0]]), np.array([[0.0, 1.0, 0.0, 1.0]]))
    0.75
    """
    a, b = (np.sign(x[:, ::2] - x[:, 1::2]) for x in (proxy, gold))
    return float(((1 + a * b) / 2)[b != 0].mean())


def best_of_4(proxy: FloatArray, gold: FloatArray) -> float:
    """How often the proxy picks from four texts, `(N, k)` in a row, one that gold likes best of them.

    >>> best_of_4(np.array([[0.0, 1.0, 2.0, 3.0]]), np.array([[0.0, 0.0, 0.0, 1.0]]))
    1.0
    """
    few = gold.shape[1] // 4 * 4
    a, b = (x[:, :few].reshape(-1, 4) for x in (proxy, gold))
    told = b.max(axis=1) > b.min(axis=1)
    picked = np.take_along_axis(b, a.argmax(axis=1)[:, None], 1)[:, 0]
    return float((picked == b.max(axis=1))[told].mean())


def length_controlled(won: FloatArray, longer: FloatArray) -> float:
    """The win rate at equal lengths: verdicts `(n,)` from 0 to 1, differences of lengths `(n,)`, words.

    >>> rng = np.random.default_rng(0)
    >>> longer = rng.normal(5, 10, 20_000)
    >>> won = rng.random(20_000) < expit(0.5 + 0.3 * np.tanh(longer / longer.std()))
    >>> round(abs(length_controlled(won * 1.0, longer) - float(expit(0.5))), 2)
    0.0
    """
    x = np.tanh(longer / max(longer.std(), 1e-9))  # as they do, so that odd lengths weigh little

    def loss(theta: FloatArray) -> float:
        z = theta[0] + theta[1] * x
        # A little of a penalty: where all are won, the maximum is at infinity.
        return float(np.mean(np.logaddexp(0, z) - won * z) + 1e-4 * theta @ theta)

    return float(expit(minimize(loss, np.zeros(2)).x[0]))


class Judges:
    """Who compares the best of 64 with a text of the start: gold, and the rater who likes length.

    Args:
        gold: `(N, k)`.
        words: `(N, k)`, lengths of the same texts.
    """

    def __init__(self, gold: FloatArray, words: FloatArray) -> None:
        self.gold, self.words = gold, words
        self.liked = gold + RATERS["likes length"].length * words / 10

    def win_rates(self, proxy: FloatArray, rng: np.random.Generator) -> Row:
        """Draw candidates, and let both compare."""
        row, found = np.arange(len(proxy)), []
        for _ in range(DRAWS):
            drawn = rng.permuted(np.tile(np.arange(proxy.shape[1]), (len(proxy), 1)), axis=1)[:, :65]
            candidates, other = drawn[:, :64], drawn[:, 64]
            best = candidates[row, np.take_along_axis(proxy, candidates, 1).argmax(axis=1)]
            off = [x[row, best] - x[row, other] for x in (self.gold, self.liked, self.words)]
            found.append([(1 + np.sign(off[0])) / 2, (1 + np.sign(off[1])) / 2, off[2]])
        by_gold, by_rater, longer = np.concatenate(found, axis=1)
        rates = {"win_rate_gold": float(by_gold.mean()), "win_rate": float(by_rater.mean())}
        return {**rates, "win_rate_lc": length_controlled(by_rater, longer), "longer": float(longer.mean())}


class Texts:
    """Texts to judge, with what gold and the rater who likes length say, and pairs to learn from."""

    def __init__(self, options: Options) -> None:
        task, config = load_task("products"), NgramConfig()
        shape = options.prompts, options.candidates
        texts = write_texts(task, task.held_out[: options.prompts], options.candidates, seed=1)
        words = np.array([len(e.completion.split()) for e in texts], dtype=np.float64).reshape(shape)
        self.gold: FloatArray = task.reward(texts).totals.reshape(shape)
        self.pool, self.judges = Pool(count_features(texts, config), self.gold), Judges(self.gold, words)
        self.asked = write_texts(task, task.prompts[: max(options.pairs) * 4 // 3], 2, seed=2)
        self.pairs = Pairs(task, self.asked, count_features(self.asked, config))

    def answers(self, vices: Vices, seed: int) -> list[str]:
        """What a rater says of all pairs."""
        rater = SimulatedRater(self.pairs.task.reward, vices, seed=seed)
        return list(rater.compare(self.asked[::2], self.asked[1::2]))

    def measure(self, answers: list[str], count: int, size: int, seed: int) -> Row:
        """Fit a model to some of a rater's answers, and measure it before and after."""
        rng = np.random.default_rng([seed, 17])
        chosen = rng.permutation(len(self.pairs))[:count].tolist()
        model = self.pairs.fit(chosen, answers, NgramConfig(max_features=size, alpha=1.0))
        proxy = self.pool.scores(model)
        gold = {p["step"]: p["gold"] for p in self.pool.curve(proxy, seed).curve}
        gains = {f"gain_{n}": (gold[n] - gold[1]) / self.pool.starting_std for n in NS if n in gold}
        before = {"accuracy": accuracy(proxy, self.gold), "best_of_4": best_of_4(proxy, self.gold)}
        return {**before, **gains, **self.judges.win_rates(proxy, rng)}


def run(options: Options) -> list[Row]:
    """A row for each model."""
    texts, rows = Texts(options), list[Row]()
    for name, vices in RATERS.items():
        answers = {seed: texts.answers(vices, seed) for seed in options.seeds}
        for size, count in product(options.sizes, options.pairs):
            found = [texts.measure(answers[seed], count, size, seed) for seed in options.seeds]
            means = {key: float(np.mean([f[key] for f in found])) for key in found[0]}
            rows.append({"rater": name, "features": size, "pairs": count, **means})
        print(f"{name}: {len(rows)} models; {time.process_time():.0f} s", flush=True)
    return rows


def answers_of(rows: list[Row]) -> list[Row]:
    """Rank correlations over the models: of measures with outcomes, and of win rates with gold's."""
    outcomes = [key for key in rows[0] if key.startswith("gain_")]
    asked = [(m, o) for m in MEASURES for o in outcomes]
    asked += [("win_rate", "win_rate_gold"), ("win_rate_lc", "win_rate_gold")]
    found = []
    for measure, outcome in asked:
        x, y = (np.array([row[key] for row in rows]) for key in (measure, outcome))
        found.append({"of": measure, "with": outcome, **rank_correlation(x, y).summary()})
    return found


def main(options: Options) -> None:
    """Print the correlations, and write all."""
    rows = run(options)
    answers = answers_of(rows)
    for answer in answers:
        low, high = answer["ci95"]
        print(f"{answer['of']} with {answer['with']}: {answer['value']:.2f} [{low:.2f}, {high:.2f}]")
    for name in RATERS:
        own = [row for row in rows if row["rater"] == name]
        rates = {k: round(float(np.mean([row[k] for row in own])), 3) for k in own[0] if k.startswith("win")}
        print(f"{name}: {rates}")
    if options.json:
        save(options.json, rows, answers=answers)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="accuracy_and_outcome.py"))
