"""The numbers in the model answers of the labs, each computed from what it means.

Nothing here calls a lab's solution: expectations are sums over everything that can be written, optima are
sought, gradients come from autograd. `course.instructor.check` holds the written answers against them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import expit, logit
from scipy.stats import binomtest

from course.lab5_people.test_lab import TWO
from course.labs import every_lab
from course.make import flat, solution
from course.worlds import World, world
from text_gym.tasks.enumerable import enumerable, trajectories

Numbers = dict[str, float]
Floats = npt.NDArray[np.float64]


def lab1() -> Numbers:
    """Texts as episodes: the table of `enumerable`, EOS left out, another temperature, Bellman."""
    task = enumerable()
    texts = ["".join("abc."[token] for token in text.completion_ids) for text in trajectories(task)]
    reward = dict(zip(texts, task.reward(trajectories(task)).values, strict=True))
    best = {start: max("abc.", key=lambda token: reward[start + token]) for start in ("ab", "cb")}
    without_eos = sum(0.25 ** len(text.replace(".", "")) for text in texts)
    w = world(0)
    drawn = text_log_probs(w, w.logits.detach() / 0.7, places(w))
    kl = float((drawn.exp() * (drawn - w.text_log_probs.detach())).sum())
    values = {s: _mean_from(reward, s) for s in {t[:n] for t in texts for n in range(len(t))}}
    bellman = max(
        abs(v - sum(values.get(s + a, reward.get(s + a, 0.0)) for a in "abc.") / 4) for s, v in values.items()
    )
    return {
        "after_ab": float(best["ab"] == "b") * reward["abb"],
        "after_cb": float(best["cb"] == "c") * reward["cbc"],
        "abc": reward["abc"],
        "cbb": reward["cbb"],
        "without_eos": without_eos,
        "temperature_kl": kl,
        "bellman": bellman,
        "random": values[""],
    }


def _mean_from(reward: dict[str, float], start: str) -> float:
    some = {t: 0.25 ** len(t) for t in reward if t.startswith(start)}
    return sum(p * reward[t] for t, p in some.items()) / sum(some.values())


def places(w: World) -> tuple[torch.Tensor, torch.Tensor]:
    """The state and the token, each `(N, T)`, of every place in every text; gradients tell."""
    states, tokens = (
        torch.zeros(w.mask.shape, dtype=torch.int64),
        torch.zeros(w.mask.shape, dtype=torch.int64),
    )
    for i, t in w.mask.nonzero().tolist():
        (slope,) = torch.autograd.grad(w.log_probs[i, t], w.logits, retain_graph=True)
        states[i, t] = slope.abs().sum(1).argmax()
        tokens[i, t] = slope[states[i, t]].argmax()  # 1 − p at the token, −p elsewhere
    return states, tokens


def text_log_probs(w: World, logits: torch.Tensor, where: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Log-probabilities of a world's texts, `(N,)`, under other logits."""
    return torch.where(w.mask, torch.log_softmax(logits, 1)[where], 0.0).sum(1)


def lab2() -> Numbers:
    """The batch's mean as a baseline, raised rewards, and division by length."""
    w = world(2, "ab", 2)
    p, scores = w.probabilities, w.scores
    found = {}
    for size in (2, 3):
        total = torch.zeros_like(w.policy_gradient)
        for batch in itertools.product(range(len(p)), repeat=size):
            drawn = list(batch)
            weights = w.returns[drawn] - w.returns[drawn].mean()
            total += p[drawn].prod() * (weights[:, None] * scores[drawn]).mean(0)
        found[f"own_mean_{size}"] = float(total @ w.policy_gradient / w.policy_gradient.square().sum())
    q, returns = (torch.from_numpy(x) for x in bandit())
    for name, raised in (("variance", 0.0), ("variance_raised_2", 2.0), ("variance_raised_10", 10.0)):
        found[name] = _bandit_variance(q, returns + raised)
    found["variance_best"] = float(minimize_scalar(lambda b: _bandit_variance(q, returns - b)).fun)
    found["raised_ratio"] = found["variance_raised_2"] / found["variance_best"]
    found["best_share"] = float(found["variance_best"] / _bandit_variance(q, returns - float(q @ returns)))
    found |= _divided_by_length()
    return found


