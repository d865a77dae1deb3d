"""Sends a run's metrics, as it trains, to TensorBoard, Weights & Biases or trackio.

Each package is imported when it is asked for. Once training has begun, a fault of theirs is told once and
ends no run: `metrics.jsonl` has every row in any case.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import math
import os
import shlex
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from text_gym.errors import ConfigError
from text_gym.utils.display import harmless

LogName: TypeAlias = Literal["tensorboard", "wandb", "trackio"]
PROJECT = "text-gym"  # where WANDB_PROJECT or TRACKIO_PROJECT names no other
_HINTS = {
    "tensorboard": "leave it out of --log",
    "wandb": "set WANDB_MODE=offline to keep the rows in the run's folder, or leave it out of --log",
    "trackio": "unset TRACKIO_SPACE_ID to keep the rows on this machine, or leave it out of --log",
}
LOG = logging.getLogger("text_gym")


class MetricsLog(Protocol):
    """Takes the metrics of one iteration after another; `notes` says where to look at them."""

    notes: Sequence[str]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the finite metrics of an iteration."""

    def close(self, failed: bool) -> None:
        """Write what is left; `failed` tells that an error ended the run."""


class MetricsLogs:
    """Several logs as one, which outlives the faults of each.

    Args:
        names: Which; a package that is missing is told here.
        folder: The run's; its name is the run's name everywhere.
        config: The run's settings.

    Attributes:
        notes: Where the rows can be looked at, a sentence each.

    Raises:
        ConfigError: A package is missing or cannot start; what to do is said.
    """

    def __init__(self, names: Sequence[LogName], folder: Path, config: Mapping[str, Any]) -> None:
        check_logs(names)
        kinds: dict[str, Callable[[Path, dict[str, Any]], MetricsLog]]
        kinds = {"tensorboard": _TensorBoard, "wandb": _WandB, "trackio": _Trackio}
        self._open: dict[str, MetricsLog] = {}
        self.notes: list[str] = []
        for name in dict.fromkeys(names):
            try:
                self._open[name] = kinds[name](folder, json.loads(json.dumps(config, default=str)))
                self.notes += self._open[name].notes
            except Exception as error:
                self.close(failed=True)
                raise ConfigError(f"--log {name} cannot start: {_said(error)}; {_HINTS[name]}") from error

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Pass on the finite numbers of one iteration."""
        finite = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        for name, log in list(self._open.items()):
            try:
                log.log(finite, step)
            except Exception as error:
                del self._open[name]
                LOG.warning("%s failed (%s); the run goes on without it", name, _said(error))

    def close(self, failed: bool) -> None:
        """Close every log."""
        for name, log in self._open.items():
            try:
                log.close(failed)
            except Exception as error:
                LOG.warning("%s could not be closed: %s", name, _said(error))
        self._open = {}


def check_logs(names: Sequence[str]) -> None:
    """Check that the packages of these logs are installed, without importing them.

    Raises:
        ConfigError: One is missing.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"--log {name} needs the package {name}; pip install {name}")


class _TensorBoard:
    notes: Sequence[str]

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder, self.notes = folder, ()
        self._writer: Any = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What an earlier process wrote from this step on is discarded.
            self._writer = SummaryWriter(str(self.folder), purge_step=step)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()


class _WandB:
    """A run of Weights & Biases, whose id is kept in the folder, so that a resumed run goes on with it."""

    notes: Sequence[str]

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        wandb: Any = importlib.import_module("wandb")
        offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
        if not offline and not wandb.login(prompt=False):
            raise ConfigError("there is no API key (`wandb login`, or WANDB_API_KEY)")
        kept = folder / "wandb-run.txt"
        if not kept.exists():
            kept.write_text(f"{uuid.uuid4().hex}\n", encoding="utf-8")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=kept.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(folder),
            config=dict(config),
            settings=wandb.Settings(console="off", silent=True),
        )
        later = f"offline; to send it later: wandb sync {Path(self._run.dir).parent}"
        self.notes = [f"wandb: {later if offline else self._run.url}"]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _Trackio:
    """A run of trackio: a database on this machine, or a Space where TRACKIO_SPACE_ID names one."""

    notes: Sequence[str]

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        trackio: Any = importlib.import_module("trackio")
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        with contextlib.redirect_stdout(io.StringIO()):
            self._run = trackio.init(
                project=project,
                name=folder.name,
                resume="allow",
                config=dict(config),
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self.notes = [f"trackio: to look at it: trackio show --project {shlex.quote(project)}"]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self, failed: bool) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()


def _said(error: Exception) -> str:
    return harmless(f"{type(error).__name__}: {error}", limit=300)
