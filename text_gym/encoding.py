"""Encodes many texts into one flat array of ids, in batches where the tokenizer has them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from .episode import IntArray, Prompt
from .tokenizer import Tokenizer


def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[str | Prompt]
) -> tuple[npt.NDArray[np.int32], IntArray]:
    """Encode texts one after the other.

    Args:
        tokenizer: With a method `encode_batch(texts)`, that is asked; it must agree with `encode`.
        texts: `N` texts, or prompts, which may be conversations.

    Returns:
        The ids of all texts without a gap, int32, and how many each text has, `(N,)` int64.

    >>> from text_gym import ByteTokenizer
    >>> encode_texts(ByteTokenizer(), ["ab", "", "c"])
    (array([97, 98, 99], dtype=int32), array([2, 0, 1]))
    """
    encoded: Sequence[Sequence[int]]
    prompts = [text for text in texts if isinstance(text, Prompt)]
    if prompts:
        encoded = [t.encode(tokenizer) if isinstance(t, Prompt) else tokenizer.encode(t) for t in texts]
    elif _has_batches(tokenizer):
        encoded = tokenizer.encode_batch(texts)  # type: ignore[attr-defined]
    else:
        encoded = [tokenizer.encode(str(text)) for text in texts]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    if all(isinstance(ids, bytes) for ids in encoded):
        return np.frombuffer(b"".join(encoded), np.uint8).astype(np.int32), lengths  # type: ignore[arg-type]
    return np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum())), lengths


def _has_batches(tokenizer: Any) -> bool:
    """Return True if `encode_batch` comes with the `encode` in force, or overrides it.

    A subclass that overrides `encode` alone does not mean the batches that it inherits.
    """
    if "encode" in getattr(tokenizer, "__dict__", {}):
        return False
    for kind in type(tokenizer).__mro__:
        if {"encode", "encode_batch"} & vars(kind).keys():
            return "encode_batch" in vars(kind)
    return False
