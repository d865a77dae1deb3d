"""Memory of an update: rows go through the model in micro-batches; the loss head keeps no `(N, V)` matrix.

Rows of similar length go together, so that little of the work is padding; how the losses of the parts add up
says `Part` in `policy_gradient`. The loss head computes log-probabilities of given tokens. Few logits are
formed at once and kept for the backward pass. Many are formed in tiles, some rows by some ids, that fit a
core's cache, and again in the backward pass: that takes a third more arithmetic and less time than memory
that is written once and read once. Differentiable once. Where a mask or an output layer of another kind needs
all logits, `log_probs_of_logits` does the same without such care.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from text_gym.episode import IntArray
from text_gym.errors import ConfigError
from text_gym.models.cpu.fast_path import matmul, softmax
from text_gym.models.runtime import free_bytes
from text_gym.models.sizes import sizes_of

T = TypeVar("T")


def micro_batches(
    lengths: IntArray, most: int | None = None, *, overhead: int = 0, tokens: int | None = None
) -> list[IntArray]:
    """Split rows into the parts that make the least work.

    A part is as wide as its longest row; its work is rows times width, and `overhead`.

    Args:
        lengths: `(n,)` int64, tokens of each row.
        most: Rows of a part; None means any number.
        overhead: What one more part costs, in tokens.
        tokens: Most of a part, padding included, unless it is of a single row.

    Returns:
        Row indices of each part, shortest rows first.

    >>> [part.tolist() for part in micro_batches(np.array([9, 3, 8, 3]), overhead=4)]
    [[1, 3], [2, 0]]
    """
    order = np.argsort(lengths, kind="stable")
    work, begins = np.zeros(len(order) + 1), np.zeros(len(order) + 1, np.int64)
    for end in range(1, len(order) + 1):  # the best split of the `end` shortest rows
        longest = int(lengths[order[end - 1]])
        rows = min(end, end if most is None else most, end if tokens is None else max(1, tokens // longest))
        first = np.arange(end - rows, end)
        options = work[first] + (end - first) * longest + overhead
        begins[end] = first[options.argmin()]
        work[end] = options.min()
    parts = []
    end = len(order)
    while end:
        parts.append(order[begins[end] : end])
        end = int(begins[end])
    return parts[::-1]


class Splitter:
    """Splits batches for a model, more finely once an accelerator has run out of memory.

    Args:
        device: Where the model is.
        most: Rows at a time; None means as many as are quick and need little memory …
        token_bytes: … each token needing this much.

    Attributes:
        most: It is halved when memory runs out.
    """

    def __init__(self, device: torch.device, most: int | None = None, token_bytes: int = 1) -> None:
        self.most = most
        self._device, self._token_bytes = device, token_bytes

    def run(self, lengths: Tensor, work: Callable[[list[Tensor]], T]) -> T:
        """Do work on the parts of a batch, and again on smaller parts if memory runs out.

        Args:
            lengths: `(b,)` int64, tokens of its rows, prompts included.
            work: Gets the row indices of each part, on the host. It is called anew after a failure.

        Raises:
            ConfigError: A single row is too much.
        """
        found = lengths.cpu().numpy()
        while True:
            limit = None if self.most is not None else pass_bytes(self._device) // self._token_bytes
            overhead = sizes_of(self._device).pass_overhead
            parts = micro_batches(found, self.most, overhead=overhead, tokens=limit)
            try:
                return work([torch.from_numpy(part) for part in parts])
            except torch.OutOfMemoryError as error:
                self.most = smaller(max(map(len, parts)), int(found.max()), error)
            if self._device.type == "cuda":  # only after the error and everything its frames hold are gone
                torch.cuda.empty_cache()


def pass_bytes(device: torch.device) -> int:
    """Return the bytes that a pass through a model may take on a device, beside its weights."""
    sizes = sizes_of(device)
    return int(sizes.free_share * free_bytes(device)) if device.type == "cuda" else sizes.pass_bytes


def smaller(rows: int, tokens: int, error: torch.OutOfMemoryError) -> int:
    """Halve the number of rows after it was too large.

    Raises:
        ConfigError: It was one row.
    """
    if rows > 1:
        return rows // 2
    raise ConfigError(
        f"there is not enough memory for a single text of {tokens} tokens; allow fewer tokens, or take a "
        f"smaller model or gradient checkpointing ({str(error).splitlines()[0]})"
    ) from error


RECYCLED_BYTES = 2**25  # glibc returns to the system whatever is larger as soon as it is freed
LOWEST = -1e9  # stands for -inf: with it, sums over a tile that cannot be drawn from are no NaN


class Head(NamedTuple):
    """An output layer that makes logits by `cap · tanh(scale · (x Wᵀ + b) / cap) / temperature`.

    Args:
        weight: `(V, D)`, W.
        bias: `(V,)`, b, if any.
        scale: Factor on what the layer says.
        cap: Bound that logits are squashed to; None leaves them alone.
        temperature: The distribution is softmax(logits / temperature).
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    temperature: float = 1.0


