"""The command `text-gym reward audit`: which texts are taken, and where the report goes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text
from tyro.conf import Positional

from text_gym import Episode, Prompt, RewardSource, Tokenizer
from text_gym.data import pairs_from, prompts_from, read_rows
from text_gym.display import harmless
from text_gym.episode import read_transcripts
from text_gym.errors import ConfigError
from text_gym.interval import Interval
from text_gym.options import parse
from text_gym.task import Task, load_task
from text_gym.tokenizer import ByteTokenizer

from .audit import AuditConfig, audit_reward
from .audit_page import write_audit
from .audit_result import Audit
from .loading import load_reward


@dataclass(frozen=True)
class AuditOptions:
    """Audit a reward: what it pays for that is not quality. Writes a page and a JSON file.

    Args:
        source: The reward: a name, module:function, file.py:function, or the folder of a learned model;
            `gold` for the task's own.
        task: Task whose held-out texts are scored, and whose gold reward tells quality from bias.
        data: File, folder or hub data set with texts to score instead; then no gold is known.
        prompt: Column of the prompts in the data.
        reference: Column of the texts in the data.
        texts: Transcripts (JSON lines, as `text-gym evaluate --transcripts` writes them) to score instead of
            the task's held-out texts; better, since a reward is hacked on texts that a policy writes.
        out: Folder for audit.html and audit.json.
        count: Real texts scored.
        edited: Of these, how many are edited, some twenty times each.
        explained: Of these, how many are explained word by word.
        words: Words and other parts put into texts, of each kind at most; by default 256, or 0 for a judge.
        seed: Decides which texts, and the resamples.
    """

    source: Positional[str]
    task: str = "products"
    data: str | None = None
    prompt: str = "prompt"
    reference: str = "completion"
    texts: str | None = None
    out: str = "audit"
    count: int = 256
    edited: int = 96
    explained: int = 6
    words: int | None = None
    seed: int = 0


def read_audit(argv: list[str]) -> tuple[AuditOptions]:
    """Options of `text-gym reward audit`."""
    (options,) = parse("reward audit", argv, AuditOptions)
    return (options,)


def run_audit(options: AuditOptions) -> int:
    """Run `text-gym reward audit`; the exit status is 0 whatever was found."""
    config = AuditConfig(options.count, options.edited, options.explained, options.words, options.seed)
    console = Console(highlight=False)
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
    """The report in a few lines: what the reward follows, then what was found."""
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
    """Texts of the transcripts, the data, or the task's held-out corpus."""
    tokenizer: Tokenizer = ByteTokenizer() if task is None else task.tokenizer
    if options.texts:
        if not Path(options.texts).is_file():
            raise ConfigError(f"there are no transcripts at {options.texts}")
        yield from read_transcripts(options.texts, tokenizer)
    elif task is None:
        rows = read_rows(str(options.data))
        for prompt, text in pairs_from(prompts_from(rows, options.prompt, options.reference)):
            yield Episode.of(prompt, text, tokenizer)
    elif task.corpus is None:
        raise ConfigError(f"task {task.name!r} has no written texts; pass some with --texts or --data")
    else:
        for prompt, text in itertools.islice(task.corpus()[1], 4 * options.count):
            yield Episode.of(prompt, text, tokenizer)
