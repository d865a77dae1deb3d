"""`text-gym check` names the laws an environment or a reward breaks, and what to fix."""

from __future__ import annotations

from text_gym.cli.options.check import CheckOptions
from text_gym.envs.checker import check_text_env
from text_gym.envs.reward_checker import check_reward_source
from text_gym.envs.single import TextEnv
from text_gym.runs.data import load_reward_source
from text_gym.tasks.task import env_ids, load_task, task_names


def run_check(options: CheckOptions) -> int:
    """Run `text-gym check`."""
    import gymnasium as gym

    if options.what in task_names() or options.what in gym.registry:
        env_id = next(
            (i for i, kwargs in env_ids().items() if kwargs == {"task": options.what}), options.what
        )
        env = gym.make(env_id) if env_id in gym.registry else TextEnv(task=options.what)
        check_text_env(env, steps=options.steps, seed=options.seed)
    else:
        task = load_task(options.task)
        check_reward_source(load_reward_source(options.what, task.prompts), task, seed=options.seed)
    print(f"{options.what} breaks none of the laws")
    return 0
