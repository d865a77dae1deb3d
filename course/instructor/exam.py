"""The numbers in the exam's solutions, computed by listing, drawing, climbing or differentiating.

A written solution uses a formula; the computation here does not, so that a slip in either one shows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import brentq, minimize
from scipy.special import expit
from scipy.stats import binom, binomtest
from scipy.stats import t as student

from course.instructor.answers import Floats, Numbers, bandit, grpo_weight


def q1() -> Numbers:
    """Texts over a, b and EOS (.) of at most three tokens: every string of three tokens, cut at its EOS."""
    texts = [
        text.split(".")[0] + "." * ("." in text) for text in map("".join, itertools.product("ab.", repeat=3))
    ]
    return {
        "texts": float(len(set(texts))),
        "cut": float(np.mean(["." not in text for text in texts])),
        "length": float(np.mean([len(text) for text in texts])),
    }


def q2() -> Numbers:
    """Values from ten texts in proportion to their probabilities: EOS five times, a and EOS once, aa four."""
    drawn = [("", 0.2)] * 5 + [("a", 1.0)] * 1 + [("a", 0.5)] * 4
    after_a = float(np.mean([reward for state, reward in drawn if state == "a"]))
    start = float(np.mean([reward for _, reward in drawn]))
    return {"after_a": after_a, "start": start, "advantage": after_a - start}


def q3() -> Numbers:
    """The log-probability of "a." after the prompt x, read one place before each token and at the token."""
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)], [0.0, 0.0]]).double()  # at x, at a, at EOS
    said = torch.distributions.Categorical(logits=logits)
    before = said.log_prob(torch.tensor([0, 1, 0]))[:2].sum()
    at = said.log_prob(torch.tensor([0, 0, 1]))[1:].sum()
    return {"right": float(before), "wrong": float(at)}


def q4() -> Numbers:
    """Logits 2, 1, 0 at temperature ½ and at 1: probabilities by the limit of repeated Boltzmann counts."""
    cold, warm = np.exp([4.0, 2.0, 0.0]), np.exp([2.0, 1.0, 0.0])
    cold, warm = cold / cold.sum(), warm / warm.sum()
    return {"top": float(cold[0]), "top_at_1": float(warm[0]), "kl": float(cold @ np.log(cold / warm))}


def q5() -> Numbers:
    """The estimator's variance at all baselines, for a policy of three texts: its vertex, found by search."""
    p, returns = np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.0, 2.0])
    found = minimize(lambda b: _variance(p, returns, b[0]), [0.0], tol=1e-12)
    return {"best": float(found.x[0]), "mean": float(p @ returns)}


def _variance(p: Floats, returns: Floats, b: float) -> float:
    samples = (returns - b)[:, None] * (np.eye(len(p)) - p)
    return float(p @ ((samples - p @ samples) ** 2).sum(1))


def q6() -> Numbers:
    """Two texts of probabilities ¾ and ¼ and returns 1 and 0."""
    p, returns = np.array([0.75, 0.25]), np.array([1.0, 0.0])
    logits = torch.tensor(np.log(p), requires_grad=True)
    (slope,) = torch.autograd.grad(torch.softmax(logits, 0)[0], logits)
    return {
        "gradient": float(slope[0]),
        "no_baseline": _variance(p, returns, 0.0),
        "mean_baseline": _variance(p, returns, 0.75),
        "best_baseline": _variance(p, returns, 0.25),
    }


def q7() -> Numbers:
    """Gradients of three losses on a batch of two texts, of 2 and of 8 tokens, weights 1."""
    mask = torch.arange(8) < torch.tensor([[2], [8]])
    log_probs = torch.zeros(2, 8, requires_grad=True)
    losses = [
        -(log_probs * mask).sum() / 2,
        -(log_probs * mask).sum() / mask.sum(),
        -((log_probs * mask).sum(1) / mask.sum(1)).mean(),
    ]
    right, per_token, own = (torch.autograd.grad(loss, log_probs)[0] for loss in losses)
    return {
        "factor": float(right[0, 0] / per_token[0, 0]),
        "short": float(own[0, 0] / right[0, 0]),
        "long": float(own[1, 0] / right[1, 0]),
    }


