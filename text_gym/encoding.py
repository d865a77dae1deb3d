"""Takes tokenizers of many kinds, and encodes many texts, in batches where the tokenizer has them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .episode import IntArray, Prompt, decode_ids
from .errors import ConfigError, TextGymError, TokenError, excerpt
from .tokenizer import PretrainedTokenizer, Tokenizer

# What a tokenizer of one's own has to have.
MEMBERS = ("vocab_size", "eos_ids", "pad_id", "bos_id", "fingerprint", "encode", "decode")


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
    if all(isinstance(ids, bytes) for ids in encoded):
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return np.frombuffer(b"".join(encoded), np.uint8).astype(np.int32), lengths  # type: ignore[arg-type]
    try:
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        operator.index(next(chain.from_iterable(encoded), 0))  # `fromiter` would cut fractions off
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


def as_tokenizer(value: Any) -> Tokenizer:
    """Accept one of our tokenizers, a `transformers` tokenizer, a folder or the name of a hub model."""
    if isinstance(value, (str, Path)):
        return PretrainedTokenizer.from_pretrained(value)
    if hasattr(value, "backend_tokenizer"):
        return PretrainedTokenizer.from_transformers(value)
    if isinstance(value, Tokenizer):
        return value
    name = type(value).__name__
    if hasattr(value, "convert_ids_to_tokens"):
        raise ConfigError(f"{name} is not a fast tokenizer of transformers; load it with use_fast=True")
    if hasattr(value, "id_to_token"):
        raise ConfigError(
            "a tokenizer of `tokenizers` does not say what ends a text: write PretrainedTokenizer(tokenizer, "
            "eos_ids=[...])"
        )
    lacks = [member for member in MEMBERS if not hasattr(value, member)]
    also = f"; {name} has no {', '.join(lacks)}" if len(lacks) < len(MEMBERS) else ""
    raise ConfigError(
        f"{name} is not a tokenizer: pass a text_gym Tokenizer, a fast tokenizer of "
        f"transformers, or the name of a folder or hub model{also}"
    )


def checked_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer whose sizes and ids are in order; one of the user's own may have others.

    Raises:
        ConfigError: `vocab_size`, `eos_ids`, `pad_id` or `bos_id` has another form, or lies outside.
        TokenError: It cannot decode an id, or returns no string.
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
    decode_ids(tokenizer, [0])
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
