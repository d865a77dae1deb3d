"""One backward pass and one optimizer step, the same for all algorithms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from text_gym.agents.checks import check_loss
from text_gym.errors import NonFiniteError


def backward(optimizer: torch.optim.Optimizer, loss: Tensor, where: str) -> None:
    """The gradient of a loss, and of nothing else.

    Args:
        optimizer: Has the weights.
        loss: A number.
        where: For the error, e.g. `"iteration 3"`.

    Raises:
        NonFiniteError: The loss is not finite.
    """
    check_loss(loss, {}, where)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()


def apply_gradients(
    networks: Sequence[nn.Module], optimizer: torch.optim.Optimizer, max_grad_norm: float, where: str
) -> list[float]:
    """One step down the gradients that there are.

    Args:
        networks: Whose weights; what one of them has to learn makes the steps of no other smaller.
        optimizer: Has those of them that are trained.
        max_grad_norm: The gradient of each network is scaled down to this norm.
        where: For the error, e.g. `"iteration 3"`.

    Returns:
        The norm of each network's gradient before it was scaled.

    Raises:
        NonFiniteError: A gradient is not finite; the weights are untouched.
    """
    norms = []
    for network in networks:
        gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
        norm = torch.nn.utils.get_total_norm(list(gradients.values()))
        if not torch.isfinite(norm):
            optimizer.zero_grad(set_to_none=True)
            bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
            what = f"the gradient of {bad[0]}" if bad else "the norm of the gradient"
            raise NonFiniteError(f"{what} is not finite in {where}; nothing was updated")
        if norm > max_grad_norm - 1e-6:  # else it would multiply by 1, which takes its time too
            torch.nn.utils.clip_grads_with_norm_(network.parameters(), max_grad_norm, norm)
        norms.append(float(norm))
    optimizer.step()
    return norms
