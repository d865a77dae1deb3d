"""The folder of a run: configuration, metrics, summary, samples, curves and the policy.

Everything a run leaves is plain text, PNG, safetensors or TensorBoard events; nothing is pickled.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from text_gym.agents.own_algorithms import short_name
from text_gym.errors import ConfigError, DataError, did_you_mean
from text_gym.json_text import parse_json, read_object
from text_gym.plot.canvas import panels, save
from text_gym.plot.lines import Line, curves, reward_and_gold
from text_gym.plot.style import empty
from text_gym.utils.display import started_by_torchrun
from text_gym.utils.json_files import _finite, write_json
from text_gym.utils.locking import FolderLock
from text_gym.utils.sealed import naming_full_disk, write_atomic

from .loggers import LogName, MetricsLogs
from .record import check_changes, differences, go_on, start_record

LOG = logging.getLogger("text_gym")

Metrics = Mapping[str, float]
# Prompt, text before, its rewards by name, text after, its rewards.
Sample: TypeAlias = tuple[str, str, Mapping[str, float], str, Mapping[str, float]]

# Panels of curves.png: title, unit of the vertical axis, metrics drawn.
PANELS = (
    ("Reward", "reward per episode", ("reward",)),
    ("Criteria", "mean per episode", ("reward/",)),
    ("KL to the reference policy", "nats per episode", ("kl",)),
    ("Length", "completion tokens", ("length",)),
)
# The same for a run on preference pairs.
PAIR_PANELS = (
    ("Loss", "nats per pair", ("loss",)),
    ("Accuracy", "share of pairs whose chosen text is ahead", ("accuracy",)),
    ("Margin", "implicit reward, chosen minus rejected", ("margin",)),
    ("Implicit rewards", "β·log(policy / reference)", ("reward_chosen", "reward_rejected")),
)

_README = """# A training run of text-gym

