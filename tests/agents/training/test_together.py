from __future__ import annotations

import torch

from text_gym import ByteTokenizer
from text_gym.agents import Policy
from text_gym.agents.training.together import share_rows
from text_gym.models.world import World


def shares(lengths: list[int], prompt: int) -> list[list[int]]:
    """Share rows with prompts of one length between two processes; return how long each one's texts are."""
    policy = Policy.new(ByteTokenizer(), width=16, layers=1, heads=2, context=128, device="cpu")
    found = []
    for rank in range(2):
        made = object.__new__(World)
        made.rank, made.size = rank, 2
        of = torch.tensor(lengths)
        found.append(of[share_rows(made, policy, of + prompt, of)].tolist())
    return found


def test_rows_are_shared_out_by_the_work_of_blocks_attention_and_output_layer() -> None:
    """By hand, D = 16, one layer and V = 257: 192 S + 6 S² + 514 T is a row's work.

    Nine prompts alone (S = 10, 2,520 each) are about as much as two rows with texts of 10 (11,380 each).
    """
    assert shares([0] * 9 + [10, 10], 10) == [[0] * 9, [10, 10]]


def test_attention_makes_long_rows_more_work_than_their_tokens() -> None:
    """Seven rows of 10 + 4 tokens (5,920 each) are less than one of 10 + 40 (45,160); without 6 S², more."""
    assert shares([4] * 7 + [40, 40], 10) == [[4] * 7 + [40], [40]]
