"""Texts laid out without padding: what each query sees is the beginning of its own text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from text_gym.models.cpu.packing import Packed, pack_texts


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Nine rows of four prompts, one of which is the beginning of another; completions may be empty."""
    rng = np.random.default_rng(seed)
    prompts = [[3], [3, 1], [3, 1, 4, 1, 5, 9], [2, 7]]
    which, lengths = rng.integers(0, 4, 9), rng.integers(0, 7, 9)
    tokens = rng.integers(0, 10, (9, 12))
    for row, number in zip(tokens, which, strict=True):
        row[: len(prompts[number])] = prompts[number]
    starts = np.array([len(prompts[number]) for number in which])
    return torch.from_numpy(tokens), torch.from_numpy(starts), torch.from_numpy(lengths)


def seen(packed: Packed, query: int) -> list[int]:
    """The tokens that one of the last layer's queries looks at, by the rules of `kernels.Texts`."""
    begins, counts, firsts = (x.tolist() for x in packed.drawn)
    places, borders = (x.tolist() for x in packed.trees)
    segment = next(s for s, begin in enumerate(begins) if begin <= query < begin + counts[s])
    first = max(border for border in borders if border <= segment)
    shared = firsts[first] + counts[first]
    keys = [*range(places[first], places[first] + shared)]
    if segment != first:
        keys += range(places[segment], places[segment] + packed.everywhere.counts[segment])
    return packed.tokens[keys[: firsts[segment] + query - begins[segment] + 1]].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_each_state_comes_from_the_tokens_before_it(seed: int) -> None:
    tokens, starts, lengths = batch(seed)
    packed = pack_texts(tokens, starts, lengths)
    wanted = [
        row[: start + step].tolist()
        for row, start, n in zip(tokens, starts.tolist(), lengths.tolist(), strict=True)
        for step in range(n)
    ]
    assert [seen(packed, query) for query in packed.states.tolist()] == wanted
    last = packed.asked[packed.states]
    assert packed.tokens[last].tolist() == [text[-1] for text in wanted]
    assert packed.positions[last].tolist() == [len(text) - 1 for text in wanted]


@pytest.mark.parametrize("seed", range(5))
def test_equal_prompts_are_read_once_and_last_tokens_never(seed: int) -> None:
    tokens, starts, lengths = batch(seed)
    packed = pack_texts(tokens, starts, lengths)
    prompts = {tuple(row[:start].tolist()) for row, start in zip(tokens, starts, strict=True)}
    assert len(packed.tokens) == sum(map(len, prompts)) + int((lengths - 1).clamp_min(0).sum())
    assert packed.longest == int((starts + (lengths - 1).clamp_min(0)).max())
