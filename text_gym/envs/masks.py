"""Action masks say which tokens may come next, for algorithms that can use them.

A mask looks at prompt and completion so far and at nothing else, so that it can be asked at any time.
Masks by a reference policy (NLPO) need a model and live in `text_gym.agents`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from text_gym.episode import BoolArray, IntArray
from text_gym.errors import ConfigError, TokenError, excerpt
from text_gym.tokenizer import ByteTokenizer, PretrainedTokenizer, Tokenizer


class Prefixes(NamedTuple):
    """The episodes a mask is asked about, as views it must neither change nor keep.

    Args:
        rows: `(n,)` int64, their rows in the environment.
        tokens: `(n, P + T)` int64, prompt and completion without a gap.
        starts: `(n,)` int64, where the completions begin.
        lengths: `(n,)` int64, where they end.
    """

    rows: IntArray
    tokens: IntArray
    starts: IntArray
    lengths: IntArray

    def completion(self, i: int) -> list[int]:
        """Return the token ids of the `i`-th completion so far."""
        ids: list[int] = self.tokens[i, self.starts[i] : self.lengths[i]].tolist()
        return ids


class ActionMask(ABC):
    """Says which of the `V` tokens may come next; `&` combines masks."""

    def bind(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        """Prepare for an environment, which calls this once.

        Args:
            tokenizer: Of the environment.
            max_tokens: Its token limit `T`.

        Raises:
            ConfigError: The mask cannot be met with this tokenizer or limit.
        """
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    @abstractmethod
    def allowed(self, prefixes: Prefixes) -> BoolArray:
        """Return which tokens may follow, `(n, V)` bool."""

    def __and__(self, other: ActionMask) -> ActionMask:
        return _Both(self, other)


class _Both(ActionMask):
    def __init__(self, first: ActionMask, second: ActionMask) -> None:
        self.first, self.second = first, second

    def bind(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        super().bind(tokenizer, max_tokens)
        self.first.bind(tokenizer, max_tokens)
        self.second.bind(tokenizer, max_tokens)

    def allowed(self, prefixes: Prefixes) -> BoolArray:
        both: BoolArray = self.first.allowed(prefixes) & self.second.allowed(prefixes)
        return both


class AllowedTokens(ActionMask):
    """Allows a fixed set of tokens, and EOS.

    Args:
        texts: Texts whose tokens are allowed.
        ids: Ids that are allowed.
        forbidden: Ids that are not (then all others are, unless texts or ids are given).

    >>> from text_gym import TextVectorEnv
    >>> mask = AllowedTokens(texts=["01"])
    >>> env = TextVectorEnv(["bits: "], ByteTokenizer(), lambda completion: 1.0, 4, mask=mask)
    >>> observation, _ = env.reset(seed=0)
    >>> np.flatnonzero(observation["action_mask"][0])
    array([ 48,  49, 256])
    """

    def __init__(
        self, texts: Sequence[str] = (), ids: Sequence[int] = (), forbidden: Sequence[int] = ()
    ) -> None:
        if isinstance(texts, str):
            raise ConfigError("AllowedTokens takes a list of texts, not one string")
        if not all(isinstance(text, str) for text in texts):
            raise ConfigError("AllowedTokens takes texts first; for token ids write AllowedTokens(ids=...)")
        self.texts, self.ids, self.forbidden = tuple(texts), tuple(ids), tuple(forbidden)

    def bind(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        """Look up the texts in the vocabulary."""
        super().bind(tokenizer, max_tokens)
        wanted = {i for text in self.texts for i in tokenizer.encode(text)} | set(self.ids)
        for i in (*wanted, *self.forbidden):
            if not 0 <= i < tokenizer.vocab_size:
                raise TokenError(f"AllowedTokens: id {i} is outside [0, {tokenizer.vocab_size})")
        self._mask = np.full(tokenizer.vocab_size, not wanted)
        self._mask[[*wanted, *tokenizer.eos_ids]] = True
        self._mask[list(self.forbidden)] = False

    def allowed(self, prefixes: Prefixes) -> BoolArray:
        """Allow the same tokens in every row."""
        return np.broadcast_to(self._mask, (len(prefixes.rows), len(self._mask)))


class MinLength(ActionMask):
    """Forbids EOS until `tokens` tokens have been written.

    Args:
        tokens: Least completion length, in tokens, EOS not counted.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def bind(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        """Check that the length leaves room for EOS."""
        super().bind(tokenizer, max_tokens)
        if not 0 <= self.tokens < max_tokens:
            raise ConfigError(
                f"MinLength of {self.tokens} tokens cannot be met within max_tokens={max_tokens}"
            )

    def allowed(self, prefixes: Prefixes) -> BoolArray:
        """Allow everything but EOS while the completion is short."""
        mask = np.ones((len(prefixes.rows), self.tokenizer.vocab_size), dtype=np.bool_)
        short = prefixes.lengths - prefixes.starts < self.tokens
        mask[np.ix_(short, np.array(self.tokenizer.eos_ids, dtype=np.int64))] = False
        return mask


class Grammar(ActionMask):
    """Allows only completions of a grammar, through `llguidance` (extra `constrained`).

    A limit of tokens can still cut a text short; that the shortest text fits is checked for JSON schemas.

    Args:
        json_schema: A JSON schema (mapping or text), …
        regex: … or a regular expression, …
        lark: … or a context-free grammar in Lark's notation.

    Raises:
        ConfigError: Not exactly one of them, a malformed one, or `llguidance` is missing.
    """

    def __init__(
        self,
        *,
        json_schema: Mapping[str, Any] | str | None = None,
        regex: str | None = None,
        lark: str | None = None,
    ) -> None:
        if sum(x is not None for x in (json_schema, regex, lark)) != 1:
            raise ConfigError("Grammar takes exactly one of json_schema, regex and lark")
        matcher = _llguidance().LLMatcher
        self.schema = json.loads(json_schema) if isinstance(json_schema, str) else json_schema
        try:
            if self.schema is not None:
                self._grammar = matcher.grammar_from_json_schema(json.dumps(self.schema))
            elif regex is not None:
                self._grammar = matcher.grammar_from_regex(regex)
            else:
                self._grammar = matcher.grammar_from_lark(str(lark))
        except ValueError as error:
            raise ConfigError(f"malformed grammar: {error}") from error
        self._matchers: dict[
            int, tuple[list[int], Any]
        ] = {}  # row -> the ids read so far, and the state after them

    def bind(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        """Compile the grammar for the tokenizer's vocabulary."""
        super().bind(tokenizer, max_tokens)
        self._backend = _ll_tokenizer(tokenizer)
        self._matchers.clear()
        matcher = self._new_matcher()
        if self.schema is not None:
            shortest = tokenizer.encode(json.dumps(_smallest(self.schema), separators=(",", ":")))
            if len(shortest) + 1 > max_tokens:
                raise ConfigError(
                    f"the shortest text of this JSON schema takes {len(shortest)} tokens and EOS; "
                    f"max_tokens is {max_tokens}"
                )
        if matcher.is_error():
            raise ConfigError(f"malformed grammar: {matcher.get_error()}")

    def allowed(self, prefixes: Prefixes) -> BoolArray:
        """Allow what the grammar lets follow, and EOS where the text may end."""
        v = self.tokenizer.vocab_size
        mask = np.zeros((len(prefixes.rows), v), dtype=np.bool_)
        for i, row in enumerate(prefixes.rows.tolist()):
            matcher = self._advance(row, prefixes.completion(i))
            bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            mask[i] = np.unpackbits(bits, bitorder="little")[:v].astype(np.bool_)
        return mask

    def _advance(self, row: int, ids: list[int]) -> Any:
        """Advance a row's matcher to these ids, reading only the new ones."""
        read, matcher = self._matchers.get(row, ([], None))
        if matcher is None or ids[: len(read)] != read:
            read, matcher = [], self._new_matcher()
        new = ids[len(read) :]
        if new and not matcher.consume_tokens(new):
            text = self.tokenizer.decode(ids)
            raise TokenError(
                f"the completion {excerpt(text)} in row {row} has left the grammar: {matcher.get_error()}"
            )
        self._matchers[row] = (ids, matcher)
        return matcher

    def _new_matcher(self) -> Any:
        return _llguidance().LLMatcher(self._backend, self._grammar)

    def __getstate__(self) -> dict[str, Any]:
        # Compiled state belongs to this process and is rebuilt when an environment is unpickled.
        return {k: v for k, v in self.__dict__.items() if k not in ("_backend", "_matchers")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._matchers = {}
        if "tokenizer" in state:
            self._backend = _ll_tokenizer(self.tokenizer)


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise ConfigError("grammars need llguidance: pip install llguidance") from error
    return llguidance


def _ll_tokenizer(tokenizer: Tokenizer) -> Any:
    """Convert the tokenizer to llguidance's form, the bytes of every token."""
    ll = _llguidance()
    if not tokenizer.eos_ids:
        raise ConfigError("a grammar needs an EOS id, so that a text can end")
    if isinstance(tokenizer, PretrainedTokenizer):
        return ll.LLTokenizer(
            tokenizer.backend.to_str(), n_vocab=tokenizer.vocab_size, eos_token=tokenizer.eos_ids[0]
        )
    if isinstance(tokenizer, ByteTokenizer):
        return ll.LLTokenizer(ll.TokenizerWrapper(_Bytes()), n_vocab=tokenizer.vocab_size)
    raise ConfigError(
        f"grammars work on bytes; {type(tokenizer).__name__} does not say which bytes its tokens stand for"
    )


class _Bytes:
    """`ByteTokenizer` in the form llguidance asks for."""

    eos_token_id = ByteTokenizer.eos_ids[0]
    bos_token_id = None
    special_token_ids = (256, 257)
    tokens = (*(bytes([i]) for i in range(256)), b"<eos>", b"<pad>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _smallest(schema: Mapping[str, Any] | bool) -> Any:
    """Return a short value of a JSON schema, to see whether any fits."""
    if isinstance(schema, bool):
        return 0
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return min(schema["enum"], key=lambda value: len(json.dumps(value)))
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return min((_smallest(s) for s in schema[key]), key=lambda value: len(json.dumps(value)))
    kind = schema.get("type", "null" if "properties" not in schema else "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _smallest(properties.get(name, {})) for name in schema.get("required", ())}
    if kind == "array":
        return [_smallest(schema.get("items", {}))] * int(schema.get("minItems", 0))
    if kind == "string":
        return "x" * int(schema.get("minLength", 0))
    return {"boolean": True, "null": None}.get(kind, schema.get("minimum", 0))


def mask_array(mask: npt.NDArray[Any], shape: tuple[int, int], rows: IntArray) -> BoolArray:
    """Check a mask's answer.

    Raises:
        ConfigError: It is not bool of this shape, or forbids everything in a row: sampling from
            nothing would have to be sampling from anything.
    """
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != shape:
        found = f"{getattr(mask, 'dtype', type(mask).__name__)} {getattr(mask, 'shape', '')}"
        raise ConfigError(f"the action mask returned {found}; expected bool of shape {shape}")
    possible = mask.any(axis=1)
    if not possible.all():
        row = int(rows[np.flatnonzero(~possible)[0]])
        raise ConfigError(f"the action mask forbids every token in row {row}; the episode cannot go on")
    return mask
