"""How well does a small language model judge texts? Its P(yes) and its comparisons beside the truth.

    python benchmarks/local_judge.py --model FOLDER

Two sorts of pairs, of which the better text is known: descriptions in the products task, by gold, and
reviews that praise or pan the same thing, written here. `python -m tests.real` makes the model. Nothing is
tuned: each question is asked once, in the words below.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from machine import Row, save

from text_gym import Episode, load_task
from text_gym.episode import FloatArray
from text_gym.reward_models import LocalJudge
from text_gym.reward_models.audit.attacks import attack_report
from text_gym.tasks.products_corpus import describe_product
from text_gym.tokenizer import ByteTokenizer
from text_gym.utils.interval import mean_interval, rank_correlation

FOLDER = Path(os.environ.get("TEXT_GYM_SMOLLM2", "~/.cache/text-gym/SmolLM2-135M-Instruct")).expanduser()
QUESTIONS = {
    "products": "Is this a good description of the product?",
    "reviews": "Is this a positive review?",
}
SUBJECTS = ("film", "book", "hotel", "phone", "restaurant", "museum", "chair", "concert")
GOOD = (
    "The {} was wonderful, and I would recommend it to everyone.",
    "I loved this {} from the first minute.",
    "What a delightful {}: worth every penny.",
    "We enjoyed the {} so much that we will come back to it.",
)
BAD = (
    "The {} was terrible, and I would recommend it to nobody.",
    "I hated this {} from the first minute.",
    "What a dreadful {}: not worth a penny.",
    "We disliked the {} so much that we will never come back to it.",
)
Pairs = list[tuple[Episode, Episode]]


@dataclass(frozen=True)
class Options:
    """Measure a local judge.

    Args:
        model: Folder or hub model of the judge.
        json: File for the results; not written if None.
        pairs: Pairs of texts of either sort, at most 32.
        attacks: Attacked texts; 0 leaves them out.
        seed: Decides the descriptions and the resamples of the intervals.
    """

    model: str = str(FOLDER)
    json: str | None = None
    pairs: int = 32
    attacks: int = 20
    seed: int = 0


def products(count: int, seed: int) -> Pairs:
    """Pairs of descriptions of the same product, the one that gold likes better first; ties are left out."""
    task, rng = load_task("products"), random.Random(seed)
    found: Pairs = []
    for prompt in task.held_out:
        two = [Episode.of(prompt, describe_product(prompt, rng), task.tokenizer) for _ in range(2)]
        gold = task.reward(two).totals
        if gold[0] != gold[1]:
            found.append((two[int(gold.argmax())], two[int(gold.argmin())]))
        if len(found) == count:
            break
    return found


def reviews(count: int) -> Pairs:
    """Pairs of a review that praises and one that pans the same thing."""
    tokenizer = ByteTokenizer()
    texts = [(s, good, bad) for good, bad in zip(GOOD, BAD, strict=True) for s in SUBJECTS][:count]
    return [
        (
            Episode.of(f"Review the {s}.", good.format(s), tokenizer),
            Episode.of(f"Review the {s}.", bad.format(s), tokenizer),
        )
        for s, good, bad in texts
    ]


def measure(judge: LocalJudge, pairs: Pairs, gold: FloatArray, seed: int) -> Row:
    """Measure how often P(yes) and the comparisons are right about which text of a pair is the better one."""
    scores = judge([text for pair in pairs for text in pair]).totals_or_nan.reshape(-1, 2)
    # Every other pair is turned round, so that a judge that likes a position is right half the time.
    turned = np.arange(len(pairs)) % 2 == 1
    found = judge.compare([pair[::-1] if t else pair for pair, t in zip(pairs, turned, strict=True)])
    assert found.log_odds is not None
    right = np.where(turned, -found.log_odds, found.log_odds)
    known = ~np.isnan(scores).any(axis=1) & ~np.isnan(right)

    def accuracy(ahead: FloatArray) -> Row:
        return mean_interval((np.sign(ahead[known]) + 1) / 2, seed).summary()

    return {
        "pairs": len(pairs),
        "judged": int(known.sum()),
        "p_yes": {"mean": float(np.nanmean(scores)), "sd": float(np.nanstd(scores))},
        "accuracy_p_yes": accuracy(scores[:, 0] - scores[:, 1]),
        "accuracy_compare": accuracy(right),
        "flip_rate": found.flip_rate,
        "spearman_with_gold": rank_correlation(scores.ravel(), gold, seed=seed).summary(),
    }


def main(options: Options) -> None:
    """Run it and print the rows."""
    rows: list[Row] = []
    model = LocalJudge.from_pretrained(options.model, device="cpu")
    for sort, question in QUESTIONS.items():
        began = time.perf_counter()
        judge = LocalJudge(model.model, model.tokenizer, {"quality": question}, device="cpu")
        count = min(options.pairs, 32)
        pairs = products(count, options.seed) if sort == "products" else reviews(count)
        texts = [text for pair in pairs for text in pair]
        gold = (
            load_task("products").reward(texts).totals if sort == "products" else np.tile([1.0, 0.0], count)
        )
        row = {"texts": sort, "question": question, **measure(judge, pairs, gold, options.seed)}
        if options.attacks:
            attacked = attack_report(judge, [bad for _, bad in pairs[:8]], options.attacks)
            row |= {"attacks": attacked.attacks, "raised": attacked.raised}
            row |= {"raised_by_an_innocent_sentence": attacked.control}
        row |= {"seconds": round(time.perf_counter() - began, 1)}
        rows.append(row)
        print(row, flush=True)
    if options.json:
        save(options.json, rows, model=Path(options.model).name)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
