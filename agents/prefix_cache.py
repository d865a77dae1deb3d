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
# (policy, caches told where to write, tokens (n, S), positions (n, S), mask or None) -> states (n, S, D)
Forward = Callable[[Policy, "list[Layer]", Tensor, Tensor, "Tensor | None"], Tensor]


class PrefixCache:
    """The last tokens read of `B` rows, with the keys and values computed for them.

    A row that equals what was read before costs nothing; one that has a token more costs one step, in a
    batch with the others; any other is read from its beginning. Changed weights void everything (PyTorch
    counts changes of a parameter, but not those by fused optimizers: after such a step call `clear`).
    Architectures whose cached states differ from the uncached ones are always read from the beginning.

    Args:
        policy: Whose hidden states are wanted.
        rows: `B`.
        width: Most tokens of a row, at most the policy's context.
        forward: How tokens are read; `"auto"` takes the fastest way that agrees with the
            uncached model, None reads every row from its beginning, always.

    >>> from text_gym import ByteTokenizer
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> cache = PrefixCache(policy, rows=1, width=8)
    >>> _ = cache.read(np.array([[72, 105, 0]]), np.array([2]))
    >>> states = cache.read(np.array([[72, 105, 33]]), np.array([3]))
    >>> states.shape, cache.steps, cache.prefilled
    (torch.Size([1, 16]), 1, 1)
    """

    def __init__(
        self, policy: Policy, rows: int, width: int, forward: Forward | Literal["auto"] | None = "auto"
    ) -> None:
        self.policy = policy
        self.rows, self.width = rows, width
        self.steps = 0  # batches of one token a row …
        self.prefilled = 0  # … and rows read from the beginning, so far
        self._tokens = np.zeros((rows, width), dtype=np.int64)
        self._lengths = np.zeros(rows, dtype=np.int64)  # 0: nothing was read
        self._columns = np.arange(width)
        self._states = torch.zeros(0)
        self._layers = [
            Layer(rows, width) for _ in range(policy.model.config.get_text_config().num_hidden_layers)
        ]
        self._parameters = list(policy.model.parameters())
        self._weights: tuple[int, int] | None = None
        self._forward = fastest_forward(policy, width) if forward == "auto" else forward

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
        grown = goes_on & (more == 1) if self._forward else np.zeros(self.rows, dtype=np.bool_)
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
        # In-place changes of a parameter (an optimizer's step, load_state_dict) raise its version.
        weights = (sum(p._version for p in self._parameters), self._parameters[0].data_ptr())
        if weights != self._weights:
            self.clear()
            self._weights = weights

    def _append(self, tokens: IntArray, grown: npt.NDArray[np.bool_]) -> None:
        """One step for all rows; only the states of those that grew are kept.

        What the others write stands beyond their end, where nothing looks before it is overwritten.
        """
        assert self._forward is not None
        device = self.policy.device
        at = np.minimum(self._lengths, self.width - 1)
        width = int(at.max()) + 1
        mask = None
        column: int | Tensor = width - 1
        positions = torch.from_numpy(at).to(device)
        if (at != column).any():
            mask = torch.from_numpy(self._columns[:width] <= at[:, None])[:, None, None].to(device)
            column = positions
        for layer in self._layers:
            layer.place(column=column, width=width)
        ids = torch.from_numpy(tokens).to(device)
        states = self._forward(self.policy, self._layers, ids[:, None], positions[:, None], mask)[:, 0]
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
        where = torch.from_numpy(rows).to(device)
        if self._forward is None:
            states = self.policy.hidden(ids).last_hidden_state
        else:
            for layer in self._layers:
                layer.place(rows=where)
            positions = torch.arange(width, device=device).expand(ids.shape)
            states = self._forward(self.policy, self._layers, ids, positions, None)
        last = torch.from_numpy(lengths - 1).to(device)
        states = states[torch.arange(len(rows), device=device), last]
        if not len(self._states):
            self._states = states.new_zeros(self.rows, states.shape[1])
        self._states = self._states.index_copy(0, where, states)
        self.prefilled += len(rows)


