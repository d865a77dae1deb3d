"""Options of `text-gym sft`, and how they are read from the command line."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from text_gym.agents.algorithms.configs import SFTConfig
from text_gym.data import Data
from text_gym.errors import ConfigError
from text_gym.runs.hub import check_push
from text_gym.utils.display import is_first_process

from .checks import (
    at_least,
    check_chat,
    check_data,
    check_device,
    check_out_folder,
    check_policy,
    check_reward,
    check_task,
)
from .parsing import COLUMN, parse, with_recommended

# What people use first.
_FIRST = (
    "task", "data", "prompt", "reference", "model", "epochs", "learning_rate", "layers", "width",
    "out", "device",
)  # fmt: skip


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
        dtype: float32; bfloat16, in which matrices are multiplied while the weights stay in float32; auto is
            bfloat16 on GPUs that have it.
        out: Folder for the policy.
        push_to_hub: Upload the policy and its model card to the Hugging Face Hub in the end: OWNER/NAME, or
            NAME for one of your own; a repository that is not there is made, a private one.
        shard: Divide the weights among the processes that torchrun starts (FSDP2): for a model that does not
            fit one GPU with its gradient and the optimizer's memory.
        device: auto, cpu, cuda, cuda:1.
    """

    task: str = "products"
    model: str | None = None
    vocab_size: int = 1024
    layers: int = 2
    width: int = 128
    heads: int = 4
    dropout: float = 0.1
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    out: str = "policy"
    push_to_hub: str | None = None
    shard: bool = False
    device: str = "auto"


def read_sft(argv: list[str]) -> tuple[SFTOptions, SFTConfig, float]:
    """Options of `text-gym sft`, settings of the training, and when it began (`time.perf_counter`)."""
    started = time.perf_counter()
    words = with_recommended(argv, "sft")
    options, config = parse(
        "sft", words, SFTOptions, SFTConfig, first=_FIRST, flags=COLUMN, settings="training"
    )
    check_task(options.task if options.data is None else None)
    check_data(options.data)
    if options.data is not None and options.reference is None and options.model is None:
        raise ConfigError("pass --completion COLUMN: the texts to learn from")
    check_chat(options)
    check_reward(options.gold, "gold")
    check_policy(options.model, "model")
    check_device(options.device)
    check_out_folder(options.out)
    if options.push_to_hub is not None:
        check_push(options.push_to_hub)
    at_least(
        1, layers=options.layers, width=options.width, heads=options.heads, vocab_size=options.vocab_size
    )
    if options.model is None and options.width % options.heads:
        raise ConfigError(f"--width is {options.width}; it must be a multiple of --heads, {options.heads}")
    if not 0 <= options.dropout < 1:
        raise ConfigError(f"--dropout is {options.dropout}; it must be in [0, 1)")
    if is_first_process():
        print("loading PyTorch …", flush=True)
    return options, config, started