| file | what it is |
|---|---|
| `config.json` | the settings that the run was started with |
| `started_with.json` | what else it was started with: hashes of reward and data, versions; signed by you |
| `metrics.jsonl` | a row an iteration: reward, KL (nats per episode), length (tokens), losses, seconds |
| `events.out.tfevents…` | the same rows for TensorBoard: `tensorboard --logdir` and this folder |
| `wandb`, `wandb-run.txt` | the same rows for Weights & Biases, with `--log wandb`, and the run's id there |
| `curves.png` | reward, KL and length over the iterations; gold too, where another reward was optimised |
| `summary.json` | held-out prompts before and after training; complete unless it says `interrupted` |
| `samples.md` | texts on held-out prompts, before and after |
| `policy` | the trained policy and its model card; `text-gym sample --policy` and `evaluate` take it |
| `rollouts`, `view.html` | episodes of some iterations, token by token, with `--keep-rollouts` |
| `checkpoints` | what `text-gym train --resume` goes on from, and the starting policy (`reference`) |
| `log.txt` | warnings and notes of the run |
| `run.lock` | which process is writing here |
"""


class RunFolder:
    """Writes a run's files, each row as soon as it is made, and locks the folder against other processes.

    Args:
        folder: Where; made if need be.
        config: What the run was started with.
        logs: Where else each row goes as it is made (see `loggers`).
        resume: Go on with the run that is there: its rows are read, and `config` must be its own.
        conditions: What else the results depend on, which must be the same when it is resumed.
        accept_changes: Go on although settings or conditions differ.

    Attributes:
        rows: The metrics of every iteration so far.
        logs: Where else they go.
        changes: Notes on what is not as the run was started.

    Raises:
        ConfigError: The folder is in use by another process, or already holds a run; to be resumed, holds
            none.
        ChangedRunError: To be resumed, it holds a run that was started with something else.
    """

    def __init__(
        self,
        folder: str | Path,
        config: Mapping[str, Any],
        *,
        logs: Sequence[LogName] = ("tensorboard",),
        resume: bool = False,
        conditions: Mapping[str, str] | None = None,
        accept_changes: bool = False,
    ) -> None:
        self.path = Path(folder)
        if resume:
            check_settings(self.path, config, accept_changes)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.path)
        try:
            file = self.path / "metrics.jsonl"
            if not resume:
                check_free(self.path)
            self.logs = MetricsLogs(logs, self.path, config)
            self.changes: list[str] = []
            if not resume:
                (self.path / "README.md").write_text(_README, encoding="utf-8")
                if conditions is not None:
                    start_record(self.path, config, conditions)
            elif conditions is not None:
                self.changes = go_on(self.path, config, conditions, accept_changes=accept_changes)
            if not resume or accept_changes:
                self.write_json("config.json", config)
            self.rows = _read_rows(file)
            self._metrics = file.open("a", encoding="utf-8")
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._metrics.close()  # which writes what a full disk did not take before
        finally:
            try:
                self.logs.close(failed=kind is not None)
            finally:
                self._lock.release()

    def rewind(self, iteration: int) -> None:
        """Drop the rows after this iteration, which are made again; warn of earlier ones that are lost."""
        self._metrics.close()
        self.rows = [row for row in self.rows if row["iteration"] <= iteration]
        lost = iteration - len(self.rows)
        if lost > 0:
            LOG.warning(
                "metrics.jsonl lacks %d of the %d iterations up to the checkpoint: curves.png and seconds "
                "in summary.json are those of the others; the policy and later rows are as they should be",
                lost,
                iteration,
            )
        file = self.path / "metrics.jsonl"
        write_atomic(file, "".join(json.dumps(_finite(row)) + "\n" for row in self.rows))
        self._metrics = file.open("a", encoding="utf-8")

    def log(self, metrics: Metrics) -> None:
        """Append one iteration's metrics.

        Raises:
            NotSavedError: The disk is full.
        """
        self.rows.append(dict(metrics))
        with naming_full_disk(self.path):
            self._metrics.write(json.dumps(_finite(metrics)) + "\n")
            self._metrics.flush()
            self.logs.log(metrics, int(metrics.get("iteration", len(self.rows))))

    def note(self, message: str) -> None:
        """Append a line to `log.txt`."""
        with naming_full_disk(self.path), (self.path / "log.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")

    def sync(self) -> None:
        """Flush the rows to the disk, before a checkpoint that relies on them."""
        with naming_full_disk(self.path):
            os.fsync(self._metrics.fileno())

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file."""
        write_json(self.path / name, content)

    def write_samples(self, samples: Sequence[Sample]) -> None:
        """Write `samples.md`: prompt, text and its rewards before, text and its rewards after."""
        parts = ["# Samples on held-out prompts\n"]
        for i, (prompt, before, scores_before, after, scores_after) in enumerate(samples, 1):
            parts += [f"## {i}\n", fence(prompt), f"Before{named(scores_before)}:\n", fence(before)]
            parts += [f"After{named(scores_after)}:\n", fence(after)]
        # Prompts may hold halves of characters, which have no UTF-8.
        (self.path / "samples.md").write_text("\n".join(parts), encoding="utf-8", errors="replace")

    def draw_curves(self, title: str, reward: str = "reward", first: Metrics | None = None) -> Path:
        """Draw `curves.png`; see the function `draw_curves`."""
        file = self.path / "curves.png"
        draw_curves(self.rows, file, title, reward, first)
        return file


