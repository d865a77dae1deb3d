"""The folder of a benchmark: settings, finished cells and results; it can be extended and resumed.

Files appear as a whole or not at all, and what is missing has yet to be made. Nothing is computed here.
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from text_gym.bench.analysis.results import is_current
from text_gym.bench.gold.start_policy import POLICY
from text_gym.errors import ConfigError
from text_gym.runs.conditions import software
from text_gym.runs.folder import read_config
from text_gym.runs.record import RECORD, go_on, start_record
from text_gym.utils.json_files import write_json
from text_gym.utils.locking import LOCK, FolderLock
from text_gym.utils.sealed import write_atomic

SETTINGS = "config.json"
# Lists that may grow from command to command; everything else stays, or is the last command's.
_GROWING = ("tasks", "optimisers", "kl_coefficients", "seeds")
_OF_THE_LAST = ("budget", "command", "machine", "designs", "task")
# What there may be without settings: a process was killed that had just begun.
_BEFORE_SETTINGS = {LOCK, RECORD, f".{RECORD}.partial", f".{SETTINGS}.partial", POLICY, f".{POLICY}.partial"}
_BY_NAME = ("settings", "optimiser_settings", "contents")  # what has a name in both has to be the same


class BenchFolder:
    """A benchmark's folder, held by one process at a time; a context manager.

    Args:
        path: Where; made if need be.
        config: The settings, as in `config.json`; what is there already is extended.
        accept_changes: Go on with other versions of PyTorch, `transformers` or text-gym.

    Attributes:
        config: The settings with those of earlier commands.
        changes: Notes on what is not as the benchmark was started.

    Raises:
        ConfigError: Another process is at work there, or the folder holds something else, or a benchmark with
            other settings, prompts or policies; what differs is named.
        ChangedRunError: It was started with other versions, which were not accepted.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], *, accept_changes: bool = False) -> None:
        self.path = Path(path)
        check_is_benchmark(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.path)
        try:
            given = json.loads(json.dumps(config))
            exists = (self.path / SETTINGS).exists()
            self.config = extended(read_config(self.path), given, self.path) if exists else given
            libraries = ("stable-baselines3",) if "sb3.ppo" in self.config.get("optimisers", ()) else ()
            used, self.changes = software(libraries), list[str]()
            if exists:
                accepted = {"accept_changes": accept_changes, "growing": True}
                self.changes = go_on(self.path, {}, used, **accepted)
            else:
                start_record(self.path, {}, used)
            self.config.setdefault("machine", machine())
            self.save()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> BenchFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def save(self) -> None:
        """Write `config.json`."""
        write_json(self.path / SETTINGS, self.config)

    def note(self, row: Mapping[str, Any]) -> None:
        """Append a line to `timings.jsonl`, which holds what varies from run to run."""
        with (self.path / "timings.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")

    def log(self, text: str) -> None:
        """Append to `log.txt`."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text.rstrip()}\n")

    def describe(self, trees: Mapping[str, str]) -> None:
        """Add each design's make-up to `config.json`."""
        for design in self.config["designs"]:
            design["tree"] = trees.get(design["name"], design.get("tree"))
        self.save()

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of all finished cells of the current designs and algorithms, in canonical order."""
        contents = (
            json.loads(file.read_text(encoding="utf-8")) for file in (self.path / "cells").glob("*.json")
        )
        rows = [cell["row"] for cell in contents if is_current(cell, self.config)]
        designs = [d["name"] for d in self.config["designs"]]
        orders = [designs, self.config["tasks"], self.config["optimisers"]]

        def place(row: dict[str, Any]) -> tuple[Any, ...]:
            names = (row["design"], row["task"], row["optimiser"])
            numbers = [order.index(name) for order, name in zip(orders, names, strict=True)]
            return (*numbers, -1.0 if row["kl_coefficient"] is None else row["kl_coefficient"], row["seed"])

        return sorted(rows, key=place)

    def write_results(self) -> list[dict[str, Any]]:
        """Write `results.json` and `results.csv`, and return the rows."""
        rows = self.rows()
        write_json(self.path / "results.json", rows)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_in_table(row.get(name)) for name in columns])
        write_atomic(self.path / "results.csv", text.getvalue())
        return rows


def check_is_benchmark(path: Path) -> None:
    """Refuse a folder that is neither new nor that of a benchmark.

    Raises:
        ConfigError: It holds something else.
    """
    held = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if SETTINGS not in held and not held <= _BEFORE_SETTINGS:
        raise ConfigError(f"{path} holds something other than a benchmark; choose another --out")


def extended(found: Mapping[str, Any], given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Combine a folder's settings with those of a new command on it.

    Raises:
        ConfigError: They contradict each other.
    """
    result = dict(found)
    for name, value in given.items():
        if name in _GROWING:
            result[name] = _united(found.get(name, []), value)
        elif name == "designs":
            own = {d["name"]: d for d in value}
            known = {d["name"]: d for d in found.get(name, [])}
            result[name] = [_united_design(known.get(n), own.get(n)) for n in {**known, **own}]
        elif name == "algorithms":
            result[name] = {**found.get(name, {}), **value}
        elif name in _BY_NAME:
            for key in set(value) & set(found.get(name, {})):
                _refuse(f"{name.replace('_', ' ')} of {key}", found[name][key], value[key], path)
            result[name] = {**found.get(name, {}), **value}
        elif name not in _OF_THE_LAST:
            _refuse(name, found.get(name), value, path)
        elif name != "machine":
            result[name] = value
    return result


def machine() -> dict[str, Any]:
    """Describe the machine the results were made on."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "unknown"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch,
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _united(found: Sequence[Any], given: Sequence[Any]) -> list[Any]:
    together = list(dict.fromkeys([*found, *given]))
    return sorted(together) if all(isinstance(v, (int, float)) for v in together) else together


def _united_design(known: dict[str, Any] | None, given: dict[str, Any] | None) -> dict[str, Any]:
    """Merge a design's old and new configuration, keeping the tree of an unchanged design."""
    if given is None or known is None:
        return dict(given or known or {})
    same = known["fingerprint"] == given["fingerprint"]
    return {**given, "tree": known.get("tree") if same else None}


def _refuse(name: str, found: Any, given: Any, path: Path) -> None:
    if found == given:
        return
    if isinstance(found, dict) and isinstance(given, dict):
        name, found, given = next(
            (f"{name}: {k}", found.get(k), given.get(k))
            for k in {**found, **given}
            if found.get(k) != given.get(k)
        )
    raise ConfigError(
        f"{path} holds a benchmark with {name} = {found!r}, not {given!r}; rows of both could not be "
        "compared: choose another --out, or leave the setting as it was"
    )


def _in_table(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
