"""The rollouts that a run keeps: some of its iterations, each a file of compressed JSON lines.

Which ones follows from their number and the length of the run alone, so that a resumed run keeps the same.
The first line of a file describes the iteration, each further line is an episode with the numbers of its
tokens. Nothing is drawn here.
"""

from __future__ import annotations

import gzip
import json
import logging
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from text_gym.episode import BoolArray
from text_gym.errors import ConfigError, DataError
from text_gym.json_text import parse_json
from text_gym.plot.texts import token_texts
from text_gym.utils.json_files import _finite
from text_gym.utils.sealed import write_atomic

if TYPE_CHECKING:
    from text_gym.agents.training.recorder import IterationRecord

LOG = logging.getLogger("text_gym")
FOLDER, METRICS = "rollouts", "metrics.jsonl"  # in a run's folder
FORMAT = 1
MOST_TOKENS = 100_000  # of an iteration that are kept: about 4 MB
_LARGEST = 2**28  # bytes of a file, when it is unpacked, that is still read
_SUFFIX = ".jsonl.gz"


@dataclass(frozen=True)
class KeptIteration:
    """An iteration as it was kept.

    Args:
        iteration: Its number, from 1.
        group_size: `k`: each `k` episodes in a row share a prompt.
        played: The episodes `B` that were played; fewer are kept where they had very many tokens.
        episodes: What is known of each that was kept: `prompt`, `tokens` (their texts), `completion_ids`,
            `finish_reason`, `seed` and `index` (its place in the stream of episodes), `reward` (null where it
            was not paid), `terms`, `agent` and `turns` (which tokens are the agent's, if not all; role and
            number of tokens of each turn) and `numbers`: the columns of `IterationRecord` by name, a number
            or null for each token.
    """

    iteration: int
    group_size: int
    played: int
    episodes: Sequence[dict[str, Any]]


def iterations_to_keep(keep: int, iterations: int) -> frozenset[int]:
    """Choose which iterations of a run are kept, by number, spread evenly over it; with 1 it is the last.

    >>> sorted(iterations_to_keep(3, 9))
    [1, 5, 9]
    """
    spread = np.linspace(1, iterations, min(keep, iterations)) if keep > 1 else [iterations]
    return frozenset(int(number) for number in np.round(spread))


class RolloutStore:
    """Keeps the rollouts of some iterations in a run's folder.

    They are spread evenly over the run, with the first and the last among them: unlike the last ones they
    show how the policy got there, and unlike every tenth their number does not grow with the run.

    Args:
        run: The run's folder.
        keep: How many iterations to keep, at least 1; with 1 it is the last.
        iterations: How many there will be.

    Raises:
        ConfigError: `keep` is out of range.
    """

    def __init__(self, run: str | Path, keep: int, iterations: int) -> None:
        if keep < 1:
            raise ConfigError(f"keep_rollouts is {keep}; it must be at least 1 to keep anything")
        self.folder = Path(run) / FOLDER
        self.wanted = iterations_to_keep(keep, iterations)

    def wants(self, iteration: int) -> bool:
        """Return True for an iteration that is to be kept."""
        return iteration in self.wanted

    def rewind(self, iteration: int) -> None:
        """Remove what was kept after this iteration, because it will be made again, or is not wanted."""
        for number, file in kept_files(self.folder.parent).items():
            if number > iteration or number not in self.wanted:
                file.unlink()

    def write(self, record: IterationRecord) -> None:
        """Write an iteration in one step; a disk that is full is a warning, and the run goes on."""
        try:
            self.folder.mkdir(exist_ok=True)
            content = "".join(json.dumps(line) + "\n" for line in _lines(record))
            packed = gzip.compress(content.encode("utf-8"), 6, mtime=0)
            write_atomic(self.folder / f"{record.iteration:08d}{_SUFFIX}", packed)
        except OSError as error:
            LOG.warning("the rollouts of iteration %d could not be kept: %s", record.iteration, error)

    def note(self, metrics: Mapping[str, float]) -> None:
        """Append a row to `metrics.jsonl` beside the rollouts, where nobody else writes one."""
        with (self.folder.parent / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(_finite(metrics)) + "\n")


def kept_files(run: str | Path) -> dict[int, Path]:
    """Return the files of the iterations that a run has kept, by number, the first one first."""
    files = sorted((Path(run) / FOLDER).glob(f"*{_SUFFIX}"))
    return {int(f.name[:8]): f for f in files if f.name.removesuffix(_SUFFIX).isdecimal()}


