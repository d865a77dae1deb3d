"""What each rank runs in `python -m tests.ranks`: a run of `text-gym train` in which one rank is hurt.

    python -m tests.ranks.hurt FOLDER KIND RANK MOMENT [--resume] [--shard]

KIND is one of `KINDS` or `SHARDED`; MOMENT counts the rewards asked of that rank, so that it may come at any
iteration.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from text_gym import Episode, Prompt, RewardSource, WordTokenizer
from text_gym.agents import GRPOConfig, Policy, PPOConfig
from text_gym.agents.algorithms.configs import AgentConfig
from text_gym.errors import TextGymError
from text_gym.runs.train import train
from text_gym.tasks.task import NoGold, Task
from text_gym.utils.terminal import SafeConsole

KINDS = ("kill", "nan", "raise", "sigterm", "hang", "disk", "none")
SHARDED = ("kill in gather", "hang in gather")  # with --shard only


class Hurting(RewardSource):
    """Counts the a's; at one moment, on one rank, something terrible happens.

    Args:
        hurt: What.
        moment: The number of the batch.
    """

    name = "hurting"

    def __init__(self, hurt: Callable[[], None], moment: int) -> None:
        self.hurt, self.moment, self.asked = hurt, moment, 0

    def score(self, episodes: Sequence[Episode]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Count, and maybe hurt."""
        self.asked += 1
        if self.asked == self.moment:
            print(f"@ {time.time():.3f} now", flush=True)
            self.hurt()
        return np.array([float(e.completion.count("a")) for e in episodes])


def make_hurt(kind: str, policy: Policy) -> Callable[[], None]:
    """Return what happens."""

    def poison() -> None:
        with torch.no_grad():
            next(policy.model.parameters())[0, 0] = torch.nan

    def fill_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))

    def fail() -> None:
        raise ValueError("the reward is out of order")

    def hang() -> None:
        threading.Event().wait()

    def nothing() -> None:
        pass

    def in_gather(hurt: Callable[[], None]) -> Callable[[], None]:
        """Hurt when the others next wait for this rank's slice of a block's weights."""

        def gather(*_: object, **__: object) -> None:
            hurt()

        def arm() -> None:
            for name in ("all_gather_single", "all_gather_into_tensor"):  # of newer and older PyTorch
                if hasattr(torch.distributed, name):
                    setattr(torch.distributed, name, gather)

        return arm

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    return {
        "kill": die,
        "kill in gather": in_gather(die),
        "hang in gather": in_gather(hang),
        "nan": poison,
        "raise": fail,
        "sigterm": lambda: os.kill(os.getpid(), signal.SIGTERM),
        "hang": hang,
        "disk": fill_disk,
        "none": nothing,
    }[kind]


def main() -> int:
    """Train, and say how it ended."""
    torch.set_num_threads(1)
    folder, kind, rank, moment, *more = sys.argv[1:]
    tokenizer = WordTokenizer("abcde", separator="")
    policy = Policy.new(tokenizer, width=16, layers=1, heads=2, context=16, device="cpu")
    hurt = make_hurt(kind if rank == os.environ["RANK"] else "none", policy)
    task = Task(
        name="letters",
        prompts=[Prompt(t) for t in ("a", "bc", "ddd", "e")],
        held_out=[Prompt(t) for t in ("b", "cc", "d", "ee")],
        tokenizer=tokenizer,
        reward=NoGold(),
        max_tokens=6,
    )
    settings: dict[str, Any] = {"iterations": 8}
    ppo = int(moment) % 2 == 1
    config: AgentConfig = PPOConfig(**settings) if ppo else GRPOConfig(**settings, group_size=4)
    try:
        summary = train(
            "ppo" if ppo else "grpo",
            config,
            task,
            reward=Hurting(hurt, int(moment)),
            policy=policy,
            episodes=24,
            out=Path(folder),
            console=SafeConsole(quiet=True),
            checkpoint_every=2,
            resume="--resume" in more,
            shard="--shard" in more,
        )
    except TextGymError as error:
        print(f"@ {time.time():.3f} {type(error).__name__}: {error}", flush=True)
        return 1
    except SystemExit as error:
        print(f"@ {time.time():.3f} SystemExit: {error}", flush=True)
        raise
    print(f"@ {time.time():.3f} ended interrupted={summary['interrupted']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
