"""Options of `text-gym reward audit`, and how they are read from the command line."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from text_gym.data import check_source

from .checks import at_least, check_data, check_out_folder, check_reward, check_task
from .parsing import COLUMN, parse


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
    (options,) = parse("reward audit", argv, AuditOptions, flags=COLUMN)
    if options.source != "gold":
        check_reward(options.source, "source")
    check_data(options.data)
    check_task(options.task if options.data is None else None)
    if options.texts is not None:
        check_source(options.texts)
    check_out_folder(options.out)
    at_least(1, count=options.count)
    at_least(0, edited=options.edited, explained=options.explained, words=options.words)
    return (options,)
