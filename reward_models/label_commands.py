"""What `text-gym label` and `text-gym labels stats|verify|export|import` do.

`label` asks about texts in a file or in the queue; it makes no texts: `text-gym sample --json` does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from text_gym import harmless
from text_gym.data import read_rows
from text_gym.errors import ConfigError, DataError, RaterLeftError, UnknownNameError
from text_gym.options import parse
from text_gym.report import write_json

from .human import STORE, default_rater
from .label_formats import export_labels, import_labels
from .labels import LabelStore
from .questions import CRITERIA, PREFERENCE, Criterion, Question
from .rater_agreement import Agreement, draw_agreement, measure_agreement
from .rater_console import RaterConsole
from .web_reward import serve_page


@dataclass(frozen=True)
class LabelOptions:
    """Answer questions about texts: ratings, comparisons, best of n. What is answered is saved at once.

    Without --data it goes on with the questions that wait in the store, those of a running training included.

    Args:
        data: File of texts to ask about, with a prompt column and a column completion (one text), completions
            (a list), or chosen and rejected; e.g. what `text-gym sample --json` prints.
        store: Label store; made if there is none.
        rater: Your name in the labels; that of your account if left out.
        kind: What to ask; comparison and best-of-n put texts of the same prompt together.
        prompt: Column of the prompts.
        criteria: What to ask for; names without a guideline of ours get none. accuracy, clarity and
            persuasiveness for ratings if left out.
        scale: Highest rating.
        n: Texts in a best-of-n.
        overlap: Raters wanted for each question.
        policy: Version of the policy that wrote the texts, for the record.
        seed: Decides the order in which the texts of a comparison are shown.
        web: Ask on a page in the browser, several raters at once if need be, until Ctrl-C.
        port: Port of the page; 0 takes any that is free.
        host: Address of the page.
        names: Further names by which raters reach the page, e.g. that of a tunnel's other end.
        expose: Allow a host that other computers can reach; the page is not encrypted.
    """

    data: str | None = None
    store: str = STORE
    rater: str | None = None
    kind: Literal["rating", "comparison", "best-of-n"] = "rating"
    prompt: str = "prompt"
    criteria: tuple[str, ...] = ()
    scale: int = 5
    n: int = 4
    overlap: int = 1
    policy: str = ""
    seed: int = 0
    web: bool = False
    port: int = 8765
    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    expose: bool = False


@dataclass(frozen=True)
class StatsOptions:
    """Show how many labels there are, whether raters agree, and how they differ.

    Args:
        store: Label store.
        out: JSON file to write the figures to.
        figure: PNG file to draw them into.
    """

    store: str = STORE
    out: str | None = None
    figure: str | None = None


@dataclass(frozen=True)
class VerifyOptions:
    """Check every row of a label store; exit status 2 and the first bad row if something was changed.

    Args:
        store: Label store.
        head: A hash that an earlier run printed and that must be among the rows.
    """

    store: str = STORE
    head: str | None = None


@dataclass(frozen=True)
class ExportOptions:
    """Write the labels to a file: text-gym labels export FILE.

    Args:
        file: Where to.
        form: jsonl keeps every row exactly, the others what stands; ratings and pairs have TRL's columns.
        store: Label store.
    """

    file: Positional[str]
    form: Literal["jsonl", "ratings", "pairs", "parquet", "argilla", "label-studio"] = "jsonl"
    store: str = STORE


@dataclass(frozen=True)
class ImportOptions:
    """Add the labels of a file to a store: text-gym labels import FILE. Doing it twice adds nothing.

    Args:
        file: A file of `labels export`, in the form jsonl, argilla or label-studio.
        store: Label store; made if there is none.
    """

    file: Positional[str]
    store: str = STORE


def read_label(argv: list[str]) -> tuple[LabelOptions]:
    """Options of `text-gym label`."""
    (options,) = parse("label", argv, LabelOptions)
    return (options,)


def run_label(options: LabelOptions) -> int:
    """`text-gym label`."""
    _robust_output()
    rater = options.rater or default_rater()
    with LabelStore(options.store) as store:
        if options.data is not None:
            put_file(store, options)
        if options.web:
            page = {k: getattr(options, k) for k in ("port", "host", "names", "expose")}
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


def read_stats(argv: list[str]) -> tuple[StatsOptions]:
    """Options of `text-gym labels stats`."""
    (options,) = parse("labels stats", argv, StatsOptions)
    return (options,)


def run_stats(options: StatsOptions) -> int:
    """`text-gym labels stats`."""
    _robust_output()
    with LabelStore(options.store, create=False) as store:
        labels = list(store.labels())
        row, head = store.head
        waiting = sum(item.answers < item.overlap for item in store.items())
    found = measure_agreement(labels)
    console = Console(highlight=False)
    kinds = {
        kind: sum(label.kind == kind for label in labels) for kind in dict.fromkeys(x.kind for x in labels)
    }
    parts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items()) or "none"
    console.print(
        Text(f"{len(labels):,} labels stand ({parts}), in {row:,} rows; {waiting:,} questions wait")
    )
    console.print(Text(f"head {head}"), soft_wrap=True)
    show_agreement(found, console)
    if options.out is not None:
        write_json(options.out, {"labels": len(labels), "rows": row, "head": head, **found.to_dict()})
    if options.figure is not None:
        draw_agreement(found, labels, options.figure)
    return 0


def show_agreement(found: Agreement, console: Console) -> None:
    """Print alpha by criterion, a row a rater, and the warnings."""
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


def read_verify(argv: list[str]) -> tuple[VerifyOptions]:
    """Options of `text-gym labels verify`."""
    (options,) = parse("labels verify", argv, VerifyOptions)
    return (options,)


def run_verify(options: VerifyOptions) -> int:
    """`text-gym labels verify`."""
    with LabelStore(options.store, create=False) as store:
        found = store.verify(options.head)
    print(f"{options.store}: {found.rows:,} rows and {found.items:,} questions are good\nhead {found.head}")
    return 0


def read_export(argv: list[str]) -> tuple[ExportOptions]:
    """Options of `text-gym labels export`."""
    (options,) = parse("labels export", argv, ExportOptions)
    return (options,)


def run_export(options: ExportOptions) -> int:
    """`text-gym labels export`."""
    with LabelStore(options.store, create=False) as store:
        count = export_labels(store, options.file, options.form)
    print(f"{count:,} rows in {options.file}")
    return 0


def read_import(argv: list[str]) -> tuple[ImportOptions]:
    """Options of `text-gym labels import`."""
    (options,) = parse("labels import", argv, ImportOptions)
    return (options,)


def run_import(options: ImportOptions) -> int:
    """`text-gym labels import`."""
    with LabelStore(options.store) as store:
        added, known = import_labels(store, options.file)
    print(f"{added:,} rows added to {options.store}, {known:,} were there")
    return 0


def put_file(store: LabelStore, options: LabelOptions) -> list[str]:
    """Queue questions about the texts of a file; the ids, in order.

    Raises:
        UnknownNameError: A column is missing.
        DataError: The file or a row cannot be used, or it holds no question of the kind asked for.
    """
    assert options.data is not None
    texts: dict[str, list[str]] = {}
    for number, row in enumerate(read_rows(options.data), 1):
        where = f"{options.data}, row {number}"
        if options.prompt not in row:
            raise UnknownNameError(f"column ({where})", options.prompt, [str(k) for k in row])
        found = [row[options.prompt], *_completions(row, where)]
        if not all(isinstance(text, str) for text in found):
            raise DataError(f"{where}: prompt and completions must be texts")
        texts.setdefault(found[0], []).extend(found[1:])
    questions = list(_questions(texts, options))
    if not questions:
        raise DataError(f"{options.data} has no two different texts of one prompt to compare")
    return store.put(questions, policy=options.policy, overlap=options.overlap)


def _completions(row: Mapping[str, Any], where: str) -> Sequence[Any]:
    if isinstance(row.get("completions"), list):
        return list(row["completions"])
    if "chosen" in row and "rejected" in row:
        return [row["chosen"], row["rejected"]]
    if "completion" not in row:
        raise UnknownNameError(f"column ({where})", "completion", [str(k) for k in row])
    return [row["completion"]]


def _questions(texts: Mapping[str, Sequence[str]], options: LabelOptions) -> Iterator[Question]:
    if options.kind == "rating":
        criteria = _criteria(options.criteria, CRITERIA, options.scale)
        for prompt, completions in texts.items():
            yield from (Question.rating(prompt, text, criteria) for text in completions)
        return
    size = 2 if options.kind == "comparison" else options.n
    if not 2 <= size <= 9:
        raise ConfigError(f"n is {size}; from 2 to 9 texts can be shown at once")
    criteria = _criteria(options.criteria, (PREFERENCE,))
    rng = random.Random(options.seed)
    for prompt, completions in texts.items():
        different = list(dict.fromkeys(completions))
        rng.shuffle(different)  # so that no side is favoured
        for first in range(0, len(different) - 1, size):
            group = tuple(different[first : first + size])
            if len(group) == size or (options.kind == "best-of-n" and len(group) > 1):
                yield Question(options.kind, prompt, group, criteria)


def _criteria(names: Sequence[str], default: Sequence[Criterion], scale: int = 5) -> tuple[Criterion, ...]:
    known = {c.name: c for c in (*CRITERIA, PREFERENCE)}
    chosen = [known.get(name, Criterion(name)) for name in names] or list(default)
    return tuple(dataclasses.replace(c, high=scale) for c in chosen)


def _robust_output() -> None:
    """What the terminal's encoding lacks is written as an escape."""
    with contextlib.suppress(AttributeError, OSError):  # not a stream of text, or not one that can be changed
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


@contextmanager
def _ending_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the labelling as an error would, so that the terminal is put back as it was."""

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