def q8() -> Numbers:
    """Texts that a batch without a baseline needs for the spread that 64 have with the best one."""
    p, returns = bandit()
    lowest = minimize(lambda b: _variance(p, returns, b[0]), [0.5], tol=1e-10).fun
    return {"ratio": _variance(p, returns, 0.0) / lowest, "texts": 64 * _variance(p, returns, 0.0) / lowest}


def q9() -> Numbers:
    """Climb the return less β KL from the reference, β = ½, over three texts."""
    reference, returns = np.array([0.5, 0.25, 0.25]), np.array([0.0, 1.0, 1.0])

    def parts(logits: Floats) -> tuple[Floats, float, float]:
        p = np.exp(logits) / np.exp(logits).sum()
        return p, float(p @ returns), float(p @ np.log(p / reference))

    def loss(logits: Floats) -> float:
        _, reached, kl = parts(logits)
        return kl / 2 - reached

    p, reached, kl = parts(minimize(loss, np.zeros(3), tol=1e-12).x)
    return {"first": float(p[0]), "second": float(p[1]), "kl": kl, "objective": reached - kl / 2}


def q11() -> Numbers:
    """GAE as the mixture of all n-step advantages, weights (1 − λ) λⁿ⁻¹, the last takes the rest."""
    rewards, values, lam = [0.0, 0.0, 1.0], [0.5, 0.6, 0.9, 0.0], 0.9
    found = {}
    for t in range(3):
        steps = [sum(rewards[t : t + n]) + values[t + n] - values[t] for n in range(1, 4 - t)]
        weights = [(1 - lam) * lam**n for n in range(len(steps) - 1)] + [lam ** (len(steps) - 1)]
        found[f"a{t + 1}"] = float(np.dot(weights, steps))
    return found


def q12() -> Numbers:
    """Advantages of a text of three tokens, λ = γ = 1, if a 0.8 on the padding is taken for a value."""
    rewards, values = np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.6, 0.9])
    wrong = [rewards[t:].sum() + 0.8 - values[t] for t in range(3)]
    right = [rewards[t:].sum() - values[t] for t in range(3)]
    return {f"more_{t + 1}": float(wrong[t] - right[t]) for t in range(3)}


def q13() -> Numbers:
    """Gradients of PPO's objective by log π at four ratios and signs, ε = 0.2."""
    found = {}
    for name, ratio, advantage in (("a", 1.3, 1.0), ("b", 0.7, 1.0), ("c", 1.3, -1.0), ("d", 0.7, -1.0)):

        def gain(log_ratio: float, sign: float = advantage) -> float:
            rho = math.exp(log_ratio)
            return min(rho * sign, min(max(rho, 0.8), 1.2) * sign)

        x, step = math.log(ratio), 1e-6
        found[name] = (gain(x + step) - gain(x - step)) / (2 * step)
    return found


def q14() -> Numbers:
    """A beat B three times of four, B beat C twice of three: the likeliest rewards, by search."""

    def surprise(x: Floats) -> float:
        a, b, c = x[0], 0.0, x[1]
        pairs = [(a, b, 3), (b, a, 1), (b, c, 2), (c, b, 1)]
        return float(sum(n * np.logaddexp(0, s - r) for r, s, n in pairs))

    a, c = minimize(surprise, [0.0, 0.0], tol=1e-12).x
    return {"a_over_c": float(expit(a - c)), "a_less_b": float(a)}


def q15() -> Numbers:
    """Wilson's interval of ten of ten, and the share at which none of ten has 5 % probability."""
    ten = binomtest(10, 10).proportion_ci(0.95, method="wilson")
    return {"low": ten.low, "rule_of_three": 1 - 0.05 ** (1 / 10)}


def q16() -> Numbers:
    """A reliability table of 100 cases, written out case by case, and the temperature that mends it."""
    cases = [
        (f, o) for f, n, k in ((0.1, 40, 12), (0.5, 20, 10), (0.9, 40, 28)) for o in [1] * k + [0] * (n - k)
    ]
    gap = 0.0
    for forecast in (0.1, 0.5, 0.9):
        inside = [o for f, o in cases if f == forecast]
        gap += len(inside) / len(cases) * abs(forecast - sum(inside) / len(inside))

    def loss(t: float) -> float:
        return float(np.mean([np.logaddexp(0, -(2 * o - 1) * math.log(f / (1 - f)) / t) for f, o in cases]))

    best = minimize(lambda x: loss(x[0]), [1.0], tol=1e-10, method="Nelder-Mead").x[0]
    return {"error": float(gap), "temperature": float(best)}


