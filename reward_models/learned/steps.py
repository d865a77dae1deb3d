"""Reads a causal backbone at the ends of steps: one forward pass judges every step of a solution.

A step's output depends on the text up to its end alone, since a causal trunk sees nothing that follows. What
the outputs mean, and how they are learnt, is said elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from text_gym.episode import Prompt
from text_gym.errors import ConfigError, RewardError, excerpt
from text_gym.models.runtime import upload
from text_gym.tokenizer import PretrainedTokenizer

from .model import RewardModel


class Step(NamedTuple):
    """One step of a text."""

    text: str  # without the delimiter
    end: int  # character after its delimiter, or after the text where it has none
    closed: bool = True  # by a delimiter


class EncodedSteps(NamedTuple):
    """A problem and its steps as the ids the backbone reads."""

    ids: list[int]
    ends: list[int]  # the place of each step's last token among the ids


def split_steps(text: str, delimiter: str, *, over: bool = True) -> list[Step]:
    r"""Split a text into its steps; blank ones, as between two delimiters, are none.

    Args:
        text: The text.
        delimiter: What a step ends with.
        over: The text is finished, so that what stands after the last delimiter is a step, too.

    >>> [step.text for step in split_steps("1 + 2 = 3\n\n3 + 4 = 7", "\n")]
    ['1 + 2 = 3', '3 + 4 = 7']
    >>> split_steps("1 + 2 = 3\n3 +", "\n", over=False)
    [Step(text='1 + 2 = 3', end=10, closed=True)]
    """
    found, begin = [], 0
    while (place := text.find(delimiter, begin)) >= 0:
        found.append(Step(text[begin:place], place + len(delimiter)))
        begin = place + len(delimiter)
    if over:
        found.append(Step(text[begin:], len(text), closed=False))
    return [step for step in found if step.text.strip()]


def check_causal(model: RewardModel) -> None:
    """Check that a backbone can be read at every token.

    Raises:
        ConfigError: It is no causal language model with a linear head, so that a step would see later ones.
    """
    if model.form == "pair" or not hasattr(model.model, "score"):
        raise ConfigError(
            f"a process reward reads a causal language model at the end of each step, and "
            f"{type(model.model).__name__} is none; start from a model such as GPT-2, Llama or Qwen"
        )


def encode_steps(model: RewardModel, prompt: Prompt, steps: Sequence[str], delimiter: str) -> EncodedSteps:
    """Encode a solution step by step, so that each step ends with a token; a long prompt loses its start.

    Raises:
        RewardError: The steps alone do not fit the model's context.
    """
    if model.form == "chat":
        assert isinstance(model.tokenizer, PretrainedTokenizer)
        opening = model._render(prompt, None)
        before = list(model.tokenizer.backend.encode(opening, add_special_tokens=False).ids)
    else:
        before = model.tokenizer.encode(prompt.text)
    after: list[int] = []
    ends = []
    for step in steps:
        after += model.tokenizer.encode(step + delimiter)
        ends.append(len(after) - 1)
    if model.context is not None and len(after) > model.context:
        raise RewardError(
            f"reward {model.name!r}: the {len(steps)} steps on prompt {excerpt(prompt.text)} have "
            f"{len(after)} tokens; the model reads {model.context}"
        )
    if model.context is not None:
        before = before[max(0, len(before) + len(after) - model.context) :]
    return EncodedSteps(before + after, [len(before) + end for end in ends])


def step_logits(model: RewardModel, texts: Sequence[EncodedSteps]) -> Tensor:
    """Run the trunk on one padded batch and read the head at the ends of steps, with gradients if enabled.

    Args:
        model: A causal backbone with one output.
        texts: `B` encoded solutions.

    Returns:
        `(S,)` logits of all steps, a solution's one after another.
    """
    network = model.model
    device = next(network.parameters()).device
    width = max(len(t.ids) for t in texts)
    ids = torch.tensor([t.ids + [model._pad_id] * (width - len(t.ids)) for t in texts])
    seen = torch.tensor([[1] * len(t.ids) + [0] * (width - len(t.ids)) for t in texts])
    rows = torch.tensor([i for i, t in enumerate(texts) for _ in t.ends])
    ends = torch.tensor([end for t in texts for end in t.ends])
    with torch.autocast(device.type, torch.bfloat16, enabled=model.bf16):
        read = network.base_model(input_ids=upload(ids, device), attention_mask=upload(seen, device))
        logits: Tensor = network.score(read.last_hidden_state[upload(rows, device), upload(ends, device)])
    return logits[:, 0].to(torch.promote_types(logits.dtype, torch.float32))
