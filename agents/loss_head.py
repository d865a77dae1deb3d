"""Loss head: log-probabilities of given tokens, some rows at a time, so that `(N, V)` is never held.

Logits are formed again in the backward pass, unless they are so few that keeping them costs nothing.
Differentiable once. Masks over the vocabulary and output layers of other kinds are not its business.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 2**24  # of logits in work at a time; more do not make matrix products faster
CHUNK_ROWS = 256  # but at least so many rows: each part adds to the whole gradient of the weights
KEPT_BYTES = 2**25  # of logits that are kept for the backward pass instead of being formed again


class Head(NamedTuple):
    """How an output layer makes logits: `cap · tanh(scale · (x Wᵀ + b) / cap) / temperature`.

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


def token_log_probs(
    states: Tensor, tokens: Tensor, head: Head, *, entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens, and the entropies of the distributions they are from, in nats.

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
    if torch.is_autocast_enabled(device):  # what it does to a matrix product, here where autograd sees it
        low = torch.get_autocast_dtype(device)
        states, weight, bias = states.to(low), weight.to(low), None if bias is None else bias.to(low)
    options = _Options(head._replace(weight=tokens, bias=None), entropy, torch.is_grad_enabled())
    return _TokenLogProbs.apply(states, weight, bias, tokens, options)  # type: ignore[no-any-return,no-untyped-call]


class _TokenLogProbs(torch.autograd.Function):
    """In the logits, the gradient of log pₜ is `1ₜ - p` and that of the entropy H is `-p (log p + H)`."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(weight.dtype, torch.float32)
        log_probs, log_z, h = (states.new_zeros(len(states), dtype=dtype) for _ in range(3))
        keep = options.gradient and len(states) * len(weight) * dtype.itemsize <= KEPT_BYTES
        kept = []
        for part in _parts(len(states), len(weight), dtype):
            logits = _logits(states[part], weight, bias, options.head)
            log_p = torch.log_softmax(logits, dim=1)
            said, log_probs[part] = (x.gather(1, tokens[part, None])[:, 0] for x in (logits, log_p))
            log_z[part] = said - log_probs[part]
            if keep:
                kept.append(log_p)
            if options.entropy:
                h[part] = -log_p.exp().mul_(_finite(log_p)).sum(dim=1)
        ctx.save_for_backward(states, weight, bias, tokens, log_z, h, *kept)
        ctx.options = options
        return log_probs, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_log_probs: Tensor, of_entropy: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, tokens, log_z, h, *kept = ctx.saved_tensors
        options: _Options = ctx.options
        for_states, for_weight, for_bias = (
            torch.zeros_like(x) if needed else None
            for x, needed in zip((states, weight, bias), ctx.needs_input_grad, strict=False)
        )
        for i, part in enumerate(_parts(len(states), len(weight), log_z.dtype)):
            z = log_z[part, None]
            log_p = kept[i] if kept else _logits(states[part], weight, bias, options.head).sub_(z)
            along = -of_log_probs[part, None]
            if options.entropy:
                along = along - of_entropy[part, None] * (_finite(log_p) + h[part, None])
            gradient = log_p.exp().mul_(along)
            gradient.scatter_add_(1, tokens[part, None], of_log_probs[part, None])
            gradient = _before_head(gradient, log_p, z, options.head).to(weight.dtype)
            if for_states is not None:
                torch.mm(gradient, weight, out=for_states[part])
            if for_weight is not None:
                for_weight.addmm_(gradient.T, states[part])
            if for_bias is not None:
                for_bias.add_(gradient.sum(dim=0))
        return for_states, for_weight, for_bias, None, None


class _Options(NamedTuple):
    head: Head  # without its tensors
    entropy: bool
    gradient: bool


def _parts(rows: int, vocabulary: int, dtype: torch.dtype) -> list[slice]:
    size = max(CHUNK_ROWS, CHUNK_BYTES // (vocabulary * dtype.itemsize))
    return [slice(i, i + size) for i in range(0, rows, size)]


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> Tensor:
    """`(n, V)`, over the temperature; free to be overwritten."""
    logits = torch.mm(states, weight.T) if bias is None else torch.addmm(bias, states, weight.T)
    logits = logits.to(torch.promote_types(weight.dtype, torch.float32))
    if head.cap is not None:
        logits = logits.mul_(head.scale / head.cap).tanh_().mul_(head.cap / head.temperature)
    elif head.scale != head.temperature:
        logits = logits.mul_(head.scale / head.temperature)
    return logits


def _before_head(gradient: Tensor, log_p: Tensor, log_z: Tensor, head: Head) -> Tensor:
    """The gradient in what the layer says, of that in the logits; written over it."""
    if head.cap is not None:
        tanh = (log_p + log_z).mul_(head.temperature / head.cap)
        gradient = gradient.mul_(1 - tanh.square_())
    if head.scale != head.temperature:
        gradient = gradient.mul_(head.scale / head.temperature)
    return gradient


def _finite(log_p: Tensor) -> Tensor:
    """Where p is 0, p log p is 0, and not 0 · -inf."""
    return log_p.clamp_min(-1e9)
