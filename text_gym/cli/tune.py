"""Runs `text-gym tune`: times a rollout and an update with other sizes, and keeps those that are faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from text_gym.agents.verification.workload import Workload
from text_gym.cli.options.checks import NEW
from text_gym.cli.options.tune import TuneOptions
from text_gym.cli.train import new_policy
from text_gym.envs.vector import TextVectorEnv
from text_gym.errors import ConfigError
from text_gym.models.loading import pick_device
from text_gym.models.runtime import pick_dtype
from text_gym.models.sizes import DEFAULTS, kind_of
from text_gym.models.tuned import TunedFor, write_sizes
from text_gym.models.tuning import LEAST_GAIN, Tuned, tune_sizes
from text_gym.runs.data import resolve_task
from text_gym.runs.job import policy_to_begin_with
from text_gym.utils.display import harmless, started_by_torchrun
from text_gym.utils.interval import shown
from text_gym.utils.terminal import SafeConsole
from text_gym.utils.waiting import Waiting


def run_tune(options: TuneOptions, waiting: Waiting) -> int:
    """Run `text-gym tune`."""
    if started_by_torchrun():
        raise ConfigError("sizes are measured by one process; start text-gym tune without torchrun")
    console, device = SafeConsole(), pick_device(options.device)
    asked = (options.task, options, None, options.policy, options.max_tokens)
    task, _ = resolve_task(*asked, needs_reward=False)
    start = new_policy(options, task) if options.policy == NEW else options.policy
    policy = policy_to_begin_with("ppo", task, start, options.device, None, "float32")
    assert policy is not None
    dtype = pick_dtype(options.dtype, device)
    policy.use_less_memory(bf16=dtype == "bfloat16")
    played = task.env_kwargs(reward=paid_by_length)
    workload = Workload(policy, TextVectorEnv(**played, num_envs=options.episodes, context=policy.context))
    waiting.stop()
    subject, usual = TunedFor.of(device, policy.model.config), DEFAULTS[kind_of(device)]
    console.print(Text(harmless(f"{subject.machine}; {subject.model}")), soft_wrap=True)
    with _progress(console, options.seconds) as tell:
        found = tune_sizes(workload.seconds, usual, workload.candidates(), options.seconds, tell=tell)
    show_tuned(found, console)
    batch = f"{options.episodes} episodes of at most {task.max_tokens} tokens, {dtype}"
    measured = f"{time.strftime('%Y-%m-%d')}, {batch}, PyTorch {torch.__version__}"
    file = write_sizes(found.sizes, subject, measured, options.out)
    console.print(Text(harmless(f"sizes: {file}")), soft_wrap=True)
    if found.sizes != usual:
        console.print(Text(harmless(f"to use them: text-gym train --sizes {options.out or 'tuned'}")))
    return 0


def paid_by_length(completion: str) -> float:
    """Pay for every character: a reward that takes no time."""
    return float(len(completion))


@contextmanager
def _progress(console: Console, seconds: float) -> Iterator[Callable[[str], None]]:
    """Show what is measured: a running line in a terminal, a line for each size elsewhere."""
    if not console.is_terminal:
        yield lambda what: console.print(Text(f"{what} …"))
        return
    columns = (TextColumn("{task.description} …"), TimeElapsedColumn())
    with Progress(*columns, TextColumn(f"of {seconds:.0f} s"), console=console, transient=True) as progress:
        line = progress.add_task("")
        yield lambda what: progress.update(line, description=what)


def show_tuned(found: Tuned, console: Console) -> None:
    """Print what each size is worth, and whether the defaults stay."""
    title = "Time with the fastest other value over time without (median, 95 % interval)"
    table = Table("size", title=title, title_justify="left")
    for heading in ("default", "other", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("kept")
    for each in found.rows:
        values = (f"{value:,}" for value in (each.usual, each.best))
        table.add_row(each.name, *values, shown(each.ratio), "yes" if each.kept else "no")
    console.print(table)
    if found.unmeasured:
        console.print(Text(f"no time was left for {', '.join(found.unmeasured)}; pass more --seconds"))
    if found.together is None:
        noise = f"by more than noise and by {LEAST_GAIN:.0%}"
        console.print(Text(f"no value is faster than the default {noise}: the defaults stay"))
        return
    line = f"an iteration with what was kept takes {shown(found.together)} of the time that the defaults take"
    stay = found.together.high >= 1
    console.print(Text(line + (", which is no less beyond noise: the defaults stay" if stay else "")))
