"""States of a trunk at the places from which the tokens of completions are drawn.

Where completions begin and end is the host's knowledge, so that nothing here waits for an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from text_gym.models.cpu.fast_path import fast_path
from text_gym.models.devices import upload


def places(
    starts: Tensor, lengths: Tensor, device: torch.device
) -> tuple[torch.Size, Tensor, Tensor, Tensor]:
    """Return the positions of the completions' tokens.

    Args:
        starts: `(B,)` int64 on the host, prompt lengths.
        lengths: `(B,)` int64 on the host, completion lengths, `T` the longest and `N` their sum.
        device: Where the positions are wanted.

    Returns:
        The shape `(B, T)`; of every token its row, its place in the completion, and its column in the text,
        `(N,)` each.
    """
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    rows, steps = mask.nonzero(as_tuple=True)
    at = upload(starts[rows] + steps, device)
    return mask.shape, upload(rows, device), upload(steps, device), at


def states_before(
    trunk: nn.Module,
    tokens: Tensor,
    starts: Tensor,
    lengths: Tensor,
    hidden: Callable[[Tensor], Any],
    *,
    bf16: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the trunk's states from which the completions' tokens are drawn, `(N, D)`, ordered as `places`.

    With them come the embedding's weights, which an output layer that has the same ones is to use, or None.

    Args:
        trunk: Any model's.
        tokens: `(B, S)` int64, right-padded.
        starts: `(B,)` int64 on the host, prompt lengths.
        lengths: `(B,)` int64 on the host, completion lengths; `N` is their sum.
        hidden: Reads `(B, S)` tokens through the trunk, as `transformers` does.
        bf16: It does so in bfloat16.
    """
    tokens = tokens[:, : int((starts + lengths).max()) - 1]  # nobody needs the states from the last token on
    path = None if bf16 else fast_path(trunk)
    if path is not None and path.can_update:
        return path.states(tokens, starts, lengths)
    _, rows, _, at = places(starts, lengths, tokens.device)
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
