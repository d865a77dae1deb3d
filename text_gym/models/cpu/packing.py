"""Texts of a batch laid out without padding, each prompt once, however many completions go on from it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from text_gym.episode import IntArray

from .kernel_types import Texts, Trees


class Segments(NamedTuple):
    """Queries of consecutive tokens, as in `kernels.Texts`; int64 on the host.

    Args:
        begins: `(s,)`, the number of each segment's first query.
        counts: `(s,)`, how many they are.
        firsts: `(s,)`, the position of the first one.
    """

    begins: Tensor
    counts: Tensor
    firsts: Tensor


class Packed(NamedTuple):
    """Texts without padding, int64 on the host.

    Args:
        tokens: `(n,)`, all that is to be read.
        positions: `(n,)`, where they stand in their texts.
        trees: How they hang together.
        longest: Most tokens of a text.
        everywhere: Each token's query.
        drawn: The queries of the tokens before those that were drawn: the prompts' last ones, and all others.
        asked: `(m,)`, the latter's places among `tokens`.
        states: `(N,)`, row by row, which of the `m` queries each token that was drawn comes from.
    """

    tokens: Tensor
    positions: Tensor
    trees: Trees
    longest: int
    everywhere: Segments
    drawn: Segments
    asked: Tensor
    states: Tensor

    def texts(self, which: Segments, heads: int, groups: int, size: int, scale: float) -> Texts:
        """Describe the attention of queries, `everywhere` or `drawn`, to the kernels."""
        return Texts(
            *which,
            tokens=self.longest,
            heads=heads,
            groups=groups,
            size=size,
            scale=scale,
            trees=self.trees,
        )


def pack_texts(tokens: Tensor, starts: Tensor, lengths: Tensor) -> Packed:
    """Lay texts out for one pass that is to say how likely each completion's tokens were.

    Rows whose prompts are equal form a tree: the prompt is read once, and each completion looks back at it.
    That is the same arithmetic, since a token's state depends only on what stands before it. A completion's
    last token is left out, since nobody needs its state.

    Args:
        tokens: `(B, S)` int64 on the host, right-padded; `S` is at least the largest `P + T - 1`.
        starts: `(B,)` int64 on the host, prompt lengths `P`.
        lengths: `(B,)` int64 on the host, completion lengths `T`; `N` is their sum.

    >>> packed = pack_texts(torch.tensor([[5, 6, 1], [5, 6, 2]]), torch.tensor([2, 2]), torch.tensor([2, 2]))
    >>> packed.tokens.tolist(), packed.positions.tolist()
    ([5, 6, 1, 2], [0, 1, 2, 2])
    >>> packed.asked.tolist(), packed.states.tolist()
    ([1, 2, 3], [0, 1, 0, 2])
    """
    table, prompts, drawn = tokens.numpy(), starts.numpy(), lengths.numpy()
    trees: dict[bytes, list[int]] = {}
    for row, start in enumerate(prompts.tolist()):
        trees.setdefault(table[row, :start].tobytes(), []).append(row)
    # The segments: of each tree its prompt, taken from the first of its rows, then its completions.
    rows = np.array([row for tree in trees.values() for row in (tree[0], *tree)])
    sizes = np.array([1 + len(tree) for tree in trees.values()])
    borders = np.concatenate(([0], sizes.cumsum()))
    is_prompt = np.zeros(len(rows), bool)
    is_prompt[borders[:-1]] = True
    firsts = np.where(is_prompt, 0, prompts[rows])
    counts = np.where(is_prompt, prompts[rows], np.maximum(drawn[rows] - 1, 0))
    begins = counts.cumsum() - counts
    positions = _each(firsts, counts)
    # In the last layer a prompt has one query, its last token's.
    asking = np.where(is_prompt, 1, counts)
    first_asking = np.where(is_prompt, counts - 1, firsts)
    asking_begins = asking.cumsum() - asking
    of_row = np.empty(len(table), np.int64)  # each row's completion, and its prompt, among the segments
    of_row[rows[~is_prompt]] = np.flatnonzero(~is_prompt)
    prompt_of_row = np.empty_like(of_row)
    prompt_of_row[rows] = np.repeat(borders[:-1], sizes)
    states = _each(asking_begins[of_row] - 1, drawn)
    states[(drawn.cumsum() - drawn)[drawn > 0]] = asking_begins[prompt_of_row][drawn > 0]
    return Packed(
        torch.from_numpy(table[np.repeat(rows, counts), positions]),
        torch.from_numpy(positions),
        Trees(torch.from_numpy(begins), torch.from_numpy(borders)),
        int((firsts + counts).max()),
        Segments(*map(torch.from_numpy, (begins, counts, firsts))),
        Segments(*map(torch.from_numpy, (asking_begins, asking, first_asking))),
        torch.from_numpy(_each(begins + counts - asking, asking)),
        torch.from_numpy(states),
    )


def _each(firsts: IntArray, counts: IntArray) -> IntArray:
    """Count up from each of `(n,)` numbers, so many steps each, and join what comes: `(sum of counts,)`."""
    each: IntArray = np.arange(counts.sum()) + np.repeat(firsts - counts.cumsum() + counts, counts)
    return each
