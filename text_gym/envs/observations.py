"""Makes observations of an `EpisodeBatch`: their space and their arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict, Space

from .episode_batch import EpisodeBatch

Observation = dict[str, npt.NDArray[Any]]


def observation_space(batch: EpisodeBatch) -> Dict:
    """Return the space of one row's observation, whose parts `TextVectorEnv` explains."""
    width, v = batch.tokens.shape[1], batch.tokenizer.vocab_size
    spaces: dict[str, Space[Any]] = {
        "tokens": Box(0, v - 1, (width,), np.int64),
        "attention_mask": Box(0, 1, (width,), np.int8),
        "length": Box(1, width, (1,), np.int64),
        "remaining": Box(0, batch.max_tokens, (1,), np.int64),
    }
    if batch.mask is not None:
        spaces["action_mask"] = Box(0, 1, (v,), np.int8)
    return Dict(spaces)


def observe(batch: EpisodeBatch) -> Observation:
    """Return the observations of all `B` rows as views of the batch's buffers."""
    views: Observation = {
        "tokens": batch.tokens,
        "attention_mask": batch.attention_mask,
        "length": batch.lengths[:, None],
        "remaining": batch.remaining[:, None],
    }
    if batch.mask is not None:
        views["action_mask"] = shown_mask(batch)
    return views


def shown_mask(batch: EpisodeBatch) -> npt.NDArray[np.int8]:
    """Return the action masks as observations and infos show them, `(B, V)` int8."""
    return batch.action_masks().astype(np.int8)
