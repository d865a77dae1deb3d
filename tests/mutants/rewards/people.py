"""Bugs of `text_gym.reward_models.people`: agreement, what to ask, simulated raters."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_AGREEMENT, _ACQUISITION = "reward_models/people/agreement.py", "reward_models/people/acquisition.py"
_RATERS, _SIMULATED = "reward_models/people/raters.py", "reward_models/people/simulated.py"
_OF_AGREEMENT = ("tests/reward_models/people/test_agreement.py",)
_OF_ACQUISITION = ("tests/reward_models/people/test_acquisition.py",)
_OF_RATERS = ("tests/reward_models/people/test_raters.py",)
_OF_SIMULATED = (
    "tests/reward_models/people/test_raters.py",
    "tests/reward_models/people/test_simulated.py",
)

MUTANTS = [
    Mutant(  # survivor 13
        "a-rater-agrees-with-himself",
        _AGREEMENT,
        "rest = np.delete(marks, index, axis=0)",
        "rest = marks",
        _OF_AGREEMENT,
    ),
    Mutant(
        "ratings-are-nominal",
        _AGREEMENT,
        '"ordinal" if kind == "rating" else "nominal")',
        '"nominal" if kind == "rating" else "nominal")',
        _OF_AGREEMENT,
    ),
    Mutant(
        "skips-are-answers",
        _AGREEMENT,
        "    labels = [label for label in labels if label.answered]\n    by_question",
        "    labels = list(labels)\n    by_question",
        _OF_AGREEMENT,
    ),
    Mutant(
        "shift-against-all-texts-alike",
        _AGREEMENT,
        "centred = own * (y - y.sum(axis=0) / count)",
        "centred = own * (y - y.sum() / own.sum())",
        _OF_AGREEMENT,
    ),
    Mutant(
        "noise-without-its-degrees-of-freedom",
        _AGREEMENT,
        "np.fill_diagonal(weights, (own * (1 - 1 / count) ** 2).sum(axis=1))",
        "np.fill_diagonal(weights, own.sum(axis=1))",
        _OF_AGREEMENT,
    ),
    Mutant(
        "longer-text-counted-on-the-wrong-side",
        _AGREEMENT,
        '(v == "left") == (left > right)',
        '(v == "left") == (left < right)',
        _OF_AGREEMENT,
    ),
    Mutant(
        "ties-go-to-the-shorter-text",
        _AGREEMENT,
        'votes = [v for v in label.values.values() if v != "tie"]',
        "votes = list(label.values.values())",
        _OF_AGREEMENT,
    ),
    Mutant(
        "untimed-answers-are-hasty",
        _AGREEMENT,
        "timed = [label for label in labels if not math.isnan(label.latency)]",
        "timed = [replace(l, latency=0.0) if math.isnan(l.latency) else l for l in labels]",
        _OF_AGREEMENT,
        more=(
            (
                "from dataclasses import asdict, dataclass",
                "from dataclasses import asdict, dataclass, replace",
            ),
        ),
    ),
    Mutant(
        "asked-texts-are-asked-again",
        _ACQUISITION,
        "seen, found = set(self.asked), []",
        "seen, found = set(), []",
        _OF_ACQUISITION,
    ),
    Mutant(
        "overlap-is-a-share-of-labels",
        _ACQUISITION,
        "math.floor(labels / (1 + overlap) + 1e-9)",
        "math.floor(labels * (1 - overlap) + 1e-9)",
        _OF_ACQUISITION,
    ),
    Mutant(
        "disagreement-chooses-what-is-agreed-on",
        _ACQUISITION,
        "return _by(lambda i: -float(std[i]), shuffled, count)",
        "return _by(lambda i: float(std[i]), shuffled, count)",
        _OF_ACQUISITION,
    ),
    Mutant(
        "pairs-disagreement-of-scores-not-probabilities",
        _ACQUISITION,
        "wins = probability(pool.scores[:, left] - pool.scores[:, right])",
        "wins = pool.scores[:, left] - pool.scores[:, right]",
        _OF_ACQUISITION,
    ),
    Mutant(
        "uncertainty-about-0-not-one-half",
        _ACQUISITION,
        "np.abs(wins.mean(axis=0) - 0.5)",
        "np.abs(wins.mean(axis=0))",
        _OF_ACQUISITION,
    ),
    Mutant(
        "best-text-is-always-on-the-left",
        _ACQUISITION,
        "return [found[i] if side else found[i][::-1] for",
        "return [found[i] for",
        _OF_ACQUISITION,
    ),
    Mutant(
        "diversity-forgets-what-was-asked",
        _ACQUISITION,
        "old = _points([completion for _, completion in sorted(pool.asked)])",
        "old = _points([])",
        _OF_ACQUISITION,
    ),
    Mutant(
        "nearest-first-not-farthest",
        _ACQUISITION,
        "        nearest = np.minimum(nearest, 1 - points @ points[new])\n",
        "        nearest = np.maximum(np.where(np.isinf(nearest), -2, nearest), 1 - points @ points[new])\n",
        _OF_ACQUISITION,
    ),
    Mutant(
        "a-text-in-two-pairs-though-others-are-free",
        _ACQUISITION,
        "if used.isdisjoint(pair):",
        "if not used.issuperset(pair):",
        _OF_ACQUISITION,
    ),
    Mutant(
        "right-choice-is-the-left-text",
        _RATERS,
        'better, worse = (b, a) if choice == "right" else (a, b)',
        'better, worse = (b, a) if choice == "left" else (a, b)',
        _OF_RATERS,
    ),
    Mutant(
        "skipped-pairs-are-ties",
        _RATERS,
        'tie=choice == "tie",',
        'tie=choice in ("tie", "skip"),',
        _OF_RATERS,
        more=(('        if choice != "skip":\n', "        if choice:\n"),),
    ),
    Mutant(
        "noise-favours-the-left-side",
        _SIMULATED,
        "ahead + turned * self.vices.noise * rng.logistic()",
        "ahead + self.vices.noise * rng.logistic()",
        _OF_SIMULATED,
    ),
    Mutant(
        "noise-does-not-belong-to-the-rater",
        _SIMULATED,
        '"\\0".join((str(self.seed), *question))',
        '"\\0".join(question)',
        _OF_SIMULATED,
    ),
    Mutant(
        "marks-are-not-clipped",
        _SIMULATED,
        "row = np.clip(np.rint(first + (row - low) / (high - low) * (last - first)), first, last)",
        "row = np.rint(first + (row - low) / (high - low) * (last - first))",
        _OF_SIMULATED,
    ),
    Mutant(
        "length-bias-per-word",
        _SIMULATED,
        "length = np.array([len(w) / 10 for w in words])",
        "length = np.array([float(len(w)) for w in words])",
        _OF_SIMULATED,
    ),
    Mutant(
        "second-rater-is-the-first",
        _SIMULATED,
        "return {(first + n) % len(self.raters) for n in range(item.overlap)}",
        "return {first % len(self.raters) for n in range(item.overlap)}",
        _OF_SIMULATED,
    ),
]
