"""The trunk of a policy: how token positions and hidden states are laid out, and which layers learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from text_gym.models.cpu.fast_path import fast_path


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Every weight and buffer of a policy or critic by name; tied weights once."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (name, tensor.detach()))
    return dict(found.values())


def places(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the positions of the completions' tokens.

    Args:
        starts: `(B,)` int64, prompt lengths.
        lengths: `(B,)` int64, completion lengths, `T` the longest and `N` their sum.

    Returns:
        Mask `(B, T)` of the tokens there are, and their rows and columns, `(N,)` each.
    """
    mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    rows, columns = mask.nonzero(as_tuple=True)
    return mask, rows, starts[rows] + columns


def states_before(
    trunk: nn.Module,
    tokens: Tensor,
    starts: Tensor,
    lengths: Tensor,
    hidden: Callable[[Tensor], Any],
    *,
    bf16: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the trunk's states from which the completions' tokens are drawn.

    Args:
        trunk: Any model's.
        tokens: `(B, S)` int64, right-padded.
        starts: `(B,)` int64, prompt lengths.
        lengths: `(B,)` int64, completion lengths; `N` is their sum.
        hidden: Reads `(B, S)` tokens through the trunk, as `transformers` does.
        bf16: It does so in bfloat16.

    Returns:
        `(N, D)`, in the order of `places`; and the embedding's weights, which an output layer that has the
        same ones is to use, or None, where it is to use its own.
    """
    tokens = tokens[:, : int((starts + lengths).max()) - 1]  # nobody needs the states from the last token on
    path = None if bf16 else fast_path(trunk)
    if path is not None and path.can_update:
        return path.states(tokens, starts, lengths)
    _, rows, at = places(starts, lengths)
    with layers_in_training(trunk):
        states: Tensor = hidden(tokens).last_hidden_state
    return states[rows, at - 1], None


@contextmanager
def layers_in_training(model: nn.Module) -> Iterator[None]:
    """Put layers, which checkpoint in training mode only, into it, but leave their dropout off."""
    layers = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    was = [layer.training for layer in layers]
    for layer in layers:
        layer.training = torch.is_grad_enabled()
    try:
        yield
    finally:
        for layer, training in zip(layers, was, strict=True):
            layer.training = training


def _with_fused_gelu(model: Any) -> Any:
    """Replace GPT-2's activation, eight kernels, by PyTorch's single fused one."""
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, nn.GELU("tanh"))
    return model
