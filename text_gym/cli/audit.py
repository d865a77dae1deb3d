"""Runs `text-gym reward audit`: chooses the texts and writes the report."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.text import Text

from text_gym.cli.options.audit import AuditOptions
from text_gym.data import pairs_from, prompts_from, read_rows
from text_gym.episode import Episode, Prompt
from text_gym.errors import ConfigError
from text_gym.reward_models.audit.audit import AuditConfig, audit_reward
from text_gym.reward_models.audit.page import write_audit
from text_gym.reward_models.audit.result import Audit
from text_gym.reward_models.loading import load_reward
from text_gym.rewards.source import RewardSource
from text_gym.tasks.task import Task, load_task
from text_gym.tokenizer import ByteTokenizer, Tokenizer, WordTokenizer
from text_gym.transcripts import read_transcripts
from text_gym.utils.display import harmless
from text_gym.utils.interval import Interval
from text_gym.utils.terminal import SafeConsole


def run_audit(options: AuditOptions) -> int:
    """Run `text-gym reward audit`; the exit status is 0 whatever the audit finds."""
    config = AuditConfig(options.count, options.edited, options.explained, options.words, options.seed)
    console = SafeConsole()
    task = None if options.data else load_task(options.task)
    episodes = list(_episodes(options, task))
    prompts = list({e.prompt.id: e.prompt for e in episodes}.values())
    source = _source(options.source, task, prompts)
    found = audit_reward(source, episodes, task.reward if task else None, config)
    page = write_audit(found, options.out)
    for line in _lines(found):
        console.print(Text(harmless(line)))
    console.print(Text(harmless(str(page))))
    return 0


def _lines(found: Audit) -> Iterator[str]:
    """Summarise the report in a few lines: what the reward follows, then the findings."""
    with_gold = "not known: the audit has no gold" if found.gold is None else _correlation(found.agreement)
    yield f"rank correlation with gold: {with_gold}"
    yield f"rank correlation with length: {_correlation(found.length)}"
    if found.best is not None:
        b = found.best
        yield (
            f"best of {b.n} by this reward: gold {b.mean:.2f} → {b.gold.value:.2f} "
            f"({b.gold.low:.2f} to {b.gold.high:.2f}); by gold itself {b.best:.2f}"
        )
    yield found.headline() + (":" if found.findings else ".")
    for finding in found.findings:
        yield f"- {finding.bias}: {finding.statement}"


def _correlation(value: Interval | None) -> str:
    if value is None or math.isnan(value.value):
        return "none, one of them is the same for all texts"
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f}, {value.n} texts)"


def _source(spec: str, task: Task | None, prompts: Sequence[Prompt]) -> RewardSource:
    if spec == "gold":
        if task is None:
            raise ConfigError("data has no gold reward; name the reward to audit")
        return task.reward
    return load_reward(spec, prompts=prompts)


def _episodes(options: AuditOptions, task: Task | None) -> Iterator[Episode]:
    """Load the texts of the transcripts, the data, or the task's held-out corpus."""
    tokenizer: Tokenizer = ByteTokenizer() if task is None else task.tokenizer
    if options.texts:
        if not Path(options.texts).is_file():
            raise ConfigError(f"there are no transcripts at {options.texts}")
        yield from read_transcripts(options.texts, tokenizer)
    elif task is None:
        rows = read_rows(str(options.data))
        for prompt, text in pairs_from(prompts_from(rows, options.prompt, options.reference)):
            yield Episode.of(prompt, text, tokenizer)
    elif task.corpus is None or isinstance(task.tokenizer, WordTokenizer):  # no words to put in
        raise ConfigError(f"task {task.name!r} has no written texts; pass some with --texts or --data")
    else:
        for prompt, text in itertools.islice(task.corpus()[1], 4 * options.count):
            yield Episode.of(prompt, text, tokenizer)
