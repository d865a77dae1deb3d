"""The memory that `text-gym train --plan` plans, against the peak of a process that trains.

    OMP_NUM_THREADS=1 python benchmarks/memory_plan.py [--json FILE]

Each case makes a GPT-2 with random weights and plays and learns one iteration on a CPU, in a fresh process.
`held` is what the process's peak grew by after PyTorch and text-gym were loaded and had run a first tiny
model. The plan is to be within a factor of 1.6 of it; estimates (activations, logits) are most of the
difference, and what the allocator keeps.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import save

from text_gym import ByteTokenizer, TextVectorEnv
from text_gym.agents.algorithms.configs import GRPOConfig, PolicyGradientConfig, PPOConfig
from text_gym.agents.algorithms.grpo import GRPO
from text_gym.agents.algorithms.ppo import PPO
from text_gym.agents.policies.policy import Policy
from text_gym.agents.training.memory_plan import Shapes, plan_memory

FACTOR = 1.6
EPISODES, TOKENS, PROMPT = 32, 64, "x" * 32
CASES: dict[str, tuple[PolicyGradientConfig, dict[str, int]]] = {
    "PPO, detached": (PPOConfig(epochs=1), {"width": 512, "layers": 8}),
    "PPO, separate": (PPOConfig(epochs=1, critic="separate"), {"width": 512, "layers": 8}),
    "PPO, shared, narrow": (PPOConfig(epochs=1, critic="shared"), {"width": 256, "layers": 12}),
    "GRPO": (GRPOConfig(epochs=1), {"width": 512, "layers": 8}),
    "GRPO, 1 row at a time": (GRPOConfig(epochs=1, micro_batch_size=1), {"width": 768, "layers": 6}),
}


def peak() -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def iterate(config: PolicyGradientConfig, width: int, layers: int) -> Policy:
    """Train a new policy for one iteration."""
    tokenizer = ByteTokenizer()
    policy = Policy.new(tokenizer, width=width, layers=layers, context=len(PROMPT) + TOKENS, device="cpu")
    env = TextVectorEnv([PROMPT], tokenizer, lambda completion: len(completion), TOKENS, num_envs=EPISODES)
    (PPO if isinstance(config, PPOConfig) else GRPO)(policy, env, config).learn(1)  # type: ignore[arg-type]
    return policy


def measure(case: str) -> dict[str, Any]:
    """Train one case and compare its peak with the plan."""
    config, size = CASES[case]
    iterate(config, 16, 1)
    before = peak()
    policy = iterate(config, **size)
    shapes = Shapes(
        EPISODES,
        len(PROMPT),
        TOKENS,
        minibatches=config.minibatches,
        micro_batch_size=config.micro_batch_size,
        critic=getattr(config, "critic", None),
    )
    plan, held = plan_memory(policy.model.config, shapes), peak() - before
    return {"case": case, "held": held, "planned": plan.peak, "exact": plan.least, "ratio": plan.peak / held}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case is not None:
        print(json.dumps(measure(given.case)))
        return
    rows = []
    for case in CASES:
        words = [sys.executable, __file__, "--case", case]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        rows.append(row := json.loads(said.splitlines()[-1]))
        held, planned = (row[name] / 1e6 for name in ("held", "planned"))
        fits = 1 / FACTOR <= row["ratio"] <= FACTOR
        print(
            f"{case:24}held {held:6.0f} MB, planned {planned:6.0f} MB, "
            f"of which exact {row['exact'] / 1e6:6.0f} MB: ratio {row['ratio']:.2f}{'' if fits else '  OFF'}",
            flush=True,
        )
    if given.json is not None:
        save(given.json, rows)
    raise SystemExit(any(not 1 / FACTOR <= row["ratio"] <= FACTOR for row in rows))


if __name__ == "__main__":
    main()
