"""Hashes of episode streams, which choose prompts; they have no random state."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from text_gym.episode import IntArray

# Of SplitMix64, the hash that chooses prompts.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def stream_keys(seeds: IntArray) -> npt.NDArray[np.uint64]:
    """Hash seeds to stream keys, `(n,)` uint64, so that neighbouring seeds have unrelated streams."""
    return hash64(seeds.astype(np.uint64))


def hash64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea & Flood 2014): a stateless, vectorised hash of 64-bit integers."""
    z = x + _GAMMA
    z = (z ^ (z >> _SHIFTS[0])) * _FACTORS[0]
    z = (z ^ (z >> _SHIFTS[1])) * _FACTORS[1]
    return z ^ (z >> _SHIFTS[2])
