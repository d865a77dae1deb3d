"""How well reward models predict people's ratings: Spearman on held-out prompts, over splits, beside metrics.

    python benchmarks/human_ratings.py --data ratings.csv --json results.json

The file has a row for each rated text: a prompt, a completion, a mark for each criterion, and any number of
columns with automatic metrics. Splits are by prompt. Seconds are for training, on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from machine import save
from scipy.stats import spearmanr

from text_gym import PretrainedTokenizer
from text_gym.data import read_rows
from text_gym.episode import FloatArray
from text_gym.reward_models import NgramModel, Rating, RewardModel, RewardTrainer, RewardTrainingConfig
from text_gym.reward_models.learned.configs import NgramConfig
from text_gym.reward_models.preferences.files import read_ratings
from text_gym.reward_models.preferences.measures import mark_correlation
from text_gym.reward_models.preferences.opinions import split_opinions

Row = dict[str, Any]
Predictor = Callable[[Sequence[Rating], Sequence[Rating], int], FloatArray]


@dataclass(frozen=True)
class Options:
    """Compare reward models and metrics on rated texts.

    Args:
        data: The file.
        prompt: Column of the prompts.
        completion: Column of the texts.
        criteria: Columns of the marks.
        metrics: Columns of automatic metrics; all other columns of numbers if none are named.
        seeds: One split each.
        held_out: Share of the prompts to judge on.
        transformer: Also train a small transformer from nothing (half a minute a split).
        json: File for the rows.
    """

    data: str
    prompt: str = "mr"
    completion: str = "sys_ref"
    criteria: tuple[str, ...] = ("informativeness", "naturalness", "quality")
    metrics: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    held_out: float = 0.2
    transformer: bool = False
    json: Path | None = None


def predictors(options: Options) -> dict[str, Predictor]:
    """Name -> what predicts `(n, criteria)` marks of the second ratings after learning from the first."""

    def ngrams(config: NgramConfig) -> Predictor:
        def predict(train: Sequence[Rating], judged: Sequence[Rating], seed: int) -> FloatArray:
            model = NgramModel.fit(train, options.criteria, config)
            return model.raw_scores([(r.prompt.text, r.completion) for r in judged])

        return predict

    def transformer(train: Sequence[Rating], judged: Sequence[Rating], seed: int) -> FloatArray:
        texts = [text for r in train for text in (r.prompt.text, r.completion)]
        tokenizer = PretrainedTokenizer.train(texts, 600)
        model = RewardModel.new(tokenizer, options.criteria, dropout=0.1, seed=seed, device="cpu")
        RewardTrainer(model, train, RewardTrainingConfig(epochs=12, patience=3, seed=seed)).learn()
        return model.raw_scores([(r.prompt.text, r.completion) for r in judged])

    found = {
        "ridge on word n-grams": ngrams(NgramConfig(groups=("words",))),
        "NgramModel (default)": ngrams(NgramConfig()),
    }
    return {**found, "transformer from nothing": transformer} if options.transformer else found


def metric_columns(rows: Sequence[Any], options: Options) -> dict[str, FloatArray]:
    """Columns that hold a number in every row, the marks and constants aside."""
    columns: dict[str, FloatArray] = {}
    for name in options.metrics or tuple(rows[0]):
        if name in (options.prompt, options.completion, *options.criteria):
            continue
        try:
            values = np.array([float(row[name]) for row in rows])
        except ValueError:
            continue
        if np.isfinite(values).all() and np.ptp(values) > 0:
            columns[name] = values
    return columns


def evaluate(options: Options) -> list[Row]:
    """A row for each predictor, criterion and seed."""
    ratings = read_ratings(
        options.data, options.criteria, prompt=options.prompt, completion=options.completion
    )
    columns = metric_columns(read_rows(options.data), options)
    place = {id(r): i for i, r in enumerate(ratings)}
    result: list[Row] = []
    for seed in options.seeds:
        train, judged = split_opinions(ratings, options.held_out, seed)
        marks = np.array([[r.values[c] for c in options.criteria] for r in judged])

        for name, column in columns.items():
            held = column[[place[id(r)] for r in judged]]
            for c, criterion in enumerate(options.criteria):
                own = {"predictor": name, "kind": "metric", "criterion": criterion, "seed": seed}
                result.append({**own, "value": float(spearmanr(held, marks[:, c])[0]), "seconds": 0.0})
        for name, predict in predictors(options).items():
            started = time.perf_counter()
            predicted = predict(train, judged, seed)
            seconds = time.perf_counter() - started
            for c, criterion in enumerate(options.criteria):
                found = mark_correlation(predicted[:, c], marks[:, c], seed)
                own = {"predictor": name, "kind": "learned", "criterion": criterion, "seed": seed}
                result.append({**own, **found.summary(), "seconds": seconds})
    return result


def table(rows: Sequence[Row], options: Options) -> str:
    """Markdown: mean over seeds (smallest to largest); of the metrics the best by |mean| in each column."""
    heads = " | ".join(options.criteria)
    lines = [f"| predictor | {heads} | seconds |", "|---" * (len(options.criteria) + 2) + "|"]

    def values(name: str, criterion: str) -> list[float]:
        return [r["value"] for r in rows if r["predictor"] == name and r["criterion"] == criterion]

    def cell(found: Sequence[float]) -> str:
        return f"{np.mean(found):.3f} ({min(found):.3f}–{max(found):.3f})"

    names = {kind: list(dict.fromkeys(r["predictor"] for r in rows if r["kind"] == kind))
             for kind in ("metric", "learned")}  # fmt: skip
    best = []
    for criterion in options.criteria:
        name = max(names["metric"], key=lambda n: abs(float(np.mean(values(n, criterion)))), default=None)
        best.append("–" if name is None else f"{cell(values(name, criterion))}, {name}")
    lines.append(f"| best metric of {len(names['metric'])} | {' | '.join(best)} | |")
    for name in names["learned"]:
        seconds = np.mean([r["seconds"] for r in rows if r["predictor"] == name])
        cells = " | ".join(cell(values(name, c)) for c in options.criteria)
        lines.append(f"| {name} | {cells} | {seconds:.1f} |")
    return "\n".join(lines)


def duplicates(options: Options) -> Row:
    """Spearman between two marks of the very same text, where it was rated twice: a ceiling of sorts."""
    ratings = read_ratings(
        options.data, options.criteria, prompt=options.prompt, completion=options.completion
    )
    first: dict[tuple[str, str], Rating] = {}
    pairs = []
    for rating in ratings:
        key = (rating.prompt.text, rating.completion)
        if key in first:
            pairs += [(first[key], rating), (rating, first[key])]
        first.setdefault(key, rating)
    if not pairs:
        return {}
    return {
        c: mark_correlation(
            np.array([a.values[c] for a, _ in pairs]), np.array([b.values[c] for _, b in pairs])
        ).summary()
        for c in options.criteria
    }


def main(options: Options) -> None:
    """Run everything and print the table."""
    started = time.perf_counter()
    rows = evaluate(options)
    print(table(rows, options))
    again = duplicates(options)
    for criterion, found in again.items():
        print(f"the same text rated twice, {criterion}: {found['value']:.3f} ({found['n'] // 2} texts)")
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s in all")
    if options.json:
        save(options.json, rows, rated_twice=again, seconds=seconds)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="human_ratings.py"))
