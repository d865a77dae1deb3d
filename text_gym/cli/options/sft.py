"""Options of `text-gym sft`, and how they are read from the command line."""

from __future__ import annotations

from dataclasses import dataclass

from text_gym.agents.algorithms.configs import SFTConfig
from text_gym.data import Data

from .parsing import parse


@dataclass(frozen=True)
class SFTOptions(Data):
    """Make a policy by supervised fine-tuning: a tokenizer and a small model from nothing, or a given model.

    Args:
        task: Task whose corpus to learn, where no data is given.
        model: Folder or hub model to start from; a small new GPT-2 if left out.
        vocab_size: Size of a new tokenizer.
        layers: Layers of a new model.
        width: Width of a new model.
        heads: Attention heads of a new model.
        dropout: Dropout of a new model, in [0, 1); helps where texts are few.
        out: Folder for the policy.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    task: str = "products"
    model: str | None = None
    vocab_size: int = 1024
    layers: int = 2
    width: int = 128
    heads: int = 4
    dropout: float = 0.1
    out: str = "policy"
    device: str = "auto"


def read_sft(argv: list[str]) -> tuple[SFTOptions, SFTConfig]:
    """Options of `text-gym sft`, and settings of the training."""
    options, config = parse("sft", argv, SFTOptions, SFTConfig)
    return options, config
