"""Worlds small enough to be listed: a policy of a table of logits, and everything that it can write."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from text_gym.tasks.enumerable import enumerable, trajectories


class World(NamedTuple):
    """A policy of a table of logits, and everything that it can write: `N` texts of at most `T` tokens."""

    logits: Tensor  # (states, V), the D = states · V weights, with gradients
    log_probs: Tensor  # (N, T), of every token of every text, as the weights are now; 0 after its end
    mask: Tensor  # (N, T) bool
    returns: Tensor  # (N,)

    @property
    def text_log_probs(self) -> Tensor:
        """`(N,)`, of whole texts."""
        return self.log_probs.sum(1)

    @property
    def probabilities(self) -> Tensor:
        """`(N,)`, of whole texts."""
        return self.text_log_probs.detach().exp()

    def slope_of(self, value: Tensor) -> Tensor:
        """Differentiate a number by the weights: `(D,)`."""
        (found,) = torch.autograd.grad(value, self.logits, retain_graph=True)
        return found.flatten()

    @property
    def scores(self) -> Tensor:
        """`(N, D)`, ∇log π of every text."""
        return torch.stack([self.slope_of(text) for text in self.text_log_probs])

    @property
    def policy_gradient(self) -> Tensor:
        """`(D,)`: the expected return Σ π(y) R(y) differentiated as it stands, without any trick."""
        return self.slope_of((self.text_log_probs.exp() * self.returns).sum())


def world(seed: int, symbols: str = "abc", max_tokens: int = 3) -> World:
    """Make a world of the `enumerable` task with random logits."""
    task = enumerable(symbols, max_tokens, seed)
    texts = trajectories(task)
    ids = [tuple(text.completion_ids.tolist()) for text in texts]
    states = {state: row for row, state in enumerate(sorted({y[:t] for y in ids for t in range(len(y))}))}
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(states), task.tokenizer.vocab_size, generator=generator, dtype=torch.float64)
    said = torch.log_softmax(logits.requires_grad_(), dim=1)
    rows = [
        [said[states[y[:t]], y[t]] if t < len(y) else said.new_zeros(()) for t in range(max_tokens)]
        for y in ids
    ]
    mask = torch.tensor([[t < len(y) for t in range(max_tokens)] for y in ids])
    log_probs = torch.stack([torch.stack(row) for row in rows])
    return World(logits, log_probs, mask, torch.from_numpy(task.reward(texts).values))
