"""Runs `text-gym reward train --steps`: labels of steps in, a process reward and its figures out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from text_gym.cli.options.reward import RewardTrainOptions
from text_gym.errors import ConfigError
from text_gym.models.loading import pick_device
from text_gym.models.runtime import pick_dtype
from text_gym.reward_models.learned.configs import NgramConfig, RewardTrainingConfig
from text_gym.reward_models.learned.model import RewardModel
from text_gym.reward_models.learned.process import ProcessReward, check_steps
from text_gym.reward_models.learned.training import RewardTrainer
from text_gym.reward_models.preferences.opinions import StepLabels, split_opinions
from text_gym.tokenizer import PretrainedTokenizer
from text_gym.utils.display import started_by_torchrun
from text_gym.utils.interval import mean_interval
from text_gym.utils.json_files import write_json


def train_process_reward(
    options: RewardTrainOptions, config: NgramConfig | RewardTrainingConfig, console: Console
) -> dict[str, Any]:
    """Train a process reward, judge it on held-out prompts, and save it in `options.out`.

    Returns:
        What is written to `summary.json`; see `judge_steps`.
    """
    out = Path(options.out)
    if started_by_torchrun():
        raise ConfigError("a process reward learns in one process; start it without torchrun")
    labels = options.load_steps()
    check_steps(labels, options.step_delimiter)
    train, held_out = split_opinions(labels, options.held_out, config.seed)
    started = time.perf_counter()
    source = fit_process_reward(options, config, train, console)
    seconds = time.perf_counter() - started
    source.save(out)
    summary = {
        "kind": options.kind,
        "solutions": len(train),
        "steps": sum(len(s.steps) for s in train),
        "held_out_solutions": len(held_out),
        "held_out_prompts": len({s.prompt.id for s in held_out}),
        **judge_steps(source, held_out, config.seed),
        "seconds": seconds,
        "seed": config.seed,
    }
    write_json(out / "summary.json", summary)  # last: what was interrupted before it can be done again
    _show(console, summary, out)
    return summary


def fit_process_reward(
    options: RewardTrainOptions,
    config: NgramConfig | RewardTrainingConfig,
    labels: Sequence[StepLabels],
    console: Console,
) -> ProcessReward:
    """Fit the kind of model that was asked for."""
    how: dict[str, Any] = {
        "delimiter": options.step_delimiter,
        "aggregate": options.aggregate,
        "pay": options.pay,
    }
    if isinstance(config, NgramConfig):
        return ProcessReward.fit(labels, config, **how)
    if options.model is not None:
        model = RewardModel.from_backbone(options.model, seed=config.seed, device=options.device)
    else:
        texts = [text for s in labels for text in (s.prompt.text, *s.steps)]
        tokenizer = PretrainedTokenizer.train(texts, 1024)
        longest = max(sum(len(tokenizer.encode(t)) + 1 for t in (s.prompt.text, *s.steps)) for s in labels)
        context = max(128, -(-longest * 3 // 2 // 32) * 32)
        model = RewardModel.new(tokenizer, context=context, seed=config.seed, device=options.device)

    def report(row: dict[str, float]) -> None:
        losses = f"loss {row['loss']:.3f}, validation {row['validation_loss']:.3f}"
        console.print(f"epoch {row['epoch']:.0f}: {losses}", highlight=False)

    model.bf16 = pick_dtype(options.dtype, pick_device(options.device)) == "bfloat16"
    RewardTrainer(model, labels, config, delimiter=options.step_delimiter).learn(report)
    model.bf16 = False  # it is judged as it will be used
    return ProcessReward(model, **how)


def judge_steps(source: ProcessReward, solutions: Sequence[StepLabels], seed: int = 0) -> dict[str, Any]:
    """Measure how well a process reward tells right steps from wrong ones; labels above 1/2 are right.

    Returns:
        `step_accuracy`: the share of a solution's steps that are called what they are, mean over solutions;
        `first_error`: how often the first step that is called wrong is the first that is, or both find none
        (ProcessBench, Zheng et al. 2024). With 95 % bootstrap intervals over solutions.
    """
    scores = source.step_scores([(s.prompt, s.steps) for s in solutions])
    said = [x > 0.5 for x in scores]
    true = [np.array(s.labels) > 0.5 for s in solutions]
    agree = np.array([np.mean(a == b) for a, b in zip(said, true, strict=True)])
    found = np.array([float(_first(a) == _first(b)) for a, b in zip(said, true, strict=True)])
    return {
        "step_accuracy": mean_interval(agree, seed).summary(),
        "first_error": mean_interval(found, seed).summary(),
        "right_steps": float(np.mean(np.concatenate(true))),
    }


def _first(right: Any) -> int:
    """Return the number of right steps before the first wrong one."""
    return int(np.argmin(np.append(right, False)))


def _show(console: Console, summary: dict[str, Any], out: Path) -> None:
    table = Table(title="Held-out prompts (95 % interval)", title_justify="left")
    for heading in ("", "value", "interval", "n"):
        table.add_column(heading)
    for name, key in (("steps judged rightly", "step_accuracy"), ("first error found", "first_error")):
        low, high = summary[key]["ci95"]
        value, n = summary[key]["value"], summary[key]["n"]
        table.add_row(name, f"{value:.3f}", f"{low:.3f} to {high:.3f}", str(n))
    console.print(table)
    console.print(Text(f"{summary['seconds']:.1f} s; saved in {out}; use it with --reward {out}"))
