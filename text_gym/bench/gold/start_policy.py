"""Makes the policy that a benchmark starts from, where the task brings texts but no policy.

It is what `text-gym sft` makes of the same file: a small GPT-2 from nothing, fitted to the references.
"""

from __future__ import annotations

from pathlib import Path

from text_gym.agents.algorithms.configs import SFTConfig
from text_gym.agents.algorithms.sft import SFT
from text_gym.agents.policies.policy import Policy
from text_gym.errors import ConfigError
from text_gym.tasks.task import Task
from text_gym.utils.sealed import write_sealed

POLICY = "policy"  # its folder in that of the benchmark
WIDTH = 96  # as the policy of `products`
EPOCHS = 10.0


def start_policy(task: Task, folder: Path, config: SFTConfig | None = None) -> Path:
    """Return the folder of a task's starting policy, after making it if it is not there.

    Args:
        task: Has a corpus.
        folder: The benchmark's; the policy is kept in it, and appears complete or not at all.
        config: Of supervised fine-tuning.

    Raises:
        ConfigError: The task has no written texts to learn from.
    """
    place = folder / POLICY
    if place.is_dir():
        return place
    if task.corpus is None:
        raise ConfigError(
            f"task {task.name!r} has no policy and no written texts to make one of: pass --policy"
        )
    pairs, _ = task.corpus()
    tokenizer = task.tokenizer
    longest = max(len(p.encode(tokenizer)) + len(tokenizer.encode(text)) + 1 for p, text in pairs)
    prompts = max(len(p.encode(tokenizer)) for p in (*task.prompts, *task.held_out))
    context = max(longest, prompts + task.max_tokens + 1)
    policy = Policy.new(tokenizer, width=WIDTH, context=context, seed=0, device="cpu")
    SFT(policy, pairs, config or SFTConfig(epochs=EPOCHS)).learn()
    folder.mkdir(parents=True, exist_ok=True)
    write_sealed(place, policy.save, {"policy of": task.name})
    return place
