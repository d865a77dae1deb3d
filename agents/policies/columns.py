"""Columns of the agent's tokens in conversations, where replies that are only read stand between them.

Where completions follow their prompts without a gap, nobody comes here.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ends_of(columns: Tensor, lengths: Tensor) -> Tensor:
    """Return where the agent's last tokens end, `(B,)` int64.

    Args:
        columns: `(B, >= T)` int64, of each token; past a row's end anything.
        lengths: `(B,)` int64, the agent's tokens in each row.

    >>> ends_of(torch.tensor([[1, 2, 5], [1, 1, 1]]), torch.tensor([3, 1]))
    tensor([6, 2])
    """
    return columns.gather(1, lengths[:, None] - 1)[:, 0] + 1


def own_states(columns: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Say which of the states before all tokens from the agent's first one on are before its own ones.

    Args:
        columns: As in `ends_of`.
        lengths: Likewise.

    Returns:
        Each row's first column and the number of tokens from there to the agent's last one, `(B,)` int64; and
        the agent's places in all of these rows, one after the other, `(N,)` int64.

    >>> own_states(torch.tensor([[1, 2, 5], [3, 3, 3]]), torch.tensor([3, 1]))
    (tensor([1, 3]), tensor([5, 1]), tensor([0, 1, 4, 5]))
    """
    firsts = columns[:, 0]
    spans = ends_of(columns, lengths) - firsts
    own = torch.arange(int(lengths.max())) < lengths[:, None]
    places = (spans.cumsum(0) - spans - firsts)[:, None] + columns[:, : own.shape[1]]
    return firsts, spans, places[own]