def bandit() -> tuple[Floats, Floats]:
    """The texts of `enumerable` as one choice: the random policy's probabilities, `(40,)`, and returns."""
    task = enumerable()
    texts = trajectories(task)
    return np.array([0.25 ** len(t.completion_ids) for t in texts]), np.asarray(task.reward(texts).values)


def _bandit_variance(p: torch.Tensor, weights: torch.Tensor) -> float:
    """The trace of the covariance of w(y) ∇ log p(y) by the logits of the texts, y drawn from p."""
    samples = weights[:, None] * (torch.eye(len(p), dtype=p.dtype) - p)
    covariance = torch.cov(samples.T, correction=0, aweights=p)
    return float(covariance.trace())


def _divided_by_length() -> Numbers:
    """Climb E[R/T] with R = 1 on a world of texts of one to three tokens: the mean length at the top."""
    w = world(0)
    lengths = w.mask.sum(1)
    where = places(w)

    def loss(flat_logits: Floats) -> tuple[float, Floats]:
        logits = torch.from_numpy(flat_logits.reshape(w.logits.shape)).requires_grad_()
        earned = (text_log_probs(w, logits, where).exp() / lengths).sum()
        (slope,) = torch.autograd.grad(-earned, logits)
        return -float(earned.detach()), slope.numpy().ravel()

    top = minimize(loss, w.logits.detach().numpy().ravel(), jac=True, method="L-BFGS-B").x
    ended = text_log_probs(w, torch.from_numpy(top.reshape(w.logits.shape)), where).exp()
    return {
        "length_before": float(w.probabilities @ lengths.double()),
        "length_after": float(ended @ lengths.double()),
    }


def lab3() -> Numbers:
    """Gradients of the estimators, the optimum's worth, wrong critics, and the spread of k1 and k3."""
    w = world(3)
    p, log_probs = w.probabilities, w.text_log_probs
    reference = torch.log_softmax(torch.randn(len(p), generator=torch.Generator().manual_seed(1)).double(), 0)
    log_r = reference - log_probs
    losses = {"k1": -log_r, "k2": log_r**2 / 2, "k3": log_r.exp() - 1 - log_r}
    slopes = {name: w.slope_of((p * loss).sum()) for name, loss in losses.items()}
    kl = w.slope_of((log_probs.exp() * (log_probs - reference)).sum())
    reverse = w.slope_of((reference.exp() * (reference - log_probs)).sum())
    found = {
        "k1_slope": float(slopes["k1"].norm()),
        "k2_error": float((slopes["k2"] - kl).norm()),
        "k3_error": float((slopes["k3"] - reverse).norm()),
    }
    start = world(0)
    for beta in (5.0, 0.1):
        base, returns = start.probabilities, start.returns
        best = base * (returns / beta).exp()
        best = best / best.sum()
        k1 = (best / base).log()
        k3 = base / best - 1 + k1
        spread = [float((best @ (k - best @ k) ** 2).sqrt()) for k in (k1, k3)]
        found |= {f"sd_k1_{beta:g}": spread[0], f"sd_k3_{beta:g}": spread[1]}
    at = 0.1
    found["worth"] = float(best @ returns - at * (best @ (best / base).log()))
    found["beta_log_z"] = at * math.log(float(base @ (returns / at).exp()))
    for lam in (1.0, 0.5):
        found[f"wrong_critic_{lam:g}"] = _slope_of_a_wrong_critic(w, lam)
    return found


def _slope_of_a_wrong_critic(w: World, lam: float) -> float:
    """How far the expected gradient moves, relatively, if a critic of 0 says 1 everywhere instead; γ = 1."""
    slopes = []
    for value in (0.0, 1.0):
        loss = w.log_probs.new_zeros(())
        for i, length in enumerate(w.mask.sum(1).tolist()):
            for t in range(length):
                rewards = [0.0] * (length - 1) + [float(w.returns[i])]
                after = [value] * (length - 1) + [0.0]
                advantage = sum(lam ** (s - t) * (rewards[s] + after[s] - value) for s in range(t, length))
                loss = loss + w.probabilities[i] * advantage * w.log_probs[i, t]
        slopes.append(w.slope_of(loss))
    return float((slopes[1] - slopes[0]).norm() / slopes[0].norm())