def read_iteration(file: Path) -> KeptIteration:
    """Read an iteration that was kept.

    Raises:
        DataError: The file cannot be read, is damaged, or another version wrote it.
    """
    try:
        with gzip.open(file) as stream:
            content = stream.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise DataError(f"{file} holds more than {_LARGEST >> 20} MiB; remove it to see the others")
        lines = content.decode("utf-8").split("\n")[:-1]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}); remove it to see the others") from error
    first, *rows = (parse_json(line, f"{file}, line {n}") for n, line in enumerate(lines, 1))
    if not isinstance(first, dict) or first.get("format") != FORMAT:
        raise DataError(f"{file} holds no rollouts of a kind that this version of text-gym reads")
    numbers = [first.get(name) for name in ("iteration", "group_size", "played", "kept")]
    if not all(isinstance(n, int) and n > 0 for n in numbers) or numbers[3] != len(rows):
        raise DataError(f"{file} is damaged: its first line does not fit the others; remove it")
    for n, row in enumerate(rows, 2):
        if not _is_episode(row):
            raise DataError(f"{file}, line {n}: is no episode with its tokens' numbers; remove the file")
    return KeptIteration(first["iteration"], first["group_size"], first["played"], rows)


def _lines(record: IterationRecord) -> Iterable[dict[str, Any]]:
    """Yield the lines of a file, as plain data."""
    lengths = [len(e.completion_ids) for e in record.episodes]
    kept = fitting(lengths, record.group_size, MOST_TOKENS)
    about = {"iteration": record.iteration, "group_size": record.group_size}
    yield {"format": FORMAT, **about, "played": len(record.episodes), "kept": kept}
    for i, episode in enumerate(record.episodes[:kept]):
        mask = np.ones(lengths[i], dtype=np.bool_) if episode.agent_mask is None else episode.agent_mask
        turns = [[_text(turn.role), len(turn.ids)] for turn in getattr(episode, "turns", ())]
        yield {
            "prompt": _text(episode.prompt.text),
            "tokens": [_text(token) for token in token_texts(episode)],
            "completion_ids": episode.completion_ids.tolist(),
            "finish_reason": episode.finish_reason,
            "seed": episode.seed,
            "index": episode.index,
            "reward": _number(record.rewards[i]),
            "terms": {_text(name): _number(values[i]) for name, values in record.terms.items()},
            **({} if bool(mask.all()) else {"agent": mask.tolist()}),
            **({"turns": turns} if turns else {}),
            "numbers": {name: _spread(column[i], mask) for name, column in record.columns.items()},
        }


def fitting(lengths: Sequence[int], group_size: int, most: int) -> int:
    """Return how many of the first episodes have at most so many tokens: whole groups, at least one.

    >>> fitting([5, 5, 5, 5, 5, 5], group_size=2, most=21)
    4
    """
    tokens = np.cumsum(lengths)
    ends = range(group_size, len(lengths) + 1, group_size)
    return max([min(group_size, len(lengths)), *(end for end in ends if tokens[end - 1] <= most)])


def _spread(column: npt.NDArray[np.float32], mask: BoolArray) -> list[float | None]:
    """Return the numbers of all tokens, `(T,)`, of which the agent's have those of a column."""
    found: list[float | None] = [None] * len(mask)
    for at, value in zip(np.flatnonzero(mask).tolist(), column.tolist(), strict=False):
        found[at] = _number(value)
    return found


def _number(value: float) -> float | None:
    """Return a number with the digits that float32 has; None for what is none."""
    return float(f"{value:.8g}") if math.isfinite(value) else None


def _text(text: str) -> str:
    """Return a text without halves of characters, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _is_episode(row: Any) -> bool:
    """Return True for a line with everything that the page shows, of the right types."""
    kinds = {"prompt": str, "tokens": list, "completion_ids": list, "terms": dict, "numbers": dict}
    if not isinstance(row, dict) or any(not isinstance(row.get(k), kind) for k, kind in kinds.items()):
        return False
    count = len(row["tokens"])
    columns = [row["completion_ids"], *row["numbers"].values()]
    columns += [row["agent"]] if "agent" in row else []
    known = [row.get("reward"), *row["terms"].values()]
    turns = row.get("turns", [["", count]])
    if not isinstance(turns, list) or not all(_is_turn(turn) for turn in turns):
        return False
    return (
        all(isinstance(token, str) for token in row["tokens"])
        and all(isinstance(c, list) and len(c) == count for c in columns)
        and all(x is None or _is_number(x) for x in [*known, *(x for c in columns for x in c)])
        and isinstance(row.get("finish_reason"), (str, type(None)))
        and sum(turn[1] for turn in turns) == count
    )


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, list) and [type(x) for x in turn] == [str, int] and turn[1] >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e38
