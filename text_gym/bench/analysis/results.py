"""Reads a benchmark's results: the cells of a folder, or the rows of a leaderboard file.

Only reading and ordering; statistics of several runs stand elsewhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from text_gym.data import read_rows
from text_gym.episode import FloatArray
from text_gym.errors import DataError, excerpt
from text_gym.runs.folder import read_config

KEY = ("task", "design", "optimiser", "kl_coefficient", "seed")  # these columns identify a row
_UPPER = ("ppo", "grpo", "rloo", "reinforce", "dpo")
_NO_RL = ("dpo", "distillation")  # they train a policy on texts it wrote, by maximum likelihood and by pairs
_TEXTS = {"task", "design", "group", "optimiser", "kl_kind", "null_rulers"}
Row = Mapping[str, Any]


class Setting(NamedTuple):
    """The key shared by cells that differ only in the seed; `kl_coefficient` is None for best-of-n."""

    task: str
    design: str
    optimiser: str
    kl_coefficient: float | None

    def __str__(self) -> str:
        beta = "" if self.kl_coefficient is None else f", β = {self.kl_coefficient:g}"
        return f"{self.design}, {optimiser_name(self.optimiser)}{beta}"


@dataclass(frozen=True)
class CellResult:
    """One run: its row, its curve (a point per measurement, the start first) and samples of its texts.

    `rollouts` is the page about its rollouts, a path in the folder, where some were kept.
    """

    row: Row
    curve: Sequence[Row]
    samples: Sequence[Mapping[str, Any]]
    rollouts: str | None = None

    @property
    def setting(self) -> Setting:
        """The key without the seed."""
        return setting_of(self.row)

    def __getitem__(self, column: str) -> float:
        """Return a measure of the row; NaN if it is missing."""
        return json_number(self.row.get(column))

    def along(self, measure: str) -> FloatArray:
        """Return a measure along the curve, `(K,)`."""
        return json_numbers(point.get(measure) for point in self.curve)


@dataclass(frozen=True)
class Results:
    """The finished cells of a benchmark, in the order of its configuration.

    Args:
        config: What it was started with.
        cells: In the order of tasks, designs, optimisers, KL coefficients, seeds.
    """

    config: Mapping[str, Any]
    cells: Sequence[CellResult]

    @cached_property
    def settings(self) -> dict[Setting, list[CellResult]]:
        """Group the runs by setting."""
        found: dict[Setting, list[CellResult]] = {}
        for cell in self.cells:
            found.setdefault(cell.setting, []).append(cell)
        return found

    @property
    def designs(self) -> list[str]:
        """The designs that have cells."""
        return list(dict.fromkeys(s.design for s in self.settings))

    def coefficients(self, design: str) -> list[float]:
        """Return the KL coefficients at which a design was optimised by a policy, in ascending order."""
        found = {s.kl_coefficient for s in self.settings if s.design == design}
        return sorted(b for b in found if b is not None)

    def trained(self, design: str, beta: float) -> list[list[CellResult]]:
        """Group a design's runs at a KL coefficient by optimiser (and task)."""
        return [c for s, c in self.settings.items() if (s.design, s.kl_coefficient) == (design, beta)]

    def about(self, design: str) -> Mapping[str, Any]:
        """Return what the configuration says about a design: description, group, tree and traits."""
        known: Sequence[Mapping[str, Any]] = self.config.get("designs") or ()
        return next((d for d in known if d["name"] == design), {})

    def traits(self, design: str) -> Mapping[str, Any]:
        """Return the traits in which designs are compared, e.g. `{"kind": "learned", "opinions": 512}`."""
        return dict(self.about(design).get("traits") or {})


