"""Checks submissions, which anybody may have written: nothing in them is believed that can be computed.

A whole submission can still be made up, row by row, by somebody who takes the trouble; only running its
command again, and comparing, tells.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from text_gym.agents.algorithms.best_of_n import best_of_n_kl_bound
from text_gym.bench.analysis.results import CellResult
from text_gym.bench.matrix.designs import DESIGNS
from text_gym.bench.matrix.settings import BEST_OF_N, digest, digest_of_files
from text_gym.errors import DamagedError, DataError, TextGymError
from text_gym.json_text import read_json, read_object
from text_gym.utils.display import harmless
from text_gym.utils.interval import Interval
from text_gym.utils.sealed import MANIFEST, check_sealed
from text_gym.utils.user_code import split_place
from text_gym.validation.result import ValidationReport, report_from

from .submission import (
    CELLS,
    FORMAT,
    LONGEST_NAME,
    LONGEST_NOTE,
    REWARD,
    ROWS,
    SUBMISSION,
    VALIDATION,
    check_cell_numbers,
    summarised,
)

MOST_FILES, MOST_BYTES = 2000, 256 << 20
SAME = 1e-9  # numbers computed twice agree so far
SAME_START = 0.02  # of gold: versions of PyTorch may draw other texts of the same policy
_BROKEN = (
    OSError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    ArithmeticError,
    RecursionError,
)


@dataclass(frozen=True)
class Submission:
    """A submission whose files are whole and whose numbers follow from its rows.

    Args:
        folder: Where it is.
        content: Of `submission.json`; texts in it are anybody's.
        cells: Its runs.
        summary: Computed from the runs, see `summarised`.
        validation: The report of `validate` that it carries, run by its author; None where it has none.
        digest: SHA-256 of its manifest.
    """

    folder: Path
    content: Mapping[str, Any]
    cells: Sequence[CellResult]
    summary: Mapping[str, Any]
    validation: ValidationReport | None
    digest: str

    @property
    def name(self) -> str:
        """Its name, which is anybody's text."""
        return str(self.content["name"])

    @property
    def gold(self) -> Interval:
        """Gold at the end of the hardest optimisation, with its interval."""
        found = self.summary["gold"]
        low, high = found["ci95"]
        return Interval(found["value"], low, high, found["n"])

    @property
    def contest(self) -> Mapping[str, Any]:
        """Task, gold, budget and seeds, which have to be the same for all."""
        found: Mapping[str, Any] = self.content["contest"]
        return found

    @property
    def reward_key(self) -> str:
        """A hash of the reward: its files and the function in them, or the recipe of the suite."""
        reward, design = self.content["reward"], self.content["design"]
        if reward["spec"] is None:
            return digest(["suite", design["fingerprint"]])
        function = reward["spec"].rpartition(":")[2] if ":" in reward["spec"] else ""
        return digest(["own", reward["content"] or reward["spec"], function])

    @property
    def results_key(self) -> str:
        """A hash of all curves, whatever the design is called."""
        return digest([[c.setting[2:], c.row["seed"], [dict(p) for p in c.curve]] for c in self.cells])

    @property
    def page(self) -> str:
        """The name of its page, in which nothing is of its author's choice."""
        return f"submission-{self.digest[:16]}.html"


def read_submission(folder: str | Path) -> Submission:
    """Read a submission and check it against itself.

    Raises:
        DamagedError: A file was changed, is missing, or is not in the manifest.
        DataError: It is no submission, its cells do not fit together, or its summary is not theirs.
        NonFiniteError: A result is not finite.
    """
    folder = Path(folder)
    sealed = _check_files(folder)
    try:
        return _read(folder, hashlib.sha256(sealed).hexdigest())
    except _BROKEN as error:
        if isinstance(error, TextGymError):
            raise
        raise DataError(
            f"{folder} has not the form of a submission ({error!r}); make it by `bench submit`"
        ) from error