def lab3_swings() -> Numbers:
    """The spread of the KL over the last 50 iterations of the pictures' PPO, the rate falling or constant."""
    lab = next(lab for lab in every_lab() if lab.name.startswith("lab3"))
    cells = lab.read("pictures.py").split("# %%\nBETAS")[0]
    functions = flat(solution(lab.read("lab.py"))).replace("from __future__ import annotations\n", "")
    head, tail = cells.split("from course.lab3_ppo_and_kl.lab import (")
    source = head + functions + tail.split(")\n", 1)[1]
    falling = "= 0.1 * (1 - iteration / ITERATIONS)"
    assert source.count(falling) == 1
    found = {}
    for name, text in (("falling", source), ("constant", source.replace(falling, "= 0.1"))):
        space: dict[str, Callable[..., tuple[torch.Tensor, list[float]]]] = {}
        exec(compile(text, "pictures.py", "exec"), space)
        for beta in (1.0, 0.05):
            found[f"{name}_{beta:g}"] = float(np.std(space["learn"](beta)[1][-50:]))
    return found


def lab4() -> Numbers:
    """A text that never loses, a mixture of raters, rewards times three, and intervals of shares."""

    def fitted(scale: float) -> float:
        """Two texts, ten wins to none, a normal prior of that standard deviation on their difference."""
        return float(minimize(lambda d: 10 * np.logaddexp(0, -d[0]) + d[0] ** 2 / (2 * scale**2), [0.0]).x[0])

    def mixed(first: int, second: int) -> float:
        """Half of the raters pay 2 a word, the others −1."""
        return float((expit(2 * (first - second)) + expit(-(first - second))) / 2)

    interval = binomtest(240, 300).proportion_ci(0.95, method="wilson")
    # A calibrated model: margins are normal, and what it forecasts comes true as often.
    margins = np.linspace(-6, 6, 4001)
    density = np.exp(-(margins**2) / 4)
    gap = np.abs(expit(3 * margins) - expit(margins)) @ density / density.sum()
    return {
        "never_lost_1": fitted(1.0),
        "never_lost_10": fitted(10.0),
        "mixed_10": mixed(1, 0),
        "mixed_21": mixed(2, 1),
        "mixed_20": mixed(2, 0),
        "would_be_20": float(expit(logit(mixed(1, 0)) + logit(mixed(2, 1)))),
        "tripled_gap": float(gap),
        "low": interval.low,
        "high": interval.high,
        "few_pairs": binomtest(6, 6).pvalue,
        "many_pairs": binomtest(23, 40).pvalue,
    }


def lab5() -> Numbers:
    """α of the ten texts and of raters with shifts, by all pairs of marks."""
    two = [(int(a), int(b)) for a, b in TWO.T]
    marks = [mark for pair in two for mark in pair]
    agree = sum(a == b for a, b in itertools.permutations(marks, 2)) / (len(marks) * (len(marks) - 1))
    shifted = [(1, 3), (2, 4), (3, 5)] * 4
    return {
        "agreement": sum(a == b for a, b in two) / len(two),
        "zeros": float(marks.count(0)),
        "chance": agree,
        "alpha": _alpha(two, lambda a, b: float(a != b)),
        "shifted_interval": _alpha(shifted, lambda a, b: float((a - b) ** 2)),
        "shifted_ordinal": _alpha(shifted, _ordinal([m for pair in shifted for m in pair])),
    }


def _alpha(pairs: list[tuple[int, int]], distance: Callable[[int, int], float]) -> float:
    """Krippendorff's α of two raters without gaps: mean distance within texts by that of any two marks."""
    marks = [mark for pair in pairs for mark in pair]
    seen = sum(distance(a, b) for a, b in pairs) / len(pairs)
    anybody = [distance(a, b) for a, b in itertools.combinations(marks, 2)]
    return 1 - seen / (sum(anybody) / len(anybody))


