"""Runs `text-gym label` and `text-gym labels stats|verify|export|import|merge`.

`label` asks about texts in a file or in the queue; it makes no texts: `text-gym sample --json` does.
"""

from __future__ import annotations

import dataclasses
import math
import random
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from text_gym.chat import Talk
from text_gym.cli.options.labels import (
    ExportOptions,
    ImportOptions,
    LabelOptions,
    MergeOptions,
    StatsOptions,
    VerifyOptions,
)
from text_gym.data import read_rows
from text_gym.errors import ConfigError, DataError, RaterLeftError, StoreError, did_you_mean
from text_gym.reward_models.labels.formats import export_labels, import_labels, read_entries
from text_gym.reward_models.labels.merge import merge_labels
from text_gym.reward_models.labels.questions import CRITERIA, PREFERENCE, Kind, LabelCriterion, Question
from text_gym.reward_models.labels.store import LabelStore
from text_gym.reward_models.labels.turns import Spoken, spoken_in
from text_gym.reward_models.page.reward import serve_page
from text_gym.reward_models.people.agreement import Agreement, draw_agreement, measure_agreement
from text_gym.reward_models.people.console import RaterConsole
from text_gym.reward_models.people.human import default_rater
from text_gym.utils.display import counted, harmless
from text_gym.utils.json_files import write_json
from text_gym.utils.terminal import SafeConsole


def run_label(options: LabelOptions) -> int:
    """Run `text-gym label`."""
    rater = options.rater or default_rater()
    questions = [] if options.data is None else questions_of(options)  # before a store is made for nothing
    if options.data is None and not Path(options.store).exists():
        raise StoreError(
            f"there is no label store at {options.store}{did_you_mean(options.store)}; --data FILE makes "
            "one, with questions about its texts"
        )
    with LabelStore(options.store) as store:
        if questions:
            store.put(questions, policy=options.policy, overlap=options.overlap)
        if options.web:
            page = {k: getattr(options, k) for k in ("port", "host", "names", "expose", "raters")}
            with _ending_signals():
                serve_page(store, **page)
            return 0
        console = RaterConsole(store, rater)
        if not store.progress(rater).left:
            console.screen.print(Text(f"no question in {options.store} waits for {harmless(rater)}"))
            if options.data is None:
                console.screen.print(Text("put some there with --data FILE"))
            return 0
        with _ending_signals():
            try:
                console.ask()
            except RaterLeftError as error:
                console.screen.print(Text(f"\n{error}. Go on with the same command"))
                return 0
        console.screen.print(Text(f"answers saved in {options.store}: {console.saved:,}, questions left: 0"))
    return 0


def run_stats(options: StatsOptions) -> int:
    """Run `text-gym labels stats`."""
    with LabelStore(options.store, create=False) as store:
        labels = list(store.labels())
        row, head = store.head
        waiting = sum(item.answers < item.overlap for item in store.items())
    found = measure_agreement(labels)
    console = SafeConsole()
    kinds = {
        kind: sum(label.kind == kind for label in labels) for kind in dict.fromkeys(x.kind for x in labels)
    }
    parts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items()) or "none"
    console.print(
        Text(
            f"{counted(len(labels), 'label')} {'stands' if len(labels) == 1 else 'stand'} ({parts}), in "
            f"{counted(row, 'row')}; {counted(waiting, 'question')} {'waits' if waiting == 1 else 'wait'}"
        )
    )
    console.print(Text(f"head {head}"), soft_wrap=True)
    show_agreement(found, console)
    if options.out is not None:
        write_json(options.out, {"labels": len(labels), "rows": row, "head": head, **found.to_dict()})
    if options.figure is not None:
        draw_agreement(found, labels, options.figure)
    return 0


def show_agreement(found: Agreement, console: Console) -> None:
    """Print alpha by criterion, a row per rater, and the warnings."""
    for name, value in found.alpha.items():
        known = "unknown: no question has two raters who differ" if math.isnan(value) else f"{value:.3f}"
        console.print(Text(f"Krippendorff's alpha, {harmless(name)}: {known}"))
    headings = ("rater", "answers", "median s", "mean", "shift", "noise", "with others", "length", "longer")
    table = Table(*headings, title_justify="left")
    for p in found.raters:
        numbers = (p.mean, p.shift, p.noise, p.agreement, p.length, p.longer)
        shown = ["" if math.isnan(x) else f"{x:+.2f}" if x is p.shift else f"{x:.2f}" for x in numbers]
        seconds = "" if math.isnan(p.seconds) else f"{p.seconds:.1f}"
        table.add_row(Text(harmless(p.rater, limit=30)), f"{p.answers:,}", seconds, *shown)
    console.print(table)
    for p in found.raters:
        for warning in p.warnings:
            console.print(Text(f"warning: {warning}", style="yellow"))


