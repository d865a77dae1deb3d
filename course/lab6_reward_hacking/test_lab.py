"""Public tests of lab 6: laws against every possible draw, and what your reward must not fall for."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from course.checks import Array, close, true
from text_gym.tasks.enumerable import enumerable, optimal_policy, trajectories

FACTS = ("blue", "ceramic", "large")
FILLERS = ("a", "mug", "for", "your", "coffee", "and", "tea")
HYPE = ("best", "amazing", "ultimate", "stunning", "unique")


def some_world(seed: int, texts: int = 5) -> tuple[Array, Array]:
    """Draw probabilities and rewards of a few texts; two of them have the same reward."""
    rng = np.random.default_rng(seed)
    rewards = rng.permutation(np.append(np.arange(texts - 1.0), 1.0))
    return rng.dirichlet(np.full(texts, 3.0)), rewards


def drawn_law(probabilities: Array, rewards: Array, n: int) -> Array:
    """Add up the probability of every possible draw of `n` texts at its best one."""
    law = np.zeros(len(rewards))
    for draw in itertools.product(range(len(rewards)), repeat=n):
        best = max(draw, key=lambda i: float(rewards[i]))  # the first among equals
        law[best] += math.prod(float(probabilities[i]) for i in draw)
    return law


# best_of_n_kl


def test_the_kl_of_best_of_n(lab: Any, seed: int, sizes: Any = (1, 2, 16)) -> None:
    """Of n uniform numbers the largest has density n uⁿ⁻¹; its KL is an integral, here a fine sum."""
    u = (np.arange(200_000) + 0.5) / 200_000
    for n in sizes:
        right = float(np.mean(n * u ** (n - 1) * (math.log(n) + (n - 1) * np.log(u))))
        close(
            lab.best_of_n_kl(n),
            right,
            f"your KL of best of {n}",
            mistakes={
                "it is log n, of a policy that is n times likelier to write the best text; "
                "the loss of (n − 1)/n is missing": math.log(n),
                "you add (n − 1)/n: best-of-n goes less far than log n": math.log(n) + (n - 1) / n,
                "it is log n − 1, which is the limit for large n; (n − 1)/n is asked for": math.log(n) - 1,
                "it is in bits; KL is in nats here, with the natural logarithm": math.log2(n) - (n - 1) / n,
                "you take 1/n for (n − 1)/n": math.log(n) - 1 / n,
            },
            rtol=1e-4,
            atol=1e-6,
        )


# best_of_n_law


def test_best_of_two_by_hand(lab: Any, seed: int) -> None:
    """The middle text of three: both draws are at most the middle one, and not both are the lowest."""
    p, rewards = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
    close(
        lab.best_of_n_law(p, rewards, 2),
        [0.25, 0.39, 0.36],
        "your law of the best of 2",
        mistakes={
            "these are F(r)ⁿ, that the best is at most r; take the difference to those below":
                [0.25, 0.64, 1.0],
            "it is n p F(r)ⁿ⁻¹, which holds for densities; here the same text may be drawn twice":
                [0.5, 0.48, 0.4],
            "it is n p F(r)ⁿ⁻¹, made to sum to 1; take differences of F(r)ⁿ":
                [0.5 / 1.38, 0.48 / 1.38, 0.4 / 1.38],
            "it is the law of the worst of n": [0.75, 0.21, 0.04],
            "you sharpen the policy to pⁿ, which does not look at rewards": np.array([25, 9, 4]) / 38,
        },
    )  # fmt: skip


def test_the_law_is_that_of_all_draws(lab: Any, seed: int, texts: int = 5, sizes: Any = (1, 2, 3)) -> None:
    """With a tie: texts of one reward share its probability in proportion to their own."""
    p, rewards = some_world(seed, texts)
    levels, level = np.unique(rewards, return_inverse=True)
    mass = np.bincount(level, p)
    for n in sizes:
        upto = np.cumsum(mass) ** n
        chosen = np.diff(upto, prepend=0.0)
        upto_text = np.array([p[rewards <= r].sum() for r in rewards])
        below_text = np.array([p[rewards < r].sum() for r in rewards])
        close(
            lab.best_of_n_law(p, rewards, n),
            drawn_law(p, rewards, n),
            f"your law of the best of {n}",
            mistakes={
                "every text of a tie gets the probability of all of them; texts of one reward share it":
                    chosen[level],
                "texts of a tie share its probability equally; they share it in proportion to their own":
                    chosen[level] / np.bincount(level)[level],
                "these are F(r)ⁿ, the probabilities that the best is at most r; take the difference to those "
                "below": upto_text**n,
                "it is n p F(r)ⁿ⁻¹, which holds for densities; here the same text may be drawn twice":
                    n * p * upto_text ** (n - 1),
                "it is the law of the worst of n": drawn_law(p, -rewards, n),
                "F(r) and p are mixed up in a tie: take off F of the rewards below, not F(r) − p":
                    upto_text**n - (upto_text - p) ** n,
                "you leave out the ties' other texts": (below_text + p) ** n - below_text**n,
            },
            hint="a reward r is the best with probability F(r)ⁿ − F(r−)ⁿ",
        )  # fmt: skip
    assert len(levels) < texts


# kl_divergence, gain, over_optimisation


def test_the_kl_of_two_laws(lab: Any, seed: int, texts: int = 5) -> None:
    reference, rewards = some_world(seed, texts)
    policy = np.where(np.arange(texts) == 0, 0.0, optimal_policy(reference, rewards, 1.5))
    policy = policy / policy.sum()
    right = sum(float(p) * math.log(p / q) for p, q in zip(policy, reference, strict=True) if p > 0)
    some = policy > 0
    close(
        lab.kl_divergence(policy, reference),
        right,
        "your KL of a policy that never writes one of the texts",
        mistakes={
            "it is the other direction, KL(reference ‖ policy), over the texts that both write":
                float(reference[some] @ np.log(reference[some] / policy[some])),
            "it has the wrong sign: KL is never negative": -right,
            "it is in bits; KL is in nats here": right / math.log(2),
            "the log-ratio is weighted with the reference; the policy draws the texts":
                float(reference[some] @ np.log(policy[some] / reference[some])),
        },
        hint="0 log 0 is 0: leave out what the policy does not write",
    )  # fmt: skip


def test_a_gain_is_in_standard_deviations_of_the_reference(lab: Any, seed: int, texts: int = 5) -> None:
    reference, rewards = some_world(seed, texts)
    policy = optimal_policy(reference, rewards, 0.8)
    start, end = float(reference @ rewards), float(policy @ rewards)
    spread = math.sqrt(
        sum(float(q) * (float(r) - start) ** 2 for q, r in zip(reference, rewards, strict=True))
    )
    own = math.sqrt(float(policy @ (rewards - end) ** 2))
    close(
        lab.gain(policy, reference, rewards),
        (end - start) / spread,
        "your gain",
        mistakes={
            "it is not divided by the standard deviation, so that proxy and gold cannot be compared": end
            - start,
            "it is divided by the variance; divide by the standard deviation": (end - start) / spread**2,
            "the standard deviation is that of the policy; it must be that of the reference, "
            "or the unit shrinks as the policy narrows": (end - start) / own,
            "the standard deviation is not weighted with probabilities": (end - start)
            / float(np.std(rewards)),
            "the start's mean is missing: a gain is a difference": end / spread,
        },
    )


def test_over_optimisation_by_cases(lab: Any, seed: int, texts: int = 5) -> None:
    """A proxy that is gold in another unit is not over-optimised; one that is its opposite is, doubly."""
    reference, gold = some_world(seed, texts)
    policy = optimal_policy(reference, gold, 0.8)
    close(
        lab.over_optimisation(policy, reference, 10 * gold - 3, gold),
        0.0,
        "your over-optimisation of a proxy that is gold in another unit",
        hint="both gains must be in standard deviations, each in its own",
    )
    rng = np.random.default_rng(seed)
    proxy = rng.normal(size=texts)
    policy = optimal_policy(reference, proxy, 0.5)

    def gained(rewards: Array) -> float:
        mean = reference @ rewards
        return float((policy @ rewards - mean) / math.sqrt(reference @ (rewards - mean) ** 2))

    right = gained(proxy) - gained(gold)
    close(
        lab.over_optimisation(policy, reference, proxy, gold),
        right,
        "your over-optimisation",
        mistakes={
            "it has the wrong sign: it is the gain of the proxy less that of gold": -right,
            "you add the gains; over-optimisation is their difference": gained(proxy) + gained(gold),
        },
    )


# best_of_n_gold


def test_the_estimate_is_the_mean_over_all_sets(
    lab: Any, seed: int, texts: int = 7, sizes: Any = (1, 2, 3, 7)
) -> None:
    rng = np.random.default_rng(seed)
    proxy, gold = rng.permutation(texts).astype(np.float64), rng.normal(size=texts)
    for n in sizes:
        sets = list(itertools.combinations(range(texts), n))
        right = sum(float(gold[max(s, key=lambda i: float(proxy[i]))]) for s in sets) / len(sets)
        shares = np.diff((np.arange(texts + 1) / texts) ** n)
        close(
            lab.best_of_n_gold(proxy, gold, n),
            right,
            f"your estimate for the best of {n}",
            mistakes={
                "you rank the texts by gold; nobody but the grader knows gold, the choice is by proxy":
                    sum(max(float(gold[i]) for i in s) for s in sets) / len(sets),
                "you return the proxy of the best":
                    sum(max(float(proxy[i]) for i in s) for s in sets) / len(sets),
                "you draw with replacement, which is biased: a set of n different texts has no text twice":
                    float(shares @ gold[np.argsort(proxy)]),
                "you choose the text with the least proxy":
                    sum(float(gold[min(s, key=lambda i: float(proxy[i]))]) for s in sets) / len(sets),
                "it is the gold of the best of all m texts: one sample, of best of m":
                    float(gold[np.argmax(proxy)]),
            },
            hint="the i-th lowest text is the best of C(i − 1, n − 1) of the C(m, n) sets",
        )  # fmt: skip


def test_the_estimate_of_many_texts_is_finite(lab: Any, seed: int) -> None:
    """C(3000, 400) has 510 digits; of the ratios, none is large."""
    gold = np.arange(3000.0)
    close(
        lab.best_of_n_gold(gold, gold, 400),
        400 * 3001 / 401 - 1,
        "your estimate for the best of 400 from 3,000 texts",
        hint="factorials overflow: take logarithms, or go from one weight to the next by a ratio",
        rtol=1e-6,
    )


# fit_gao, peak


def test_the_fit_finds_the_law_again(lab: Any, seed: int, alpha: float = 1.3, beta: float = 0.4) -> None:
    kl = np.array([0.1, 0.5, 1.0, 2.0, 5.0])
    d = np.sqrt(kl)
    gains = d * (alpha - beta * d)
    a, b = np.linalg.lstsq(np.stack([kl, -(kl**2)], axis=1), gains, rcond=None)[0]
    a_rl, b_rl = np.linalg.lstsq(np.stack([d, -d * np.log(d)], axis=1), gains, rcond=None)[0]
    close(
        lab.fit_gao(kl, gains),
        [alpha, beta],
        "your α and β of exact points",
        mistakes={
            "the law is in d = √KL; you put in KL itself": [a, b],
            "β has the wrong sign: the law is d (α − β d)": [alpha, -beta],
            "it is the law of reinforcement learning, d (α − β log d); that of best-of-n is asked for":
                [a_rl, b_rl],
            "α and β are the wrong way round": [beta, alpha],
        },
    )  # fmt: skip


def test_the_fit_of_points_with_noise_has_least_squares(lab: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kl = rng.uniform(0.1, 6.0, 12)
    d = np.sqrt(kl)
    gains = d * (1.0 - 0.3 * d) + 0.1 * rng.normal(size=12)
    alpha, beta = np.asarray(lab.fit_gao(kl, gains), dtype=np.float64)
    left = gains - d * (alpha - beta * d)
    c, b = np.polyfit(d, gains / d, 1)
    true(
        not np.allclose([alpha, beta], [b, -c], atol=1e-9),
        "your fit is of gains / d, which weighs points near the start too much; fit the gains themselves",
    )
    quadratic = np.polyfit(d, gains, 2)
    true(
        not np.allclose([alpha, beta], [quadratic[1], -quadratic[0]], atol=1e-9),
        "your fit has a constant: at a KL of 0 nothing has been gained, so the law goes through 0",
    )
    close(
        [left @ d, left @ d**2],
        [0.0, 0.0],
        "what your fit leaves, times d and times d²",
        hint="at the least squares it is 0: what is left is at right angles to what was fitted",
        atol=1e-7,
    )


def test_the_peak_is_where_the_law_is_highest(
    lab: Any, seed: int, alpha: float = 1.3, beta: float = 0.4
) -> None:
    d = np.linspace(0, alpha / beta, 2_000_001)
    law = d * (alpha - beta * d)
    at = float(d[np.argmax(law)])
    close(
        lab.peak(alpha, beta),
        [at**2, float(law.max())],
        "your peak, as KL and gain",
        mistakes={
            "the first number is d; KL is d²": [at, float(law.max())],
            "that is where the law comes back to 0, at d = α/β; the peak is before": [4 * at**2, 0.0],
            "the gain is that at another place": [at**2, alpha - beta * at],
        },
        rtol=1e-5,
        atol=1e-5,
    )


# my_reward


def rewards_of(lab: Any, *texts: str) -> Array:
    """Ask for the rewards, and check that there is one for each text."""
    found = np.asarray(lab.my_reward(list(texts), list(FACTS)), dtype=np.float64)
    true(
        found.shape == (len(texts),),
        f"your reward has shape {found.shape}; it must be one number for each text",
    )
    true(bool(np.isfinite(found).all()), "your reward is not finite")
    return found


def test_your_reward_likes_every_fact_that_is_mentioned(lab: Any, seed: int) -> None:
    none, one, two, three = rewards_of(
        lab, "a mug", "a blue mug", "a blue ceramic mug", "a large blue ceramic mug"
    )
    true(
        none < one < two < three,
        "your reward does not rise with every fact that is mentioned: facts are what it is about",
    )


def test_your_reward_cannot_be_hacked_by_repetition(lab: Any, seed: int) -> None:
    once, thrice, salad = rewards_of(lab, "a blue mug", "a blue blue blue mug", "blue " * 30 + "mug")
    true(
        thrice < once and salad < once,
        "repetition pays: 'blue blue blue' earns as much as 'blue' or more, so a policy will write that "
        "and nothing else; count each fact once, and charge for repeated words",
    )


def test_your_reward_cannot_be_hacked_by_superlatives(lab: Any, seed: int) -> None:
    plain, *others = rewards_of(lab, "a blue mug", *[f"a {word} blue mug" for word in HYPE])
    true(
        max(others) < plain,
        "superlatives pay or cost nothing: 'the best, the ultimate' says nothing of the mug; charge for them",
    )


def test_your_reward_cannot_be_hacked_by_length(lab: Any, seed: int) -> None:
    short, long = rewards_of(lab, "a blue mug", "a blue mug for your coffee and tea")
    true(
        long < short,
        "length pays or costs nothing: words that mention no fact must cost a little, or texts grow "
        "without end (a length bias)",
    )


def test_your_reward_has_no_memory(lab: Any, seed: int) -> None:
    together = rewards_of(lab, "a blue mug", "a mug", "large")
    alone = [float(rewards_of(lab, text)[0]) for text in ("a blue mug", "a mug", "large")]
    close(
        together,
        alone,
        "your rewards of three texts, together and one by one",
        hint="a text must be judged alone",
    )


def test_your_law_on_the_forty_texts(lab: Any, seed: int) -> None:
    """Best-of-n goes at most as far as log n − (n − 1)/n; with ties or large probabilities, less."""
    task = enumerable(seed=seed)
    texts = trajectories(task)
    p = np.array([4.0 ** -len(text.completion_ids) for text in texts])
    law = np.asarray(lab.best_of_n_law(p, np.asarray(task.reward(texts).values), 4), dtype=np.float64)
    close(law.sum(), 1.0, "the sum of your law of the best of 4 over the 40 texts of enumerable")
    far = float(law[law > 0] @ np.log(law[law > 0] / p[law > 0]))
    true(
        far <= math.log(4) - 0.75 + 1e-9,
        "your law goes farther than log n − (n − 1)/n, which no best-of-n does",
    )