def _ordinal(marks: list[int]) -> Callable[[int, int], float]:
    def distance(a: int, b: int) -> float:
        low, high = min(a, b), max(a, b)
        between = sum(low < mark < high for mark in marks)
        return 0.0 if a == b else (between + (marks.count(a) + marks.count(b)) / 2) ** 2

    return distance


def lab6() -> Numbers:
    """The distance of best-of-n, where it stops on 40 texts, and what noise leaves of gold."""

    def kl(n: float) -> float:
        u = (np.arange(200_000) + 0.5) / 200_000
        density = n * u ** (n - 1)
        return float(np.mean(density * np.log(np.maximum(density, 1e-300))))

    task = enumerable()
    texts = trajectories(task)
    best = int(np.argmax(task.reward(texts).values))
    rng = np.random.default_rng(0)
    gold, noise = rng.normal(size=(2, 4000, 256))
    proxy = gold + noise
    chosen = proxy.argmax(1)
    rows = np.arange(len(gold))
    return {
        "minus_log_n": kl(10_000) - math.log(10_000),
        "five_nats": float(brentq(lambda n: kl(n) - 5, 300, 500)),
        "ends": -math.log(0.25 ** len(texts[best].completion_ids)),
        "share": float(gold[rows, chosen].mean() / (proxy[rows, chosen].mean() / proxy.std())),
    }


def lab7() -> Numbers:
    """Duels of a noisy text, GRPO's weights, lengths, and the end of best-of-n."""
    noisy = {"a": [(0.4, 1.0), (0.6, 0.0)], "b": [(1.0, 0.3)], "c": [(1.0, 0.2)]}

    def wins(first: str, second: str) -> float:
        return sum(p * q * (r > s) for (p, r), (q, s) in itertools.product(noisy[first], noisy[second]))

    coin = [(0.5, 1.0), (0.5, 0.0)]
    returns = world(0).returns.numpy()
    return {
        "a_over_b": wins("a", "b"),
        "a_over_c": wins("a", "c"),
        "a_mean": sum(p * r for p, r in noisy["a"]),
        "fixed_over_coin": sum(p * (r < 0.51) for p, r in coin),
        "weight_32": grpo_weight(32, 0.01),
        "weight_limit": 1 / math.sqrt(0.01 * 0.99),
        "all_fail_32": 0.99**32,
        "divisor": grpo_weight(2, 0.5, correction=1) / grpo_weight(2, 0.5),
        "best_text": -float(world(0).text_log_probs.detach()[int(returns.argmax())]),
    }


def grpo_weight(size: int, p: float, correction: int = 0) -> float:
    """E[A | solved] − E[A | not solved] of a group's first answer, over all results of the group."""
    mean = {0: 0.0, 1: 0.0}
    for solved in range(size):  # of the others
        chance = math.comb(size - 1, solved) * p**solved * (1 - p) ** (size - 1 - solved)
        for own in (0, 1):
            group = np.array([own] + [1] * solved + [0] * (size - 1 - solved), dtype=float)
            spread = group.std(ddof=correction)
            mean[own] += chance * ((own - group.mean()) / spread if spread > 0 else 0.0)
    return mean[1] - mean[0]


def lab8() -> Numbers:
    """Many tests, and edits whose effects cancel."""
    rng = np.random.default_rng(0)
    accused = (rng.random((200_000, 20)) < 0.05).any(1).mean()
    x = rng.normal(size=(3, 500)) + rng.normal(size=500)
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    s, f, g = x
    left = [v - (v @ g) / (g @ g) * g for v in (s, f)]
    by_residuals = float(np.corrcoef(*left)[0, 1])
    sf, sg, fg = (float(a @ b / 500) for a, b in ((s, f), (s, g), (f, g)))
    return {
        "accused": float(accused),
        "partial_error": abs(by_residuals - (sf - sg * fg) / math.sqrt((1 - sg**2) * (1 - fg**2))),
    }


ANSWERS: dict[str, Callable[[], Numbers]] = {
    "lab1": lab1,
    "lab2": lab2,
    "lab3": lab3,
    "lab3_swings": lab3_swings,
    "lab4": lab4,
    "lab5": lab5,
    "lab6": lab6,
    "lab7": lab7,
    "lab8": lab8,
}
