"""Critic: values from a trunk of its own, which begins as a copy of the policy's.

The policy's own value head costs next to nothing, but what it learns moves the trunk that the policy stands
on; a critic apart leaves the policy alone, for twice the memory and most of the time. It is no part of the
policy's folder: checkpoints have it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .micro_batches import Splitter
from .policy import Policy, places, states_before


class Critic(nn.Module):
    """A copy of a policy's trunk and value head, to be trained apart.

    It has as many weights, gradients and moments as the policy's trunk (16 bytes a weight in float32), and
    keeps as much of a minibatch for its backward pass.

    Args:
        policy: It stays as it is.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.trunk, self.value_head = copy.deepcopy((policy.model.base_model, policy.value_head))
        self._device, self._dtype, self._bf16 = policy.device, policy.dtype, policy.bf16
        self.train(policy.training)

    def forward(self, tokens: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
        """Values `(B, T)` of the states before each token of completions, and 0 past their ends.

        Args:
            tokens: `(B, S)` int64, right-padded.
            starts: `(B,)` int64, prompt lengths.
            lengths: `(B,)` int64, completion lengths.
        """
        states, _ = states_before(self.trunk, tokens, starts, lengths, self._hidden, bf16=self._bf16)
        values: Tensor = self.value_head(states.to(self.value_head.weight.dtype))[:, 0].to(self._dtype)
        mask, _, _ = places(starts, lengths)
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    def _hidden(self, tokens: Tensor) -> Any:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            return self.trunk(input_ids=tokens, use_cache=False)

    @torch.no_grad()
    def score(self, tokens: Tensor, starts: Tensor, lengths: Tensor, *, rows: int = 64) -> Tensor:
        """As `forward`, without gradients, at most `rows` at a time."""
        values = torch.zeros(len(tokens), int(lengths.max()), dtype=self._dtype, device=tokens.device)

        def fill(parts: list[Tensor]) -> None:
            for part in parts:
                said = self(tokens[part], starts[part], lengths[part])
                values[part, : said.shape[1]] = said

        Splitter(self._device, rows).run(starts + lengths, fill)
        return values
