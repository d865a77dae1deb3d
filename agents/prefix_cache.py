"""Key-value cache for rows of tokens that usually, but not always, go on where they were last read.

The sampler decodes a batch from start to end; libraries with loops of their own call a policy with one
observation after another, in which rows grow, restart and finish at any time. `PrefixCache` finds out
what of an observation is new and computes only that. It draws no tokens and knows no library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from .policy import Policy

IntArray = npt.NDArray[np.int64]
# (policy, caches that know where to write, tokens (B,), positions (B,), mask or None) -> states (B, D)
Step = Callable[[Policy, "list[Rows]", Tensor, Tensor, "Tensor | None"], Tensor]


class PrefixCache:
    """The last tokens read of `B` rows, with the keys and values computed for them.

    A row that equals what was read before costs nothing; one that has a token more costs one step, in a
    batch with the others; any other is read from its beginning. Changed weights void everything.
    Architectures whose cached states differ from the uncached ones are always read from the beginning.

    Args:
        policy: Whose hidden states are wanted.
        rows: `B`.
        width: Most tokens of a row, at most the policy's context.
        step: How one more token a row is read; `"auto"` takes the fastest way that agrees with the
            uncached model, None reads every row from its beginning, always.

    >>> from text_gym import ByteTokenizer
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> cache = PrefixCache(policy, rows=1, width=8)
    >>> _ = cache.read(np.array([[72, 105, 0]]), np.array([2]))
    >>> states = cache.read(np.array([[72, 105, 33]]), np.array([3]))
    >>> states.shape, cache.steps, cache.prefilled
    (torch.Size([1, 16]), 1, 1)
    """

    def __init__(self, policy: Policy, rows: int, width: int, step: Step | Literal["auto"] | None = "auto") -> None:
        self.policy = policy
        self.rows, self.width = rows, width
        self.steps = 0  # batches of one token a row …
        self.prefilled = 0  # … and rows read from the beginning, so far
        self._tokens = np.zeros((rows, width), dtype=np.int64)
        self._lengths = np.zeros(rows, dtype=np.int64)  # 0: nothing was read
        self._columns = np.arange(width)
        self._states = torch.zeros(0)
        self._layers: list[Rows] = []
        self._parameters = list(policy.model.parameters())
        self._weights: tuple[int, int] | None = None
        self._step = fastest_step(policy, width) if step == "auto" else step

    @torch.no_grad()
    def read(self, tokens: IntArray, lengths: IntArray) -> Tensor:
        """Hidden states of the last tokens.

        Args:
            tokens: `(B, S)` int64, right-padded, `S <= width`.
            lengths: `(B,)` int64, tokens of each row, at least 1.

        Returns:
            `(B, D)`, the trunk's last hidden state at position `lengths - 1` of each row.
        """
        self._forget_if_trained()
        width = tokens.shape[1]
        unread = self._columns[:width] >= self._lengths[:, None]
        goes_on = ((tokens == self._tokens[:, :width]) | unread).all(axis=1) & (self._lengths > 0)
        more = lengths - self._lengths
        grown = goes_on & (more == 1) if self._step else np.zeros(self.rows, dtype=np.bool_)
        fresh = np.flatnonzero(~(grown | (goes_on & (more == 0))))
        if grown.any():
            self._append(tokens[np.arange(self.rows), lengths - 1], grown)
        doublings = np.ceil(np.log2(lengths[fresh]))
        for size in np.unique(doublings):  # one long row must not make all short ones as long
            rows = fresh[doublings == size]
            self._prefill(rows, tokens[rows], lengths[rows])
        self._tokens[:, :width] = tokens
        self._lengths[:] = lengths
        return self._states

    def append(self, tokens: IntArray) -> None:
        """Read one more token, `tokens[i]`, in each row; rows without room for it stay as they are."""
        lengths = np.minimum(self._lengths + 1, self.width)
        grown = self._tokens.copy()
        room = np.flatnonzero(self._lengths < self.width)
        grown[room, self._lengths[room]] = tokens[room]
        self.read(grown, lengths)

    def find(self, tokens: IntArray, lengths: IntArray) -> IntArray:
        """`(n,)` int64: for each of `n` sequences the row that was last read with just these tokens, or -1.

        Args:
            tokens: `(n, S)` int64, right-padded.
            lengths: `(n,)` int64.
        """
        self._forget_if_trained()
        size = tokens.shape[1]
        found = np.full(len(tokens), -1, dtype=np.int64)
        for i, n in enumerate(lengths.tolist()):
            same = (self._lengths == n) & (self._tokens[:, :size] == tokens[i])[:, :n].all(axis=1)
            if same.any():
                found[i] = int(same.argmax())
        return found

    def states(self, rows: IntArray) -> Tensor:
        """`(n, D)` hidden states of the last tokens read in these rows."""
        return self._states[torch.from_numpy(rows).to(self._states.device)]

    def clear(self) -> None:
        """Forget everything that was read."""
        self._lengths[:] = 0

    def _forget_if_trained(self) -> None:
        # Every in-place change of a parameter (an optimizer's step, load_state_dict) raises its version.
        weights = (sum(p._version for p in self._parameters), self._parameters[0].data_ptr())
        if weights != self._weights:
            self.clear()
            self._weights = weights

    def _append(self, tokens: IntArray, grown: npt.NDArray[np.bool_]) -> None:
        """One step for all rows; only the states of those that grew are kept.

        What the others write stands beyond their end, where nothing looks before it is overwritten.
        """
        assert self._step is not None
        device = self.policy.device
        at = np.minimum(self._lengths, self.width - 1)
        width = int(at.max()) + 1
        mask = None
        if (at != at[0]).any():
            mask = torch.from_numpy(self._columns[:width] <= at[:, None])[:, None, None].to(device)
        where = torch.from_numpy(at).to(device)
        for layer in self._layers:
            layer.place(where, width, int(at[0]) if mask is None else None)
        states = self._step(self.policy, self._layers, torch.from_numpy(tokens).to(device), where, mask)
        if grown.all():
            self._states = states
        else:
            self._states = torch.where(torch.from_numpy(grown).to(device)[:, None], states, self._states)
        self.steps += 1

    def _prefill(self, rows: IntArray, tokens: IntArray, lengths: IntArray) -> None:
        """Read rows from the beginning."""
        device = self.policy.device
        width = int(lengths.max())
        ids = torch.from_numpy(np.ascontiguousarray(tokens[:, :width])).to(device)
        cache = _new_cache(self.policy) if self._step else None
        states = self.policy.hidden(ids, past_key_values=cache, use_cache=cache is not None).last_hidden_state
        last = torch.from_numpy(lengths - 1).to(device)
        states = states[torch.arange(len(rows), device=device), last]
        where = torch.from_numpy(rows).to(device)
        if not len(self._states):
            self._states = states.new_zeros(self.rows, states.shape[1])
        self._states = self._states.index_copy(0, where, states)
        if cache is not None:
            if not self._layers:
                self._layers = [Rows(x.keys, x.values, self.rows, self.width) for x in cache.layers]
            for layer, new in zip(self._layers, cache.layers, strict=True):
                layer.keys[where, :, :width] = new.keys
                layer.values[where, :, :width] = new.values
        self.prefilled += len(rows)


class Rows:
    """One layer's keys and values, `(B, heads, W, size of a head)` each; every row is written at its own end."""

    def __init__(self, keys: Tensor, values: Tensor, rows: int, width: int) -> None:
        # Zeros and not uninitialised memory: a masked place has weight 0, and 0 · NaN would be NaN.
        self.keys = keys.new_zeros(rows, keys.shape[1], width, keys.shape[3])
        self.values = values.new_zeros(rows, values.shape[1], width, values.shape[3])
        self._every = torch.arange(rows, device=keys.device)

    def place(self, at: Tensor, width: int, column: int | None) -> None:
        """Say where the next `update` writes: column `at[i]` of row `i`, of `width` in use; `column` if all one."""
        self._at, self.width, self._column = at, width, column

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write `(B, heads, size)` keys and values; all of the rows', up to `width`, for attending to."""
        if self._column is not None:
            self.keys[:, :, self._column], self.values[:, :, self._column] = keys, values
        else:
            self.keys[self._every, :, self._at] = keys
            self.values[self._every, :, self._at] = values
        return self.keys[:, :, : self.width], self.values[:, :, : self.width]


