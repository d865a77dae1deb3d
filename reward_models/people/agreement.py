"""Measures whether raters agree and how they differ: Krippendorff's alpha, shift, noise, time, length bias.

Everything is read off the labels that stand. Whether agreement is enough is for people to decide; the limits
of the warnings are constants below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from text_gym.episode import FloatArray
from text_gym.errors import ConfigError, excerpt
from text_gym.plot.canvas import panels, save
from text_gym.plot.estimates import agreement as draw_alpha
from text_gym.plot.estimates import intervals, spread
from text_gym.plot.points import scatter
from text_gym.reward_models.labels.rows import Label
from text_gym.utils.display import counted
from text_gym.utils.interval import Interval, spearman

ENOUGH = 20  # fewer answers than this give no warning about a rater
READING = 60.0  # characters a second: three times as fast as people read
HASTY = 0.3  # share of answers that were faster
SAME = 0.9  # share of answers that are the same
UNRELATED = 0.1  # rank correlation with the other raters


@dataclass(frozen=True)
class RaterProfile:
    """How one rater answers; NaN where the labels cannot tell.

    Args:
        rater: Name.
        answers: Questions answered.
        mean: Mean rating, all criteria together, in [0, 1] of the scale.
        shift: How much higher than the raters of the same texts together, in [0, 1] of the scale.
        noise: Standard deviation of what neither texts nor shifts explain, in [0, 1] of the scale.
        agreement: Spearman's correlation with the mean of the others on shared texts.
        seconds: Median time of an answer, seconds.
        hasty: Share of timed answers that came faster than the texts can be read.
        same: Share of the commonest answer.
        length: Spearman's correlation of mean rating and characters of the text.
        longer: Share of comparisons of unequal lengths (ties aside) that went to the longer text.
        warnings: What speaks for answering without reading.
    """

    rater: str
    answers: int
    mean: float
    shift: float
    noise: float
    agreement: float
    seconds: float
    hasty: float
    same: float
    length: float
    longer: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Agreement:
    """The result of `measure_agreement`.

    Args:
        alpha: Krippendorff's alpha by kind and criterion, `"rating/clarity"`: 1 is perfect, 0 is chance; nan
            where no question has answers of two raters, or all answers are the same.
        overlap: Questions that two or more raters answered.
        questions: Questions answered at all.
        raters: A profile of each rater, by name.
    """

    alpha: dict[str, float]
    overlap: int
    questions: int
    raters: tuple[RaterProfile, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return asdict(self)


def measure_agreement(labels: Iterable[Label]) -> Agreement:
    """Measure how well raters agree, and each rater's bias.

    Args:
        labels: Labels that stand, of any kinds.

    Raises:
        ConfigError: The package `krippendorff` is missing and needed.
    """
    labels = [label for label in labels if label.answered]
    by_question: dict[str, list[Label]] = {}
    for label in labels:
        by_question.setdefault(label.item, []).append(label)
    raters = sorted({label.rater for label in labels})
    alpha = {}
    for kind in ("rating", "comparison", "best-of-n"):
        some = [label for label in labels if label.kind == kind]
        for name in dict.fromkeys(n for label in some for n in label.values):
            marks = _table(some, raters, name)
            alpha[f"{kind}/{name}"] = krippendorff_alpha(marks, "ordinal" if kind == "rating" else "nominal")
    marks = _table([label for label in labels if label.kind == "rating"], raters, None)
    shift, noise = shifts_and_noise(marks)
    profiles = tuple(
        _profile(rater, [label for label in labels if label.rater == rater], marks, i, shift[i], noise[i])
        for i, rater in enumerate(raters)
    )
    overlap = sum(len(group) > 1 for group in by_question.values())
    return Agreement(alpha, overlap, len(by_question), profiles)


def krippendorff_alpha(marks: FloatArray, level: Literal["nominal", "ordinal", "interval"]) -> float:
    """Compute Krippendorff's alpha (2011, "Computing Krippendorff's alpha-reliability").

    Args:
        marks: `(raters, questions)` float64, nan where a rater did not answer.
        level: Nominal for choices, ordinal for ratings.

    Returns:
        nan where no question has two answers, or all answers are the same.

    Raises:
        ConfigError: The package `krippendorff` is missing.
    """
    shared = marks[:, (~np.isnan(marks)).sum(axis=0) > 1] if marks.size else marks
    values = shared[~np.isnan(shared)]
    if not values.size or np.ptp(values) == 0:
        return math.nan
    try:
        import krippendorff
    except ImportError as error:
        raise ConfigError("agreement needs krippendorff: pip install krippendorff") from error
    return float(krippendorff.alpha(reliability_data=shared, level_of_measurement=level))


def shifts_and_noise(marks: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Fit `mark = text + rater's shift + rater's noise` by least squares; the shifts sum to 0.

    The variances of the noise are those under which the squared residuals have their expected size; with
    two raters who share all their texts they cannot be told apart and come out equal.

    Args:
        marks: `(raters, questions)` float64, nan where a rater did not answer.

    Returns:
        `(raters,)` shifts and `(raters,)` standard deviations; nan for raters who share no question.
    """
    given = ~np.isnan(marks)
    given &= given.sum(axis=0) > 1
    count = given.sum(axis=0)[given.any(axis=0)]
    own = given[:, given.any(axis=0)].astype(np.float64)
    y = np.where(own > 0, marks[:, given.any(axis=0)], 0.0)
    alone = ~given.any(axis=1)
    centred = own * (y - y.sum(axis=0) / count)
    together = np.diag(own.sum(axis=1)) - (own / count) @ own.T
    shift = np.linalg.pinv(together) @ centred.sum(axis=1)
    left = centred - own * (shift[:, None] - (own * shift[:, None]).sum(axis=0) / count)
    # E[left_r^2] = (1 - 1/k)^2 s_r + sum over the others of s / k^2, for k raters of a text
    weights = (own / count**2) @ own.T
    np.fill_diagonal(weights, (own * (1 - 1 / count) ** 2).sum(axis=1))
    variance = np.linalg.pinv(weights) @ (left**2).sum(axis=1)
    noise = np.sqrt(np.maximum(variance, 0.0))
    return np.where(alone, np.nan, shift), np.where(alone, np.nan, noise)