def check_contest(submission: Submission, first: Submission) -> None:
    """Check that two submissions were measured in the same way.

    Raises:
        DataError: They were not; what differs is named.
    """
    mine, others = _flat(submission.contest), _flat(first.contest)
    for name in sorted({*mine, *others}):
        if mine.get(name) != others.get(name):
            raise DataError(
                f"it was measured with {name} = {_short(mine.get(name))}, and the first submission with "
                f"{_short(others.get(name))}; task, gold, budget, seeds and text-gym must be the same"
            )
    gap = submission.summary["gold_start"] - first.summary["gold_start"]
    if abs(gap) > SAME_START:
        raise DataError(
            f"its runs start at gold {submission.summary['gold_start']:.3f}, those of the first submission "
            f"at {first.summary['gold_start']:.3f}; the same policy starts at the same gold"
        )


def check_duplicate(submission: Submission, others: Sequence[Submission]) -> None:
    """Check that neither reward nor results were submitted before.

    Raises:
        DataError: They were, by the submission that is named.
    """
    for other in others:
        if submission.reward_key == other.reward_key:
            raise DataError(f"it is a duplicate: the same reward as {harmless(other.name)!r}")
        if submission.results_key == other.results_key:
            raise DataError(f"it is a duplicate: to the last digit the results of {harmless(other.name)!r}")


