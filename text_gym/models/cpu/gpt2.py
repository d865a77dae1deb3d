"""The fast path of GPT-2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import gpt2_states
from .gpt2_reader import GPT2Reader


class GPT2Path:
    """GPT-2's arithmetic written out, as a `FastPath`.

    Args:
        trunk: One that `fits`.
    """

    def __init__(self, trunk: Any) -> None:
        self._trunk = trunk

    @staticmethod
    def fits(trunk: nn.Module) -> bool:
        """Return True if a trunk is an unmodified GPT-2: no adapters, foreign modules or hooks."""
        from transformers import GPT2Model
        from transformers.activations import GELUTanh, NewGELUActivation
        from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention, GPT2Block
        from transformers.pytorch_utils import Conv1D

        if type(trunk) is not GPT2Model or trunk.config.add_cross_attention:
            return False
        plain = {GPT2Model, GPT2Block, GPT2Attention, GPT2MLP, Conv1D, NewGELUActivation, GELUTanh}
        plain |= {nn.Embedding, nn.LayerNorm, nn.Dropout, nn.ModuleList, nn.GELU}
        return trunk.dtype in (torch.float32, torch.float64) and all(
            type(m) in plain
            and getattr(m, "approximate", "tanh") == "tanh"
            and not (m._forward_hooks or m._forward_pre_hooks)
            for m in trunk.modules()
        )

    def reader(self) -> GPT2Reader:
        """Implement `FastPath`."""
        return GPT2Reader(self._trunk)

    @property
    def can_update(self) -> bool:
        """Implement `FastPath`."""
        return not any(
            (m.training and getattr(m, "p", 0.0) > 0) or getattr(m, "gradient_checkpointing", False)
            for m in self._trunk.modules()
        )

    def states(self, tokens: Tensor, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Implement `FastPath`."""
        return gpt2_states.states(self._trunk, tokens, starts, lengths)
