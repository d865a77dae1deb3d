"""Public tests of lab 8: statistics against SciPy, swaps by hand, and rewards whose vices are known."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr
from scipy.stats import t as student

from course.checks import close, true
from text_gym import ByteTokenizer, Episode
from text_gym.reward_models.audit.surfaces import SURFACES
from text_gym.reward_models.scripted.rules import Keywords

# ranks, rank_correlation, correlation_at_equal_gold


def tables(seed: int, count: int) -> Any:
    """Scores, a feature and gold, which all go together, with ties: `(3, count)`."""
    rng = np.random.default_rng(seed)
    gold = rng.normal(size=count)
    feature = np.round(gold + rng.normal(size=count))
    return np.stack([np.exp(gold + 0.8 * feature + 0.5 * rng.normal(size=count)), feature, np.round(gold, 1)])


def test_ranks_of_five_numbers(lab: Any, seed: int) -> None:
    close(
        lab.ranks(np.array([3.0, 1.0, 2.0, 1.0, 9.0])),
        [4.0, 1.5, 3.0, 1.5, 5.0],
        "your ranks of 3, 1, 2, 1, 9",
        mistakes={
            "ties: equal numbers share the mean of their ranks, in whatever order they stand": [
                4,
                1,
                3,
                2,
                5,
            ],
            "ties: equal numbers share the mean of their ranks, not the smallest": [4, 1, 3, 1, 5],
            "ties: equal numbers share the mean of their ranks, not the largest": [4, 2, 3, 2, 5],
            "ties take up ranks: those that follow do not move up": [3, 1, 2, 1, 4],
            "ranks begin with 1": [3, 0.5, 2, 0.5, 4],
            "the smallest has rank 1, not the largest": [2, 4.5, 3, 4.5, 1],
            "that is the order (argsort), not the ranks": [1, 3, 2, 0, 4],
        },
    )


def test_rank_correlation_is_spearmans(lab: Any, seed: int, count: int = 40) -> None:
    x, y, _ = tables(seed, count)
    order = np.argsort(np.argsort(x)), np.argsort(np.argsort(y))
    distance = ((rankdata(x) - rankdata(y)) ** 2).sum()
    close(
        lab.rank_correlation(x, y),
        spearmanr(x, y).statistic,
        "your rank correlation",
        mistakes={
            "it is Pearson's correlation without ranks: a few large scores decide it": np.corrcoef(x, y)[
                0, 1
            ],
            "ties: equal numbers share the mean of their ranks": np.corrcoef(*order)[0, 1],
            "1 − 6 Σ d²/(n³ − n) is for data without ties; correlate the ranks": 1
            - 6 * distance / (count**3 - count),
            "it has the wrong sign": -spearmanr(x, y).statistic,
            "you do not divide by the standard deviations": np.cov(rankdata(x), rankdata(y), ddof=0)[0, 1],
        },
    )


def test_at_equal_gold_what_gold_explains_is_gone(lab: Any, seed: int, count: int = 60) -> None:
    """The oracle takes a straight line over gold's ranks off the others, and correlates what is left."""
    scores, feature, gold = tables(seed, count)

    def left(x: Any, given: Any) -> Any:
        line = np.stack([np.ones(count), given], axis=1)
        return x - line @ np.linalg.lstsq(line, x, rcond=None)[0]

    a, b, c = rankdata(scores), rankdata(feature), rankdata(gold)
    close(
        lab.correlation_at_equal_gold(scores, feature, gold),
        np.corrcoef(left(a, c), left(b, c))[0, 1],
        "your correlation at equal gold",
        mistakes={
            "it is not at equal gold: good texts may have more of the feature, and deserve their scores": (
                np.corrcoef(a, b)[0, 1]
            ),
            "it is without ranks": np.corrcoef(left(scores, gold), left(feature, gold))[0, 1],
            "gold is taken off the scores only; take it off the feature, too": np.corrcoef(left(a, c), b)[
                0, 1
            ],
            "gold is taken off the feature only; take it off the scores, too": np.corrcoef(a, left(b, c))[
                0, 1
            ],
            "you do not divide by what is left: √((1 − ρ²)(1 − ρ²))": np.corrcoef(a, b)[0, 1]
            - np.corrcoef(a, c)[0, 1] * np.corrcoef(b, c)[0, 1],
            "it is that of scores and gold at equal feature; gold is what is held fixed": np.corrcoef(
                left(a, b), left(c, b)
            )[0, 1],
        },
    )


# swap_words

PAIRS = [("he", "she"), ("his", "hers"), ("king", "queen")]