def q17() -> Numbers:
    """The mean surprise of margins 0 and 2, and the surprise at the mean probability."""
    p = [1 / (1 + math.exp(-m)) for m in (0.0, 2.0)]
    return {"right": -math.log(p[0] * p[1]) / 2, "wrong": -math.log(sum(p) / 2)}


def q18() -> Numbers:
    """α of four texts by two raters, by Krippendorff's definition over all pairs of marks."""
    texts = [(0, 0), (0, 0), (1, 1), (0, 1)]
    marks = [m for text in texts for m in text]
    by_chance = float(np.mean([a != b for a, b in itertools.permutations(marks, 2)]))
    seen = float(np.mean([a != b for a, b in texts]))
    return {"seen": seen, "chance": by_chance, "alpha": 1 - seen / by_chance}


def q19() -> Numbers:
    """Two raters who share one text of three: least squares by descent."""
    marks = [(0, 0, 4), (0, 1, 2), (1, 1, 3), (1, 2, 1)]  # rater, text, mark

    def rest(x: Floats) -> float:
        shifts = (x[3], -x[3])
        return float(sum((mark - x[text] - shifts[rater]) ** 2 for rater, text, mark in marks))

    x = minimize(rest, np.zeros(4), tol=1e-14).x
    return {"first": float(x[0]), "second": float(x[1]), "third": float(x[2]), "shift_a": float(x[3])}


def q20() -> Numbers:
    """Five raters of whom one pays 0.5 for ten words: coefficients against the mean of the others."""
    rng = np.random.default_rng(0)
    quality, words = rng.normal(3, 1, 200), rng.uniform(0, 3, 200)  # in tens of words
    marks = [quality + (0.5 * words if rater == 0 else 0.0) for rater in range(5)]
    found = {}
    for rater, name in ((0, "payer"), (1, "honest")):
        others = np.mean([marks[r] for r in range(5) if r != rater], axis=0)
        design = np.stack([np.ones(200), others, words], axis=1)
        found[name] = float(np.linalg.lstsq(design, marks[rater], rcond=None)[0][2])
    return found


def q21() -> Numbers:
    """The best of two draws of three texts, two of which tie, by all nine draws; the first among equals."""
    p, returns = [0.5, 0.3, 0.2], [0.0, 1.0, 1.0]
    law = [0.0, 0.0, 0.0]
    for first, second in itertools.product(range(3), repeat=2):
        law[second if returns[second] > returns[first] else first] += p[first] * p[second]
    kl = sum(q * math.log(q / r) for q, r in zip(law, p, strict=True))
    return {"first": law[0], "second": law[1], "third": law[2], "kl": kl, "bound": math.log(2) - 0.5}


def q22() -> Numbers:
    """Gold and noise of equal variance: what best of 16 gains, drawn 100,000 times."""
    rng = np.random.default_rng(0)
    gold, noise = rng.normal(size=(2, 100_000, 16))
    proxy = gold + noise
    rows, best = np.arange(len(gold)), proxy.argmax(1)
    return {
        "proxy": float(proxy[rows, best].mean() / math.sqrt(2)),
        "gold": float(gold[rows, best].mean()),
        "maximum": float(gold.max(1).mean()),
    }


def q23() -> Numbers:
    """Gao's law with α = 1.21 and β = 0.87 on a fine grid of nats."""
    kl = np.linspace(0, 4, 400_001)
    gain = 1.21 * np.sqrt(kl) - 0.87 * kl
    top = int(gain.argmax())
    back = float(brentq(lambda k: 1.21 * math.sqrt(k) - 0.87 * k, 1.0, 4.0))
    sizes = np.arange(1, 100)
    reached = np.log(sizes) - (sizes - 1) / sizes
    return {
        "peak": float(kl[top]),
        "gain": float(gain[top]),
        "zero": back,
        "n_peak": float(sizes[np.abs(reached - kl[top]).argmin()]),
        "n_zero": float(sizes[np.abs(reached - back).argmin()]),
    }


