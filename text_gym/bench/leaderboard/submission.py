"""Makes a submission: one sealed folder with all that one design of a finished benchmark rests on.

The rows are copied, never the averages alone: whoever ranks submissions computes those again (`checking`).
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from text_gym.bench.analysis.outcomes import hardest, outcome
from text_gym.bench.analysis.results import CellResult, Results, is_current
from text_gym.bench.analysis.runs import mean_of
from text_gym.bench.analysis.statistics import aggregate, mean
from text_gym.bench.matrix.budgets import budget_settings, coefficients
from text_gym.bench.matrix.designs import DESIGNS, Design, load_design
from text_gym.bench.matrix.recipes import Given
from text_gym.errors import ConfigError, DataError, NonFiniteError, TextGymError
from text_gym.json_text import read_object
from text_gym.runs.folder import read_config
from text_gym.runs.record import read_record
from text_gym.utils.display import harmless
from text_gym.utils.json_files import write_json
from text_gym.utils.sealed import write_sealed
from text_gym.utils.user_code import file_of, split_place
from text_gym.validation.targets import ValidationRequest, validate_target

FORMAT = 1
SUBMISSION, VALIDATION, ROWS = "submission.json", "validation.json", "results.json"
CELLS, REWARD = "cells", "reward"
LONGEST_NAME, LONGEST_NOTE = 60, 1000  # characters
LEVELS = (0, 1, 2)  # of `validate`: seconds, not minutes
NUMBERS = (
    "gold", "gold_start", "gold_std_start", "gold_best", "proxy", "proxy_start", "proxy_std_start",
    "kl_nats", "length", "length_start",
)  # fmt: skip
ALONG = ("step", "gold", "proxy", "kl_nats", "length")


@dataclass(frozen=True)
class Entrant:
    """The words that come with a submission.

    Args:
        name: Of the submission, on the leaderboard.
        author: Whose it is.
        note: A few sentences on the reward.
    """

    name: str
    author: str
    note: str = ""

    def __post_init__(self) -> None:
        for what, text, longest in (
            ("name", self.name, LONGEST_NAME),
            ("author", self.author, LONGEST_NAME),
            ("note", self.note, LONGEST_NOTE),
        ):
            if len(text) > longest:
                raise ConfigError(f"the {what} has {len(text)} characters; at most {longest} are allowed")
            if what != "note" and not text.strip():
                raise ConfigError(f"the {what} is empty; say how the leaderboard is to call it")
            if harmless(text, newlines=True) != text:
                raise ConfigError(f"the {what} {harmless(text)!r} holds control characters; leave them out")


def write_submission(
    run: str | Path,
    design: str,
    entrant: Entrant,
    out: str | Path,
    *,
    reward: str = "",
    validate: bool = True,
) -> Path:
    """Make a submission of one design of a finished benchmark.

    Args:
        run: Folder of `bench rewards`.
        design: Name of the design there.
        entrant: Name, author and note.
        out: Folder to write; nothing may be there.
        reward: Where your own reward is now, if the benchmark's folder does not say so.
        validate: Run levels 0 to 2 of `validate` on a reward of your own, and carry the report.

    Raises:
        ConfigError: `run` is no benchmark of rewards, lacks the design or cells of it, or has optimisers of
            the user's own; `out` exists; the reward is not the one that was optimised.
        DataError: A cell cannot be read.
        NonFiniteError: A result is not finite.
    """
    run, out = Path(run), Path(out)
    if out.exists():
        raise ConfigError(f"{out} exists already; choose another --out")
    config = read_config(run)
    about = _design_of(run, config, design)
    contents = _cells_of(run, config, design)
    cells = [CellResult(c["row"], c["curve"], c["samples"]) for c in contents.values()]
    grid, seeds = _complete(config, design, cells)
    own = _own_reward(about, reward)
    content = {
        "format": FORMAT,
        "name": entrant.name,
        "author": entrant.author,
        "note": entrant.note,
        "design": {k: about.get(k) for k in ("name", "group", "tree", "traits", "fingerprint")},
        "reward": {"spec": None, "content": ""}
        if own is None
        else {"spec": _carried(own), "content": own.content},
        **_contest(run, config, grid, seeds),
        "command": _command(about, own, config, grid, seeds),
        "summary": summarised(config, cells),
    }
    report = _validated(own, str(config["task"])) if validate and own is not None else None

    def fill(partial: Path) -> None:
        (partial / CELLS).mkdir()
        for file, cell in contents.items():
            write_json(partial / CELLS / file, cell)
        write_json(partial / ROWS, [cell["row"] for cell in contents.values()])  # for `bench compare`
        if own is not None:
            _carry(own, partial)
        if report is not None:
            write_json(partial / VALIDATION, report)
        write_json(partial / SUBMISSION, content)

    write_sealed(out, fill, {"what": "submission of a reward", "format": FORMAT})
    return out


def summarised(config: Mapping[str, Any], cells: Sequence[CellResult]) -> dict[str, Any]:
    """Compute what a leaderboard says of one design, from its cells alone; plain data.

    Gold at the end, its fall from the best point of the mean curve, and KL, are of the hardest optimisation:
    the smallest KL coefficient, or the best of most texts; a mean over optimisers. Gold has its percentile
    bootstrap interval over seeds.
    """
    results = Results(config, cells)
    pressed = hardest(results, results.designs[0])
    assert pressed is not None  # there are cells
    finding = outcome(results, pressed)
    beta = pressed.cells[0].setting.kl_coefficient
    strata = [{c.row["seed"]: c["gold"] for c in group} for group in pressed.strata]
    golds = [c["gold"] for c in pressed.cells]
    return {
        "hardest": f"the best of {pressed.cells[0]['n']:g} texts" if beta is None else f"β = {beta:g}",
        "gold": aggregate(strata, mean).summary(),
        "gold_start": mean_of(pressed.strata, "gold_start").value,
        "worst": min(golds),
        "fall": pressed.fall.value,
        "kl_nats": mean_of(pressed.strata, "kl_nats").value,
        "own_gain": mean_of(pressed.strata, "proxy_gain").value,
        "hacked_runs": len(pressed.hacked),
        "runs": len(pressed.cells),
        "answer": finding.answer,
        "statement": finding.statement,
        "alarm": finding.alarm,
    }


def check_cell_numbers(content: Mapping[str, Any], where: str) -> None:
    """Check that a cell's numbers that count are numbers, and finite.

    Raises:
        NonFiniteError: One is missing, no number, or not finite; it is named.
    """
    points = [(f"point {i} of the curve", p, ALONG) for i, p in enumerate(content["curve"])]
    for what, row, names in (("the row", content["row"], NUMBERS), *points):
        for name in names:
            value = row.get(name)
            real = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not real or abs(value) > 1e15 or not math.isfinite(value):
                raise NonFiniteError(
                    f"{where}: {name} in {what} is {value!r}, not a finite number; a reward that scores no "
                    "text has no place on a leaderboard"
                )


def _design_of(run: Path, config: Mapping[str, Any], design: str) -> Mapping[str, Any]:
    """Return what a benchmark says about a design that can be submitted."""
    missing = [k for k in ("settings", "contents", "optimiser_settings", "seeds") if k not in config]
    if config.get("what") != "rewards" or missing or len(config.get("tasks", ())) != 1:
        raise ConfigError(
            f"{run} holds no benchmark of rewards on one task by this version; run `bench rewards`"
        )
    if config.get("algorithms"):
        raise ConfigError(
            f"{run} has optimisers of your own, which nobody else has: run the benchmark's only"
        )
    known = {d["name"]: d for d in config["designs"]}
    if design not in known:
        raise ConfigError(f"{run} has no design {design!r}; it has {', '.join(known)}")
    return dict(known[design])


def _cells_of(run: Path, config: Mapping[str, Any], design: str) -> dict[str, dict[str, Any]]:
    """Read a design's current cells by their files' names, and check their numbers."""
    found = {}
    for file in sorted((run / "cells").glob("*.json")):
        content = read_object(file, DataError, "delete it and give the benchmark's command again")
        try:
            if content["row"]["design"] != design or not is_current(content, config):
                continue
            check_cell_numbers(content, str(file))
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{file} is no cell of a benchmark ({error!r}); delete it and run it again"
            ) from error
        found[file.name] = content
    if not found:
        raise ConfigError(
            f"{run} has no finished cell of the design {design!r}; run the benchmark to its end"
        )
    return found


def _contest(
    run: Path, config: Mapping[str, Any], grid: Sequence[Any], seeds: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Say what the design was optimised on, by which versions and where.

    Raises:
        ConfigError: The benchmark's folder does not tell the versions.
    """
    record = read_record(run)
    if record is None:
        raise ConfigError(f"{run} does not say with which versions it was run; run the benchmark anew")
    versions = {k: str(v) for k, v in record["conditions"].items()}
    if record["accepted"]:
        versions["changes accepted on the way"] = json.dumps(record["accepted"], ensure_ascii=False)
    task = str(config["task"])
    return {
        "contest": {
            "task": task,
            "settings": {k: v for k, v in config["settings"][task].items() if k != "policy"},
            "contents": config["contents"][task],
            "optimisers": {o: config["optimiser_settings"][o] for o in sorted({o for o, _ in grid})},
            "grid": list(grid),
            "seeds": list(seeds),
            "text-gym": versions["version of text-gym"],
        },
        "versions": {**versions, "python": str(config.get("machine", {}).get("python", "unknown"))},
        "machine": config.get("machine", {}),
    }


