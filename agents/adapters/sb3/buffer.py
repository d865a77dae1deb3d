"""A rollout buffer that keeps whole sequences, for language models as policies of Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from text_gym.episode import BoolArray, IntArray

from .contrib import pass_for


class SequenceRolloutBuffer(RolloutBuffer):
    """SB3's rollout buffer for observations that grow by a token; it keeps one row of tokens per sequence.

    A sequence is what one environment wrote from an episode's (or the rollout's) beginning to its (or the
    rollout's) end. Minibatches consist of whole sequences and have about `batch_size` steps, so that one
    forward pass over a sequence serves all of its steps; flattened arrays go sequence by sequence.
    Its samples are for `LanguageModelPolicy.evaluate_actions`: `tokens` `(S, W)`, `length` `(S, 1)` of the
    first observation and the number of `steps` `(S, 1)`; of observations with an `action_mask`, or of
    MaskablePPO, also the `action_mask` `(N, V)` of each step.
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
        self._masks: BoolArray | None = None  # (steps, B, V), once a step brings one
        super(RolloutBuffer, self).reset()

    def add(  # type: ignore[override]
        self,
        obs: Mapping[str, npt.NDArray[Any]],
        action: npt.NDArray[Any],
        reward: npt.NDArray[Any],
        episode_start: npt.NDArray[Any],
        value: Tensor,
        log_prob: Tensor,
        action_masks: npt.NDArray[Any] | None = None,
    ) -> None:
        """Store one step of all environments; the arguments are SB3's, and MaskablePPO's."""
        tokens, lengths = obs["tokens"], obs["length"][:, 0]
        same = (tokens == self._tokens) | (self._columns >= self._lengths[:, None])
        goes_on = same.all(axis=1) & (lengths == self._lengths + 1) & (np.asarray(episode_start) == 0)
        if self.pos == 0:
            goes_on[:] = False
        else:
            self._close(np.flatnonzero(~goes_on))
        self._tokens[:], self._lengths[:] = tokens, lengths
        self._first[~goes_on], self._since[~goes_on] = lengths[~goes_on], self.pos
        mask = obs.get("action_mask") if action_masks is None else action_masks
        if mask is not None:
            mask = np.asarray(mask).reshape(self.n_envs, -1) != 0
            if self._masks is None:
                self._masks = np.ones((self.buffer_size, *mask.shape), dtype=np.bool_)
            self._masks[self.pos] = mask
        self.actions[self.pos] = action.reshape(-1)
        self.rewards[self.pos] = reward
        self.episode_starts[self.pos] = episode_start
        self.values[self.pos] = value.flatten().cpu().numpy()
        self.log_probs[self.pos] = log_prob.cpu().numpy()
        self.pos += 1
        if self.pos == self.buffer_size:
            self._close(np.arange(self.n_envs))
            self.full = True

    def get(self, batch_size: int | None = None) -> Generator[SequenceSamples, None, None]:  # type: ignore[override]
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

    def _samples(self, sequences: list[_Sequence]) -> SequenceSamples:
        when = np.concatenate([np.arange(s.start, s.stop) for s in sequences])
        where = np.repeat([s.row for s in sequences], [s.stop - s.start for s in sequences])
        tokens = np.zeros((len(sequences), max(len(s.tokens) for s in sequences)), dtype=np.int64)
        for i, s in enumerate(sequences):
            tokens[i, : len(s.tokens)] = s.tokens
        columns = (self.actions, self.values, self.log_probs, self.advantages, self.returns)
        observations = {
            "tokens": self.to_torch(tokens),
            "length": self.to_torch(np.array([[s.first] for s in sequences])),
            "steps": self.to_torch(np.array([[s.stop - s.start] for s in sequences])),
        }
        masks = None if self._masks is None else self.to_torch(self._masks[when, where])
        if masks is not None:
            observations["action_mask"] = masks  # PPO and A2C hand on observations only
        taken = [self.to_torch(column[when, where]) for column in columns]
        return SequenceSamples._make([observations, *taken, masks])


class SequenceSamples(NamedTuple):
    """A minibatch with the fields of SB3's `RolloutBufferSamples` and of sb3-contrib's with masks."""

    observations: dict[str, Tensor]  # of `S` sequences
    actions: Tensor  # (N,) int64, and so on
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    action_masks: Tensor | None  # (N, V) bool


class _Sequence(NamedTuple):
    """Steps `start` to `stop` of a row, whose observations are prefixes of `tokens`."""

    row: int
    start: int
    stop: int
    first: int  # tokens of the observation in step `start`
    tokens: IntArray


pass_for(SequenceRolloutBuffer, "buffers", "MaskableDictRolloutBuffer")