def _new_cache(policy: Policy) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=policy.model.config)


def step_any(policy: Policy, layers: list[Rows], tokens: Tensor, at: Tensor, mask: Tensor | None) -> Tensor:
    """One token a row through the model's own code: `(B, D)` states.

    Args:
        policy: The policy.
        layers: Its caches, told where to write.
        tokens: `(B,)` int64.
        at: `(B,)` int64, positions.
        mask: `(B, 1, 1, W)` bool, True where a row may look; None for everywhere.
    """
    from transformers.cache_utils import Cache, DynamicLayer

    class Layer(DynamicLayer):
        def __init__(self, rows: Rows) -> None:
            super().__init__()
            self.rows = rows

        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            return self.rows.update(key_states[:, :, 0], value_states[:, :, 0])

        def get_seq_length(self, *_: Any) -> int:
            return self.rows.width - 1

    if mask is not None:
        dtype = layers[0].keys.dtype
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
    output = policy.hidden(
        tokens[:, None],
        attention_mask=mask,
        position_ids=at[:, None],
        past_key_values=Cache(layers=[Layer(rows) for rows in layers]),
        use_cache=True,
    )
    states: Tensor = output.last_hidden_state[:, 0]
    return states


def step_gpt2(policy: Policy, layers: list[Rows], tokens: Tensor, at: Tensor, mask: Tensor | None) -> Tensor:
    """`step_any` for GPT-2, with what the model does written out and fused: about twice as fast when small."""
    trunk = policy.model.base_model
    x = trunk.wte.weight[tokens] + trunk.wpe.weight[at]  # (B, D)
    for block, cache in zip(trunk.h, layers, strict=True):
        attention, mlp = block.attn, block.mlp
        h = F.layer_norm(x, x.shape[1:], block.ln_1.weight, block.ln_1.bias, block.ln_1.eps)
        qkv = torch.addmm(attention.c_attn.bias, h, attention.c_attn.weight)
        q, k, v = qkv.view(len(x), 3, attention.num_heads, -1).unbind(1)  # (B, heads, D / heads) each
        keys, values = cache.update(k, v)
        h = F.scaled_dot_product_attention(q[:, :, None], keys, values, attn_mask=mask, scale=attention.scaling)
        x = torch.addmm(x, h.reshape(x.shape), attention.c_proj.weight).add_(attention.c_proj.bias)
        h = F.layer_norm(x, x.shape[1:], block.ln_2.weight, block.ln_2.bias, block.ln_2.eps)
        h = F.gelu(torch.addmm(mlp.c_fc.bias, h, mlp.c_fc.weight), approximate="tanh")
        x = torch.addmm(x, h, mlp.c_proj.weight).add_(mlp.c_proj.bias)
    return F.layer_norm(x, x.shape[1:], trunk.ln_f.weight, trunk.ln_f.bias, trunk.ln_f.eps)