def is_current(content: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Return True if a cell's design and algorithm are those that have these names now.

    Args:
        content: Of the cell's file.
        config: Of the benchmark. What it does not know is taken as it is.
    """
    row = content["row"]
    designs = {d["name"]: d.get("fingerprint") for d in config.get("designs") or ()}
    codes = {name: own["content"] for name, own in (config.get("algorithms") or {}).items()}
    design, code = designs.get(row["design"]), codes.get(row["optimiser"])
    return design in (None, content.get("fingerprint")) and code == content.get("code")


def read_results(folder: str | Path) -> Results:
    """Read a benchmark's finished cells, whole or not, but those of earlier designs and algorithms.

    Raises:
        ConfigError: There is no benchmark.
        DataError: It has no finished cell, or one that cannot be read.
    """
    folder = Path(folder)
    config = read_config(folder)
    read = [_read_cell(file, config) for file in sorted((folder / "cells").glob("*.json"))]
    cells = [cell for cell in read if cell is not None]
    if not cells:
        raise DataError(f"{folder} has no finished cell; run the benchmark first")
    designs = [d["name"] for d in config.get("designs") or ()]
    optimisers = list(config.get("optimisers") or ())

    def place(cell: CellResult) -> tuple[Any, ...]:
        task, design, optimiser, beta = cell.setting
        return (
            task,
            _index(designs, design),
            design,
            _index(optimisers, optimiser),
            optimiser,
            -1.0 if beta is None else beta,
            cell["seed"],
        )

    return Results(config, sorted(cells, key=place))


def read_leaderboard(path: str | Path, metric: str = "gold") -> list[dict[str, Any]]:
    """Read rows from a folder, `results.json` or `results.csv`, with numbers as floats and None for blanks.

    Args:
        path: Folder or file.
        metric: A column that has to be there.

    Raises:
        DataError: It is no such file, a column is missing, a number is none, or two rows have one key.
    """
    path = Path(path)
    if path.is_dir() and not (path / "results.json").is_file():
        raise DataError(f"{path} holds no results.json; is it the folder of a benchmark?")
    file = path / "results.json" if path.is_dir() else path
    if file.suffix.lower() not in {".json", ".csv"}:
        raise DataError(f"{file}: give the folder of a benchmark, its results.json or its results.csv")
    rows = [_typed(row, f"{file}, row {i}") for i, row in enumerate(read_rows(file), 1)]
    seen: dict[tuple[Any, ...], int] = {}
    for i, row in enumerate(rows, 1):
        missing = [name for name in (*KEY, metric) if name not in row]
        if missing:
            known = ", ".join(row)
            raise DataError(f"{file}, row {i}: there is no column {missing[0]!r}; it has {known}")
        first = seen.setdefault(tuple(row[name] for name in KEY), i)
        if first != i:
            raise DataError(f"{file}: rows {first} and {i} are of the same {', '.join(KEY)}")
    return rows


def rollouts_page(key: str) -> str:
    """Return the place, in the folder, of the page about the rollouts of the cell with this key."""
    return f"rollouts/{key}.html"


def setting_of(row: Row) -> Setting:
    """Return the setting of a row."""
    beta = row["kl_coefficient"]
    return Setting(
        str(row["task"]), str(row["design"]), str(row["optimiser"]), None if beta is None else float(beta)
    )


def json_number(value: Any) -> float:
    """Return a JSON number as a float; NaN for null and for anything else."""
    return float(value) if isinstance(value, (int, float)) else math.nan


def json_numbers(values: Iterable[Any]) -> FloatArray:
    """Return JSON numbers as an array `(n,)`, NaN for null."""
    return np.array([json_number(v) for v in values], dtype=np.float64)


def optimiser_name(optimiser: str) -> str:
    """Return an optimiser's name as the field writes it.

    >>> optimiser_name("best_of_n"), optimiser_name("sb3.ppo"), optimiser_name("Mine")
    ('best-of-n', 'SB3 PPO', 'Mine')
    """
    if optimiser in ("best_of_n", "distillation"):
        return "best-of-n" if optimiser == "best_of_n" else "best-of-n distillation"
    ours = optimiser in _UPPER or optimiser.startswith("sb3.")
    return optimiser.upper().replace("SB3.", "SB3 ") if ours else optimiser


def is_reinforcement_learning(setting: Setting) -> bool:
    """Return True if a policy was trained by reinforcement learning, not chosen from, distilled or by DPO."""
    return setting.kl_coefficient is not None and setting.optimiser not in _NO_RL


def _read_cell(file: Path, config: Mapping[str, Any]) -> CellResult | None:
    """A cell; None for one that is not of today's design or algorithm."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        current = is_current(content, config)
        page = rollouts_page(file.stem)
        kept = page if (file.parent.parent / page).is_file() else None
        cell = CellResult(content["row"], content.get("curve") or [], content.get("samples") or [], kept)
        missing = [name for name in KEY if name not in cell.row]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is no cell of a benchmark ({error!r}); delete it to run it again") from error
    if missing:
        raise DataError(f"{file} is not a cell of a benchmark: its row lacks {missing[0]!r}")
    return cell if current else None


def _typed(row: Row, where: str) -> dict[str, Any]:
    """Convert a CSV row, which holds only strings."""
    result: dict[str, Any] = {}
    for name, value in row.items():
        if value is None or value == "":
            result[name] = None
        elif name in _TEXTS or isinstance(value, (dict, list)):
            result[name] = value
        else:
            try:
                result[name] = float(value)
            except (TypeError, ValueError, OverflowError):
                result[name] = value
                if name in KEY:
                    raise DataError(f"{where}: {name} is {excerpt(str(value))}, not a number") from None
    for name in KEY:
        if isinstance(result.get(name), (dict, list)):
            raise DataError(f"{where}: {name} is {excerpt(repr(result[name]))}, neither a text nor a number")
    return result


def _index(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)
