"""Transcripts: episodes kept as JSON lines, and read again.

A transcript holds texts and ids; the ids count only for the tokenizer that wrote them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from .chat import as_messages
from .episode import Episode, FinishReason, Prompt, turns_of
from .errors import DataError, PromptError, excerpt
from .json_text import parse_json
from .tokenizer import Tokenizer


def write_transcripts(
    file: str | Path,
    episodes: Iterable[Episode],
    rewards: Sequence[float] | None = None,
    gold: Sequence[float] | None = None,
    *,
    append: bool = False,
) -> None:
    """Write episodes as JSON lines: texts, ids, how they ended and, if given, `reward` and `gold` of each.

    Conversations are written as `messages`, too, with the completion as the last one: rows for fine-tuning.

    `gold` is what the task's own reward gives a text, for when `reward` is another one. With `append` the
    rows are added to those in the file, on lines of their own also where its last line has no end, and are on
    the disk when this returns. Halves of characters, which
    have no UTF-8 and which no reader takes, become question marks.

    Raises:
        DataError: Another number of rewards than episodes; nothing is written.
    """
    columns = {name: x for name, x in (("reward", rewards), ("gold", gold)) if x is not None}
    if columns:
        episodes = listed = list(episodes)
        for name, values in columns.items():
            if len(values) != len(listed):
                raise DataError(f"{file}: {len(values)} values of {name} for {len(listed)} episodes")
    unended = append and not _ends_with_a_line(Path(file))
    with open(file, "a" if append else "w", encoding="utf-8", errors="replace") as out:
        out.write("\n" if unended else "")
        for i, e in enumerate(episodes):
            row: dict[str, Any] = {
                "id": e.prompt.id,
                "prompt": e.prompt.text,
                "columns": dict(e.prompt.columns),
                "completion": e.completion,
                "prompt_ids": e.prompt_ids.tolist(),
                "completion_ids": e.completion_ids.tolist(),
                "tokenizer": e.tokenizer.fingerprint,
                "finish_reason": e.finish_reason,
                "stop": e.stop,
                "seed": e.seed,
                "index": e.index,
            }
            if e.turns:
                row["turns"] = turn_rows(e)
            if e.messages:
                row["messages"] = e.messages
            for name, values in columns.items():
                row[name] = float(values[i]) if math.isfinite(values[i]) else None
            out.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        if append:
            out.flush()
            os.fsync(out.fileno())


def _ends_with_a_line(file: Path) -> bool:
    """Return True if the file is empty or not there, or its last line has an end."""
    with suppress(FileNotFoundError), file.open("rb") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            return stream.read() == b"\n"
    return True


def turn_rows(episode: Episode) -> list[dict[str, Any]]:
    """Return the turns of a conversation as plain data.

    `said` is a turn's part of the completion, with what ended it; after messages, `text` is all that it says.
    """
    rows = [{"role": t.role, "text": t.text, "tokens": len(t.ids), "reward": t.reward} for t in episode.turns]
    if not episode.prompt.messages:
        for row, said in zip(rows, episode.turn_texts, strict=True):
            row["said"] = said
    return rows


def read_transcripts(file: str | Path, tokenizer: Tokenizer) -> Iterator[Episode]:
    """Read what `write_transcripts` wrote; ids are kept only where the tokenizer is the same.

    Older rows say `terminated` and `truncated` in place of `finish_reason`; a row that says none of them is
    of a finished text.

    Raises:
        DataError: There is no such file, or a line is not JSON, lacks `prompt` or `completion`, or has an
            unknown `finish_reason`; its number is named.
    """
    if not Path(file).exists() or Path(file).is_dir():
        raise DataError(f"{file}: no such file of transcripts")
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{file}, line {number}"
            try:
                # As in all other files of rows, a byte order mark may stand in front of the first.
                row = parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8"), where)
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: not UTF-8 ({error}); write it again") from error
            _check_row(row, where)
            # The last message is the completion, or there are as many as turns.
            messages = tuple(row.get("messages", ())[: -len(row.get("turns") or "1")])
            prompt = Prompt(row["prompt"], row.get("columns", {}), row.get("id", ""), messages)
            completion, reason = row["completion"], _finish_reason(row)
            if reason is not None and reason not in get_args(FinishReason):
                raise DataError(
                    f"{where}: finish_reason is {excerpt(repr(reason))}; it must be "
                    f"{', '.join(get_args(FinishReason))} or null"
                )
            if row.get("tokenizer") != tokenizer.fingerprint:
                yield _retokenised(Episode.of(prompt, completion, tokenizer), row, reason)
                continue
            for name in ("prompt_ids", "completion_ids"):
                _check_ids(row.get(name), f"{where}: {name}", tokenizer.vocab_size)
            episode = Episode(
                prompt=prompt,
                prompt_ids=np.array(row["prompt_ids"], dtype=np.int64),
                completion_ids=np.array(row["completion_ids"], dtype=np.int64),
                tokenizer=tokenizer,
                finish_reason=reason,
                stop=row.get("stop", ""),
                seed=row.get("seed"),
                index=row.get("index"),
            )
            episode.__dict__["completion"] = completion
            yield _in_turns(episode, row["turns"], where) if "turns" in row else episode


def _in_turns(episode: Episode, turns: Any, where: str) -> Episode:
    """Return an episode with the turns that a row of a transcript tells.

    Raises:
        DataError: They are of another form, or do not make up the completion.
    """
    try:
        parts = [(str(t["role"]), str(t["text"]), int(t["tokens"]), float(t["reward"])) for t in turns]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: turns is {excerpt(repr(turns))}, no list of turns") from error
    sizes = [tokens for _, _, tokens, _ in parts]
    if min(sizes, default=0) < 0 or sum(sizes) != len(episode.completion_ids):
        raise DataError(f"{where}: turns of {sizes} tokens for {len(episode.completion_ids)} completion_ids")
    mask = np.concatenate([np.full(tokens, role == "assistant") for role, _, tokens, _ in parts])
    whole = replace(episode, agent_mask=mask, turns=turns_of(episode.completion_ids, parts))
    whole.__dict__["completion"] = episode.completion
    return whole


def _check_row(row: Any, where: str) -> None:
    """Refuse a row of a transcript that lacks something or has it in another form.

    Raises:
        DataError: It is named.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a transcript row: a {type(row).__name__}, not an object")
    wanted = {"prompt": str, "completion": str, "columns": dict, "id": str, "stop": str}
    for name, kind in wanted.items():
        if name not in row and name in ("prompt", "completion"):
            raise DataError(f"{where}: not a transcript row: it has no {name!r}")
        if not isinstance(row.get(name, kind()), kind):
            raise DataError(f"{where}: not a transcript row: {name} is {excerpt(repr(row[name]))}")
    if "messages" in row:
        try:
            as_messages(row["messages"])
        except PromptError as error:
            raise DataError(f"{where}: {error}") from error
    for name in ("seed", "index"):
        if type(row.get(name)) not in (int, type(None)):
            raise DataError(f"{where}: not a transcript row: {name} is {excerpt(repr(row[name]))}, no number")


