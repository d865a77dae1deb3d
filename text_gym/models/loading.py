"""What policies and reward models have in common: devices by name, loaded weights, the small GPT-2 of both.

Weights, tokenizers and heads are theirs. PyTorch and `transformers` are imported when a function is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from text_gym.errors import ConfigError
from text_gym.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch


def pick_device(device: str) -> torch.device:
    """The device of a name; `"auto"` is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: PyTorch knows no such device.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}: {error}") from error


def lift_from_file(model: Any) -> None:
    """Give a loaded model's weights memory of their own.

    They lie in the mapped file: writing that file anew would pull them away, and where they begin depends on
    its header, to which the last bits of matrix products are sensitive.
    """
    for weight in model.parameters():
        weight.data = weight.data.clone()


def small_gpt2(
    tokenizer: Tokenizer, *, layers: int, width: int, heads: int, context: int, dropout: float, **more: Any
) -> Any:
    """The configuration of a GPT-2 that is to be trained from nothing.

    Args:
        tokenizer: Gives vocabulary and special ids.
        layers: Of the trunk.
        width: `D`, size of the hidden states.
        heads: Of attention; a divisor of the width.
        context: Most tokens that it reads.
        dropout: Everywhere, in training alone.
        more: Other fields of `transformers.GPT2Config`.
    """
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        # GPT-2's 0.02 is for a width of 768: small models do not learn to copy from it.
        initializer_range=width**-0.5,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_ids[0] if tokenizer.eos_ids else None,
        pad_token_id=tokenizer.pad_id,
        **more,
    )