def run_verify(options: VerifyOptions) -> int:
    """Run `text-gym labels verify`."""
    with LabelStore(options.store, create=False, check=False) as store:
        found = store.verify(options.head)
    what = f"{counted(found.rows, 'row')} and {counted(found.items, 'question')}"
    print(f"{options.store}: {what} are good\nhead {found.head}")
    return 0


def run_export(options: ExportOptions) -> int:
    """Run `text-gym labels export`."""
    with LabelStore(options.store, create=False, check=options.before is None) as store:
        count = export_labels(store, options.file, options.form, options.before)
    print(f"{counted(count, 'row')} in {options.file}")
    return 0


def run_import(options: ImportOptions) -> int:
    """Run `text-gym labels import`."""
    if not Path(options.store).exists():
        read_entries(options.file)  # one that cannot be used leaves no new store behind
    with LabelStore(options.store) as store:
        added, known = import_labels(store, options.file)
    print(f"{counted(added, 'row')} added to {options.store}, {known:,} there already")
    return 0


def run_merge(options: MergeOptions) -> int:
    """Run `text-gym labels merge`."""
    found = merge_labels(options.stores, options.out, anonymous=options.anonymous)
    names = ", ".join(harmless(name, limit=30) for name in found.raters) or "none"
    print(f"{counted(found.added, 'row')} added to {options.out}, {found.known:,} there already")
    print(f"{counted(found.questions, 'question')}; raters: {names}\nhead {found.head}")
    for note in found.notes:
        print(f"note: {note}")
    if options.anonymous:
        print(f"keep {options.out}.secret to yourself: it makes the pseudonyms")
    return 0


def questions_of(options: LabelOptions) -> list[Question]:
    """Make questions about the texts or conversations of a file, in order.

    Raises:
        UnknownNameError: A column is missing.
        DataError: The file or a row cannot be used, or it holds no question of the kind asked for.
    """
    assert options.data is not None
    found: dict[tuple[str, Talk], list[Spoken]] = {}
    for number, row in enumerate(read_rows(options.data), 1):
        for whole in spoken_in(row, options.prompt, f"{options.data}, row {number}"):
            for spoken in whole.each_turn() if options.per_turn else (whole,):
                found.setdefault((spoken.prompt, spoken.asked), []).append(spoken)
    if options.per_turn and not any(asked for _, asked in found):
        raise DataError(
            f"{options.data} holds single texts, which have no turns; leave --per-turn out, or pass a "
            "file of conversations: rows with turns or lists of messages"
        )
    questions = list(_questions(found.values(), options))
    if not questions:
        raise DataError(f"{options.data} has no two different texts of one prompt to compare")
    return questions


def _questions(groups: Iterable[Sequence[Spoken]], options: LabelOptions) -> Iterator[Question]:
    """Make questions about what was said, in groups of one prompt."""
    if options.kind == "rating":
        criteria = _criteria(options.criteria, CRITERIA, options.scale)
        for spoken in groups:
            yield from (_question("rating", [one], criteria) for one in spoken)
        return
    size = 2 if options.kind == "comparison" else options.n
    if not 2 <= size <= 9:
        raise ConfigError(f"n is {size}; from 2 to 9 texts can be shown at once")
    criteria = _criteria(options.criteria, (PREFERENCE,))
    rng = random.Random(options.seed)
    for spoken in groups:
        different = list({(one.completion, one.said): one for one in spoken}.values())
        rng.shuffle(different)  # so that no side is favoured
        for first in range(0, len(different) - 1, size):
            group = different[first : first + size]
            if len(group) == size or (options.kind == "best-of-n" and len(group) > 1):
                yield _question(options.kind, group, criteria)


def _question(kind: Kind, spoken: Sequence[Spoken], criteria: tuple[LabelCriterion, ...]) -> Question:
    turns = (spoken[0].asked, *(one.said for one in spoken)) if spoken[0].asked else ()
    return Question(kind, spoken[0].prompt, tuple(one.completion for one in spoken), criteria, turns)


def _criteria(
    names: Sequence[str], default: Sequence[LabelCriterion], scale: int = 5
) -> tuple[LabelCriterion, ...]:
    known = {c.name: c for c in (*CRITERIA, PREFERENCE)}
    chosen = [known.get(name, LabelCriterion(name)) for name in names] or list(default)
    return tuple(dataclasses.replace(c, high=scale) for c in chosen)


@contextmanager
def _ending_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the labelling like an error, so that the terminal is restored."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            before[getattr(signal, name)] = signal.signal(getattr(signal, name), end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
