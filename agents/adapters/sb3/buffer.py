"""A rollout buffer that keeps whole sequences, for language models as policies of Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor

from text_gym.episode import IntArray


class SequenceRolloutBuffer(RolloutBuffer):
    """SB3's rollout buffer for observations that grow by a token; it keeps one row of tokens per sequence.

    A sequence is what one environment wrote from an episode's (or the rollout's) beginning to its (or the
    rollout's) end. Minibatches consist of whole sequences and have about `batch_size` steps, so that one
    forward pass over a sequence serves all of its steps; flattened arrays go sequence by sequence.
    Its samples are for `LanguageModelPolicy.evaluate_actions`: `tokens` `(S, W)`, `length` `(S, 1)` of the
    first observation and the number of `steps` `(S, 1)`.
    """

    def reset(self) -> None:
        """Empty the buffer."""
        shape = (self.buffer_size, self.n_envs)
        for name in ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages"):
            setattr(self, name, np.zeros(shape, dtype=np.float32))
        self.actions = np.zeros(shape, dtype=np.int64)
        space: Any = self.observation_space
        width = space["tokens"].shape[0]
        self._columns = np.arange(width)
        self._tokens = np.zeros((self.n_envs, width), dtype=np.int64)  # the last observation of each row …
        self._lengths = np.zeros(self.n_envs, dtype=np.int64)
        self._first = np.zeros(self.n_envs, dtype=np.int64)  # … length of its sequence's first observation …
        self._since = np.zeros(self.n_envs, dtype=np.int64)  # … and the step in which that began
        self._sequences: list[_Sequence] = []
        super(RolloutBuffer, self).reset()

    def add(  # type: ignore[override]
        self,
        obs: Mapping[str, npt.NDArray[Any]],
        action: npt.NDArray[Any],
        reward: npt.NDArray[Any],
        episode_start: npt.NDArray[Any],
        value: Tensor,
        log_prob: Tensor,
    ) -> None:
        """Store one step of all environments; the arguments are SB3's."""
        tokens, lengths = obs["tokens"], obs["length"][:, 0]
        same = (tokens == self._tokens) | (self._columns >= self._lengths[:, None])
        goes_on = same.all(axis=1) & (lengths == self._lengths + 1) & (np.asarray(episode_start) == 0)
        if self.pos == 0:
            goes_on[:] = False
        else:
            self._close(np.flatnonzero(~goes_on))
        self._tokens[:], self._lengths[:] = tokens, lengths
        self._first[~goes_on], self._since[~goes_on] = lengths[~goes_on], self.pos
        self.actions[self.pos] = action.reshape(-1)
        self.rewards[self.pos] = reward
        self.episode_starts[self.pos] = episode_start
        self.values[self.pos] = value.flatten().cpu().numpy()
        self.log_probs[self.pos] = log_prob.cpu().numpy()
        self.pos += 1
        if self.pos == self.buffer_size:
            self._close(np.arange(self.n_envs))
            self.full = True

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Yield one epoch's minibatches: every sequence once, shuffled by NumPy's global generator."""
        assert self.full, "the rollout is not complete"
        # SB3 seeds NumPy's global generator, and shuffles with it.
        order = np.random.permutation(len(self._sequences))  # noqa: NPY002
        steps = np.array([self._sequences[i].stop - self._sequences[i].start for i in order])
        parts = max(1, round(steps.sum() / batch_size)) if batch_size else 1
        middle = steps.cumsum() - steps / 2
        part = (middle * parts / steps.sum()).astype(np.int64)
        for k in np.unique(part):
            yield self._samples([self._sequences[i] for i in order[part == k]])

    def _close(self, rows: IntArray) -> None:
        for i in rows.tolist():
            tokens = self._tokens[i, : self._lengths[i]].copy()
            self._sequences.append(_Sequence(i, int(self._since[i]), self.pos, int(self._first[i]), tokens))

    def _samples(self, sequences: list[_Sequence]) -> RolloutBufferSamples:
        when = np.concatenate([np.arange(s.start, s.stop) for s in sequences])
        where = np.repeat([s.row for s in sequences], [s.stop - s.start for s in sequences])
        tokens = np.zeros((len(sequences), max(len(s.tokens) for s in sequences)), dtype=np.int64)
        for i, s in enumerate(sequences):
            tokens[i, : len(s.tokens)] = s.tokens
        columns = (self.actions, self.values, self.log_probs, self.advantages, self.returns)
        return RolloutBufferSamples(
            {  # type: ignore[arg-type]  # SB3 types this field for arrays; PPO hands it on as it is
                "tokens": self.to_torch(tokens),
                "length": self.to_torch(np.array([[s.first] for s in sequences])),
                "steps": self.to_torch(np.array([[s.stop - s.start] for s in sequences])),
            },
            *(self.to_torch(column[when, where]) for column in columns),
        )


class _Sequence(NamedTuple):
    """Steps `start` to `stop` of a row, whose observations are prefixes of `tokens`."""

    row: int
    start: int
    stop: int
    first: int  # tokens of the observation in step `start`
    tokens: IntArray
