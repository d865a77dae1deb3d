"""PromptTable tokenizes prompts once; which of them an episode begins with is chosen by `EpisodeBatch`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from text_gym.episode import Prompt
from text_gym.errors import ConfigError, PromptError, excerpt
from text_gym.tokenizer import Tokenizer


class PromptTable:
    """Encoded prompts in one `(N, P)` array.

    Args:
        prompts: `N >= 1` prompts.
        tokenizer: Encodes them; its BOS id stands for an empty one.
        max_tokens: Completion tokens that must fit beside a prompt.
        limit: `P`; the longest prompt's length if None.
        on_long: `"error"`, or `"truncate"`: drop tokens on the left.
        context: Largest `P + max_tokens`, if there is such a limit.

    Attributes:
        tokens: `(N, P)` int64, read-only, right-padded.
        lengths: `(N,)` int64, in tokens.
        ids: `N` read-only int64 arrays, the rows of `tokens` without padding.
        dropped: `(N,)` int64, tokens cut off on the left.
        texts: `(N,)` object array of the prompts' texts.

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
        bos = tokenizer.bos_id
        encoded = [p.encode(tokenizer) or ([] if bos is None else [bos]) for p in prompts]
        width = self._width(list(map(len, encoded)), max_tokens, limit, on_long, context)
        self.texts: npt.NDArray[Any] = np.array([p.text for p in prompts], dtype=object)
        self.tokens = np.full((len(encoded), width), tokenizer.pad_id, dtype=np.int64)
        self.lengths = np.zeros(len(encoded), dtype=np.int64)
        self.dropped = np.zeros(len(encoded), dtype=np.int64)
        for i, ids in enumerate(encoded):
            where = f"prompt {i} ({excerpt(prompts[i].id)})"
            if not ids:
                raise PromptError(f"{where} has no tokens and the tokenizer has no BOS id to stand for it")
            if len(ids) > width and on_long == "error":
                raise PromptError(
                    f"{where} has {len(ids)} tokens, max_prompt_tokens is {width}; raise it, or pass "
                    "on_long_prompt='truncate' to drop tokens on the left"
                )
            kept = ids[-width:]
            self.dropped[i] = len(ids) - len(kept)
            self.tokens[i, : len(kept)] = kept
            self.lengths[i] = len(kept)
        self.tokens.setflags(write=False)  # because episodes hold views of it
        self.ids = [row[:length] for row, length in zip(self.tokens, self.lengths, strict=True)]

    def _width(
        self, lengths: list[int], max_tokens: int, limit: int | None, on_long: str, context: int | None
    ) -> int:
        """Return `P`: the limit given, or what the longest prompt needs and the context allows."""
        if limit is not None and limit < 1:
            raise ConfigError(f"max_prompt_tokens is {limit}; it must be at least 1")
        width = max(1, *lengths) if limit is None else limit
        if context is not None and on_long == "truncate":
            width = min(width, context - max_tokens)
            if width < 1:
                raise ConfigError(
                    f"max_tokens={max_tokens} leaves no room for a prompt in the context of {context} "
                    "tokens; lower max_tokens"
                )
        if context is not None and width + max_tokens > context:
            longest = lengths.index(max(lengths))
            raise PromptError(
                f"{width} prompt tokens (longest: prompt {longest}, {excerpt(self.prompts[longest].id)}) and "
                f"max_tokens={max_tokens} exceed the context of {context} tokens; shorten them, lower "
                "max_tokens, or pass on_long_prompt='truncate'"
            )
        return width
