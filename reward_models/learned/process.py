"""ProcessReward: a reward model that judges a solution step by step (a process reward model).

Uesato et al. (2022), Lightman et al. (2023). It says of each step how likely it is right given all before it,
and has no eye for the final answer. How a transformer learns it stands in `training`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from text_gym.episode import Episode, FloatArray, Prompt
from text_gym.errors import ConfigError, DataError, excerpt
from text_gym.reward_models.preferences.opinions import StepLabels, split_within
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards, TokenBatch

from .configs import NgramConfig
from .model import RewardModel
from .ngram_features import features, matrix, vocabulary_of
from .ngrams import NgramModel
from .settings import write_settings
from .steps import Step, check_causal, encode_steps, split_steps, step_logits

Aggregate = Literal["min", "product", "last"]
Pay = Literal["progress", "scores", "end"]
_ALPHAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class ProcessReward(RewardSource):
    """Scores the steps of a completion, each in (0, 1), and pays for them on their last tokens.

    A step ends with the delimiter; the last one may end with the text. What the whole is worth (the total,
    by which best-of-n chooses) is an aggregate of the steps' scores, and 0 where there is no step. All three
    aggregates and the number of steps are terms.

    Args:
        model: Judges a step from the text up to its end: an n-gram model, which gets the problem and the
            steps before as its prompt, or a causal transformer, which is read at the end of each step.
        delimiter: What a step ends with.
        aggregate: `"min"`, `"product"` or `"last"`.
        pay: `"progress"`: a step earns the aggregate up to it less the aggregate before it, so that the
            episode earns the aggregate, only sooner: differences of a potential, which leave the best policy
            as it is (Ng et al. 1999). `"scores"`: a step earns its score; the total is their sum, which
            grows with every step that is added. `"end"`: the aggregate is paid on the last token.
        name: Shown in errors, logs and plots.

    Raises:
        ConfigError: An empty delimiter, an unknown aggregate or way to pay, a model of several outputs, or a
            transformer that is not causal.
    """

    def __init__(
        self,
        model: NgramModel | RewardModel,
        *,
        delimiter: str = "\n",
        aggregate: Aggregate = "min",
        pay: Pay = "progress",
        name: str = "process",
    ) -> None:
        if not delimiter:
            raise ConfigError("an empty delimiter ends no step; the usual one is a line feed")
        for what, value, known in (("aggregate", aggregate, Aggregate), ("pay", pay, Pay)):
            if value not in get_args(known):
                raise ConfigError(f"{what} {value!r} is not one of {', '.join(get_args(known))}")
        if len(model.criteria) != 1:
            raise ConfigError(f"a process reward has one output a step, the model {len(model.criteria)}")
        if isinstance(model, RewardModel):
            check_causal(model)
        self.model, self.delimiter, self.name = model, delimiter, name
        self.aggregate, self.pay = aggregate, pay
        self.causal = pay != "end"
        self._ends: dict[str, dict[int, bool]] = {}  # tokenizer's fingerprint -> token -> may end a step

    @classmethod
    def fit(
        cls, labels: Sequence[StepLabels], config: NgramConfig | None = None, **options: Any
    ) -> ProcessReward:
        """Fit an n-gram model by logistic regression on the steps; `options` are those of the class.

        Raises:
            DataError: There are too few solutions, or a step holds the delimiter.
        """
        config, delimiter = config or NgramConfig(), options.get("delimiter", "\n")
        if not labels:
            raise DataError("there are no labels of steps to learn from")
        check_steps(labels, delimiter)
        counts = [
            features(before, step, config)
            for s in labels
            for before, step in _in_context(s.prompt, s.steps, delimiter)
        ]
        index = vocabulary_of(counts, config)
        x = matrix(counts, index)
        y = np.array([label for s in labels for label in s.labels])
        weight = np.array([s.weight for s in labels for _ in s.labels])
        alpha = config.alpha
        if alpha is None:
            kept = {s.prompt.id for s in split_within(list(labels), 0.2, config.seed)[0]}
            mine = np.array([s.prompt.id in kept for s in labels for _ in s.labels])

            def error(candidate: float) -> float:
                v, b = _logistic(x[mine], y[mine], weight[mine], candidate)
                z = x[~mine] @ v + b
                return float(weight[~mine] @ (np.logaddexp(0, z) - y[~mine] * z))

            alpha = min(_ALPHAS, key=error)
        v, b = _logistic(x, y, weight, alpha)
        return cls(NgramModel(list(index), v[:, None], np.array([b]), config=config), **options)

    def step_scores(self, solutions: Sequence[tuple[Prompt, Sequence[str]]]) -> list[FloatArray]:
        """Return how likely each step is right: for each solution `(steps,)` float64 in (0, 1).

        Args:
            solutions: Problem and steps, these without the delimiter.
        """
        counts = [len(steps) for _, steps in solutions]
        if not sum(counts):
            return [np.zeros(0) for _ in counts]
        logits = self._logits([s for s in solutions if s[1]])
        scores = np.exp(-np.logaddexp(0, -logits))  # σ, without overflow
        return np.split(scores, np.cumsum(counts)[:-1])

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Pay for the steps of each episode; of a running one, for those that are finished."""
        steps = [split_steps(e.completion, self.delimiter, over=e.done) for e in episodes]
        texts = [[step.text for step in own] for own in steps]
        scores = self.step_scores([(e.prompt, own) for e, own in zip(episodes, texts, strict=True)])
        worth = {a: [_so_far(own, a) for own in scores] for a in get_args(Aggregate)}
        terms = {a: np.array([w[-1] if len(w) else 0.0 for w in worth[a]]) for a in worth}
        terms["steps"] = np.array([float(len(own)) for own in steps])
        if self.pay == "end":
            return Rewards(terms[self.aggregate], terms=terms)
        paid = scores if self.pay == "scores" else [np.diff(w, prepend=0.0) for w in worth[self.aggregate]]
        per_token = tuple(_on_tokens(e, own, p) for e, own, p in zip(episodes, steps, paid, strict=True))
        return Rewards(np.zeros(len(episodes)), per_token, terms)

    def token_rewards(self, batch: TokenBatch) -> FloatArray:
        """Score only those running episodes whose newest token can end a step."""
        known = self._ends.setdefault(batch.tokenizer.fingerprint, {})
        for token in set(batch.tokens.tolist()) - known.keys():
            known[token] = _may_end(batch.tokenizer.decode([token]), self.delimiter)
        ending = np.flatnonzero([known[token] for token in batch.tokens.tolist()])
        rewards = np.zeros(len(batch.tokens))
        if len(ending):
            episodes = batch.episodes()
            found = self([episodes[i] for i in ending], batch.on_bad_reward).per_token
            assert found is not None
            rewards[ending] = [tokens[-1] for tokens in found]
        return rewards

    def save(self, folder: str | Path) -> None:
        """Write the model of steps into the folder `model`, and the settings beside it."""
        folder = Path(folder)
        self.model.save(folder / "model")
        content = {"name": self.name, "delimiter": self.delimiter}
        write_settings(folder, "process", {**content, "aggregate": self.aggregate, "pay": self.pay})

    @torch.no_grad()
    def _logits(self, solutions: Sequence[tuple[Prompt, Sequence[str]]]) -> FloatArray:
        """Return the logits of all steps, `(S,)` float64, a solution's one after another."""
        model = self.model
        if isinstance(model, NgramModel):
            return model.raw_scores([pair for s in solutions for pair in _in_context(*s, self.delimiter)])[
                :, 0
            ]
        encoded = [encode_steps(model, prompt, steps, self.delimiter) for prompt, steps in solutions]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))  # so that little is padded
        found: dict[int, FloatArray] = {}
        for i in range(0, len(order), model.batch_size):
            rows = order[i : i + model.batch_size]
            logits = step_logits(model, [encoded[j] for j in rows]).double().cpu().numpy()
            cuts = np.cumsum([len(encoded[j].ends) for j in rows])[:-1]
            found |= dict(zip(rows, np.split(logits, cuts), strict=True))
        return np.concatenate([found[i] for i in range(len(encoded))])


