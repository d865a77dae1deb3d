"""What the cells of `sentiment.py` found: results, the frontier that no policy passes, tables, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from machine import Row

from text_gym.plot import Line, curves, frontier, panels
from text_gym.plot import save as save_figure
from text_gym.utils.display import harmless

Floats = npt.NDArray[np.float64]
BETAS = tuple(float(b) for b in np.geomspace(20.0, 0.02, 40))  # reward units per nat
FEW = 100  # a frontier is not followed to where fewer texts carry it
HEADS = [
    "who",
    "seed",
    "sentiment, held-out (95 %)",
    "KL, nats a text",
    "perplexity under the start",
    "different word pairs",
    "words repeated in a text",
    "favourite words, share of texts",
    "minutes",
]
NAMES = {"grpo": "GRPO", "ppo": "PPO", "rloo": "RLOO"}


def gather(rows: Sequence[Row]) -> Row:
    """The results: the start, what could be reached from it, and a row a run."""
    start = next((r for r in rows if r["cell"] == "start"), None)
    found: Row = {"rows": [r for r in rows if r["cell"] != "start"]}
    if start is None:
        return found
    own = {k: v for k, v in start.items() if k != "sentiments"}
    return {"machine": start["machine"], "start": own, "reachable": reachable(start["sentiments"]), **found}


def reachable(rewards: Sequence[float]) -> list[Row]:
    """The highest mean reward at each KL, from samples of the start: π ∝ start · exp(reward / β).

    No policy has a higher mean reward at the same KL. Texts of all prompts are taken together, which lets the
    choice of prompts be tilted too: the frontier of policies, who cannot choose them, lies below. It stops
    where the weights rest on fewer than a hundred texts.

    Args:
        rewards: Of `n` texts that the start wrote.
    """
    r = np.asarray(rewards, np.float64)
    points: list[Row] = []
    for beta in BETAS:
        weights = np.exp((r - r.max()) / beta)
        weights /= weights.sum()
        if 1 / np.square(weights).sum() < FEW:
            break
        kl = float((weights * np.log(weights * len(r))).sum())
        points.append({"beta": beta, "kl": kl, "sentiment": float(weights @ r)})
    return points


def name_of(row: Row) -> str:
    """An algorithm's name, and what it learnt from."""
    return NAMES[row["algorithm"]] + (", preferences" if row["reward"] == "preferences" else "")


def runs(results: Row) -> list[list[str]]:
    """The table of all runs, the start first: what their policies write of held-out prompts."""
    lines = [HEADS, ["---"] * len(HEADS)]
    lines += [["the start", "–", *_cells(results["start"]["after"]), "–"]]
    for row in results["rows"]:
        minutes = f"{row['curve'][-1]['processor_seconds'] / 60:.1f}"
        lines.append([name_of(row), str(row["seed"]), *_cells(row["after"]), minutes])
    return lines


def _cells(after: Row) -> list[str]:
    low, high = after["sentiment"]["ci95"]
    return [
        f"{after['sentiment']['mean']:.2f} ({low:.2f}–{high:.2f})".replace("-", "−"),
        f"{abs(after['kl_nats']):.1f}",
        f"{after['perplexity']:.1f}",
        f"{after['distinct_bigrams']:.0%}",
        f"{after['repeated_words']:.0%}",
        ", ".join(f"{plain(word)} {share:.0%}" for word, share in list(after["favourites"].items())[:4]),
    ]


def preferences(results: Row) -> list[list[str]]:
    """The table of reward models that learnt from preferences."""
    heads = [
        "seed",
        "pairs",
        "epochs",
        "validation loss, nats a pair",
        "agrees with the scorer, held-out",
    ]
    lines = [heads, ["---"] * len(heads)]
    for row in results["rows"]:
        if row["reward"] == "preferences":
            model, agreement = row["reward_model"], row["reward_model"]["agreement"]
            loss = min(epoch["validation_loss"] for epoch in model["history"])
            low, high = agreement["ci95"]
            share = f"{agreement['value']:.0%} ({low:.0%}–{high:.0%})"
            epochs = str(len(model["history"]))
            lines.append([str(row["seed"]), f"{model['pairs']:,}", epochs, f"{loss:.3f}", share])
    return lines


def samples(results: Row) -> list[list[str]]:
    """The table of texts: held-out prompts, the start's continuations and those of a run of each kind."""
    shown = [("the start", results["start"]["after"]["samples"])]
    for row in results["rows"]:
        if name_of(row) not in dict(shown):
            shown.append((name_of(row), row["after"]["samples"]))
    lines = [["prompt", "who", "continuation", "sentiment"], ["---"] * 4]
    for i in range(0, len(shown[0][1]), 2):
        for who, texts in shown:
            prompt = plain(texts[i]["prompt"]) if who == "the start" else ""
            sentiment = f"{texts[i]['sentiment']:.2f}".replace("-", "−")
            lines.append([prompt, who, plain(texts[i]["completion"]), sentiment])
    return lines


def plain(text: str) -> str:
    """A text that no browser and no Markdown reads as anything but text: a model may write what it likes.

    >>> plain("<b>|*x*|\\u202e")
    '&#60;b&#62;&#124;&#42;x&#42;&#124;&#92;u202e'
    """
    shown = harmless(text)
    return "".join(c if c.isalnum() or c in " ,.;'’" else f"&#{ord(c)};" for c in shown)


def write_figure(file: Path, results: Row) -> None:
    """Draw sentiment over the iterations, and over KL with the frontier."""
    figure, (left, right) = panels(2, columns=2, size=(5.2, 4.0))
    groups: dict[str, list[Row]] = {}
    for row in results["rows"]:
        groups.setdefault(name_of(row), []).append(row)
    lines, ways = [], []
    for place, (name, rows) in enumerate(groups.items()):
        y: Floats = np.array([[point["sentiment"] for point in row["curve"]] for row in rows])
        kl: Floats = np.array([[point["kl"] for point in row["curve"]] for row in rows])
        x = np.arange(1, y.shape[1] + 1)
        low, high = (y.min(axis=0), y.max(axis=0)) if len(rows) > 1 else (None, None)
        lines.append(Line(x, y.mean(axis=0), name, low, high, colour=place, marks=False))
        ways.append(Line(kl.mean(axis=0), y.mean(axis=0), name, colour=place, marks=False))
        after = [row["after"] for row in rows]
        gold = [a["sentiment"]["mean"] for a in after]
        ways.append(Line([a["kl_nats"] for a in after], gold, colour=place, style="none", marks=True))
    bound = results.get("reachable", [])
    if bound:
        x, y = (np.array([p[name] for p in bound]) for name in ("kl", "sentiment"))
        ways.append(Line(x, y, "highest reachable", colour="ink", style=":", marks=False))
    curves(lines, x_label="iterations", y_label="mean sentiment of the texts", reach=(0, 1), ax=left)
    frontier(ways, y_label="mean sentiment; marks: held-out prompts", ax=right)
    save_figure(figure, file)