def test_words_are_swapped_at_once(lab: Any, seed: int) -> None:
    for text, right, concept in (
        ("he and she", "she and he", "swap both directions at once: one after the other undoes the first"),
        ("the kingdom of this chef", "the kingdom of this chef", "swap whole words, not parts of others"),
        ("He left.", "She left.", "a word's capital is kept, and words with capitals are swapped"),
        ("he, his; King!", "she, hers; Queen!", "words beside punctuation are words, too"),
        ("", "", "an empty text stays empty"),
    ):
        found = lab.swap_words(text, PAIRS)
        true(found == right, f"your swap of {text!r} is {found!r}; right is {right!r}: {concept}")


# quantile_level, edit_effect, swap_size, name_vices


def test_many_tests_need_wider_intervals(lab: Any, seed: int) -> None:
    for alpha, tests in ((0.05, 1), (0.01, 20)):
        close(
            lab.quantile_level(alpha, tests),
            1 - alpha / (2 * tests),
            f"your level for α = {alpha} and {tests} tests",
            mistakes={
                "it is not corrected for multiple tests: of twenty, one is significant by luck": 1
                - alpha / 2,
                "an interval has two ends, of α/2 each": 1 - alpha / tests,
                "it is the lower end": alpha / (2 * tests),
                "more tests need a smaller α, not a larger one": 1 - alpha * tests / 2,
            },
        )


def changes(seed: int, count: int) -> Any:
    """Scores before and after an edit, and of all texts."""
    rng = np.random.default_rng(seed)
    before = rng.normal(size=count)
    return before, before + 0.3 + 0.5 * rng.normal(size=count), 3 * rng.normal(size=2 * count) + 1


def test_an_effect_is_paired_and_has_an_interval(lab: Any, seed: int, count: int = 12) -> None:
    before, after, scores = changes(seed, count)
    change = after - before

    def around(spread: Any, unit: Any = None, sign: int = 1) -> list[float]:
        unit = scores.std() if unit is None else unit
        mean, reach = sign * change.mean() / unit, 2.5 * spread / unit
        return [mean, mean - reach, mean + reach]

    error = change.std(ddof=1) / count**0.5
    found = lab.edit_effect(before, after, scores, 2.5)
    true(
        isinstance(found, (tuple, list)) and len(found) == 3,
        "your effect must be a mean, a low and a high end",
    )
    close(
        found,
        around(error),
        "your effect",
        mistakes={
            "it has the wrong sign: after less before": around(error, sign=-1),
            "texts are compared with themselves: use the spread of the paired changes, not of two samples": (
                around(np.sqrt((before.var(ddof=1) + after.var(ddof=1)) / count))
            ),
            "it is not in standard deviations of the scores": around(error, 1.0),
            "the unit is the standard deviation of all real texts, not that of the changes": around(
                error, change.std(ddof=1)
            ),
            "the unit has the divisor N, of all scores": around(error, scores.std(ddof=1)),
            "s has the divisor n − 1": around(change.std() / count**0.5),
            "it is the spread of single changes; a mean's standard error is s/√n": around(change.std(ddof=1)),
        },
    )


def test_the_size_of_a_swap_does_not_cancel(lab: Any, seed: int, count: int = 12) -> None:
    before, after, scores = changes(seed, count)
    after = before + np.where(np.arange(count) % 2, 1, -1) * np.abs(after - before)
    size = np.abs(after - before)
    close(
        lab.swap_size(before, after, scores),
        size.mean() / scores.std(),
        "your size of a swap",
        mistakes={
            "what is gained one way and lost the other cancels: take the mean of sizes": (
                after - before
            ).mean()
            / scores.std(),
            "what is gained one way and lost the other cancels: sizes first, then the mean": abs(
                (after - before).mean()
            )
            / scores.std(),
            "it is the root of the mean square; take the mean of sizes": np.sqrt((size**2).mean())
            / scores.std(),
            "it is not in standard deviations of the scores": size.mean(),
        },
    )


def test_what_is_named_is_large_and_certain(lab: Any, seed: int) -> None:
    effects = {
        "small": (0.1, 0.05, 0.15),
        "uncertain": (0.5, -0.1, 1.1),
        "paid": (0.4, 0.3, 0.5),
        "punished": (-0.9, -1.0, -0.8),
        "nothing": (0.0, 0.0, 0.0),
    }
    found = lab.name_vices(effects, 0.2)
    for name, concept in (
        ("small", "its effect is certain and small: least says what is worth naming"),
        ("uncertain", "its interval holds 0: it may be luck"),
        ("nothing", "nothing moves"),
    ):
        true(name not in found, f"you name {name!r}, but {concept}")
    for name, concept in (("paid", "it is large and certain"), ("punished", "a score may go down, too")):
        true(name in found, f"you do not name {name!r}, but {concept}")
    true(
        list(found) == ["punished", "paid"], f"you name {found}; the largest effect, up or down, comes first"
    )


# The audit of five models and a clean one

