"""Runs `text-gym train` with the options that were read."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from text_gym.agents.algorithms.configs import CONFIGS, AgentConfig
from text_gym.agents.algorithms.dpo import Preference
from text_gym.agents.policies.policy import Policy
from text_gym.agents.training.memory_plan import (
    LARGE,
    MemoryPlan,
    Shapes,
    available_memory,
    count_parameters,
    plan_memory,
)
from text_gym.cli.options.checks import HEADS, NEW, TUNED
from text_gym.cli.options.train import TrainOptions
from text_gym.cli.options.tune import TuneOptions
from text_gym.cli.run_folder import push
from text_gym.data import anchored
from text_gym.encoding import encode_texts
from text_gym.errors import ConfigError, DataError, TextGymError
from text_gym.models.launch import launch_by_ray, rank_zero_says, ray_wants_cuda
from text_gym.models.loading import pick_device, read_model_config
from text_gym.models.runtime import pick_dtype
from text_gym.models.sizes import Sizes, using
from text_gym.models.tuned import TunedFor, read_sizes
from text_gym.models.world import local_device
from text_gym.prompts import texts_in_chunks
from text_gym.rewards.remote import RemoteReward
from text_gym.runs.data import load_reward_source, resolve_task
from text_gym.runs.folder import read_config
from text_gym.runs.preferences import read_preferences
from text_gym.runs.train import train
from text_gym.tasks.task import Task
from text_gym.utils.display import is_first_process
from text_gym.utils.waiting import Waiting

_FILES = ("data", "pairs", "policy", "sizes")  # options that may name one


def run_train(options: TrainOptions, config: Any, resumed: str, started: float, waiting: Waiting) -> int:
    """Run `text-gym train`; the exit status is 130 if the run was interrupted."""
    if options.engine == "ray" and not options.plan:
        return _run_by_ray(options, config, resumed, waiting)
    summary = _run_here(options, config, resumed, started, waiting)
    if summary.get("interrupted"):
        return 130
    if summary and options.push_to_hub is not None and is_first_process():
        push(resumed or str(options.out), options.push_to_hub)
    return 0


def _run_by_ray(options: TrainOptions, config: Any, resumed: str, waiting: Waiting) -> int:
    """Have the processes of a Ray cluster do what `_run_here` does, until one run of them is complete."""
    out = Path(resumed or str(options.out)).resolve()
    options = replace(options, **_anchored(asdict(options)))  # the processes may begin in another folder
    settings = {"options": options, "config": config, "out": str(out), "resumed": bool(resumed)}
    with waiting:
        cuda = ray_wants_cuda(options.device)
    launch_by_ray(train_in_ray, settings, options.workers, options.restarts, cuda)
    if json.loads((out / "summary.json").read_text("utf-8"))["interrupted"]:
        return 130
    if options.push_to_hub is not None:
        push(str(out), options.push_to_hub)
    return 0


def train_in_ray(settings: Mapping[str, Any]) -> None:
    """Train in a process that Ray has started; go on with the run's folder where there is one by now."""
    options, out = settings["options"], settings["out"]
    begun = settings["resumed"] or rank_zero_says((Path(out) / "config.json").is_file())
    options = replace(options, out=out)
    _run_here(options, settings["config"], out if begun else "", time.perf_counter(), nullcontext())


def _run_here(
    options: TrainOptions,
    config: Any,
    resumed: str,
    started: float,
    waiting: AbstractContextManager[object],
) -> dict[str, Any]:
    """Train in this process; return the run's summary, or nothing if the run was only planned."""
    policy: Policy | str | None = options.policy
    by_pairs = options.pairs is not None
    task, reward = resolve_task(
        options.task, options, options.reward, options.policy, options.max_tokens, needs_reward=not by_pairs
    )
    if policy == NEW:
        policy = new_policy(options, task, config.seed)
    sizes = None if resumed else _sizes(options, task, policy)
    with nullcontext() if sizes is None else using(sizes, pick_device(options.device)):
        if options.plan:
            plan = plan_of_run(options, config, task, policy)
            print("\n".join(plan.lines()))
            plan.check()
            return {}
        _begin_with_plan(options, config, task, policy)
    if options.reward_actors:
        remote = RemoteReward(reward, options.reward_actors)
        task = replace(task, reward=remote) if reward is task.reward else task
        reward = remote
    return train(
        str(anchored(options.algorithm, True)),
        config,
        task,
        reward=reward,
        policy=policy,
        lora=options.lora,
        adapter_only=options.adapter_only,
        dtype=options.dtype,
        gradient_checkpointing=options.gradient_checkpointing,
        generator=options.generator,
        episodes=options.episodes,
        limit=options.limit,
        out=resumed or options.out,
        device=options.device,
        checkpoint_every=options.checkpoint_every,
        keep_rollouts=options.keep_rollouts,
        watch=[load_reward_source(spec, task.prompts) for spec in options.watch],
        stop_on_alarm=options.stop_on_alarm,
        resume=bool(resumed),
        accept_changes=options.accept_changes,
        pairs=_pairs(options, task),
        shard=options.shard,
        sizes=sizes,
        logs=options.log,
        started=started,
        loading=waiting,
        options=read_config(resumed)["options"] if resumed else _anchored(asdict(options)),
    )


