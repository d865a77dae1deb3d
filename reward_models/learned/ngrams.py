"""NgramModel: a linear reward on word n-grams and on what a text takes from its prompt; no neural network.

On a few thousand opinions it is hard to beat, it trains in seconds, and its weights can be read. It knows no
word order beyond its n-grams and no word that it has not seen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from text_gym.episode import Episode, FloatArray
from text_gym.errors import ConfigError, DataError, NonFiniteError
from text_gym.json_text import read_json
from text_gym.reward_models.preferences.opinions import PreferencePair, Rating, split_within
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.utils.sealed import remove_unfinished

from .configs import NgramConfig
from .ngram_features import features, matrix, vocabulary_of
from .scales import Scales
from .settings import read_settings, write_settings

_ALPHAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


class NgramModel(RewardSource):
    """Pays `features(prompt, completion) · weights + intercept`, with a column of weights per criterion.

    A group's features are `log(1 + count)`, scaled to length 1, so that long texts do not count more. The
    reward is the weighted mean of the criteria; each of them is a term where there are several.

    Args:
        vocabulary: The features' names; everything else in a text is ignored.
        weights: `(features, criteria)` float64.
        intercept: `(criteria,)` float64.
        criteria: Names.
        config: Which features there are.
        scales: Turns outputs into rewards; none by default.
        name: Shown in errors, logs and plots.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        weights: FloatArray,
        intercept: FloatArray,
        criteria: Sequence[str] = ("reward",),
        *,
        config: NgramConfig | None = None,
        scales: Scales | None = None,
        name: str = "ngrams",
    ) -> None:
        self.vocabulary, self.criteria = list(vocabulary), tuple(criteria)
        self.weights, self.intercept = np.asarray(weights, np.float64), np.asarray(intercept, np.float64)
        shape = (len(self.vocabulary), len(self.criteria))
        if self.weights.shape != shape or self.intercept.shape != shape[1:]:
            raise ConfigError(
                f"weights {self.weights.shape} and intercept {self.intercept.shape} do not fit "
                f"{shape[0]} features and {shape[1]} criteria"
            )
        if not (np.isfinite(self.weights).all() and np.isfinite(self.intercept).all()):
            raise NonFiniteError(f"the weights of {name!r} hold NaN or infinity")
        self.config = config or NgramConfig()
        self.scales, self.name = scales or Scales.plain(len(self.criteria)), name
        self._index = {feature: i for i, feature in enumerate(self.vocabulary)}

    @classmethod
    def fit(
        cls,
        opinions: Sequence[PreferencePair] | Sequence[Rating],
        criteria: Sequence[str] = ("reward",),
        config: NgramConfig | None = None,
    ) -> NgramModel:
        """Learn from ratings (ridge regression) or pairs (logistic Bradley–Terry with the same penalty).

        Args:
            opinions: Ratings, or pairs; not both.
            criteria: The marks to predict; one name for pairs.
            config: The settings.

        Raises:
            DataError: There are no opinions, too few prompts, a criterion without marks, or mixed kinds.
            ConfigError: Pairs, and several criteria.
        """
        config = config or NgramConfig()
        kinds = {type(o) for o in opinions}
        if len(kinds) != 1:
            raise DataError("learn from pairs or from ratings: some opinions, of one kind")
        if kinds == {PreferencePair}:
            return _fit_pairs(cls, [o for o in opinions if isinstance(o, PreferencePair)], criteria, config)
        return _fit_ratings(cls, [o for o in opinions if isinstance(o, Rating)], criteria, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> NgramModel:
        """Load a model that `save` wrote.

        Raises:
            DataError: A file is missing or broken.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = Path(folder)
        settings = read_settings(folder)
        try:
            tensors = load_file(folder / "model.safetensors")
            vocabulary = read_json(folder / "vocabulary.json", DataError, "train the reward model again")
            given = settings["config"]
            config = NgramConfig(**{**given, "groups": tuple(given["groups"])})
            arrays, criteria = (tensors["weights"], tensors["intercept"]), settings["criteria"]
            scales, name = Scales.from_dict(settings["scales"]), str(settings["name"])
            if set(tensors) != {"weights", "intercept"} or not _are_names(vocabulary):
                raise ValueError("other tensors than weights and intercept, or a vocabulary of no words")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(f"{folder} holds no n-gram reward model that can be read ({error!r})") from error
        try:
            return cls(vocabulary, *arrays, criteria, config=config, scales=scales, name=name)
        except (TypeError, ValueError, ArithmeticError) as error:  # shapes and numbers
            raise DataError(
                f"{folder} holds a broken n-gram reward model: {error}; train it again"
            ) from error

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors`, `vocabulary.json` and `reward_model.json`."""
        from safetensors.numpy import save_file

        folder = Path(folder)
        content = {"name": self.name, "criteria": self.criteria, "config": asdict(self.config)}
        write_settings(folder, "ngrams", {**content, "scales": self.scales.to_dict()})
        text = json.dumps(self.vocabulary, ensure_ascii=False, indent=0)
        (folder / "vocabulary.json").write_text(text + "\n", encoding="utf-8")
        remove_unfinished(folder)
        save_file({"weights": self.weights, "intercept": self.intercept}, folder / "model.safetensors")

    def raw_scores(self, texts: Sequence[tuple[str, str]]) -> FloatArray:
        """Return the outputs before scaling, `(n, criteria)` float64."""
        counts = [features(prompt, completion, self.config) for prompt, completion in texts]
        result: FloatArray = matrix(counts, self._index) @ self.weights + self.intercept
        return result

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Weighted mean of the criteria, each of them as a term where there are several."""
        raw = self.raw_scores([(e.prompt.text, e.completion) for e in episodes])
        return self.scales.rewards(raw, self.criteria)

    def normalise(self, episodes: Sequence[Episode]) -> NgramModel:
        """Scale so that on these reference samples each criterion has mean 0 and standard deviation 1.

        Raises:
            ConfigError: There are fewer than two samples, or a criterion is the same for all of them.
        """
        raw = self.raw_scores([(e.prompt.text, e.completion) for e in episodes])
        self.scales = self.scales.standardised(raw, self.criteria)
        return self

    def strongest(self, count: int = 10, criterion: int = 0) -> list[tuple[str, float]]:
        """Return the features with the largest absolute weights, and their weights."""
        column = self.weights[:, criterion]
        order = np.argsort(-np.abs(column), kind="stable")[:count]
        return [(self.vocabulary[i], float(column[i])) for i in order]


def _are_names(vocabulary: Any) -> bool:
    return isinstance(vocabulary, list) and all(isinstance(name, str) for name in vocabulary)


def ridge(x: Any, y: FloatArray, weight: FloatArray, alpha: float) -> tuple[FloatArray, float]:
    """Minimise `Σ weight · (y − x·v − b)² + alpha · |v|²` over the weights `v` and the intercept `b`.

    Args:
        x: `(n, d)` sparse or dense.
        y: `(n,)`.
        weight: `(n,)`, not negative, not all 0.
        alpha: Penalty, positive.
    """
    from scipy.sparse.linalg import LinearOperator, lsqr

    share = weight / weight.sum()
    x_mean, y_mean, root = x.T @ share, float(y @ share), np.sqrt(weight)
    centred = LinearOperator(
        x.shape,
        matvec=lambda v: root * (x @ v - x_mean @ v),
        rmatvec=lambda r: x.T @ (root * r) - x_mean * (root @ r),
        dtype=np.float64,
    )
    found = lsqr(centred, root * (y - y_mean), damp=math.sqrt(alpha), atol=1e-10, btol=1e-10, iter_lim=2000)
    return found[0], y_mean - float(x_mean @ found[0])


def logistic(
    x: Any, tie: FloatArray, margin: FloatArray, weight: FloatArray, alpha: float
) -> tuple[FloatArray, float]:
    """Minimise the penalised Bradley–Terry loss (`bradley_terry_loss`, summed); return weights and loss.

    Args:
        x: `(n, d)` features of the chosen text minus those of the rejected one.
        tie: `(n,)` 1 for ties, else 0.
        margin: `(n,)` by how much the chosen text should be ahead.
        weight: `(n,)`, not negative.
        alpha: The penalty is `alpha / 2 · |v|²`.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(v: FloatArray) -> tuple[float, FloatArray]:
        ahead = x @ v - margin
        # A tie is half a win and half a loss.
        nll = np.logaddexp(0, -ahead) + tie * 0.5 * ahead
        slope = -expit(-ahead) + tie * 0.5
        return float(weight @ nll + 0.5 * alpha * v @ v), x.T @ (weight * slope) + alpha * v

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return found.x, float(found.fun)


def _fit_ratings(
    make: type[NgramModel], ratings: Sequence[Rating], criteria: Sequence[str], config: NgramConfig
) -> NgramModel:
    counts = [features(r.prompt.text, r.completion, config) for r in ratings]
    index = vocabulary_of(counts, config)
    x = matrix(counts, index)
    parts = []
    for criterion in criteria:
        rows = [i for i, r in enumerate(ratings) if criterion in r.values and r.weight > 0]
        if not rows:
            raise DataError(f"no rating has a mark for {criterion!r}")
        y = np.array([ratings[i].values[criterion] for i in rows])
        parts.append(
            _Part([ratings[i] for i in rows], x[rows], y, np.array([ratings[i].weight for i in rows]))
        )
    # One penalty for all criteria, since the choice for a single criterion is mostly noise.
    alpha = config.alpha or min(_ALPHAS, key=lambda a: sum(_error(part, a, config.seed) for part in parts))
    found = [ridge(part.x, part.y, part.weight, alpha) for part in parts]
    weights, intercepts = np.stack([v for v, _ in found], axis=1), np.array([b for _, b in found])
    return make(list(index), weights, intercepts, criteria, config=config)


class _Part(NamedTuple):
    """The ratings with a mark for one criterion: features `(n, d)`, marks and weights `(n,)`."""

    ratings: list[Rating]
    x: Any
    y: FloatArray
    weight: FloatArray


def _error(part: _Part, alpha: float, seed: int) -> float:
    """Return the squared error over the marks' variance by five-fold cross-validation over prompts."""
    ratings, x, y, weight = part
    place = {id(r): i for i, r in enumerate(ratings)}
    total = size = 0.0
    for fold in range(5):
        kept, judged = split_within(ratings, 0.2, seed * 5 + fold)
        rows, others = ([place[id(r)] for r in group] for group in (kept, judged))
        v, b = ridge(x[rows], y[rows], weight[rows], alpha)
        total += float(weight[others] @ (y[others] - x[others] @ v - b) ** 2)
        size += float(weight[others].sum())
    return total / size / max(float(y.var()), 1e-12)


def _fit_pairs(
    make: type[NgramModel], pairs: Sequence[PreferencePair], criteria: Sequence[str], config: NgramConfig
) -> NgramModel:
    if len(criteria) != 1:
        raise ConfigError(f"pairs say nothing about {len(criteria)} criteria; give one name")
    counts = [features(p.prompt.text, text, config) for p in pairs for text in (p.chosen, p.rejected)]
    index = vocabulary_of(counts, config)
    both = matrix(counts, index)
    x = both[::2] - both[1::2]
    tie = np.array([float(p.tie) for p in pairs])
    margin, weight = np.array([p.margin for p in pairs]), np.array([p.weight for p in pairs])
    alpha = config.alpha
    if alpha is None:
        kept, judged = split_within(list(pairs), 0.2, config.seed)
        place = {id(p): i for i, p in enumerate(pairs)}
        rows, others = ([place[id(p)] for p in part] for part in (kept, judged))

        def error(candidate: float) -> float:
            v, _ = logistic(x[rows], tie[rows], margin[rows], weight[rows], candidate)
            ahead = x[others] @ v - margin[others]
            return float(weight[others] @ (np.logaddexp(0, -ahead) + tie[others] * 0.5 * ahead))

        alpha = min(_ALPHAS, key=error)
    weights, _ = logistic(x, tie, margin, weight, alpha)
    return make(list(index), weights[:, None], np.zeros(1), criteria, config=config)