def check_steps(labels: Sequence[StepLabels], delimiter: str) -> None:
    """Check that steps can be told apart by the delimiter.

    Raises:
        DataError: A step holds it; the solution is named.
    """
    for s in labels:
        for number, step in enumerate(s.steps, 1):
            if delimiter in step:
                raise DataError(
                    f"step {number} of the solution of prompt {excerpt(s.prompt.id)} holds the delimiter "
                    f"{delimiter!r}; split it there, or choose another delimiter"
                )


def _in_context(prompt: Prompt, steps: Sequence[str], delimiter: str) -> list[tuple[str, str]]:
    """Pair each step with all text before it."""
    return [(prompt.text + "".join(s + delimiter for s in steps[:i]), step) for i, step in enumerate(steps)]


def _so_far(scores: FloatArray, aggregate: Aggregate) -> FloatArray:
    """Return the aggregate after each step, `(steps,)`."""
    if aggregate == "last":
        return scores
    together: FloatArray = (np.minimum if aggregate == "min" else np.multiply).accumulate(scores)
    return together


def _on_tokens(episode: Episode, steps: Sequence[Step], paid: FloatArray) -> FloatArray:
    """Put what each step is paid on the token that ends it, `(T,)`."""
    ids, decode = episode.completion_ids.tolist(), episode.tokenizer.decode
    tokens = np.zeros(len(ids))
    for step, pay in zip(steps, paid.tolist(), strict=True):
        place = len(ids) - 1  # where a step without a delimiter ends, with the episode
        if step.closed:
            place = bisect_left(range(place), step.end, key=lambda t: len(decode(ids[: t + 1])))
        tokens[place] += pay
    return tokens


def _may_end(token: str, delimiter: str) -> bool:
    """Return True if a token, decoded alone, can hold a delimiter's last character or a part of it."""
    return delimiter[-1] in token or "\N{REPLACEMENT CHARACTER}" in token or delimiter[-1] == " "


def _logistic(x: Any, y: FloatArray, weight: FloatArray, alpha: float) -> tuple[FloatArray, float]:
    """Minimise the weighted cross-entropy of `σ(x·v + b)` with `y` in [0, 1], plus `alpha / 2 · |v|²`."""
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(w: FloatArray) -> tuple[float, FloatArray]:
        v, z = w[:-1], x @ w[:-1] + w[-1]
        slope = weight * (expit(z) - y)
        total = float(weight @ (np.logaddexp(0, z) - y * z) + 0.5 * alpha * v @ v)
        return total, np.append(x.T @ slope + alpha * v, slope.sum())

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return found.x[:-1], float(found.x[-1])