def _check_ids(ids: Any, where: str, vocab_size: int) -> None:
    """Refuse what are no ids of a tokenizer's.

    Raises:
        DataError: The first one that is none is named.
    """
    if not isinstance(ids, list):
        raise DataError(f"{where} is {excerpt(repr(ids))}, not a list of token ids")
    for i in ids:
        if type(i) is not int or not 0 <= i < vocab_size:
            raise DataError(f"{where} holds {excerpt(repr(i))}, no id of a vocabulary of {vocab_size}")


def _finish_reason(row: Mapping[str, Any]) -> Any:
    """Return why the episode of a transcript's row ended, however the row puts it."""
    if "finish_reason" in row:
        return row["finish_reason"]
    if row.get("truncated", False):
        return "length"
    if row.get("terminated", True):
        return "stop" if row.get("stop") else "eos"
    return None


def _retokenised(whole: Episode, row: Mapping[str, Any], reason: FinishReason | None) -> Episode:
    """Rebuild a finished episode from a transcript's texts, ended as the transcript says."""
    torn = reason not in ("eos", "stop") and bool(whole.tokenizer.eos_ids)
    episode = replace(
        whole,
        completion_ids=whole.completion_ids[: -1 if torn else None],
        finish_reason=reason,
        seed=row.get("seed"),
        index=row.get("index"),
    )
    episode.__dict__["completion"] = whole.completion
    return episode
