"""The only door to the fast CPU code for small models; nothing outside this folder knows of kernels.

Without a compiler, on accelerators and in float64 the same paths run on PyTorch's operators.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import torch
from torch import Tensor, nn

from text_gym.models.kv_cache import KVCache, RolloutWeights

from . import gpt2, llama
from .gpt2_cache import gpt2_cache
from .kernels import kernels_for
from .library import load
from .products import matmul as matmul

LOG = logging.getLogger("text_gym")
_DISTRUSTED = "reads_by_own_code"  # the attribute of a trunk that its fast path was found to read wrongly


class MakeCache(Protocol):
    """Makes a KV cache for a rollout, which reads a trunk without dropout."""

    def __call__(self, rows: int, width: int, weights: RolloutWeights = "float32") -> KVCache:
        """Make it for `B` rows of at most so many tokens.

        With weights in "int8" the numbers are rounded; the trunk must be one that `why_no_int8` accepts.
        """
        ...


class ComputeStates(Protocol):
    """Computes a trunk's states in one pass over whole texts, with gradients, for updates."""

    def __call__(self, tokens: Tensor, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the states from which the completions' tokens are drawn.

        Args:
            tokens: `(B, S)` int64, right-padded; `S` is at least the largest `P + T - 1`.
            starts: `(B,)` int64 on the host, prompt lengths `P`.
            lengths: `(B,)` int64 on the host, completion lengths `T`; `N` is their sum.

        Returns:
            `(N, D)`, one completion after another; and the embedding's weights `(V, D)`, for an output layer
            that has the same ones: through them flows the gradient of both.
        """
        ...


@dataclass(frozen=True)
class FastPath:
    """One architecture's arithmetic written out, for a trunk with its current weights.

    It gives the numbers of the model's own code but for rounding.

    Attributes:
        cache: Reads token by token, for rollouts.
        states: Reads whole texts, for updates …
        can_update: … which is what the model's own code computes only without dropout and gradient
            checkpointing.
    """

    cache: MakeCache
    states: ComputeStates
    can_update: bool


def fast_path(trunk: nn.Module) -> FastPath | None:
    """Return a trunk's fast path; None if its architecture has none or the trunk was modified.

    GPT-2 has one, and with compiled kernels the Llama family has: Llama, Mistral, Qwen2, Qwen3, Gemma (the
    first) and SmolLM3, where every layer looks at all that went before. Adapters, hooks, modules in place of
    others and bfloat16 weights go through the model's own code, and so does what the path reads wrongly.
    """
    if vars(trunk).get(_DISTRUSTED):
        return None
    if gpt2.fits_gpt2(trunk):
        cache, states = gpt2_cache, gpt2.gpt2_states
    elif llama.fits_llama(trunk):
        cache, states = llama.llama_cache, llama.llama_states
    else:
        return None
    drops = trunk.training and getattr(trunk.config, "attention_dropout", 0) > 0  # Llama's is no module
    exact = not drops and not any(
        (m.training and getattr(m, "p", 0.0) > 0) or getattr(m, "gradient_checkpointing", False)
        for m in trunk.modules()
    )
    return FastPath(partial(cache, trunk), partial(states, trunk), exact)


@torch.no_grad()
def try_fast_path(trunk: nn.Module, tokens: Tensor) -> None:
    """Read a few tokens by a trunk's fast path and by its own code, and drop the path where they differ.

    Args:
        trunk: One that may have a path for updates.
        tokens: `(1, n)` int64.
    """
    path, n = fast_path(trunk), tokens.shape[1]
    if path is None or not path.can_update or n < 2:
        return
    found, _ = path.states(tokens, torch.tensor([1]), torch.tensor([n - 1]))
    wanted = trunk(input_ids=tokens, use_cache=False).last_hidden_state[0, :-1]
    if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-3):
        distrust(trunk)


def distrust(trunk: nn.Module) -> None:
    """Have a trunk, and copies of it, read through its own code from now on; a line in the log says so."""
    setattr(trunk, _DISTRUSTED, True)
    LOG.warning(
        "the fast path reads this %s otherwise than its own code, which is used instead and is slower; "
        "please report it with the model's config.json",
        type(trunk).__name__,
    )


def tell_own_code(trunk: nn.Module) -> None:
    """Log, once for each architecture, that a CPU reads it through its own code, which is slower."""
    weights = next(trunk.parameters(), None)
    cpu = weights is not None and weights.device.type == "cpu" and weights.dtype == torch.float32
    if cpu and has_kernels() and not vars(trunk).get(_DISTRUSTED):
        _tell_own_code(type(trunk).__name__)


@cache
def _tell_own_code(kind: str) -> None:
    LOG.info(
        "%s is read through its own code: the fast path knows GPT-2 and the Llama family without windows, "
        "adapters or hooks",
        kind,
    )


def why_no_int8(trunk: nn.Module) -> str | None:
    """Say why a trunk cannot be read with 8-bit weights; None if it can.

    Where it can, but the processor has no instruction for such products (VNNI), one line in the log says that
    float32 is faster.
    """
    weights = next(trunk.parameters(), None)
    if weights is None or weights.device.type != "cpu":
        return "only the CPU has kernels for 8-bit weights"
    if weights.dtype != torch.float32:
        return f"the weights that are rounded to 8 bits must be float32, not {weights.dtype}"
    kernels = kernels_for(weights)
    if kernels is None:
        return "the compiled kernels are missing, as the log says"
    if fast_path(trunk) is None or not all(p.is_contiguous() for p in trunk.parameters()):
        return (
            f"the kernels cannot read this {type(trunk).__name__}: they know GPT-2 and the Llama family, as "
            "transformers makes them, without adapters or hooks"
        )
    if not kernels.int8.fast:
        _tell_slow()
    return None


@cache
def _tell_slow() -> None:
    LOG.warning("this processor has no instruction for 8-bit products (VNNI): float32 rollouts are faster")


def has_kernels() -> bool:
    """Return True if the compiled kernels are there; without them the last digits are others."""
    return load() is not None


def fixed_linear(
    weight: Tensor, bias: Tensor | None, weights: RolloutWeights = "float32"
) -> Callable[[Tensor], Tensor]:
    """Prepare a linear layer for many calls with few rows each, valid while its weights stay as they are.

    On CPUs such products are faster by a half and more with weights that lie in another order, which pays for
    a copy where many tokens are going to be drawn.

    Args:
        weight: `(V, D)`.
        bias: `(V,)`, if any.
        weights: In what numbers to multiply: "int8" rounds both factors, where there are kernels.

    Returns:
        A function from `(n, D)` to `(n, V)`, without gradients.
    """
    weight = weight.detach().t()
    kernels = kernels_for(weight)
    if kernels is not None and weights == "int8":
        rounded = kernels.int8.pack(weight)
        return lambda states: kernels.int8.multiply(states, rounded, bias)
    if kernels is not None:
        panels = kernels.pack(weight)
        return lambda states: kernels.multiply(states, panels, bias)
    weight = weight.contiguous()
    if bias is None:
        return lambda states: torch.mm(states, weight)
    return lambda states: torch.addmm(bias, states, weight)


def fast_draw(logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor] | None:
    """Draw from softmax(logits) with given noise; None where the sampler's own way is as fast.

    Args:
        logits: `(B, V)`; -inf is never drawn.
        u: `(B,)` float64 in [0, 1).

    Returns:
        `(B,)` int64 tokens, and their `(B, 1)` probabilities: NaN where a logit is NaN or infinite.
    """
    kernels = kernels_for(logits)
    return None if kernels is None else kernels.draw(logits.contiguous(), u.contiguous())


def softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the softmax of each row, without gradients, and the logarithm of what its e^logits sum to.

    Args:
        logits: `(n, V)`.

    Returns:
        `(n, V)` probabilities, and `(n,)` logarithms.
    """
    kernels = kernels_for(logits)
    if kernels is not None:
        return kernels.softmax(logits.contiguous())
    p = torch.softmax(logits, dim=1)
    return p, logits.amax(dim=1) - p.amax(dim=1).log()
