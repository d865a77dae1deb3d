"""Options of `text-gym rlhf`, and how they are read from the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from text_gym.data import Data
from text_gym.errors import ConfigError
from text_gym.rlhf.config import Bias, RLHFConfig

from .checks import (
    NEW,
    at_least,
    check_device,
    check_learning,
    check_out_folder,
)
from .parsing import COLUMN, parse

# What people use first.
_FIRST = (
    "task", "data", "policy", "rater", "criteria", "rounds", "labels_per_round", "questions", "out", "device",
)  # fmt: skip


@dataclass(frozen=True)
class RLHFOptions(Data):
    """Reinforcement learning from human feedback: ask people, learn what they like, improve; and again.

    The same command goes on where it was stopped, whenever that was, if --out is given.

    Args:
        task: Task to learn, where no data is given.
        policy: Policy to start from: a folder or a hub model; the task's own if left out.
        rater: Who answers: simulated raters, a person at this terminal, or people at a page.
        criteria: What texts are rated for; accuracy, clarity and persuasiveness if left out.
        bias: The simulated raters' vice.
        noise: Standard deviation of the noise of their marks, on a scale from 0 to 1.
        name: Your name in the labels, at this terminal; that of your account if left out.
        port: Of the page; 0 takes any that is free.
        max_tokens: Token limit of an episode; the task's own if left out.
        out: Folder for report, labels, reward models and policies; runs/TASK-rlhf-TIME if left out.
        device: auto, cpu, cuda, cuda:1.
        keep_rollouts: Iterations of each round whose episodes are kept token by token and shown in view.html;
            0 keeps none.
        accept_changes: Go on with a run although data, gold, settings or versions are not those it was
            started with.
    """

    task: str = "products"
    policy: str | None = None
    rater: Literal["simulated", "console", "web"] = "simulated"
    criteria: tuple[str, ...] = ()
    bias: Bias = "none"
    noise: float = 0.1
    name: str | None = None
    port: int = 8765
    max_tokens: int | None = None
    out: str | None = None
    device: str = "auto"
    keep_rollouts: int = 0
    accept_changes: bool = False


def read_rlhf(argv: list[str]) -> tuple[RLHFOptions, RLHFConfig]:
    """Options of `text-gym rlhf`, and the settings of the cycle."""
    options, config = parse(
        "rlhf", argv, RLHFOptions, RLHFConfig, first=_FIRST, flags=COLUMN, settings="training"
    )
    if options.policy == NEW:
        raise ConfigError("rlhf needs a --policy that can write; make one with `text-gym sft`")
    check_learning(options.task, options, options.policy)
    check_device(options.device)
    check_out_folder(options.out)
    at_least(1, max_tokens=options.max_tokens)
    at_least(0, keep_rollouts=options.keep_rollouts)
    print("loading PyTorch and the policy …", flush=True)
    if config.overlap is None and options.rater == "simulated":
        config = dataclasses.replace(config, overlap=0.1)
    return options, config