def _check_files(folder: Path) -> bytes:
    """Check that a folder holds plain files, those of its manifest and no others; return the manifest."""
    if not folder.is_dir() or folder.is_symlink():
        raise DataError(f"{folder} is no folder of a submission")
    if not (folder / MANIFEST).is_file():
        raise DamagedError(f"{folder} has no {MANIFEST}; make it by `bench submit`")
    total, there = 0, set()
    for number, file in enumerate(folder.rglob("*")):
        status = file.lstat()
        inside = file.relative_to(folder).as_posix()
        if number >= MOST_FILES or (total := total + status.st_size) > MOST_BYTES:
            raise DataError(f"{folder} has more than {MOST_FILES} files or {MOST_BYTES >> 20} MiB")
        if stat.S_ISDIR(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{folder}: {inside} is a link or no plain file; a submission holds files alone")
        there.add(inside)
    try:
        listed = set(read_object(folder / MANIFEST, DamagedError)["manifest"]["files"])
        for name in listed:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise DamagedError(f"{folder}: its {MANIFEST} names {name!r}, which is outside it")
        unknown = sorted(there - listed - {MANIFEST})
        if unknown:
            raise DamagedError(f"{folder}: {unknown[0]} is not in its {MANIFEST}; it was added later")
        check_sealed(folder)
    except _BROKEN as error:
        if isinstance(error, TextGymError):
            raise
        raise DamagedError(f"{folder} is damaged: its {MANIFEST} is none ({error!r})") from error
    return (folder / MANIFEST).read_bytes()


def _read(folder: Path, sealed: str) -> Submission:
    content = read_object(folder / SUBMISSION)
    if content["format"] != FORMAT:
        raise DataError(f"{folder} has format {content['format']!r}; this version reads {FORMAT}")
    for name, longest in (("name", LONGEST_NAME), ("author", LONGEST_NAME), ("note", LONGEST_NOTE)):
        if not isinstance(content[name], str) or len(content[name]) > longest:
            raise DataError(f"{folder}: its {name} is no text of at most {longest} characters")
    texts = [*content["versions"].values(), content["command"], *content["contest"]["contents"].values()]
    if any(not isinstance(text, str) for text in texts):
        raise DataError(f"{folder}: its versions, command or hashes are no texts")
    dict(content["machine"]), dict(content["contest"]["settings"])
    _check_reward(folder, content)
    cells = [_read_cell(file, content) for file in sorted((folder / CELLS).iterdir())]
    if read_json(folder / ROWS) != [c.row for c in cells]:
        raise DataError(f"{folder}: its {ROWS} does not hold the rows of its cells")
    contest = content["contest"]
    wanted = [(o, b, s) for o, b in contest["grid"] for s in contest["seeds"]]
    found = [(c.setting.optimiser, c.setting.kl_coefficient, c.row["seed"]) for c in cells]
    if not wanted or sorted(map(repr, wanted)) != sorted(map(repr, found)):
        missing = [w for w in wanted if w not in found]
        raise DataError(
            f"{folder}: it has {len(found)} cells, and its settings and seeds make {len(wanted)}"
            + (f"; missing is {missing[0]}" if missing else "; some are there twice or belong to others")
        )
    order = {key: i for i, key in enumerate(wanted)}
    cells.sort(key=lambda c: order[(c.setting.optimiser, c.setting.kl_coefficient, c.row["seed"])])
    if len({(c["gold_start"], c["gold_std_start"], c["length_start"]) for c in cells}) > 1:
        raise DataError(f"{folder}: its runs start at different gold, though all start from the same texts")
    about = {**content["design"], "description": ""}
    summary = summarised({"designs": [about]}, cells)
    _check_summary(folder, content["summary"], summary)
    json.dumps(contest, allow_nan=False)
    return Submission(folder, content, cells, summary, _validation(folder), sealed)


def _check_reward(folder: Path, content: Mapping[str, Any]) -> None:
    """Check that the reward's files are those it was optimised as."""
    reward, design = content["reward"], content["design"]
    spec = reward["spec"]
    if not isinstance(design["name"], str) or len(design["name"]) > LONGEST_NAME:
        raise DataError(f"{folder}: the name of its design is no short text")
    if spec is None:
        suite = DESIGNS.get(design["name"])
        if suite is None or suite.fingerprint != design["fingerprint"]:
            raise DataError(f"{folder}: it carries no reward, and {design['name']!r} is none of text-gym's")
        return
    if not spec.startswith(f"{REWARD}/"):
        if reward["content"] or "/" in spec or ":" in spec:
            raise DataError(f"{folder}: it does not carry its reward {spec!r}")
        return
    place = split_place(spec)
    if digest_of_files(folder / (spec if place is None else place[0])) != reward["content"]:
        raise DataError(f"{folder}: {spec} is not the reward that was optimised (hash of its files)")


def _read_cell(file: Path, content: Mapping[str, Any]) -> CellResult:
    """Read a cell and check that its row is the end of its curve."""
    found = read_object(file)
    check_cell_numbers(found, str(file))
    cell = CellResult(found["row"], found["curve"], found["samples"])
    row, curve, contest = cell.row, cell.curve, content["contest"]
    if row["task"] != contest["task"] or row["design"] != content["design"]["name"]:
        raise DataError(f"{file}: a cell of another task or design")
    if type(row["seed"]) is not int:
        raise DataError(f"{file}: its seed is {row['seed']!r}")
    best = max(p["gold"] for p in curve)
    for name, value in [
        *((k, curve[-1][k]) for k in ("gold", "proxy", "kl_nats", "length")),
        ("gold_best", best),
    ]:
        if not _same(row[name], value):
            raise DataError(f"{file}: {name} is {row[name]!r} in its row and {value!r} by its curve")
    steps = [p["step"] for p in curve]
    if row["optimiser"] == BEST_OF_N:
        most = contest["settings"]["candidates"]
        doubling = [2**i for i in range(int(most).bit_length())]
        if steps != doubling or any(not _same(p["kl_nats"], best_of_n_kl_bound(p["step"])) for p in curve):
            raise DataError(f"{file}: its KL is not that of best-of-n")
    elif steps[0] != 0 or steps[-1] != contest["settings"]["iterations"] or steps != sorted(set(steps)):
        raise DataError(f"{file}: its curve does not go from 0 to the last iteration")
    return cell


def _check_summary(folder: Path, said: Mapping[str, Any], computed: Mapping[str, Any]) -> None:
    mine, known = _flat(said), _flat(json.loads(json.dumps(computed)))
    for name in sorted({*mine, *known}):
        a, b = mine.get(name), known.get(name)
        if isinstance(b, float) and math.isnan(b):
            b = None  # as JSON writes it
        if a != b and not (isinstance(a, (int, float)) and isinstance(b, (int, float)) and _same(a, b)):
            raise DataError(f"{folder}: its summary says {name} = {_short(a)}, and its rows give {_short(b)}")


def _validation(folder: Path) -> ValidationReport | None:
    if not (folder / VALIDATION).is_file():
        return None
    report = read_object(folder / VALIDATION)
    found = None if "not_validated" in report else report_from(report)
    if found is not None:
        _ = found.levels  # which fails for checks that this version does not know
    return found


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=SAME, abs_tol=SAME)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested objects and lists as one object, names and places joined by points."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, inside in value.items():
        found |= _flat(inside, f"{prefix}.{name}" if prefix else str(name))
    return found


def _short(value: Any) -> str:
    return harmless(repr(value), limit=120)
