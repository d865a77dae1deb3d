"""What the gold reward of `bench rewards --task e2e` says of human texts and of texts known to be bad.

    python benchmarks/e2e_gold.py --data devset.csv --json FILE

All texts are made from the held-out human descriptions, which neither the n-gram model nor its calibration
has seen. `results/` holds means alone, no text.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from machine import save

from text_gym import Episode
from text_gym.bench.gold.e2e import e2e
from text_gym.episode import Prompt
from text_gym.reward_models.scripted.slots import parse_slots

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Score human texts and bad ones.

    Args:
        data: File of the E2E challenge, with columns mr and ref.
        json: File for the rows.
    """

    data: str
    json: Path | None = None


def kinds(rng: random.Random) -> dict[str, Callable[[Prompt, str], str]]:
    """How each kind of text is made of a prompt and a human description of it."""

    def shuffled(text: str) -> str:
        words = text.split()
        return " ".join(rng.sample(words, len(words)))

    def half(text: str) -> str:
        words = text.split()
        return " ".join(words[: len(words) // 2])

    return {
        "human": lambda _, text: text,
        "first half of the words": lambda _, text: half(text),
        "words in random order": lambda _, text: shuffled(text),
        "every second word": lambda _, text: " ".join(text.split()[::2]),
        "said twice": lambda _, text: f"{text} {text}",
        "list of the values": lambda prompt, _: ", ".join(v for _, v in parse_slots(prompt.text)) + ".",
        "the prompt itself": lambda prompt, _: prompt.text.strip(),
        "empty": lambda *_: "",
    }


def main(options: Options) -> None:
    """Print a row for each kind of text: means of gold and its terms."""
    task = e2e(options.data)
    assert task.corpus is not None
    pairs = list(task.corpus()[1])
    rows: list[Row] = []
    for kind, make in kinds(random.Random(0)).items():
        rows.append(
            measured(kind, task.reward([Episode.of(p, make(p, t), task.tokenizer) for p, t in pairs]))
        )
    # What a person wrote of the representation that stands halfway round the list.
    others = [t for _, t in pairs[len(pairs) // 2 :] + pairs[: len(pairs) // 2]]
    swapped = [Episode.of(p, t, task.tokenizer) for (p, _), t in zip(pairs, others, strict=True)]
    rows.append(measured("human, of another representation", task.reward(swapped)))
    for row in rows:
        print("  ".join(f"{v:.3f}" if isinstance(v, float) else f"{v:32}" for v in row.values()))
    if options.json is not None:
        save(options.json, rows, texts=len(pairs), prompts=len(task.held_out))


def measured(kind: str, scores: Any) -> Row:
    """Means of gold and its terms over texts."""
    terms = {name: float(np.mean(values)) for name, values in scores.terms.items()}
    return {"kind": kind, "gold": float(scores.totals.mean()), **terms}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
