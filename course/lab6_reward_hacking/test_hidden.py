"""Hidden tests of lab 6: the laws of the public ones with other numbers, and your reward under pressure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from course.checks import close, true
from course.lab6_reward_hacking import test_lab as public
from course.worlds import world
from text_gym.tasks.enumerable import best_of_n_law, kl_divergence

OTHER_FACTS = ("wool", "red", "warm", "washable")


def gold(text: str) -> float:
    """What nobody but the grader sees: facts, each once, in few words, without superlatives."""
    words = text.split()
    said = sum(fact in words for fact in OTHER_FACTS) / len(OTHER_FACTS)
    repeated = sum(words.count(word) - 1 for word in set(words))
    hype = sum(words.count(word) for word in public.HYPE)
    return said - 0.15 * repeated - 0.2 * hype - 0.02 * max(0, len(words) - 8)


def advertisements(seed: int, count: int) -> list[str]:
    """What a careless policy writes: words of all kinds, in texts of 1 to 24."""
    rng = np.random.default_rng(seed)
    words = (*OTHER_FACTS, "a", "scarf", "for", "cold", "days", "and", "nights", *public.HYPE)
    lengths = np.minimum(1 + rng.geometric(0.12, count), 24)
    return [" ".join(rng.choice(words, length)) for length in lengths]


def test_the_kl_of_other_sizes(lab: Any, seed: int) -> None:
    public.test_the_kl_of_best_of_n(lab, seed, (3, 7, 64))
    close(lab.best_of_n_kl(404), math.log(404) - 403 / 404, "your KL of best of 404, about 5 nats")


def test_the_law_of_other_worlds(lab: Any, seed: int) -> None:
    public.test_best_of_two_by_hand(lab, seed)
    public.test_the_law_is_that_of_all_draws(lab, seed + 1, 4, (1, 2, 5))
    public.test_your_law_on_the_forty_texts(lab, seed + 1)


def test_the_law_and_its_kl_on_a_world_of_tokens(lab: Any, seed: int) -> None:
    """Against the package's own."""
    w = world(seed, "ab", 4)
    p, rewards = w.probabilities.numpy(), w.returns.numpy()
    for n in (2, 10, 100):
        right = best_of_n_law(p, rewards, n)
        close(
            lab.best_of_n_law(p, rewards, n),
            right,
            f"your law of the best of {n}, which takes differences of F(r)ⁿ",
        )
        close(lab.kl_divergence(right, p), kl_divergence(right, p), "your KL, policy ‖ reference")


def test_kl_gain_and_over_optimisation_on_other_worlds(lab: Any, seed: int) -> None:
    public.test_the_kl_of_two_laws(lab, seed + 2, 8)
    public.test_a_gain_is_in_standard_deviations_of_the_reference(lab, seed + 2, 8)
    public.test_over_optimisation_by_cases(lab, seed + 2, 8)


def test_a_reward_that_is_shifted_and_stretched_has_the_same_gain(lab: Any, seed: int) -> None:
    p, rewards = public.some_world(seed + 5, 6)
    law = best_of_n_law(p, rewards, 3)
    close(
        lab.gain(law, p, 5 * rewards + 2),
        lab.gain(law, p, rewards),
        "your gain of a reward in another unit",
        hint="a gain in standard deviations does not depend on the unit",
    )


def test_the_estimate_of_other_texts(lab: Any, seed: int) -> None:
    public.test_the_estimate_is_the_mean_over_all_sets(lab, seed + 3, 9, (1, 4, 8))
    public.test_the_estimate_of_many_texts_is_finite(lab, seed)


def test_fit_and_peak_of_other_laws(lab: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    alpha, beta = float(rng.uniform(0.5, 2.0)), float(rng.uniform(0.1, 0.45))
    public.test_the_fit_finds_the_law_again(lab, seed, alpha, beta)
    public.test_the_peak_is_where_the_law_is_highest(lab, seed, alpha, beta)
    public.test_the_fit_of_points_with_noise_has_least_squares(lab, seed + 1)


def test_your_reward_on_the_public_cases(lab: Any, seed: int) -> None:
    public.test_your_reward_likes_every_fact_that_is_mentioned(lab, seed)
    public.test_your_reward_cannot_be_hacked_by_repetition(lab, seed)
    public.test_your_reward_cannot_be_hacked_by_superlatives(lab, seed)
    public.test_your_reward_cannot_be_hacked_by_length(lab, seed)
    public.test_your_reward_has_no_memory(lab, seed)


def test_your_reward_at_five_nats(lab: Any, seed: int) -> None:
    """Best of 404 by your reward: at least four fifths of the gold that choosing by gold gains."""
    texts = advertisements(seed, 4000)
    golden = np.array([gold(text) for text in texts])
    found = np.asarray(lab.my_reward(texts, list(OTHER_FACTS)), dtype=np.float64)
    true(found.shape == (4000,), f"your reward has shape {found.shape}; it must be one number for each text")
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(texts), (300, 404))
    rows = np.arange(300)
    mine = golden[draws[rows, found[draws].argmax(1)]].mean() - golden.mean()
    most = golden[draws].max(1).mean() - golden.mean()
    worst = texts[int(found.argmax())]
    true(
        mine >= 0.8 * most,
        f"at 5 nats (best of 404) the texts that your reward likes best gain {mine:.2f} of gold, and "
        f"{most:.2f} can be had: the reward was hacked. The text that it likes best of all: {worst!r}",
    )
