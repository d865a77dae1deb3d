"""The decoder reads a batch of prompts and then one token after another, each once.

GPT-2 is read with its own fused arithmetic, other architectures through their own code; both with keys and
values in memory allocated once. Architectures that keep something else (windows of attention, recurrent
states) get the cache that `transformers` makes for them. Drawing tokens is the sampler's business.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from text_gym.agents.policies.policy import Policy
from text_gym.episode import BoolArray, IntArray
from text_gym.errors import ConfigError
from text_gym.models.cpu.fast_path import fast_path, why_no_int8
from text_gym.models.kv_cache import KeyValues, KVCache, LayerCache, RolloutWeights


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
        self._cache = LibraryCache(policy) if cache is None else cache
        self._lengths = lengths.copy()
        self.logits = policy.logits_of_fixed_weights(weights)
        ids = torch.from_numpy(np.ascontiguousarray(tokens[:, :longest])).to(policy.device)
        self.states = self._cache.prefill(ids, lengths)

    def step(self, tokens: Tensor) -> Tensor:
        """Append tokens `(n,)` int64 and return the states `(n, D)` there."""
        self.states = self._cache.append(tokens, self._lengths)
        self._lengths = self._lengths + 1
        return self.states

    def keep(self, rows: IntArray) -> None:
        """Continue with these rows only: row `i` becomes what row `rows[i]` was.

        Args:
            rows: `(m,)` int64, distinct. Rows that keep their place cost nothing, see `survivors`.
        """
        self._cache.keep(rows)
        self._lengths = self._lengths[rows]
        self.states = self.states[torch.from_numpy(rows).to(self.states.device)]


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
    config = policy.model.config.get_text_config()
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    if any(window is not None and window < width for window in windows):
        return None
    path = None if policy.bf16 else fast_path(policy.model.base_model)
    ways: dict[str, Callable[[int, int], KVCache]] = {} if path is None else {"fast path": path.cache}
    ways["own code"] = partial(own_code_cache, policy)
    for way, make in ways.items():
        if _AGREED.get(policy.model) == way:
            return make(rows, width)
        if _agrees(policy, make(3, 4)):
            _AGREED[policy.model] = way
            return make(rows, width)
    return None


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
    tolerance = 1e-4 if states.dtype == torch.float32 and not policy.bf16 else 0.05
    return torch.allclose(states, wanted, rtol=tolerance, atol=tolerance)


def own_code_cache(policy: Policy, rows: int, width: int) -> KeyValues:
    """Make a KV cache that is read through the model's own code, whatever its architecture.

    >>> from text_gym import ByteTokenizer
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> cache = own_code_cache(policy, rows=2, width=8)
    >>> with torch.no_grad():
    ...     _ = cache.prefill(torch.tensor([[72, 105], [72, 0]]), np.array([2, 1]))
    ...     states = cache.append(torch.tensor([33, 105]), np.array([2, 1]))
    >>> states.shape
    torch.Size([2, 16])
    """
    layers = policy.model.config.get_text_config().num_hidden_layers
    return KeyValues(AnyReader(policy), layers, rows, width, like=next(policy.model.parameters()))


class AnyReader:
    """Reads through the model's own code, as a `Reader`."""

    def __init__(self, policy: Policy) -> None:
        from transformers.cache_utils import DynamicLayer

        class Adapter(DynamicLayer):
            """Presents a `LayerCache` where `transformers` expects one of its own."""

            def __init__(self, layer: LayerCache) -> None:
                super().__init__()  # type: ignore[no-untyped-call]
                self.layer = layer

            def update(
                self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
            ) -> tuple[Tensor, Tensor]:
                return self.layer.update(key_states, value_states)

            def get_seq_length(self, *_: Any) -> int:
                return max(self.layer.place.width - 1, 0)

        self._policy, self._adapter = policy, Adapter

    def __call__(
        self,
        layers: list[LayerCache],
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        last: Tensor | None,
    ) -> Tensor:
        """Implement `Reader`."""
        from transformers.cache_utils import Cache

        if mask is not None:  # some architectures add to it
            mask = mask.clamp_min(torch.finfo(mask.dtype).min)
        states: Tensor = self._policy.hidden(
            tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=Cache(layers=[self._adapter(layer) for layer in layers]),
            use_cache=True,
        ).last_hidden_state
        at = -1 if last is None else last
        return states[torch.arange(len(states), device=states.device), at]


class LibraryCache:
    """The cache of `transformers`, as a `KVCache`; padded on the left, since its rows must end together."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.renew()

    def renew(self) -> None:
        """Implement `KVCache`."""
        from transformers import DynamicCache

        self._cache: Any = DynamicCache(config=self._policy.model.config)

    def prefill(self, tokens: Tensor, lengths: IntArray, rows: IntArray | None = None) -> Tensor:
        """Implement `KVCache`, for all rows at once."""
        assert rows is None
        shift = tokens.shape[1] - lengths
        self._padded = bool(shift.any())
        columns = torch.from_numpy(np.arange(tokens.shape[1]) - shift[:, None]).to(tokens.device)
        self._attention, positions = (columns >= 0).long(), columns.clamp_min(0)
        return self._forward(tokens.gather(1, positions), positions)

    def append(self, tokens: Tensor, at: IntArray) -> Tensor:
        """Implement `KVCache`."""
        if self._padded:
            self._attention = torch.cat([self._attention, self._attention.new_ones(len(tokens), 1)], dim=1)
        return self._forward(tokens[:, None], torch.from_numpy(at).to(tokens.device)[:, None])

    def keep(self, rows: IntArray) -> None:
        """Implement `KVCache`."""
        index = torch.from_numpy(rows).to(self._attention.device)
        self._cache.batch_select_indices(index)
        self._attention = self._attention[index]

    def _forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        states: Tensor = self._policy.hidden(
            tokens,
            attention_mask=self._attention if self._padded else None,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return states[:, -1]
