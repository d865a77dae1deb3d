"""Options of `text-gym label` and `text-gym labels`, and how they are read from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from text_gym.errors import DataError
from text_gym.reward_models.people.human import STORE

from .checks import at_least, check_data, check_file
from .parsing import parse


@dataclass(frozen=True)
class LabelOptions:
    """Answer questions about texts: ratings, comparisons, best of n. What is answered is saved at once.

    Without --data it goes on with the questions that wait in the store, those of a running training included.

    Args:
        data: File of texts to ask about, with a prompt column and a column completion (one text), completions
            (a list), or chosen and rejected; e.g. what `text-gym sample --json` prints. Conversations are
            transcripts with turns, or lists of messages, as in TRL's columns.
        per_turn: Ask about each turn of the assistant's by itself, after the conversation up to there.
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
        raters: Who may answer on the page: each gets a link of their own, and nobody else can answer. Without
            it, raters choose their names, and a name belongs to the browser that first used it.
    """

    data: str | None = None
    store: str = STORE
    rater: str | None = None
    kind: Literal["rating", "comparison", "best-of-n"] = "rating"
    per_turn: bool = False
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
    raters: tuple[str, ...] = ()


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
        before: Write only the rows before this one: the first bad row of a store that is damaged.
    """

    file: Positional[str]
    form: Literal["jsonl", "ratings", "pairs", "parquet", "argilla", "label-studio"] = "jsonl"
    store: str = STORE
    before: int | None = None


@dataclass(frozen=True)
class ImportOptions:
    """Add the labels of a file to a store: text-gym labels import FILE. Doing it twice adds nothing.

    Args:
        file: A file of `labels export`, in the form jsonl, argilla or label-studio.
        store: Label store; made if there is none.
    """

    file: Positional[str]
    store: str = STORE


@dataclass(frozen=True)
class MergeOptions:
    """Join label stores, e.g. of a class: text-gym labels merge STORE... --out STORE. Again adds what is new.

    Questions are there once, with every rater's labels. Stores are verified before anything is written.

    Args:
        stores: Label stores. NAME=STORE gives the rater of that store another name, for two people who chose
            the same one.
        out: The merged store; made if there is none, else added to.
        anonymous: Replace names by pseudonyms, the same in every merge into this store; the secret that makes
            them is beside it in OUT.secret.
    """

    stores: Positional[tuple[str, ...]]
    out: str
    anonymous: bool = False


def read_label(argv: list[str]) -> tuple[LabelOptions]:
    """Options of `text-gym label`."""
    (options,) = parse("label", argv, LabelOptions)
    check_data(options.data)
    at_least(2, scale=options.scale, n=options.n if options.kind == "best-of-n" else None)
    at_least(1, overlap=options.overlap)
    return (options,)


def read_stats(argv: list[str]) -> tuple[StatsOptions]:
    """Options of `text-gym labels stats`."""
    (options,) = parse("labels stats", argv, StatsOptions)
    check_file("out", options.out)
    check_file("figure", options.figure)
    return (options,)


def read_verify(argv: list[str]) -> tuple[VerifyOptions]:
    """Options of `text-gym labels verify`."""
    (options,) = parse("labels verify", argv, VerifyOptions)
    return (options,)


def read_export(argv: list[str]) -> tuple[ExportOptions]:
    """Options of `text-gym labels export`."""
    (options,) = parse("labels export", argv, ExportOptions)
    return (options,)


def read_import(argv: list[str]) -> tuple[ImportOptions]:
    """Options of `text-gym labels import`."""
    (options,) = parse("labels import", argv, ImportOptions)
    if not Path(options.file).is_file():
        raise DataError(f"{options.file}: no such file")
    return (options,)


def read_merge(argv: list[str]) -> tuple[MergeOptions]:
    """Options of `text-gym labels merge`."""
    (options,) = parse("labels merge", argv, MergeOptions)
    return (options,)