def q24() -> Numbers:
    """Three texts, gold 1, 0, 0 from the least proxy up: pairs without and with replacement."""
    gold = [1.0, 0.0, 0.0]
    without = [gold[max(pair)] for pair in itertools.combinations(range(3), 2)]
    again = [gold[max(pair)] for pair in itertools.product(range(3), repeat=2)]
    return {"right": float(np.mean(without)), "wrong": float(np.mean(again))}


def q25() -> Numbers:
    """Win rates of a noisy text and two certain ones under the policy that draws each alike."""
    texts = {"a": [(0.4, 1.0), (0.6, 0.0)], "b": [(1.0, 0.3)], "c": [(1.0, 0.2)]}
    found = {}
    for name, own in texts.items():
        rivals = [(p / 3, r) for rival in texts.values() for p, r in rival]
        found[name] = sum(
            p * q * ((r > s) + 0.5 * (r == s)) for (p, r), (q, s) in itertools.product(own, rivals)
        )
    return found


def q26() -> Numbers:
    """GRPO's weight of ∇p in groups of four, by all results of a group."""
    return {"half": grpo_weight(4, 0.5), "tenth": grpo_weight(4, 0.1)}


def q27() -> Numbers:
    """What the divisor k − 1 in the standard deviation does to every advantage."""
    rng = np.random.default_rng(0)
    found = {}
    for k in (2, 8):
        group = torch.from_numpy(rng.normal(size=k))
        found[f"k{k}"] = float(group.std(correction=0) / group.std())
    return found


def q28() -> Numbers:
    """The least DPO loss on all pairs of two texts, one preferred three times of four, β = ½, by search."""

    def loss(log_odds: float) -> float:
        margin = 0.5 * log_odds  # the reference gives both the same
        return 0.75 * math.log1p(math.exp(-margin)) + 0.25 * math.log1p(math.exp(margin))

    best = minimize(lambda x: loss(x[0]), [0.0], tol=1e-12).x[0]
    return {"p": float(expit(best)), "ratio": math.exp(best)}


def q29() -> Numbers:
    """A correlation at equal gold, on 1,000 cases that were made to have the three correlations."""
    wanted = np.array([[1, 0.6, 0.8], [0.6, 1, 0.7], [0.8, 0.7, 1]])  # score, feature, gold
    raw = np.random.default_rng(0).normal(size=(1000, 3))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / 1000)).T
    score, feature, gold = (white @ np.linalg.cholesky(wanted).T).T
    left = [x - (x @ gold) / (gold @ gold) * gold for x in (score, feature)]
    return {"partial": float(np.corrcoef(*left)[0, 1])}


def q30() -> Numbers:
    """Twenty tests: at least one false alarm at 0.05 each, and at Bonferroni's level."""
    return {"plain": float(binom.sf(0, 20, 0.05)), "bonferroni": float(binom.sf(0, 20, 0.05 / 20))}


def q31() -> Numbers:
    """The interval of a mean change of 0.6 with spread 0.5 on 100 texts, six edits, α = 0.01."""
    reach = student.ppf(1 - 0.01 / 6 / 2, 99) * 0.5 / math.sqrt(100)
    return {"low": float(0.6 - reach), "high": float(0.6 + reach)}


def q32() -> Numbers:
    """Words that `.replace("he", "she")` changes though they are not "he"."""
    words = ["The", "chef", "said", "he", "was", "there"]
    changed = [word for word in words if word.replace("he", "she") != word]
    return {"changed": float(len(changed)), "meant": float(changed.count("he"))}


def q33() -> Numbers:
    """A run's report: gains of proxy and gold in standard deviations."""
    before, after, spread = (
        {"proxy": 1.0, "gold": 0.6},
        {"proxy": 2.4, "gold": 0.55},
        {"proxy": 0.5, "gold": 0.1},
    )
    gains = {name: (after[name] - before[name]) / spread[name] for name in before}
    return {**gains, "over": gains["proxy"] - gains["gold"]}


EXAM: dict[str, Callable[[], Numbers]] = {
    f"q{n}": globals()[f"q{n}"] for n in range(1, 40) if f"q{n}" in globals()
}
