"""Options of `text-gym tune`, and how they are read from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from text_gym.data import Data
from text_gym.errors import ConfigError
from text_gym.utils.waiting import Waiting

from .checks import at_least, check_device, check_file, check_learning, check_new_policy
from .parsing import COLUMN, parse

# What people use first.
_FIRST = ("task", "data", "policy", "episodes", "max_tokens", "device", "seconds", "out")


@dataclass(frozen=True)
class TuneOptions(Data):
    """Measure which sizes are fastest on this machine, for this model and batch.

    Micro-batches, tiles of logits, steps between two looks at what was drawn and the like are guesses. Other
    values take turns with them, on a rollout and an update, and are kept where they are faster by more than
    noise and by 3 %. Nothing uses them unasked: text-gym train --sizes tuned.

    Args:
        task: Task whose prompts are played, where no data is given.
        policy: Policy whose rollouts and updates are timed: a folder, a hub model, or `new` for a small one
            with random weights (--model is the same). The task's own if left out.
        layers: Layers of a new policy.
        width: Width of a new policy; a multiple of 4, its attention heads.
        dtype: float32; bfloat16, in which matrices are multiplied; auto is bfloat16 on GPUs that have it.
        episodes: Episodes per iteration, as there will be in training.
        max_tokens: Token limit of an episode; the task's own if left out.
        device: auto, cpu, cuda, cuda:1.
        seconds: Time to spend; what has begun by then is completed.
        out: File for the sizes; that of this machine, device and model in the cache folder if left out.
    """

    task: str = "products"
    policy: str | None = None
    layers: int = 2
    width: int = 64
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    episodes: int = 64
    max_tokens: int | None = None
    device: str = "auto"
    seconds: float = 120.0
    out: str | None = None


def read_tune(argv: list[str]) -> tuple[TuneOptions, Waiting]:
    """Read the options of `text-gym tune`; with them comes a display of the wait for PyTorch."""
    (options,) = parse("tune", argv, TuneOptions, first=_FIRST, flags=COLUMN)
    check_learning(options.task, options, options.policy)
    check_device(options.device)
    check_file("out", options.out)
    at_least(1, episodes=options.episodes, max_tokens=options.max_tokens)
    check_new_policy(options.policy, options.layers, options.width)
    if not options.seconds > 0:
        raise ConfigError(f"--seconds is {options.seconds}; it must be above 0")
    return options, Waiting("loading PyTorch and the policy")
