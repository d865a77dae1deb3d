"""Products of tall matrices, by the kernels where they pay off, and by PyTorch otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from text_gym.models.sizes import sizes_of

from .kernels import kernels_for


def matmul(
    a: Tensor,
    b: Tensor | Sequence[Tensor],
    bias: Tensor | None = None,
    *,
    plus: Tensor | None = None,
    out: Tensor | None = None,
    add: bool = False,
) -> Tensor:
    """Multiply two matrices without gradients, in the way that is fastest for tall ones.

    Args:
        a: `(n, k)`.
        b: `(k, m)`, or several that stand side by side.
        bias: `(m,)` to add …
        plus: … or `(n, m)`, contiguous; not both.
        out: `(n, m)`, contiguous, for the result; together with neither of them where there are no kernels.
        add: Add the product to what is in `out`; not together with a bias.

    Returns:
        `(n, m)`, which is `out` if there is one.
    """
    matrices = (b,) if isinstance(b, Tensor) else b
    kernels = kernels_for(a) if len(a) >= sizes_of(a.device).min_rows_to_pack else None
    if kernels is not None:
        return kernels.multiply(a, kernels.pack(*matrices), bias, plus=plus, out=out, add=add)
    whole = matrices[0] if len(matrices) == 1 else torch.cat([*matrices], 1)
    plus = bias if plus is None else plus
    if out is None:
        return torch.mm(a, whole) if plus is None else torch.addmm(plus, a, whole)
    return out.addmm_(a, whole) if add else torch.mm(a, whole, out=out)