def plan_of_run(
    options: TrainOptions, config: Any, task: Task, policy: Policy | str | Path | None
) -> MemoryPlan:
    """Plan the memory of a run from the configuration of its policy; no weights are loaded.

    Raises:
        ConfigError: The algorithm is none of those that are planned, or there is no policy.
        DataError: The policy has no configuration that can be read.
    """
    if not isinstance(config, AgentConfig):
        raise ConfigError(f"--plan knows no {options.algorithm}, only algorithms like {', '.join(CONFIGS)}")
    device = pick_device(options.device)
    low = pick_dtype(options.dtype, device) == "bfloat16"
    texts = texts_in_chunks(task.prompts)
    shapes = Shapes(
        episodes=options.episodes,
        prompt_tokens=max(1, *(int(encode_texts(task.tokenizer, chunk)[1].max()) for chunk in texts)),
        max_tokens=task.max_tokens,
        minibatches=getattr(config, "minibatches", 1),
        micro_batch_size=getattr(config, "micro_batch_size", None),
        critic=getattr(config, "critic", None),
        lora=options.lora,
        gradient_checkpointing=options.gradient_checkpointing,
        bf16=low and options.lora is None,
        dtype=torch.bfloat16 if low and options.lora is not None else torch.float32,
        device=device.type,
    )
    return plan_memory(_model_config(task, policy), shapes, available_memory(device))


def _model_config(task: Task, policy: Policy | str | Path | None) -> Any:
    policy = policy or task.policy
    if policy is None:
        raise ConfigError(f"task {task.name!r} ships no policy; pass --policy new, or --policy FOLDER")
    return policy.model.config if isinstance(policy, Policy) else read_model_config(policy)


def _begin_with_plan(
    options: TrainOptions, config: Any, task: Task, policy: Policy | str | Path | None
) -> None:
    """Print the plan of a large model, and stop if it certainly cannot fit."""
    try:
        if not isinstance(config, AgentConfig) or count_parameters(_model_config(task, policy)) < LARGE:
            return
    except (TextGymError, ArithmeticError, ValueError, LookupError, TypeError):  # told when it is loaded
        return
    plan = plan_of_run(options, config, task, policy)
    if is_first_process():
        print("\n".join(plan.lines()), flush=True)
    plan.check()


def _sizes(options: TrainOptions, task: Task, policy: Policy | str | Path | None) -> Sizes | None:
    """Read the sizes that were asked for, if any."""
    if options.sizes is None:
        return None
    device = pick_device(local_device(options.device))
    subject = TunedFor.of(device, _model_config(task, policy))
    return read_sizes(None if options.sizes == TUNED else options.sizes, subject)


def _pairs(options: TrainOptions, task: Task) -> list[Preference]:
    if options.pairs is None:
        return []
    separator = task.settings["separator"] if options.data is not None else ""
    chat = options.conversations(task.tokenizer)
    try:
        return read_preferences(options.pairs, task, prompt=options.prompt, separator=separator, chat=chat)
    except ConfigError as error:
        if options.data is not None or getattr(task.tokenizer, "chat", None) is not None:
            raise
        raise DataError(
            f"{options.pairs} holds conversations (lists of messages), and task {task.name!r} reads plain "
            "texts: pass pairs whose prompt, chosen and rejected are texts, or a chat model with --data FILE"
        ) from error


def new_policy(options: TrainOptions | TuneOptions, task: Task, seed: int = 0) -> Policy:
    """Make a policy with random weights that can read the task's longest prompt and a whole completion."""
    longest = max(len(p.encode(task.tokenizer)) for p in (*task.prompts, *task.held_out))
    return Policy.new(
        task.tokenizer,
        layers=options.layers,
        width=options.width,
        heads=HEADS,
        context=longest + task.room(longest) + 1,  # a beginning-of-sequence token may come first
        seed=seed,
        device=options.device,
    )


def _anchored(options: dict[str, Any]) -> dict[str, Any]:
    """Make the files among the options absolute, so that a run can be resumed from anywhere."""
    files = {name: anchored(options[name]) for name in _FILES if options[name] not in (NEW, TUNED)}
    code: dict[str, Any] = {name: anchored(options[name], True) for name in ("algorithm", "reward", "gold")}
    code["watch"] = [anchored(spec, True) for spec in options["watch"]]
    asked = ("accept_changes", "trust", "plan")  # of this command, not of the run
    return {k: v for k, v in {**options, **files, **code}.items() if k not in asked}
