"""Many texts of the products policy, scored at once by many n-gram reward models; shared by two benchmarks.

Features of a text are counted once. A model that was fitted to some of them scores the whole pool by sparse
products, to what `NgramModel` says up to rounding (`tests/benchmarks/test_text_pool.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from text_gym import Episode, Prompt, Task, TextVectorEnv
from text_gym.agents import Policy
from text_gym.agents.algorithms.best_of_n import best_of_n, best_of_n_kl_bound
from text_gym.bench.analysis.measures import best_of_n_mean
from text_gym.bench.analysis.results import CellResult
from text_gym.episode import FloatArray
from text_gym.reward_models.learned.configs import NgramConfig
from text_gym.reward_models.learned.ngram_features import features, matrix, vocabulary_of
from text_gym.reward_models.learned.ngrams import logistic
from text_gym.reward_models.people.simulated import SimulatedRater, Vices

Counts = list[list[Counter[str]]]


def write_texts(task: Task, prompts: Sequence[Prompt], each: int, seed: int) -> list[Episode]:
    """Texts of the task's policy, `each` of a prompt one after another."""
    assert task.policy is not None
    policy = Policy.from_pretrained(task.policy, device="cpu")
    env = TextVectorEnv(**task.env_kwargs(prompts=list(prompts)), shuffle=False)
    return best_of_n(policy, env, each, prompts, seed=seed).episodes


def count_features(episodes: Sequence[Episode], config: NgramConfig) -> Counts:
    """The features of each text, a counter for each group."""
    return [features(e.prompt.text, e.completion, config) for e in episodes]


class Linear(NamedTuple):
    """A fitted n-gram model: a weight for each of its features."""

    places: dict[str, int]
    weights: FloatArray  # (features,)


class Pool:
    """Texts to choose from, `k` for each of `N` prompts.

    Args:
        counts: Their features, `N · k`.
        gold: `(N, k)`.
        starting_std: Standard deviation of gold over all of them, the unit of gains.
    """

    def __init__(self, counts: Counts, gold: FloatArray) -> None:
        self.gold, self.starting_std = gold, float(gold.std())
        self.index: dict[str, int] = {}
        for groups in counts:
            for counter in groups:
                for name in counter:
                    self.index.setdefault(name, len(self.index))
        self.groups = [self._matrix([groups[g] for groups in counts]) for g in range(len(counts[0]))]

    def _matrix(self, counters: Sequence[Counter[str]]) -> tuple[Any, Any]:
        """`(n, features)` sparse `log(1 + count)` of one group, and its squares."""
        columns = [self.index[name] for counter in counters for name in counter]
        data = np.log1p(np.array([c for counter in counters for c in counter.values()], dtype=np.float64))
        starts = np.concatenate([[0], np.cumsum([len(counter) for counter in counters])])
        shape = (len(counters), len(self.index))
        return csr_array((data, columns, starts), shape=shape), csr_array(
            (data**2, columns, starts), shape=shape
        )

    def scores(self, model: Linear) -> FloatArray:
        """What the model says of every text, `(N, k)`: each group of its features scaled to length 1/√G."""
        weights, known = np.zeros(len(self.index)), np.zeros(len(self.index))
        for name, i in model.places.items():
            if name in self.index:
                weights[self.index[name]], known[self.index[name]] = model.weights[i], 1.0
        total = np.zeros(self.gold.size)
        for x, squares in self.groups:
            size = np.sqrt((squares @ known) * len(self.groups))
            total += np.divide(x @ weights, size, out=np.zeros_like(size), where=size > 0)
        return total.reshape(self.gold.shape)

    def curve(self, proxy: FloatArray, seed: int) -> CellResult:
        """Gold and proxy of the proxy's best of n, for n to all candidates, as a run of the benchmark."""
        most = self.gold.shape[1]
        sizes = sorted({min(most, round(2 ** (i / 2))) for i in range(2 * most.bit_length() + 1)})
        points = [
            {
                "step": n,
                "gold": best_of_n_mean(proxy, self.gold, n),
                "proxy": best_of_n_mean(proxy, proxy, n),
                "kl_nats": best_of_n_kl_bound(n),
            }
            for n in sizes
        ]
        return CellResult({"seed": seed, "gold_std_start": self.starting_std}, points, [])


class Pairs:
    """Two texts for each of many training prompts, for raters to compare.

    Args:
        task: Whose gold the raters follow.
        episodes: Two of a prompt one after another.
        counts: Their features.
    """

    def __init__(self, task: Task, episodes: Sequence[Episode], counts: Counts) -> None:
        self.task, self.episodes, self.counts = task, episodes, counts

    def __len__(self) -> int:
        return len(self.episodes) // 2

    def ask(self, noise: float, seed: int) -> list[str]:
        """What a simulated rater says of every pair: left, right or tie."""
        rater = SimulatedRater(self.task.reward, Vices(noise=noise), seed=seed)
        return list(rater.compare(self.episodes[::2], self.episodes[1::2]))

    def fit(self, rows: Sequence[int], answers: Sequence[str], config: NgramConfig) -> Linear:
        """Fit a model to some pairs, as `NgramModel.fit` does, with the penalty of the configuration.

        Args:
            rows: Which pairs; one that is there twice counts twice.
            answers: To all pairs.
            config: The settings.
        """
        assert config.alpha is not None
        sides = [(2 * i, 2 * i + 1) if answers[i] != "right" else (2 * i + 1, 2 * i) for i in rows]
        counts = [self.counts[place] for pair in sides for place in pair]
        index = vocabulary_of(counts, config)
        both = matrix(counts, index)
        tie = np.array([float(answers[i] == "tie") for i in rows])
        x, nothing, weight = both[::2] - both[1::2], np.zeros(len(rows)), np.ones(len(rows))
        return Linear(index, logistic(x, tie, nothing, weight, config.alpha)[0])