def _table(labels: Sequence[Label], raters: Sequence[str], name: str | None) -> FloatArray:
    """Tabulate answers as `(raters, questions)`: one criterion as numbers, or the mean of all in [0, 1]."""
    rows = {rater: i for i, rater in enumerate(raters)}
    columns = {item: i for i, item in enumerate(dict.fromkeys(label.item for label in labels))}
    table = np.full((len(rows), len(columns)), np.nan)
    words = {"left": 1.0, "right": 2.0, "tie": 0.0}
    for label in labels:
        if name is None:
            table[rows[label.rater], columns[label.item]] = _mean(label)
        elif name in label.values:
            value = label.values[name]
            number = words[value] if isinstance(value, str) else float(value)
            table[rows[label.rater], columns[label.item]] = number
    return table


def _mean(label: Label) -> float:
    """Average a rating over its criteria, in [0, 1]."""
    scales = {c.name: c for c in label.question.criteria}
    return float(np.mean([scales[name].scaled(float(v)) for name, v in label.values.items()]))


def _profile(
    rater: str, labels: Sequence[Label], marks: FloatArray, index: int, shift: float, noise: float
) -> RaterProfile:
    rated = [label for label in labels if label.kind == "rating"]
    means = np.array([_mean(label) for label in rated])
    sizes = np.array([len(label.question.completions[0]) for label in rated], dtype=np.float64)
    timed = [label for label in labels if not math.isnan(label.latency)]
    hasty = [label.latency < _characters(label) / READING for label in timed]
    answers = [tuple(label.values.items()) for label in labels]
    own, others = marks[index], _others(marks, index)
    both = ~np.isnan(own) & ~np.isnan(others)
    known: dict[str, float] = {
        "agreement": spearman(own, others),
        "seconds": float(np.median([label.latency for label in timed])) if timed else math.nan,
        "hasty": float(np.mean(hasty)) if timed else math.nan,
        "same": max(map(answers.count, set(answers))) / len(answers),
        "length": spearman(means, sizes),
        "longer": _longer(labels),
    }
    return RaterProfile(
        rater=rater,
        answers=len(labels),
        mean=float(means.mean()) if rated else math.nan,
        shift=float(shift),
        noise=float(noise),
        warnings=_warnings(rater, len(labels), int(both.sum()), known),
        **known,
    )