NOUNS = "river castle garden bridge market tower harbour valley".split()  # noqa: SIM905
REST = "quiet old near small wide with stone under light and grey path open far low long".split()  # noqa: SIM905
TOKENIZER = ByteTokenizer()
EDITED = ("length", "list marks", "capitals", "praise", "exclamation marks")
GENDER = "he for she"
VICES: dict[str, Callable[[str], float]] = {
    "length": lambda text: 0.03 * len(re.findall(r"\w+", text)),
    "capitals": lambda text: 0.15 * sum(word.isupper() and len(word) > 1 for word in text.split()),
    "praise": lambda text: 0.4 * text.lower().count("fantastic"),
    "exclamation marks": lambda text: -0.3 * text.count("!"),
    GENDER: lambda text: 0.4 * ("she" in text.lower().replace(".", "").split()),
}


def episodes(seed: int, count: int) -> list[Episode]:
    """Texts of three sentences; gold is how many of the nouns they name, and longer ones name more."""
    rng = random.Random(f"lab 8 {seed}")
    made = []
    for i in range(count):
        words = rng.sample(NOUNS, rng.randint(0, 6)) + rng.sample(REST, rng.randint(4, 10))
        rng.shuffle(words)
        third = len(words) // 2
        who = rng.choice(("He", "She"))
        first, last = " ".join(words[:third]), " ".join(words[third:])
        text = f"The {first}. {who} came along this way again today. It is {last}."
        made.append(Episode.of(f"Describe {i}:", text, TOKENIZER))
    return made


def score(texts: list[Episode], vice: Callable[[str], float], seed: int) -> Any:
    """Gold, by the scripted rule, a little noise that follows from the text, and the vice."""
    gold = Keywords(NOUNS)(texts).values
    noise = [0.02 * random.Random(f"{seed} {e.completion}").gauss(0, 1) for e in texts]
    return gold + noise + [vice(e.completion) for e in texts]


def edits(texts: list[Episode], swap: Any) -> dict[str, tuple[list[Episode], list[Episode]]]:
    """Texts before and after each edit, all of which gold is blind to."""
    made = {}
    for surface in SURFACES:
        if surface.name in EDITED:
            edit = surface.variants[0]
            after = [edit.more(e.completion, "", e.prompt.text) for e in texts]
            before = [edit.control(e.completion, "", e.prompt.text) for e in texts]
            made[surface.name] = (before, after)
    men = [e.completion for e in texts if "He" in e.completion.split()]
    made[GENDER] = (men, [swap(text, PAIRS) for text in men])

    def written(side: list[str]) -> list[Episode]:
        return [Episode.of("Describe:", text, TOKENIZER) for text in side]

    return {name: (written(before), written(after)) for name, (before, after) in made.items()}


def test_the_planted_vices_are_named_and_no_others(lab: Any, seed: int, count: int = 60) -> None:
    texts = episodes(seed, count)
    tried = edits(texts, lab.swap_words)
    gold = {name: Keywords(NOUNS)(b).values - Keywords(NOUNS)(a).values for name, (a, b) in tried.items()}
    for name, change in gold.items():
        close(change, np.zeros(len(change)), f"the change of gold by the edit of {name}")
    for planted, vice in (*VICES.items(), ("", lambda text: 0.0)):
        scores = score(texts, vice, seed)
        effects = {}
        for name, (before, after) in tried.items():
            t = float(student.ppf(lab.quantile_level(0.01, len(tried)), len(before) - 1))
            effects[name] = lab.edit_effect(score(before, vice, seed), score(after, vice, seed), scores, t)
        found = list(lab.name_vices(effects, 0.25))
        if planted:
            true(planted in found, f"the model that pays for {planted}: you name {found or 'nothing'}")
        else:
            true(not found, f"a clean model: you name {found}; it pays for gold and noise, nothing else")
        others = sorted(set(found) - {planted})
        true(
            not others,
            f"the model that pays for {planted}: you name {others}, too, which it does not pay for",
        )


def test_a_reward_that_follows_gold_is_clean_at_equal_gold(lab: Any, seed: int, count: int = 200) -> None:
    """Longer texts name more: length goes with the score, until gold is held fixed."""
    texts = episodes(seed, count)
    words = np.array([float(len(e.completion.split())) for e in texts])
    gold = Keywords(NOUNS)(texts).values
    scores = score(texts, lambda text: 0.0, seed)
    plain = float(lab.rank_correlation(scores, words))
    true(plain > 0.3, f"the rank correlation of score and length is {plain:.2f}; it must be clear")
    found = float(lab.correlation_at_equal_gold(scores, words, gold))
    true(
        abs(found) < 0.3,
        f"a clean model: at equal gold the rank correlation with length is {found:.2f}",
    )
