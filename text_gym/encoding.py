"""Encodes many texts into one flat array of ids, in batches where the tokenizer has them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from .episode import IntArray, Prompt
from .errors import ConfigError, TextGymError, TokenError, excerpt
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
        encoded = [encode_text(tokenizer, str(text)) for text in texts]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    if all(isinstance(ids, bytes) for ids in encoded):
        return np.frombuffer(b"".join(encoded), np.uint8).astype(np.int32), lengths  # type: ignore[arg-type]
    try:
        flat = np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum()))
    except (TypeError, ValueError, OverflowError) as error:
        raise TokenError(
            f"{_name(tokenizer)}.encode returned {excerpt(repr(encoded[0]))}, not ids"
        ) from error
    if len(flat) and not 0 <= flat.min() <= flat.max() < tokenizer.vocab_size:
        wrong = flat.min() if flat.min() < 0 else flat.max()
        raise TokenError(
            f"{_name(tokenizer)}.encode returned the id {wrong}; its vocab_size is {tokenizer.vocab_size}"
        )
    return flat, lengths


def checked_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer whose sizes and ids are in order; one of the user's own may have others.

    Raises:
        ConfigError: `vocab_size`, `eos_ids`, `pad_id` or `bos_id` has another form, or lies outside.
    """
    name, size = _name(tokenizer), tokenizer.vocab_size
    if isinstance(tokenizer, type):
        raise ConfigError(
            f"the tokenizer is the class {tokenizer.__name__}; make one: {tokenizer.__name__}(...)"
        )
    if not isinstance(size, (int, np.integer)) or size < 1:
        raise ConfigError(
            f"{name}.vocab_size is {excerpt(repr(size))}; it must be a whole number of at least 1"
        )
    eos = tokenizer.eos_ids
    if not isinstance(eos, (tuple, list)):
        raise ConfigError(f"{name}.eos_ids is {excerpt(repr(eos))}; it must be a tuple of ids, () for none")
    bos = [] if tokenizer.bos_id is None else [("bos_id", tokenizer.bos_id)]
    for what, i in [*(("eos_ids", i) for i in eos), ("pad_id", tokenizer.pad_id), *bos]:
        if not isinstance(i, (int, np.integer)) or not 0 <= i < size:
            raise ConfigError(
                f"{name}.{what} has {excerpt(repr(i))}; an id is a whole number from 0 to {size - 1}"
            )
    return tokenizer


def encode_text(tokenizer: Tokenizer, text: str) -> Sequence[int]:
    """Encode one text.

    Raises:
        TokenError: The tokenizer cannot; one of the user's own may raise anything.
    """
    try:
        return tokenizer.encode(text)
    except TextGymError:
        raise
    except Exception as error:
        raise TokenError(
            f"{_name(tokenizer)} cannot encode {excerpt(text)}: {type(error).__name__}: {error}"
        ) from error


def _name(tokenizer: object) -> str:
    return type(tokenizer).__name__


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