def _complete(
    config: Mapping[str, Any], design: str, cells: Sequence[CellResult]
) -> tuple[list[list[Any]], list[int]]:
    """Return the settings of a design (optimiser and β) and the seeds, if all have all of them.

    Raises:
        ConfigError: Cells are missing; some are named.
    """
    there = {(c.setting.optimiser, c.setting.kl_coefficient) for c in cells}
    whole = {
        (optimiser, beta)
        for optimiser in config["optimisers"]
        for beta in coefficients(optimiser, config["kl_coefficients"])
    }
    plan = budget_settings(str(config["budget"]), design, str(config["task"]))
    expected = there | (plan if plan <= whole else whole)  # other optimisers were asked for than the budget's
    runs = {(c.setting.optimiser, c.setting.kl_coefficient, c.row["seed"]) for c in cells}
    seeds = sorted(config["seeds"])
    grid = sorted(expected, key=lambda s: (s[0], -1.0 if s[1] is None else s[1]))
    missing = [
        f"{o}{'' if b is None else f' · β {b:g}'} · seed {seed}"
        for o, b in grid
        for seed in seeds
        if (o, b, seed) not in runs
    ]
    if missing:
        rest = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ConfigError(
            f"{len(missing)} cells of {design!r} are not finished ({'; '.join(missing[:3])}{rest}); give the "
            "benchmark's command again, and submit when it is done"
        )
    return [list(s) for s in grid], seeds