def plain_head(
    model: Any,
    vocab_size: int,
    options: Sequence[float | None],
    temperature: float = 1.0,
    embedding: Tensor | None = None,
) -> Head | None:
    """Return a language model's output layer; None if it is not plain (adapters, hooks, quantisation).

    Args:
        model: Of `transformers`.
        vocab_size: `V`, ids of the tokenizer; the layer may have more rows.
        options: What it does to its logits: a factor, a divisor and a bound, None where there is none.
        temperature: Of the distribution.
        embedding: To take its weights from, if they are also the input embedding's.
    """
    layer = model.get_output_embeddings()
    if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
        return None
    weight: Tensor = layer.weight
    if embedding is not None and weight is model.get_input_embeddings().weight:
        weight = embedding
    bias: Tensor | None = layer.bias
    if len(weight) > vocab_size:
        weight, bias = weight[:vocab_size], None if bias is None else bias[:vocab_size]
    times, divided_by, cap = options
    return Head(weight, bias, (times or 1.0) / (divided_by or 1.0), cap or None, temperature)


def token_log_probs(
    states: Tensor, tokens: Tensor, head: Head, *, entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute tokens' log-probabilities and the entropies of their distributions, in nats.

    Args:
        states: `(N, D)`, the trunk's states before each token.
        tokens: `(N,)` int64, in [0, V).
        head: The output layer.
        entropy: Compute the entropy too (zeros if not).

    Returns:
        `(N,)` each, float32 at least, whatever the weights are.

    >>> weight = torch.tensor([[0.0], [1.0]])
    >>> token_log_probs(torch.zeros(1, 1), torch.tensor([1]), Head(weight), entropy=True)
    (tensor([-0.6931]), tensor([0.6931]))
    """
    weight, bias = head.weight, head.bias
    device = states.device.type
    if torch.is_autocast_enabled(device):  # what it does to a matrix product, where autograd sees it
        low = torch.get_autocast_dtype(device)
        states, weight, bias = states.to(low), weight.to(low), None if bias is None else bias.to(low)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    sizes, needs_logits = sizes_of(states.device), entropy or head.cap is not None
    tile = sizes.tile_rows, sizes.tile_ids
    options = _Options(head._replace(weight=tokens, bias=None), dtype, entropy, needs_logits, tile)
    size = len(states) * len(weight) * dtype.itemsize
    function = _Whole if size <= sizes.whole_bytes else _Tiled
    return function.apply(states, weight, bias, tokens, options)  # type: ignore[no-any-return,no-untyped-call]


def log_probs_of_logits(
    logits: Tensor, tokens: Tensor, masks: Tensor | None, *, entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """Do what `token_log_probs` does where all logits are there: of other output layers, or with masks.

    Args:
        logits: `(N, V)`, divided by the temperature.
        tokens: `(N,)` int64.
        masks: `(N, V)` bool, tokens that could be drawn; None means all.
        entropy: Compute the entropy too (zeros if not).
    """
    if masks is not None:
        logits = logits.masked_fill(~masks, -torch.inf)
    log_p = torch.log_softmax(logits, dim=-1)
    log_probs = log_p.gather(1, tokens[:, None])[:, 0]
    if not entropy:
        return log_probs, torch.zeros_like(log_probs)
    # Forbidden tokens have log-probability -inf, and 0 · inf would be NaN.
    return log_probs, -(log_p.exp() * log_p.clamp_min(-1e9)).sum(-1)


class _Whole(torch.autograd.Function):
    """All logits at once; in them, ∇ log pₜ is `1ₜ - p` and the entropy's gradient is `-p (log p + H)`."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor]:
        logits = _logits(states, weight, bias, options)
        said = logits.gather(1, tokens[:, None])[:, 0]
        kept = logits if options.needs_logits else None
        p = torch.softmax(logits, dim=1)
        log_z = logits.amax(dim=1) - p.amax(dim=1).log()
        h = log_z - (p * _finite(kept)).sum(dim=1) if options.entropy else torch.zeros_like(said)
        ctx.save_for_backward(states, weight, tokens, log_z, h, p, kept)
        ctx.options = options
        return said - log_z, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_log_probs: Tensor, of_entropy: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, tokens, log_z, h, p, kept = ctx.saved_tensors
        log_p = None if kept is None else kept - log_z[:, None]
        gradient = p * _along(log_p, h, of_log_probs, of_entropy, ctx.options)
        gradient.scatter_add_(1, tokens[:, None], of_log_probs[:, None])
        gradient = _before_head(gradient, kept, ctx.options.head).to(weight.dtype)
        for_states, for_weight, for_bias, *_ = ctx.needs_input_grad
        return (
            matmul(gradient, weight) if for_states else None,
            matmul(gradient.T, states, out=_empty_like(weight)) if for_weight else None,
            gradient.sum(dim=0) if for_bias else None,
            None,
            None,
        )


class _Tiled(torch.autograd.Function):
    """The logits tile by tile; z is the log of a tile's weight, and w its share of the whole."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor]:
        said, log_z, h = (states.new_zeros(len(states), dtype=options.dtype) for _ in range(3))
        log_w: list[Tensor] = []  # of some rows, `(tiles, n)` each
        of_rows, of_ids = options.tile
        for rows in _slices(states, of_rows):
            z, inside = [], []  # of each tile: z, and the entropy among its ids
            for ids in _slices(weight, of_ids):
                logits = _logits(states[rows], weight[ids], _part(bias, ids), options)
                at, here = _places(tokens[rows], ids)
                said[rows] += logits.gather(1, at)[:, 0] * here
                p, log_sums = softmax(logits)
                z.append(log_sums)
                if options.entropy:
                    inside.append(z[-1] - (p * logits).sum(dim=1))
            of_tiles = torch.stack(z)
            log_z[rows] = of_tiles.logsumexp(dim=0)
            log_w.append(of_tiles - log_z[rows])
            if options.entropy:
                h[rows] = log_w[-1].exp().mul_(torch.stack(inside) - log_w[-1]).sum(dim=0)
        ctx.save_for_backward(states, weight, bias, tokens, log_z, torch.cat(log_w, dim=1), h)
        ctx.options = options
        return said - log_z, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_log_probs: Tensor, of_entropy: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, tokens, log_z, log_w, h = ctx.saved_tensors
        options: _Options = ctx.options
        needed = ctx.needs_input_grad
        for_states = torch.zeros_like(states) if needed[0] else None
        for_weight = _empty_like(weight) if needed[1] else None  # the first rows overwrite it
        for_bias = torch.zeros_like(bias) if needed[2] else None
        of_rows, of_ids = options.tile
        for rows in _slices(states, of_rows):
            x, z = states[rows], log_z[rows]
            for ids, share in zip(_slices(weight, of_ids), log_w[:, rows].exp(), strict=True):
                logits = _logits(x, weight[ids], _part(bias, ids), options)
                kept = logits if options.needs_logits else None
                log_p = None if kept is None else kept - z[:, None]
                along = _along(log_p, h[rows], of_log_probs[rows], of_entropy[rows], options)
                gradient = softmax(logits)[0].mul_(along * share[:, None])
                at, here = _places(tokens[rows], ids)
                gradient.scatter_add_(1, at, (of_log_probs[rows] * here)[:, None])
                gradient = _before_head(gradient, kept, options.head).to(weight.dtype)
                if for_states is not None:
                    matmul(gradient, weight[ids], out=for_states[rows], add=True)
                if for_weight is not None:
                    matmul(gradient.T, x, out=for_weight[ids], add=rows.start > 0)
                if for_bias is not None:
                    for_bias[ids].add_(gradient.sum(dim=0))
        return for_states, for_weight, for_bias, None, None


class _Options(NamedTuple):
    head: Head  # the options without tensors
    dtype: torch.dtype  # of logits, float32 at least
    entropy: bool
    needs_logits: bool  # the gradient needs more than probabilities
    tile: tuple[int, int]  # its rows and ids, the same in the backward pass


def _slices(x: Tensor, size: int) -> Iterator[slice]:
    """Return the tiles' rows or ids, so many each."""
    return (slice(i, min(i + size, len(x))) for i in range(0, len(x), size))


def _empty_like(weight: Tensor) -> Tensor:
    """Allocate like `torch.empty_like`; large CPU tensors come from NumPy, which uses huge pages.

    The 150 MB of GPT-2's gradient have 38,000 small ones, whose first touches take as long as computing them.
    """
    floats = {torch.float32: np.float32, torch.float64: np.float64}
    small = weight.numel() * weight.itemsize <= RECYCLED_BYTES
    if small or weight.device.type != "cpu" or weight.dtype not in floats:
        return torch.empty_like(weight, memory_format=torch.contiguous_format)
    return torch.from_numpy(np.empty(weight.shape, floats[weight.dtype]))


def _part(bias: Tensor | None, ids: slice) -> Tensor | None:
    return None if bias is None else bias[ids].clamp_min(LOWEST)


def _places(tokens: Tensor, ids: slice) -> tuple[Tensor, Tensor]:
    """Return the tokens' columns in a tile `(n, 1)`, and which tokens are in it at all `(n,)`."""
    here = (tokens >= ids.start) & (tokens < ids.stop)
    return (tokens - ids.start).clamp_(0, ids.stop - ids.start - 1)[:, None], here


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, options: _Options) -> Tensor:
    """Compute the logits `(n, V)`, divided by the temperature."""
    head, logits = options.head, matmul(states, weight.T, bias).to(options.dtype)
    if head.cap is not None:
        logits = logits.mul_(head.scale / head.cap).tanh_().mul_(head.cap / head.temperature)
    elif head.scale != head.temperature:
        logits = logits.mul_(head.scale / head.temperature)
    return logits


def _along(
    log_p: Tensor | None, h: Tensor, of_log_probs: Tensor, of_entropy: Tensor, options: _Options
) -> Tensor:
    """Return the factor of p in the gradient of the logits."""
    along = -of_log_probs[:, None]
    if options.entropy:
        along = along - of_entropy[:, None] * (_finite(log_p) + h[:, None])
    return along


def _before_head(gradient: Tensor, logits: Tensor | None, head: Head) -> Tensor:
    """Turn the gradient of the logits `(n, m)` into that of the layer's output, in place."""
    if logits is not None and head.cap is not None:
        gradient = gradient.mul_(1 - (logits * (head.temperature / head.cap)).square_())
    if head.scale != head.temperature:
        gradient = gradient.mul_(head.scale / head.temperature)
    return gradient


def _finite(x: Tensor | None) -> Tensor:
    """Replace -inf where p is 0, so that p log p is 0 there."""
    assert x is not None
    return x.clamp_min(LOWEST)
