"""Bugs of `text_gym.reward_models.people`: agreement, what to ask, simulated raters."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_AGREEMENT, _ACQUISITION = "reward_models/people/agreement.py", "reward_models/people/acquisition.py"
_RATERS, _SIMULATED = "reward_models/people/raters.py", "reward_models/people/simulated.py"


def _by(*tests: str) -> tuple[str, ...]:
    return tuple(f"tests/reward_models/people/{test}" for test in tests)


MUTANTS = [
    Mutant(  # survivor 13
        "a-rater-agrees-with-himself",
        _AGREEMENT,
        "rest = np.delete(marks, index, axis=0)",
        "rest = marks",
        _by("test_agreement.py::test_a_rater_is_compared_with_the_mean_of_the_others_alone"),
    ),
    Mutant(
        "ratings-are-nominal",
        _AGREEMENT,
        '"ordinal" if kind == "rating" else "nominal")',
        '"nominal" if kind == "rating" else "nominal")',
        _by("test_agreement.py::test_careful_raters_are_described_and_not_warned_about"),
    ),
    Mutant(
        "skips-are-answers",
        _AGREEMENT,
        "    labels = [label for label in labels if label.answered]\n    by_question",
        "    labels = list(labels)\n    by_question",
        _by("test_agreement.py::test_a_skip_is_no_answer"),
    ),
    Mutant(
        "shift-against-all-texts-alike",
        _AGREEMENT,
        "centred = own * (y - y.sum(axis=0) / count)",
        "centred = own * (y - y.sum() / own.sum())",
        _by("test_agreement.py::test_shifts_by_hand"),
    ),
    Mutant(
        "noise-without-its-degrees-of-freedom",
        _AGREEMENT,
        "np.fill_diagonal(weights, (own * (1 - 1 / count) ** 2).sum(axis=1))",
        "np.fill_diagonal(weights, own.sum(axis=1))",
        _by("test_agreement.py::test_shift_and_noise_of_simulated_raters_are_found"),
    ),
    Mutant(
        "longer-text-counted-on-the-wrong-side",
        _AGREEMENT,
        '(v == "left") == (left > right)',
        '(v == "left") == (left < right)',
        _by("test_agreement.py::test_the_longer_text_is_counted_on_its_side_and_ties_are_no_choice"),
    ),
    Mutant(
        "ties-go-to-the-shorter-text",
        _AGREEMENT,
        'votes = [v for v in label.values.values() if v != "tie"]',
        "votes = list(label.values.values())",
        _by("test_agreement.py::test_the_longer_text_is_counted_on_its_side_and_ties_are_no_choice"),
    ),
    Mutant(
        "untimed-answers-are-hasty",
        _AGREEMENT,
        "timed = [label for label in labels if not math.isnan(label.latency)]",
        "timed = [replace(l, latency=0.0) if math.isnan(l.latency) else l for l in labels]",
        _by("test_agreement.py::test_answers_without_a_time_are_not_hasty"),
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
        _by("test_acquisition.py::test_no_text_twice_and_none_that_was_asked"),
    ),
    Mutant(
        "overlap-is-a-share-of-labels",
        _ACQUISITION,
        "math.floor(labels / (1 + overlap) + 1e-9)",
        "math.floor(labels * (1 - overlap) + 1e-9)",
        _by("test_acquisition.py::test_the_budget_is_spent_and_not_exceeded"),
    ),
    Mutant(
        "disagreement-chooses-what-is-agreed-on",
        _ACQUISITION,
        "return _by(lambda i: -float(std[i]), shuffled, count)",
        "return _by(lambda i: float(std[i]), shuffled, count)",
        _by("test_acquisition.py::test_disagreement_asks_where_members_differ"),
    ),
    Mutant(
        "pairs-disagreement-of-scores-not-probabilities",
        _ACQUISITION,
        "wins = probability(pool.scores[:, left] - pool.scores[:, right])",
        "wins = pool.scores[:, left] - pool.scores[:, right]",
        _by(
            "test_acquisition.py::test_members_disagree_by_what_they_think_likely_and_not_by_the_size_of_their_scores"
        ),
    ),
    Mutant(
        "uncertainty-about-0-not-one-half",
        _ACQUISITION,
        "np.abs(wins.mean(axis=0) - 0.5)",
        "np.abs(wins.mean(axis=0))",
        _by("test_acquisition.py::test_uncertainty_pairs_are_close_ones"),
    ),
    Mutant(
        "best-text-is-always-on-the-left",
        _ACQUISITION,
        "return [found[i] if side else found[i][::-1] for",
        "return [found[i] for",
        _by("test_acquisition.py::test_sides_are_chance"),
    ),
    Mutant(
        "diversity-forgets-what-was-asked",
        _ACQUISITION,
        "old = _points([completion for _, completion in sorted(pool.asked)])",
        "old = _points([])",
        _by("test_acquisition.py::test_diversity_is_far_from_what_was_asked_before"),
    ),
    Mutant(
        "nearest-first-not-farthest",
        _ACQUISITION,
        "        nearest = np.minimum(nearest, 1 - points @ points[new])\n",
        "        nearest = np.maximum(np.where(np.isinf(nearest), -2, nearest), 1 - points @ points[new])\n",
        _by("test_acquisition.py::test_diversity_covers_every_kind_of_text_before_it_repeats_one"),
    ),
    Mutant(
        "a-text-in-two-pairs-though-others-are-free",
        _ACQUISITION,
        "if used.isdisjoint(pair):",
        "if not used.issuperset(pair):",
        _by("test_acquisition.py::test_pairs_are_of_one_prompt_and_disjoint_first"),
    ),
    Mutant(
        "right-choice-is-the-left-text",
        _RATERS,
        'better, worse = (b, a) if choice == "right" else (a, b)',
        'better, worse = (b, a) if choice == "left" else (a, b)',
        _by("test_raters.py::test_pairs_and_ratings_are_collected"),
    ),
    Mutant(
        "skipped-pairs-are-ties",
        _RATERS,
        'tie=choice == "tie",',
        'tie=choice in ("tie", "skip"),',
        _by("test_raters.py::test_what_skips_leaves_no_opinion"),
        more=(('        if choice != "skip":\n', "        if choice:\n"),),
    ),
    Mutant(
        "noise-favours-the-left-side",
        _SIMULATED,
        "ahead + turned * self.vices.noise * rng.logistic()",
        "ahead + self.vices.noise * rng.logistic()",
        _by("test_raters.py::test_answers_follow_from_the_question_alone"),
    ),
    Mutant(
        "noise-does-not-belong-to-the-rater",
        _SIMULATED,
        '"\\0".join((str(self.seed), *question))',
        '"\\0".join(question)',
        _by("test_raters.py::test_answers_follow_from_the_question_alone"),
    ),
    Mutant(
        "marks-are-not-clipped",
        _SIMULATED,
        "row = np.clip(np.rint(first + (row - low) / (high - low) * (last - first)), first, last)",
        "row = np.rint(first + (row - low) / (high - low) * (last - first))",
        _by("test_raters.py::test_marks_on_a_scale"),
    ),
    Mutant(
        "length-bias-per-word",
        _SIMULATED,
        "length = np.array([len(w) / 10 for w in words])",
        "length = np.array([float(len(w)) for w in words])",
        _by("test_raters.py::test_vices_by_hand"),
    ),
    Mutant(
        "second-rater-is-the-first",
        _SIMULATED,
        "return {(first + n) % len(self.raters) for n in range(item.overlap)}",
        "return {first % len(self.raters) for n in range(item.overlap)}",
        _by("test_simulated.py::test_shared_questions_get_two_raters_and_the_others_one"),
    ),
]