def draw_curves(
    rows: Sequence[Metrics],
    file: str | Path,
    title: str,
    reward: str = "reward",
    first: Metrics | None = None,
) -> None:
    """Draw the panels of a run over its iterations into a PNG: reward, criteria, KL and length.

    Where gold was looked at while another reward was optimised (rows with `gold`), two panels more: gold
    over the iterations, and both over √KL. Over-optimisation shows there as gold that falls while the reward
    rises (Gao et al. 2023, "Scaling laws for reward model overoptimization"). A run on preference pairs has
    panels of its own (`PAIR_PANELS`).

    Args:
        rows: Metrics of the iterations.
        file: Where to.
        title: Above all panels.
        reward: Name of the reward that was optimised.
        first: The look at gold before the first iteration.
    """
    looks = [row for row in ([first] if first else []) + list(rows) if "gold" in row]
    count, columns = (6, 3) if looks else (4, 2)
    figure, places = panels(count, columns=columns, size=(5.2, 3.6), title=title)
    if looks:
        curves(
            [Line([r["iteration"] for r in looks], [r["gold"] for r in looks], colour=1, marks=True)],
            title="Gold (the task's own reward)", x_label="iteration", y_label="mean on held-out prompts",
            ax=places.pop(1),
        )  # fmt: skip
        reward_and_gold(
            [Line([r.get("kl", math.nan) for r in rows], [r["reward"] for r in rows], colour=0,
                  name=f"{reward}, optimised (batches)", style="none", marks=True)],
            [Line([r["gold_kl"] for r in looks], [r["gold"] for r in looks], colour=1, marks=True,
                  name="gold (held-out prompts)")],
            names=(f"{reward}, optimised (batches)", "gold (held-out prompts)"), own_axis=True,
            title="Reward and gold over the distance from the start", ax=places.pop(),
        )  # fmt: skip
    wanted_panels = PAIR_PANELS if any("margin" in row for row in rows) else PANELS
    for ax, (name, unit, wanted) in zip(places, wanted_panels, strict=True):
        keys = [
            k
            for k in dict.fromkeys(name for row in rows for name in row)
            if k in wanted or any(k.startswith(w) and w.endswith("/") for w in wanted)
        ]
        lines = {k.removeprefix("reward/"): [row.get(k, math.nan) for row in rows] for k in keys}
        x = [row["iteration"] for row in rows]
        if lines:
            curves(lines, x=x, title=name, x_label="iteration", y_label=unit, ax=ax)
        else:
            empty(ax, "this reward names no criteria", title=name)
    save(figure, file)


def named(scores: Mapping[str, float]) -> str:
    """Format a text's rewards with their names in brackets; nothing if there are none.

    >>> named({"gold": 0.617, "length": 1.0})
    ' (gold 0.62, length 1.00)'
    """
    shown = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
    return f" ({shown})" if shown else ""


def check_free(folder: str | Path) -> None:
    """Check that a folder holds no run yet.

    Raises:
        ConfigError: It holds one, which a new run would mix with.
    """
    if (Path(folder) / "metrics.jsonl").exists():
        raise ConfigError(
            f"{folder} already holds a run; choose another --out, or go on with it: "
            f"text-gym train --resume {folder}"
        )


def check_settings(folder: str | Path, config: Mapping[str, Any], accept_changes: bool = False) -> None:
    """Check that a folder holds a run with these settings.

    Raises:
        ConfigError: It holds none.
        ChangedRunError: It holds one with others, which were not accepted; they are named.
    """
    check_changes(folder, list(differences(read_config(folder), config)), accept_changes)


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read the settings that the run in a folder was started with.

    Raises:
        ConfigError: There is no run, or its `config.json` cannot be read.
    """
    file = Path(folder) / "config.json"
    if not file.is_file():
        near = "" if Path(folder).is_dir() else did_you_mean(folder)
        raise ConfigError(f"{folder} holds no run: there is no {file.name}{near}")
    return read_object(file, ConfigError, "restore it from a copy, or begin anew")


def _read_rows(file: Path) -> list[dict[str, float]]:
    """Read the complete rows; the last one may be torn."""
    content = file.read_bytes() if file.exists() else b""
    found = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        where = f"{file}, line {number}"
        try:
            row = parse_json(line.decode("utf-8"), where, advice="take that line out, and resume again")
            found.append({k: math.nan if v is None else v for k, v in row.items()})
            numbers = (v for v in found[-1].values() if not isinstance(v, str))  # algorithms may leave notes
            _ = sum(numbers, 0.0) + row["iteration"]
        except DataError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{where}: not a row of metrics, numbers by name ({error!r})") from error
    return found


def default_folder(task: str, algorithm: str) -> Path:
    """Return `runs/<task>-<algorithm>-<time>-<process>`; a user's own algorithm has its class's name.

    The process tells runs apart that were started in the same second; torchrun's have one folder together.
    """
    name = f"{Path(task).stem}-{short_name(algorithm)}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Path("runs") / (name if started_by_torchrun() else f"{name}-{os.getpid()}")


def fence(text: str, language: str = "text") -> str:
    """Wrap a text in a code block that it cannot close."""
    ticks = "```"
    while ticks in text:
        ticks += "`"
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}\n"