def fastest_step(policy: Policy, width: int) -> Step | None:
    """The fastest way to read one more token a row that agrees with the uncached model; None if none does.

    Agreement is tried out, on rows of different lengths. What a trial on a few tokens cannot show is
    asked of the configuration: windows of attention shorter than the rows, modules put in place of others.

    Args:
        policy: The policy.
        width: Tokens that a row may have.
    """
    config = policy.model.config.get_text_config()
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    if any(window is not None and window < width for window in windows):
        return None
    lengths = np.array([3, 1, 2])
    tokens = (np.arange(12).reshape(3, 4) * 7 + 1) % policy.vocab_size
    if policy.context is not None and policy.context < tokens.shape[1]:
        return None
    with torch.no_grad():
        ids = torch.from_numpy(tokens).to(policy.device)
        wanted = policy.hidden(ids).last_hidden_state[torch.arange(3), torch.from_numpy(lengths)]
    for step in (step_gpt2, step_any) if _is_plain_gpt2(policy) else (step_any,):
        cache = PrefixCache(policy, len(tokens), tokens.shape[1], step)
        try:
            cache.read(tokens, lengths)
            states = cache.read(tokens, lengths + 1)
        except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
            continue  # not a cache of keys and values, or one of another form
        tolerance = 1e-4 if states.dtype == torch.float32 else 0.05
        if torch.allclose(states, wanted, rtol=tolerance, atol=tolerance):
            return step
    return None


def _is_plain_gpt2(policy: Policy) -> bool:
    """Whether the trunk is GPT-2 as it comes: no adapters, no other layers put in, no hooks."""
    from transformers import GPT2Model
    from transformers.pytorch_utils import Conv1D

    trunk = policy.model.base_model
    if type(trunk) is not GPT2Model or trunk.config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        return False
    linear = (m for b in trunk.h for m in (b.attn.c_attn, b.attn.c_proj, b.mlp.c_fc, b.mlp.c_proj))
    return all(type(m) is Conv1D for m in linear) and not any(m._forward_hooks for m in trunk.modules())
