"""PromptTable tokenizes prompts once; which of them an episode begins with is chosen by `EpisodeBatch`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from text_gym.encoding import encode_texts
from text_gym.episode import IntArray, Prompt
from text_gym.errors import ConfigError, PromptError, excerpt
from text_gym.prompts import in_chunks
from text_gym.tokenizer import Tokenizer

Ids = npt.NDArray[np.int32]


class PromptTable:
    """Encoded prompts one after the other in one flat array: 4 bytes a token and 24 a prompt.

    Args:
        prompts: `N >= 1` prompts; they are read once, a chunk at a time.
        tokenizer: Encodes them; its BOS id stands for an empty one.
        max_tokens: `T`, completion tokens that must fit beside a prompt.
        limit: `P`; the longest prompt's length if None.
        on_long: `"error"`, or `"truncate"`: drop tokens on the left.
        context: Largest `P + T`, if there is such a limit.

    Attributes:
        width: `P`, the room for a prompt, in tokens.
        tokens: `(M,)` int32, read-only: the prompts' tokens without gaps, then `P + T` padding ids.
        windows: `(M + 1, P + T)` int32, a view of `tokens`: row `i` is what stands from place `i` on, some
            prompt and whatever follows it.
        starts: `(N,)` int64, where each prompt begins in `tokens`.
        lengths: `(N,)` int64, in tokens.
        dropped: `(N,)` int64, tokens cut off on the left.

    Raises:
        PromptError: An empty prompt without a BOS id, or one that does not fit.
        ConfigError: No room for a prompt, or an unknown `on_long`.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        tokenizer: Tokenizer,
        max_tokens: int,
        *,
        limit: int | None = None,
        on_long: Literal["error", "truncate"] = "error",
        context: int | None = None,
    ) -> None:
        if on_long not in ("error", "truncate"):
            raise ConfigError(f"on_long_prompt is {on_long!r}; choose 'error' or 'truncate'")
        self.prompts = prompts
        most = _most_tokens(max_tokens, limit, context if on_long == "truncate" else None)
        pieces, written = self._encode(tokenizer, most if on_long == "truncate" else None)
        self.width = self._width(written, max_tokens, limit, most, context)
        self._check(written, on_long)
        self.lengths = np.minimum(written, self.width)
        self.dropped = written - self.lengths
        self.starts = np.cumsum(self.lengths) - self.lengths
        row = self.width + max_tokens
        self.tokens: Ids = np.concatenate([*pieces, np.full(row, tokenizer.pad_id, dtype=np.int32)])
        self.tokens.setflags(write=False)
        self.windows: Ids = np.lib.stride_tricks.sliding_window_view(self.tokens, row)

    def widen(self, row: int) -> None:
        """Make the windows `row` tokens wide, for conversations, which is at least `P + T`."""
        if row == self.windows.shape[1]:
            return
        more = np.full(row - self.windows.shape[1], self.tokens[-1], dtype=np.int32)
        self.tokens = np.concatenate([self.tokens, more])
        self.tokens.setflags(write=False)
        self.windows = np.lib.stride_tricks.sliding_window_view(self.tokens, row)

    def ids(self, index: int) -> Ids:
        """Return the tokens of one prompt, a read-only view."""
        start = self.starts[index]
        return self.tokens[start : start + self.lengths[index]]

    def texts(self, choice: IntArray) -> npt.NDArray[np.object_]:
        """Return the texts of prompts `(n,)`, an object array."""
        prompts = self.prompts
        return np.array([prompts[i].text for i in choice.tolist()], dtype=object)

    def _encode(self, tokenizer: Tokenizer, most: int | None) -> tuple[list[Ids], IntArray]:
        """Encode the prompts, and keep the last `most` tokens of each, if there is such a limit.

        Returns:
            The tokens kept, in pieces, and how many each prompt has, `(N,)` int64, those cut off included.
        """
        pieces, lengths, bos = [], [], tokenizer.bos_id
        for texts in in_chunks(self.prompts):
            ids, counts = encode_texts(tokenizer, texts)
            if bos is not None and not counts.all():
                ids = np.insert(ids, (np.cumsum(counts) - counts)[counts == 0], bos)
                counts[counts == 0] = 1
            if most is not None and counts.max() > most:
                left = np.repeat(np.cumsum(counts), counts) - np.arange(len(ids))  # of the prompt
                ids = ids[left <= most]
            pieces.append(ids)
            lengths.append(counts)
        return pieces, np.concatenate(lengths)

    def _width(
        self, lengths: IntArray, max_tokens: int, limit: int | None, most: int | None, context: int | None
    ) -> int:
        """Return `P`: the limit given, or what the longest prompt needs and the context allows."""
        width = max(1, int(lengths.max())) if limit is None else limit
        width = width if most is None else min(width, most)
        if context is not None and width + max_tokens > context:
            longest = int(lengths.argmax())
            raise PromptError(
                f"{width} prompt tokens (longest: prompt {longest}, {excerpt(self.prompts[longest].id)}) and "
                f"max_tokens={max_tokens} exceed the context of {context} tokens; shorten them, lower "
                f"max_tokens, {_OR_TRUNCATE}"
            )
        return width

    def _check(self, lengths: IntArray, on_long: str) -> None:
        """Refuse the first prompt that is empty or, if none is to be cut, too long."""
        bad = lengths == 0
        if on_long == "error":
            bad |= lengths > self.width
        if not bad.any():
            return
        i = int(bad.argmax())
        where = f"prompt {i} ({excerpt(self.prompts[i].id)})"
        if lengths[i] == 0:
            raise PromptError(f"{where} has no tokens and the tokenizer has no BOS id to stand for it")
        raise PromptError(
            f"{where} has {lengths[i]} tokens, max_prompt_tokens is {self.width}; raise it, {_OR_TRUNCATE}"
        )


# The command line has no such option: a policy would learn from prompts that lack their beginnings.
_OR_TRUNCATE = (
    "or, in Python, make the environment with on_long_prompt='truncate', which drops tokens on the left"
)


def _most_tokens(max_tokens: int, limit: int | None, context: int | None) -> int | None:
    """Return how many tokens of a prompt fit under the limit and, with a completion, into the context."""
    if limit is not None and limit < 1:
        raise ConfigError(f"max_prompt_tokens is {limit}; it must be at least 1")
    if context is None:
        return limit
    room = context - max_tokens
    if room < 1:
        raise ConfigError(
            f"max_tokens={max_tokens} leaves no room for a prompt in the context of {context} "
            "tokens; lower max_tokens"
        )
    return room if limit is None else min(limit, room)
