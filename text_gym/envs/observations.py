"""Shows an `EpisodeBatch` as observations of one of four kinds: tokens, ids, one-hot rows, or text.

The batch itself is the same under every kind. What is not shown here is the reward, which an agent gets
from `step`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium.error import CustomSpaceError
from gymnasium.spaces import Box, Dict, MultiDiscrete, Space, Text
from gymnasium.vector.utils import create_shared_memory

from text_gym.episode import IntArray
from text_gym.errors import ConfigError
from text_gym.prompts import texts_in_chunks
from text_gym.tokenizer import Tokenizer

from .episode_batch import EpisodeBatch

Observation: TypeAlias = dict[str, npt.NDArray[Any]]
LARGEST_ONEHOT = 65_536  # float32 numbers a row: 256 KB, beyond which an embedding of ids is the better layer
_UNKNOWN = "\ufffd"
# Characters that "text" shows whatever the vocabulary: Latin, and the sign for what it cannot show.
_LATIN = frozenset(map(chr, [9, 10, *range(0x20, 0x7F), *range(0xA0, 0x250), ord(_UNKNOWN)]))


class Observer(ABC):
    """Makes observations of a batch.

    Args:
        batch: What is observed.

    Attributes:
        space: The space of one row's observation.
    """

    space: Space[Any]

    def __init__(self, batch: EpisodeBatch) -> None:
        self.batch = batch
        self._every = np.arange(batch.num_rows)

    @abstractmethod
    def rows(self, rows: IntArray) -> Any:
        """Return the observations of rows `(n,)`, with a first axis of `n`."""

    def all(self) -> Any:
        """Return the observations of all `B` rows."""
        return self.rows(self._every)

    def one(self, observations: Any, i: int) -> Any:
        """Return the `i`-th of some rows' observations, as an environment of its own would show it."""
        return observations[i]


class TokenObserver(Observer):
    """Shows tokens, attention mask, length and remaining tokens as a `Dict`; `TextVectorEnv` explains it.

    Args:
        batch: What is observed.
        copy: False shows all rows as views of the batch's buffers.
    """

    def __init__(self, batch: EpisodeBatch, *, copy: bool) -> None:
        super().__init__(batch)
        self.copy = copy
        width, v = batch.tokens.shape[1], batch.tokenizer.vocab_size
        spaces: dict[str, Space[Any]] = {
            "tokens": Box(0, v - 1, (width,), np.int64),
            "attention_mask": Box(0, 1, (width,), np.int8),
            "length": Box(0, width, (1,), np.int64),  # TorchRL shows zeros where no episode ended
            "remaining": Box(0, batch.max_tokens, (1,), np.int64),
        }
        if batch.mask is not None:
            spaces["action_mask"] = Box(0, 1, (v,), np.int8)
        self.space = Dict(spaces)

    def all(self) -> Observation:
        """Return copies, or views of the buffers."""
        views = observe(self.batch)
        return {k: v.copy() for k, v in views.items()} if self.copy else views

    def rows(self, rows: IntArray) -> Observation:
        """Return copies."""
        return {k: v[rows] for k, v in observe(self.batch).items()}

    def one(self, observations: Observation, i: int) -> Observation:
        """Return one row of every array."""
        return {k: v[i] for k, v in observations.items()}


class IdObserver(Observer):
    """Shows the context as `(P + T,)` ids, where `V` means that nothing stands in a place.

    The prompt ends at place `P`, with `V` on its left; the completion begins there, with `V` where nothing is
    written yet. The text has no gap, token `t` of a completion always stands in place `P + t`, and the places
    left tell how many tokens remain.
    """

    def __init__(self, batch: EpisodeBatch) -> None:
        super().__init__(batch)
        self._steps = np.arange(-batch.max_prompt_tokens, batch.room)  # 0 where the completion begins
        self.space = MultiDiscrete(np.full(batch.tokens.shape[1], batch.tokenizer.vocab_size + 1))

    def rows(self, rows: IntArray) -> IntArray:
        """Return `(n, P + T)` int64."""
        batch = self.batch
        places = batch.starts[rows, None] + self._steps
        ids = np.take_along_axis(batch.tokens[rows], places, axis=1)  # those before a prompt wrap around
        ids[(places < 0) | (places >= batch.lengths[rows, None])] = batch.tokenizer.vocab_size
        return ids