class Layer:
    """One layer's keys and values, `(B, heads, W, size of a head)` each; every row is written at its own end.

    Args:
        rows: `B`.
        width: `W`.
    """

    def __init__(self, rows: int, width: int) -> None:
        self._size = rows, width
        self._all = torch.arange(rows)
        self._keys = self._values = torch.zeros(0)
        self._rows: Tensor | None = None
        self._column: int | Tensor = 0
        self.width = 0  # columns in use

    def place(self, *, rows: Tensor | None = None, column: int | Tensor = 0, width: int = 0) -> None:
        """Say where the next `update` writes.

        Args:
            rows: `(n,)` int64: whole sequences into these rows, from column 0. None: one token into every
                row, …
            column: … into this column, or into column `column[i]` of row `i`, …
            width: … with so many columns in use then.
        """
        self._rows, self._column, self.width = rows, column, width

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write `(n, heads, S, size)` keys and values, and return those that the new tokens may look at."""
        if not len(self._keys):
            # Zeros and not uninitialised memory: a masked place has weight 0, and 0 · NaN would be NaN.
            shape = (self._size[0], keys.shape[1], self._size[1], keys.shape[3])
            self._keys, self._values = keys.new_zeros(shape), values.new_zeros((*shape[:3], values.shape[3]))
            self._all = self._all.to(keys.device)
        if self._rows is not None:
            self._keys[self._rows, :, : keys.shape[2]] = keys
            self._values[self._rows, :, : keys.shape[2]] = values
            return keys, values
        rows = slice(None) if isinstance(self._column, int) else self._all
        self._keys[rows, :, self._column] = keys[:, :, 0]
        self._values[rows, :, self._column] = values[:, :, 0]
        return self._keys[:, :, : self.width], self._values[:, :, : self.width]


def forward_any(
    policy: Policy, layers: list[Layer], tokens: Tensor, positions: Tensor, mask: Tensor | None
) -> Tensor:
    """The trunk's last hidden states through the model's own code.

    Args:
        policy: The policy.
        layers: Its caches, told where to write.
        tokens: `(n, S)` int64; either whole sequences or, `S` being 1, one more token a row.
        positions: `(n, S)` int64.
        mask: `(n, 1, 1, W)` bool, True where a row may look; None for everywhere up to the token itself.

    Returns:
        `(n, S, D)`.
    """
    from transformers.cache_utils import Cache, DynamicLayer

    class Adapter(DynamicLayer):
        def __init__(self, layer: Layer) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.layer = layer

        def update(
            self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
        ) -> tuple[Tensor, Tensor]:
            return self.layer.update(key_states, value_states)

        def get_seq_length(self, *_: Any) -> int:
            return max(self.layer.width - 1, 0)

    if mask is not None:
        dtype = next(policy.model.parameters()).dtype
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
            ~mask, torch.finfo(dtype).min
        )
    output = policy.hidden(
        tokens,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=Cache(layers=[Adapter(layer) for layer in layers]),
        use_cache=True,
    )
    states: Tensor = output.last_hidden_state
    return states


def forward_gpt2(
    policy: Policy, layers: list[Layer], tokens: Tensor, positions: Tensor, mask: Tensor | None
) -> Tensor:
    """`forward_any` for GPT-2, with what the model does written out and fused: twice as fast when small."""
    trunk = policy.model.base_model
    n, size = tokens.shape
    x = (trunk.wte.weight[tokens] + trunk.wpe.weight[positions]).flatten(0, 1)  # (n * S, D)
    for block, cache in zip(trunk.h, layers, strict=True):
        attention, mlp = block.attn, block.mlp
        h = F.layer_norm(x, x.shape[1:], block.ln_1.weight, block.ln_1.bias, block.ln_1.eps)
        h = torch.addmm(attention.c_attn.bias, h, attention.c_attn.weight)
        q, k, v = h.view(n, size, 3, attention.num_heads, -1).permute(
            2, 0, 3, 1, 4
        )  # (n, heads, S, size) each
        keys, values = cache.update(k, v)
        h = F.scaled_dot_product_attention(
            q, keys, values, attn_mask=mask, is_causal=size > 1, scale=attention.scaling
        )
        h = h.transpose(1, 2).reshape(x.shape)
        x = torch.addmm(x, h, attention.c_proj.weight).add_(attention.c_proj.bias)
        h = F.layer_norm(x, x.shape[1:], block.ln_2.weight, block.ln_2.bias, block.ln_2.eps)
        h = F.gelu(torch.addmm(mlp.c_fc.bias, h, mlp.c_fc.weight), approximate="tanh")
        x = torch.addmm(x, h, mlp.c_proj.weight).add_(mlp.c_proj.bias)
    x = F.layer_norm(x, x.shape[1:], trunk.ln_f.weight, trunk.ln_f.bias, trunk.ln_f.eps)
    return x.view(n, size, -1)


def fastest_forward(policy: Policy, width: int) -> Forward | None:
    """The fastest way to read with a cache that agrees with the uncached model; None if none does.

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
    with torch.no_grad():
        ids = torch.from_numpy(tokens).to(policy.device)
        wanted = policy.hidden(ids).last_hidden_state[torch.arange(3), torch.from_numpy(lengths)]
    for forward in (forward_gpt2, forward_any) if _is_plain_gpt2(policy) else (forward_any,):
        cache = PrefixCache(policy, len(tokens), tokens.shape[1], forward)
        try:
            cache.read(tokens, lengths)
            states = cache.read(tokens, lengths + 1)
        except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
            continue  # not a cache of keys and values, or one of another form
        tolerance = 1e-4 if states.dtype == torch.float32 else 0.05
        if torch.allclose(states, wanted, rtol=tolerance, atol=tolerance):
            return forward
    return None


def _is_plain_gpt2(policy: Policy) -> bool:
    """Whether the trunk is GPT-2 as it comes: no adapters, no other layers put in, no hooks."""
    from transformers import GPT2Model
    from transformers.pytorch_utils import Conv1D

    trunk: Any = policy.model.base_model
    if type(trunk) is not GPT2Model:
        return False
    if trunk.config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        return False
    blocks: list[Any] = list(trunk.h)
    linear = (m for b in blocks for m in (b.attn.c_attn, b.attn.c_proj, b.mlp.c_fc, b.mlp.c_proj))
    return all(type(m) is Conv1D for m in linear) and not any(m._forward_hooks for m in trunk.modules())
