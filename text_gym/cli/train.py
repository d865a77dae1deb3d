"""Runs `text-gym train` with the options that were read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from text_gym.cli.options.train import TrainOptions
from text_gym.data import anchored
from text_gym.runs.data import resolve_task
from text_gym.runs.folder import read_config
from text_gym.runs.train import train


def run_train(options: TrainOptions, config: Any, resumed: str) -> int:
    """Run `text-gym train`; the exit status is 130 if the run was interrupted."""
    task, reward = resolve_task(options.task, options, options.reward, options.policy, options.max_tokens)
    summary = train(
        str(anchored(options.algorithm, True)),
        config,
        task,
        reward=reward,
        policy=options.policy,
        lora=options.lora,
        adapter_only=options.adapter_only,
        bf16=options.bf16,
        gradient_checkpointing=options.gradient_checkpointing,
        episodes=options.episodes,
        limit=options.limit,
        out=resumed or options.out,
        device=options.device,
        checkpoint_every=options.checkpoint_every,
        resume=bool(resumed),
        options=read_config(resumed)["options"] if resumed else _anchored(asdict(options)),
    )
    return 130 if summary["interrupted"] else 0


def _anchored(options: dict[str, Any]) -> dict[str, Any]:
    """Make the files among the options absolute, so that a run can be resumed from anywhere."""
    files = {name: anchored(options[name]) for name in ("data", "policy")}
    code = {name: anchored(options[name], True) for name in ("algorithm", "reward", "gold")}
    return {**options, **files, **code}