class OneHotObserver(Observer):
    """Shows the places of `IdObserver` as `((P + T) * V,)` float32, `V` numbers a place, 0 where it is empty.

    Raises:
        ConfigError: That would be more than `LARGEST_ONEHOT` numbers.
    """

    def __init__(self, batch: EpisodeBatch) -> None:
        super().__init__(batch)
        self._ids = IdObserver(batch)
        width, v = batch.tokens.shape[1], batch.tokenizer.vocab_size
        if width * v > LARGEST_ONEHOT:
            raise ConfigError(
                f'observation="onehot" would be {width * v:,} numbers a row here ({width} places, a '
                f"vocabulary of {v:,}), and the most is {LARGEST_ONEHOT:,}; write "
                'observation="ids" and let the first layer be an embedding'
            )
        self.space = Box(0.0, 1.0, (width * v,), np.float32)

    def rows(self, rows: IntArray) -> npt.NDArray[np.float32]:
        """Return `(n, (P + T) * V)` float32."""
        v = self.batch.tokenizer.vocab_size
        ids = self._ids.rows(rows)
        shown = np.zeros((len(rows), ids.shape[1] * v), dtype=np.float32)
        i, place = np.nonzero(ids < v)
        shown[i, place * v + ids[i, place]] = 1.0
        return shown


class SafeText(Text):
    """A `Text` that `AsyncVectorEnv` refuses to keep in shared memory.

    Gymnasium (1.4) reads texts from there once, at the beginning, and would show them unchanged for ever.
    """


@create_shared_memory.register(SafeText)
def _refuse_shared_memory(space: SafeText, n: int = 1, ctx: Any = None) -> Any:
    raise CustomSpaceError(
        'observation="text" cannot be read from shared memory; make the environment with '
        'vector_kwargs={"shared_memory": False}'
    )


class TextObserver(Observer):
    """Shows the prompt and the completion so far as one string, special tokens left out.

    The space is a `gymnasium.spaces.Text`, which needs a finite alphabet: Latin, the characters of the
    prompts and those that single tokens decode to. Any other (of several byte tokens, say) is shown as
    U+FFFD; info has the text as it is.
    """

    def __init__(self, batch: EpisodeBatch) -> None:
        super().__init__(batch)
        pieces = [batch.tokenizer.decode([i]) for i in range(batch.tokenizer.vocab_size)]
        self._known, longest_prompt = set(_LATIN.union(*pieces)), 0
        for texts in texts_in_chunks(batch.prompts):
            self._known.update(*texts)
            longest_prompt = max(longest_prompt, *map(len, texts))
        joint = _longest_joint(batch.tokenizer)
        longest = longest_prompt + batch.room * (max(map(len, pieces)) + joint)
        # Sorted, because the order of a set differs from process to process.
        self.space = SafeText(longest, min_length=0, charset="".join(sorted(self._known)))

    def rows(self, rows: IntArray) -> tuple[str, ...]:
        """Return `n` strings."""
        return tuple(self._shown(e.prompt.text + e.completion) for e in self.batch.episodes(rows))

    def _shown(self, text: str) -> str:
        if not self._known.issuperset(text):
            text = "".join(c if c in self._known else _UNKNOWN for c in text)
        return text[: self.space.max_length]  # type: ignore[attr-defined]


def observer_of(kind: str, batch: EpisodeBatch, *, copy: bool) -> Observer:
    """Make the observer of a kind: "tokens", "ids", "onehot" or "text"; only the first has views to give.

    Raises:
        ConfigError: Too much to be shown as "onehot".
    """
    if kind == "tokens":
        return TokenObserver(batch, copy=copy)
    others: dict[str, type[Observer]] = {"ids": IdObserver, "onehot": OneHotObserver, "text": TextObserver}
    return others[kind](batch)


def observe(batch: EpisodeBatch) -> Observation:
    """Return tokens, attention mask, length and remaining tokens of all `B` rows as views of the buffers."""
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


def _longest_joint(tokenizer: Tokenizer) -> int:
    """Return how many characters a tokenizer puts between two tokens, at least one."""
    return max(1, len(getattr(tokenizer, "separator", " ")))
