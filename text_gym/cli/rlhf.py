"""Runs `text-gym rlhf`: turns its options into a task, criteria and people."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from text_gym.cli.options.rlhf import RLHFOptions
from text_gym.data import Data
from text_gym.episode import Episode
from text_gym.errors import ConfigError, RaterLeftError
from text_gym.reward_models.labels.questions import CRITERIA, LabelCriterion
from text_gym.rlhf.config import RLHFConfig
from text_gym.rlhf.cycle import rlhf
from text_gym.rlhf.people import people_at_page, person_at_console, simulated_people
from text_gym.rlhf.verdict import headline
from text_gym.runs.data import data_task, resolve_task, with_settings
from text_gym.runs.folder import default_folder
from text_gym.runs.saved_policy import read_origin
from text_gym.tasks.task import Task
from text_gym.utils.display import harmless, started_by_torchrun
from text_gym.utils.terminal import SafeConsole

if TYPE_CHECKING:
    from text_gym.rlhf.cycle import People


# Options that may differ when a run is resumed, because they change nothing in it.
_FREE = ("out", "name", "port", "device", "accept_changes", "keep_rollouts")


def run_rlhf(options: RLHFOptions, config: RLHFConfig) -> int:
    """Run `text-gym rlhf`; the exit status is 130 where the people left before the end."""
    if started_by_torchrun():
        raise ConfigError("people are asked by one process; start text-gym rlhf without torchrun")
    task = _task(options)
    criteria = _criteria(options, task)
    out = options.out or str(default_folder(task.name, "rlhf"))
    console = SafeConsole()
    kept = {k: v for k, v in dataclasses.asdict(options).items() if k not in _FREE}
    try:
        rows = rlhf(
            task,
            config,
            _people(options, task, criteria, config.seed),
            out,
            policy=options.policy,
            criteria=criteria,
            device=options.device,
            console=console,
            options=kept,
            accept_changes=options.accept_changes,
            keep_rollouts=options.keep_rollouts,
        )
    except RaterLeftError as error:
        console.print(Text(f"\n{error}. To go on, give the same command with --out {harmless(out)}"))
        return 130
    show_rounds(rows, console)
    kept = rows[-1]["kept"]
    folder = f"round-{kept}" if kept else "start"
    console.print(Text(f"policy: {harmless(out)}/{folder}/policy"))
    console.print(Text(f"report: {harmless(out)}/report.html"))
    return 0


def show_rounds(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the headline, then one line per round."""
    from rich.table import Table

    first = headline(rows)
    console.print(Text(first.text, style="bold red" if first.bad else "bold"))
    for note in first.notes:
        console.print(Text(note, style="yellow"))
    has_gold = any(row["gold"]["mean"] == row["gold"]["mean"] for row in rows)
    known_gold = ("gold",) if has_gold else ()
    headings = ("round", "verdict", *known_gold, "proxy", "KL", "words", "cut", "labels", "alpha")
    table = Table(*headings, box=None, pad_edge=False)
    for row in rows:
        low, high = row["gold"]["ci95"]
        gold = "" if low != low else f"{row['gold']['mean']:.3f} [{low:.3f}, {high:.3f}]"
        alpha = "" if row["alpha"] is None else f"{row['alpha']:.2f}"
        known = row["verdict"] + ("" if row["kept"] == row["round"] else ", given up")
        numbers = (
            f"{row['proxy']:.3f}",
            f"{row['kl_nats']:.1f}",
            f"{row['words']:.0f}",
            f"{100 * row['cut']:.0f} %",
        )
        golds = (Text(gold),) if has_gold else ()
        table.add_row(str(row["round"]), known, *golds, *numbers, str(row["labels"]), alpha)
    console.print(table)


def _task(options: RLHFOptions) -> Task:
    """Load the task, whose own reward is gold; data has gold only if it is named."""
    if options.data is None or options.policy is None:
        return resolve_task(options.task, options, None, options.policy, options.max_tokens)[0]
    data = Data(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Data)})
    return data_task(with_settings(data, read_origin(options.policy)), options.policy, options.max_tokens)


def _criteria(options: RLHFOptions, task: Task) -> tuple[LabelCriterion, ...]:
    """Choose the criteria to ask for; simulated raters can mark the parts of a gold reward, or all of it."""
    known = {c.name: c for c in CRITERIA}
    chosen = tuple(known.get(name, LabelCriterion(name)) for name in options.criteria) or CRITERIA
    if options.rater != "simulated" or task.reward.abstains:
        return chosen
    terms = task.reward([Episode.of(task.prompts[0], "", task.tokenizer)]).terms
    missing = [c.name for c in chosen if c.name not in terms]
    if not missing or len(options.criteria) == 1:
        return chosen
    if options.criteria:
        raise ConfigError(f"the gold reward has no term {missing[0]!r}; it has {', '.join(terms) or 'none'}")
    return (LabelCriterion("quality", "How good is the text, all in all?"),)


def _people(options: RLHFOptions, task: Task, criteria: Sequence[LabelCriterion], seed: int) -> People:
    if options.rater == "console":
        return person_at_console(options.name)
    if options.rater == "web":
        return people_at_page(options.port)
    return simulated_people(task.reward, criteria, bias=options.bias, noise=options.noise, seed=seed)
