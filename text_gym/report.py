"""The folder of a run: configuration, metrics, summary, samples, curves and the policy.

Everything a run leaves is plain text, PNG, safetensors or TensorBoard events; nothing is pickled.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import ConfigError, DataError
from .locking import FolderLock
from .sealed import write_atomic

Metrics = Mapping[str, float]

# Panels of curves.png: title, unit of the vertical axis, metrics drawn.
PANELS = (
    ("Reward", "reward per episode", ("reward",)),
    ("Criteria", "mean per episode", ("reward/",)),
    ("KL to the reference policy", "nats per episode", ("kl",)),
    ("Length", "completion tokens", ("length",)),
)


class RunFolder:
    """Writes a run's files; rows reach the disk as they are made. No other process can write them meanwhile.

    Args:
        folder: Where; made if need be.
        config: What the run was started with.
        tensorboard: Write TensorBoard events too.
        resume: Go on with the run that is there: its rows are read, and `config` must be its own.

    Attributes:
        rows: The metrics of every iteration so far.

    Raises:
        ConfigError: The folder is in use by another process, or already holds a run; to be resumed, holds
            none or one with other settings.
    """

    def __init__(
        self,
        folder: str | Path,
        config: Mapping[str, Any],
        *,
        tensorboard: bool = True,
        resume: bool = False,
    ) -> None:
        self.path = Path(folder)
        if resume:
            check_settings(self.path, config)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.path)
        try:
            file = self.path / "metrics.jsonl"
            if file.exists() and not resume:
                raise ConfigError(
                    f"{self.path} already holds a run; choose another --out, or go on with it: "
                    f"text-gym train --resume {self.path}"
                )
            if not resume:
                self.write_json("config.json", config)
            self.rows = _read_rows(file)
            self._metrics = file.open("a", encoding="utf-8")
        except BaseException:
            self._lock.release()
            raise
        self._tensorboard = tensorboard
        self._events: Any = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.close()
        if self._events is not None:
            self._events.close()
        self._lock.release()

    def rewind(self, iteration: int) -> None:
        """Forget the rows after this iteration: they are to be made again."""
        self._metrics.close()
        self.rows = [row for row in self.rows if row["iteration"] <= iteration]
        file = self.path / "metrics.jsonl"
        write_atomic(file, "".join(json.dumps(_finite(row)) + "\n" for row in self.rows))
        self._metrics = file.open("a", encoding="utf-8")

    def log(self, metrics: Metrics) -> None:
        """Append one iteration's metrics."""
        self.rows.append(dict(metrics))
        self._metrics.write(json.dumps(_finite(metrics)) + "\n")
        self._metrics.flush()
        if self._tensorboard:
            step = int(metrics.get("iteration", len(self.rows)))
            for name, value in metrics.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    self._writer(step).add_scalar(name, value, step)

    def note(self, message: str) -> None:
        """Append a line to `log.txt`."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")

    def sync(self) -> None:
        """Force the rows so far to the disk, before a checkpoint that counts on them."""
        os.fsync(self._metrics.fileno())

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file."""
        write_json(self.path / name, content)

    def write_samples(self, samples: Sequence[tuple[str, str, float, str, float]]) -> None:
        """Write `samples.md`: prompt, text and reward before, text and reward after."""
        parts = ["# Samples on held-out prompts\n"]
        for i, (prompt, before, gold_before, after, gold_after) in enumerate(samples, 1):
            parts += [f"## {i}\n", _fence(prompt), f"Before ({gold_before:.2f}):\n", _fence(before)]
            parts += [f"After ({gold_after:.2f}):\n", _fence(after)]
        (self.path / "samples.md").write_text("\n".join(parts), encoding="utf-8")

    def _writer(self, step: int) -> Any:
        """TensorBoard's; what an earlier process wrote of this step and later ones counts no more."""
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.path), purge_step=step)
        return self._events

    def draw_curves(self, title: str) -> Path:
        """Draw `curves.png`: reward, criteria, KL and length over the iterations."""
        file = self.path / "curves.png"
        draw_curves(self.rows, file, title)
        return file


def draw_curves(rows: Sequence[Metrics], file: str | Path, title: str) -> None:
    """Draw the panels of a run over its iterations into a PNG."""
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(title)
    for axes, (name, unit, wanted) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        keys = [
            k
            for k in dict.fromkeys(name for row in rows for name in row)
            if k in wanted or any(k.startswith(w) and w.endswith("/") for w in wanted)
        ]
        for key in keys:
            x = [row["iteration"] for row in rows]
            y = [row.get(key, math.nan) for row in rows]
            axes.plot(x, y, linewidth=1.6, label=key.removeprefix("reward/"))
        axes.set(title=name, xlabel="iteration", ylabel=unit)
        axes.grid(alpha=0.3)
        if len(keys) > 1:
            axes.legend(fontsize="small")
        if not keys:
            axes.text(0.5, 0.5, "this reward names no criteria", ha="center", transform=axes.transAxes)
    figure.savefig(str(file), dpi=120)


def check_settings(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Make sure that a folder holds a run with these settings.

    Raises:
        ConfigError: It holds none, or one with others; they are named.
    """
    found = read_config(folder)
    given = json.loads(_render(config))
    wrong = [name for name in {**found, **given} if found.get(name) != given.get(name)]
    if wrong:
        name = wrong[0]
        raise ConfigError(
            f"the run in {folder} has {name}={found.get(name)!r}, not {given.get(name)!r}; it can only be "
            "resumed with its own settings"
        )


def read_config(folder: str | Path) -> dict[str, Any]:
    """What the run in a folder was started with.

    Raises:
        ConfigError: There is no run, or its `config.json` cannot be read.
    """
    file = Path(folder) / "config.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{folder} holds no run: there is no {file.name}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error


def write_json(file: str | Path, content: Any) -> None:
    """Write plain data as JSON, in one step; NaN and infinity, which JSON lacks, become null."""
    write_atomic(Path(file), _render(content))


def _render(content: Any) -> str:
    return json.dumps(_finite(content), indent=2, ensure_ascii=False, default=str) + "\n"


def _read_rows(file: Path) -> list[dict[str, float]]:
    """Rows that were written whole; the last one need not be."""
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
    try:
        return [{k: math.nan if v is None else v for k, v in json.loads(line).items()} for line in lines]
    except (ValueError, AttributeError) as error:
        raise DataError(f"{file} has a line that is not a row of metrics: {error}") from error


def default_folder(task: str, algorithm: str) -> Path:
    """`runs/<task>-<algorithm>-<time>`."""
    return Path("runs") / f"{Path(task).stem}-{algorithm}-{time.strftime('%Y%m%d-%H%M%S')}"


def _fence(text: str) -> str:
    """A code block that no text can close."""
    ticks = "```"
    while ticks in text:
        ticks += "`"
    return f"{ticks}text\n{text.rstrip()}\n{ticks}\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN: write null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