def _warnings(rater: str, answers: int, shared: int, known: Mapping[str, float]) -> tuple[str, ...]:
    if answers < ENOUGH:
        return ()
    who, found = excerpt(rater), []
    if known["hasty"] > HASTY:
        found.append(f"{who}: {known['hasty']:.0%} of the answers came faster than the texts can be read")
    if known["same"] >= SAME:
        found.append(f"{who}: {known['same']:.0%} of the answers are the same")
    if shared >= ENOUGH and known["agreement"] < UNRELATED:
        found.append(f"{who}: the answers have nothing to do with the others' ({known['agreement']:.2f})")
    return tuple(found)


def _characters(label: Label) -> int:
    """Count the characters to be read; the prompt is left out, since a rater may know it by heart."""
    return sum(map(len, label.question.completions))


def _others(marks: FloatArray, index: int) -> FloatArray:
    """Return the mean mark of all other raters: `(questions,)`, NaN where there is none."""
    rest = np.delete(marks, index, axis=0)
    count = (~np.isnan(rest)).sum(axis=0)
    return np.where(count > 0, np.nansum(rest, axis=0) / np.maximum(count, 1), np.nan)


def _longer(labels: Sequence[Label]) -> float:
    chosen = []
    for label in labels:
        if label.kind == "comparison":
            left, right = map(len, label.question.completions)
            votes = [v for v in label.values.values() if v != "tie"]
            chosen += [(v == "left") == (left > right) for v in votes if left != right]
    return float(np.mean(chosen)) if chosen else math.nan


def draw_agreement(agreement: Agreement, labels: Iterable[Label], file: str | Path) -> None:
    """Draw alpha, shift and noise, time per answer, and rating against length into a PNG."""
    labels = [label for label in labels if label.answered]
    names = [excerpt(p.rater, 20)[1:-1] for p in agreement.raters]
    title = (
        f"{counted(len(labels), 'label')}, {counted(agreement.overlap, 'question')} with two raters or more"
    )
    rows = max(len(names), len(agreement.alpha))
    figure, (alpha, shift, seconds, length) = panels(
        4, columns=2, size=(5.5, 2.6 + 0.2 * max(0, rows - 5)), title=title
    )
    draw_alpha(agreement.alpha, title="Agreement", ax=alpha)
    noise = [Interval(p.shift, p.shift - p.noise, p.shift + p.noise, p.answers) for p in agreement.raters]
    intervals(
        names, {"": noise}, reference=0, x_label="share of the scale", ax=shift,
        title="Raters: shift; bars are ± noise (one SD)",
    )  # fmt: skip
    times, ratings = {}, {}
    for name, profile in zip(names, agreement.raters, strict=True):
        own = [label for label in labels if label.rater == profile.rater]
        times[name] = [label.latency for label in own if label.latency > 0]
        rated = [label for label in own if label.kind == "rating"]
        sizes = [float(len(label.question.completions[0])) for label in rated]
        ratings[name] = (sizes, [_mean(label) for label in rated])
    spread(times, logarithmic=True, x_label="seconds", title="Time per answer", ax=seconds)
    scatter(
        ratings if len(names) <= 10 else {"": _together(ratings.values())}, x_label="characters",
        y_label="mean rating, share of the scale", title="Rating against length", ax=length,
    )  # fmt: skip
    save(figure, file)


def _together(pairs: Iterable[tuple[list[float], list[float]]]) -> tuple[list[float], list[float]]:
    """Join all points into one series, for more raters than can be told apart."""
    pairs = list(pairs)
    return [x for xs, _ in pairs for x in xs], [y for _, ys in pairs for y in ys]