def _own_reward(about: Mapping[str, Any], reward: str) -> Given | None:
    """Return the user's reward if it is the one that was optimised; None for a design of the suite.

    Raises:
        ConfigError: It was changed since, or nobody can say where it is.
    """
    name, fingerprint = str(about["name"]), about["fingerprint"]
    suite = DESIGNS.get(name)
    if suite is not None and suite.fingerprint == fingerprint:
        return None
    said = str(about.get("description", ""))
    spec = reward or (said.removeprefix("your own: ") if said.startswith("your own: ") else "")
    spec = spec.removeprefix(f"{name}=")
    if not spec:
        raise ConfigError(f"where is the reward of {name!r}? Give --reward FILE.py:FUNCTION, or its folder")
    try:
        found: Design = load_design(f"{name}={spec}")
    except TextGymError as error:
        raise ConfigError(f"the reward of {name!r}: {error}; say where it is by --reward") from error
    if found.fingerprint != fingerprint:
        raise ConfigError(
            f"{spec} is not the reward that was optimised as {name!r}: it was changed or moved since; "
            "run the benchmark again with it as it is now"
        )
    assert isinstance(found.make, Given)
    return found.make


def _carried(own: Given) -> str:
    """Return where a reward is inside the submission; a name of text-gym's own stays what it is."""
    place = split_place(own.spec)
    if place is not None:
        return f"{REWARD}/{_file_of(own).name}:{place[1]}"
    return f"{REWARD}/{Path(own.spec).name}" if Path(own.spec).is_dir() else own.spec


def _file_of(own: Given) -> Path:
    file = file_of(own.spec.rpartition(":")[0])
    if file is None:
        raise ConfigError(f"{own.spec} is in no file that could be sent along; move it into one")
    return Path(file)


def _carry(own: Given, partial: Path) -> None:
    """Copy the reward's file or folder."""
    if split_place(own.spec) is not None:
        (partial / REWARD).mkdir()
        shutil.copyfile(_file_of(own), partial / REWARD / _file_of(own).name)
    elif Path(own.spec).is_dir():
        shutil.copytree(own.spec, partial / REWARD / Path(own.spec).name)


def _command(
    about: Mapping[str, Any],
    own: Given | None,
    config: Mapping[str, Any],
    grid: Sequence[Sequence[Any]],
    seeds: Sequence[int],
) -> str:
    """Return the command that, given in the submission's folder, runs the same cells (and no others)."""
    name, task = str(about["name"]), str(config["task"])
    settings = config["settings"][task]
    words = ["text-gym", "bench", "rewards", "--task", task]
    words += ["--only", name] if own is None else ["--design", f"{name}={_carried(own)}", "--only"]
    words += ["--optimisers", *dict.fromkeys(str(o) for o, _ in grid)]
    betas = sorted({b for _, b in grid if b is not None})
    words += ["--kl-coefficients", *(f"{b!r}" for b in betas)] if betas else []
    words += ["--seeds", *map(str, seeds), "--iterations", str(settings["iterations"]), "--out", "rerun"]
    words += ["--policy", Path(settings["policy"]).name] if settings.get("policy") else []
    return shlex.join(words)


def _validated(own: Given, task: str) -> dict[str, Any]:
    """Validate a reward; where that is not possible, the reason."""
    request = ValidationRequest(own.spec, task=task, options={"levels": LEVELS})
    try:
        return dict(json.loads(json.dumps(validate_target(request)[0].summary(), default=str)))
    except TextGymError as error:
        return {"not_validated": str(error)}
