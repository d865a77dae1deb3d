"""`text-gym check` names the laws an environment, a reward or an algorithm breaks, and what to fix.

`text-gym validate` judges a task, a reward or an installed package before anybody optimises it.
"""

from __future__ import annotations

import dataclasses
import re

from rich.text import Text

from text_gym.agents.algorithms.agent import Agent
from text_gym.agents.algorithms.by_name import ALGORITHMS
from text_gym.agents.own_algorithms import installed, is_agent_by_its_text, own_algorithm
from text_gym.agents.verification.check_agent import check_agent
from text_gym.cli.options.check import CheckOptions, ValidateOptions
from text_gym.envs.checker import check_text_env
from text_gym.envs.reward_checker import check_reward_source
from text_gym.envs.single import TextEnv
from text_gym.errors import UnknownNameError
from text_gym.reward_models.names import PREFIXES
from text_gym.runs.data import load_reward_source
from text_gym.tasks.task import env_ids, load_task, task_names
from text_gym.utils.display import harmless
from text_gym.utils.terminal import SafeConsole
from text_gym.utils.user_code import split_place
from text_gym.validation.page import write_validation
from text_gym.validation.result import CheckResult, worst
from text_gym.validation.targets import ValidationRequest, validate_target


def run_check(options: CheckOptions) -> int:
    """Run `text-gym check`."""
    import gymnasium as gym

    if options.what in task_names() or options.what in gym.registry:
        env_id = next(
            (i for i, kwargs in env_ids().items() if kwargs == {"task": options.what}), options.what
        )
        env = gym.make(env_id) if env_id in gym.registry else TextEnv(task=options.what)
        check_text_env(env, steps=options.steps, seed=options.seed)
    elif _is_algorithm(options.what):
        print(check_agent(options.what, seed=options.seed))
        return 0
    elif re.search(r"-v\d+$", options.what) and split_place(options.what) is None:
        raise UnknownNameError("environment", options.what, env_ids())
    else:
        task = load_task(options.task)
        check_reward_source(load_reward_source(options.what, task.prompts), task, seed=options.seed)
    print(f"{options.what} breaks none of the laws")
    return 0


def _is_algorithm(what: str) -> bool:
    """Return True if the words name an algorithm, ours or a user's, rather than a reward."""
    if what in ALGORITHMS or what in installed():
        return True
    found = None if what.startswith(PREFIXES) else split_place(what)
    if found is None or found[0].endswith(".py"):  # a file is not run here: it may hold a reward
        return found is not None and is_agent_by_its_text(*found)
    value = own_algorithm(what)
    return isinstance(value, type) and issubclass(value, Agent)


def run_validate(options: ValidateOptions) -> int:
    """Run `text-gym validate`; the exit status is 0, or 10 more than the lowest level that failed."""
    console = SafeConsole()

    def tell(result: CheckResult) -> None:
        console.print(Text(harmless(result.line(), limit=400)))

    given = dataclasses.asdict(options)
    own = {k: given.pop(k) for k in ("levels", "prompts", "seconds", "seed")}
    trust, out = given.pop("trust"), given.pop("out")
    reports = validate_target(ValidationRequest(**given, options=own), trust=trust, progress=tell)
    page = write_validation(reports, out)
    for report in reports:
        console.print(Text(harmless(f"{report.target}: {report.headline()}")))
    console.print(Text(harmless(str(page))))
    return worst(reports)
