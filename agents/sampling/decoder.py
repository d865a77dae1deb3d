"""The decoder reads a batch of prompts and then one token after another, each once.

Architectures that the fast path knows are read with its fused arithmetic, others through their own code; both
with keys and values in memory allocated once. Those with windows or recurrent states keep their own cache. A
rollout that does not fit into an accelerator's memory is played in parts. Drawing tokens is the sampler's
business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from text_gym.agents.policies.memory import pass_bytes, smaller
from text_gym.agents.policies.policy import Policy
from text_gym.episode import BoolArray, IntArray
from text_gym.errors import ConfigError
from text_gym.models.cpu.fast_path import distrust, fast_path, tell_own_code, why_no_int8
from text_gym.models.kv_cache import ExtendingCache, KVCache, RolloutWeights, in_buckets
from text_gym.models.runtime import upload

from .own_code import LibraryCache, NoCache, own_code_cache

LOG = logging.getLogger("text_gym")


class Decoder:
    """Decodes token by token with any `transformers` causal LM; call it without gradients.

    Args:
        policy: The policy.
        tokens: `(B, >= P)` int64, right-padded prompts.
        lengths: `(B,)` int64, their lengths, at least 1.
        room: Most tokens that `step` will be called with, a row.
        fast: False goes through the cache of `transformers`, whatever the architecture.
        weights: In what numbers matrices are multiplied; "int8" rounds weights and states.

    Attributes:
        states: `(n, D)`, the trunk's last hidden states at the last tokens read.
        logits: `Policy.logits`, in the fastest way that there is while the weights stay as they are.

    >>> from text_gym import ByteTokenizer
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> with torch.no_grad():
    ...     decoder = Decoder(policy, np.array([[72, 105], [72, 0]]), np.array([2, 1]), room=6)
    ...     decoder.keep(np.array([1]))
    ...     states = decoder.step(torch.tensor([105]))
    >>> states.shape, policy.logits(states).shape
    (torch.Size([1, 16]), torch.Size([1, 258]))
    """

    def __init__(
        self,
        policy: Policy,
        tokens: IntArray,
        lengths: IntArray,
        room: int,
        *,
        fast: bool = True,
        weights: RolloutWeights = "float32",
    ) -> None:
        longest = int(lengths.max())
        size = len(tokens), longest + room
        if weights == "int8":
            cache: KVCache | None = int8_cache(policy, *size)
        else:
            cache = fastest_cache(policy, *size) if fast else None
        self._cache = library_cache(policy, *size) if cache is None else cache
        self._extending = self._cache if isinstance(self._cache, ExtendingCache) else None
        self._lengths = lengths.copy()
        self.logits = policy.logits_of_fixed_weights(weights)
        self.states = self._read(np.ascontiguousarray(tokens[:, :longest]), policy.device)

    def _read(self, prompts: IntArray, device: torch.device) -> Tensor:
        """Read prompts, those of several rows once; return the states at their ends `(B, D)`."""
        sources = first_of_same(prompts, self._lengths)
        rows, of_rows = np.unique(sources, return_inverse=True)
        if len(rows) == len(prompts):
            return self._cache.prefill(upload(prompts, device), self._lengths)
        states = self._cache.prefill(upload(prompts[rows], device), self._lengths[rows], rows)
        self._cache.spread(sources, prompts.shape[1])
        return states[upload(of_rows, device)]

    def step(self, tokens: Tensor) -> Tensor:
        """Append tokens `(n,)` int64 and return the states `(n, D)` there."""
        self.states = self._cache.append(tokens, self._lengths)
        self._lengths = self._lengths + 1
        return self.states

    def extend(self, tokens: IntArray, rows: IntArray, lengths: IntArray) -> IntArray:
        """Read on where rows have grown, some of them by several tokens.

        Caches that can do so read all that is new at once. With others every row reads one token, and what
        else there is waits for the next call.

        Args:
            tokens: `(B, S)` int64, contiguous, where the texts stand …
            rows: … `(n,)` int64, in these rows.
            lengths: `(n,)` int64, how long they are, at least as long as what was read; it is kept.

        Returns:
            `(n,)` int64, how many tokens of each row have been read now, `lengths` itself where that is all.
            Rows that grew have their `states`.
        """
        read = self._lengths
        if self._extending is not None:
            self.states = self._extending.extend(tokens, rows, read, lengths)
            self._lengths = lengths
        else:
            columns = np.minimum(read, tokens.shape[1] - 1)
            self.step(upload(tokens[rows, columns], self.states.device))
        return self._lengths

    def keep(self, rows: IntArray) -> None:
        """Continue with these rows only: row `i` becomes what row `rows[i]` was.

        Args:
            rows: `(m,)` int64, distinct. Rows that keep their place cost nothing, see `survivors`.
        """
        self._cache.keep(rows)
        self._lengths = self._lengths[rows]
        self.states = self.states[upload(rows, self.states.device)]


def first_of_same(prompts: IntArray, lengths: IntArray) -> IntArray:
    """Return for each row the first one that has the same prompt, as the rows of a group have.

    Args:
        prompts: `(B, P)` int64, right-padded.
        lengths: `(B,)` int64.

    >>> first_of_same(np.array([[1, 0], [1, 2], [1, 0]]), np.array([1, 2, 1]))
    array([0, 1, 0])
    """
    first: dict[object, int] = {}
    keys = ((n, row.tobytes()) for n, row in zip(lengths.tolist(), prompts, strict=True))
    return np.array([first.setdefault(key, row) for row, key in enumerate(keys)])


def survivors(live: BoolArray) -> IntArray:
    """Return the running rows in an order in which most keep their place.

    >>> survivors(np.array([True, False, True, False, False, True]))
    array([0, 5, 2])
    """
    rows = np.arange(np.count_nonzero(live))
    rows[~live[: len(rows)]] = len(rows) + np.flatnonzero(live[len(rows) :])
    return rows


# Models whose cache was found to agree with the uncached model, and how it reads.
_AGREED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
# Whether the cache that `transformers` makes for a model agrees with the uncached model.
_LIBRARY_AGREES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
# The names that configurations have for how far back attention looks; GPT-Neo's is the third.
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")


def fastest_cache(policy: Policy, rows: int, width: int) -> KVCache | None:
    """Make the fastest KV cache that agrees with the uncached model; None if none does.

    Agreement is tried out once a model, on rows of different lengths. What a trial on a few tokens cannot
    show is asked of the configuration: windows of attention shorter than the rows, modules put in place of
    others.

    Args:
        policy: The policy.
        rows: `B`.
        width: Most tokens of a row.
    """
    trunk = policy.model.base_model
    path = None if policy.bf16 else fast_path(trunk)
    if path is None and not policy.bf16:
        tell_own_code(trunk)
    config = policy.model.config.get_text_config()
    windows = (getattr(config, name, None) for name in _WINDOWS)
    if any(window is not None and window < width for window in windows):
        return None
    ways: dict[str, Callable[[int, int], KVCache]] = {} if path is None else {"fast path": path.cache}
    ways["own code"] = partial(own_code_cache, policy)
    for way, make in ways.items():
        if _AGREED.get(policy.model) == way:
            return make(rows, width)
        if _agrees(policy, make(3, 4)):
            _AGREED[policy.model] = way
            return make(rows, width)
        if make is not ways["own code"]:
            distrust(trunk)
    return None


def library_cache(policy: Policy, rows: int, width: int) -> KVCache:
    """Make the cache of `transformers` if it agrees with the uncached model, else one that keeps nothing.

    Args:
        policy: The policy.
        rows: `B`.
        width: Most tokens of a row.
    """
    if policy.model not in _LIBRARY_AGREES:
        cache = LibraryCache(policy)
        _LIBRARY_AGREES[policy.model] = cache.of_library and _agrees(policy, cache)
        if not _LIBRARY_AGREES[policy.model]:
            LOG.warning(
                "%s has no cache that can be used here: all of a text is read again for each token, slowly",
                type(policy.model).__name__,
            )
    return LibraryCache(policy) if _LIBRARY_AGREES[policy.model] else NoCache(policy, rows, width)


def check_int8(policy: Policy) -> None:
    """Refuse a policy whose rollouts cannot be made with 8-bit weights.

    Raises:
        ConfigError: Naming the reason.
    """
    reason = "bf16=True makes the products in bfloat16" if policy.bf16 else None
    reason = reason or why_no_int8(policy.model.base_model)
    if reason is None and policy.model not in _AGREED:
        fastest_cache(policy, 3, 4)
    if reason is None and _AGREED.get(policy.model) != "fast path":
        reason = "the fast path does not agree with the model's own code"
    if reason is not None:
        raise ConfigError(f"rollouts with 8-bit weights are impossible here: {reason}; choose float32")


def int8_cache(policy: Policy, rows: int, width: int) -> KVCache:
    """Make a KV cache that is read with weights of 8 bits, of `B` rows and at most so many tokens.

    Raises:
        ConfigError: That is impossible with this policy.
    """
    check_int8(policy)
    path = fast_path(policy.model.base_model)
    assert path is not None
    return path.cache(rows, width, "int8")


@torch.no_grad()
def _agrees(policy: Policy, cache: KVCache) -> bool:
    """Try out a cache for 3 rows of 4 tokens."""
    lengths = np.array([3, 1, 2])
    tokens = torch.arange(12, device=policy.device).view(3, 4) * 7 % policy.vocab_size
    last = torch.from_numpy(lengths).to(tokens.device)
    rows = torch.arange(3, device=tokens.device)
    wanted = policy.hidden(tokens).last_hidden_state[rows, last]
    try:
        cache.prefill(tokens[:, :3], lengths)
        states = cache.append(tokens[rows, last], lengths)
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False  # not a cache of keys and values, or one of another form
    if states.dtype == torch.float32 and not policy.bf16:
        return torch.allclose(states, wanted, rtol=1e-4, atol=1e-4)
    # Rounding is relative to a state's length: a small component beside a large one may be far off. SmolLM2's
    # states are 0.3 % off in bfloat16; one token less, or in another place, makes at least 15 %.
    off = (states - wanted).float().norm(dim=-1)
    return bool((off <= 0.05 * wanted.float().norm(dim=-1)).all())


@contextmanager
def stored_in_bfloat16(policy: Policy) -> Iterator[None]:
    """Let linear layers read a bfloat16 copy of their weights within the block, if products are made in it.

    Autocast casts every matrix whenever it is used, which for a token at a time is most of the work. What it
    computes from the copy is the same to the bit. The weights themselves, float32, come back afterwards.

    Args:
        policy: It must not be trained within the block. One with `bf16` off is left alone.
    """
    from transformers.pytorch_utils import Conv1D

    layers = [m for m in policy.model.modules() if isinstance(m, nn.Linear | Conv1D)] if policy.bf16 else []
    kept = [dict(layer._parameters) for layer in layers]
    copies: dict[int, nn.Parameter] = {}  # tied matrices are copied once
    for layer in layers:
        for name, weight in layer._parameters.items():
            if weight is not None and weight.dtype == torch.float32:
                copy = copies.get(id(weight))
                if copy is None:
                    copy = nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)
                layer._parameters[name] = copies[id(weight)] = copy
    try:
        yield
    finally:
        for layer, weights in zip(layers, kept, strict=True):
            layer._parameters.update(weights)


# Rows that a policy plays at once, where more of them did not fit into an accelerator's memory.
_FITTING: WeakKeyDictionary[Policy, int] = WeakKeyDictionary()


def rows_at_once(policy: Policy, tokens: int) -> int | None:
    """Return for how many rows of so many tokens an accelerator has free memory; None if that is unknown.

    A row needs keys and values in all layers, its logits, and for each token of its prompt, which may be all
    of it, what one layer makes of it.
    """
    config = policy.model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    if policy.device.type != "cuda" or heads is None:
        return None
    layers, groups = config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = 2 * layers * groups * size * policy.model.dtype.itemsize * in_buckets(tokens)
    needed = kept + tokens * policy.token_bytes // layers + 3 * policy.vocab_size * policy.dtype.itemsize
    return max(1, pass_bytes(policy.device) // int(needed))


def in_parts(
    policy: Policy,
    rows: IntArray,
    tokens: int,
    play: Callable[[IntArray], None],
    *,
    again: Callable[[IntArray], None],
) -> None:
    """Play as many rows at once as there is free memory for; where it runs out, half of them from then on.

    An episode does not depend on which others are played beside it, so every part may be played again.

    Args:
        policy: Who plays.
        rows: `(n,)` int64.
        tokens: Most of a row.
        play: Plays some of the rows, which have begun.
        again: Begins some of the rows again, of which a part may have been played.

    Raises:
        ConfigError: There is not enough memory for a single row.
    """
    waiting, fit = [rows], rows_at_once(policy, tokens) or len(rows)
    while waiting:
        part, most = waiting.pop(), min(fit, _FITTING.get(policy, len(rows)))
        if len(part) > most:
            waiting += [part[i : i + most] for i in range(0, len(part), most)][::-1]
            continue
        try:
            play(part)
            continue
        except torch.OutOfMemoryError as error:
            _FITTING[policy] = smaller(len(part), tokens, error)
        again(part)
        waiting.append(part)
        if policy.device.type == "cuda":  # only after the error and everything its frames hold are gone
            torch.cuda.empty_cache()
