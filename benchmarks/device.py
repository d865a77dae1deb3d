"""Check that an accelerator computes what it should, and measure how fast it is: tables, and JSON.

    python benchmarks/device.py --json FILE

At most 8 minutes (`--budget`). First log-probabilities, gradients, sampling, PPO, GRPO, supervised
fine-tuning, reward models, checkpoints and LoRA are checked; then rollouts and updates are timed in float32,
TF32 and bfloat16, rollouts with and without CUDA graphs, and an iteration of a 7B model with LoRA. If a part
fails or takes too long, the others still run: its row says what went wrong, and the exit status is 1. The
file is written after every part. On a CPU, models and batches are small: the code is tried, nothing else.
"""

from __future__ import annotations

import gc
import logging
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import transformers
import tyro
from device_parts import Figures, Part, SkippedError, all_parts, products_in, synchronise
from machine import processor, save
from rich.console import Console
from rich.table import Table
from rich.text import Text

from text_gym.errors import ConfigError
from text_gym.models.loading import pick_device
from text_gym.utils.display import harmless

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Check and measure a device.

    Args:
        device: auto, cpu, cuda, cuda:1, …; auto is CUDA where there is one.
        json: File for the rows.
        quick: Small models and batches, some seconds in all; a CPU gets no others.
        budget: Seconds for all parts; what has not finished by then is skipped.
        only: Regular expression of the parts to run, by their names in the table.
    """

    device: str = "auto"
    json: Path | None = None
    quick: bool = False
    budget: float = 480.0
    only: str = ""


class OutOfTime(BaseException):
    """A part ran longer than it may.

    It is not an `Exception`, so that no library on the way up mistakes it for a failure of its own.
    """


def usable(name: str) -> torch.device:
    """Return the device of a name, once it has answered.

    Raises:
        ConfigError: There is no such device here.
    """
    device = pick_device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                f"--device {name}: PyTorch {torch.__version__} finds no CUDA device here; install a build "
                "for CUDA, see whether nvidia-smi finds a card, or run the small settings with --device cpu"
            )
        count = torch.cuda.device_count()
        if device.index is not None and device.index >= count:
            raise ConfigError(f"--device {name}: there are {count} CUDA devices here, counted from 0")
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    problem = trouble(device)
    if problem:
        raise ConfigError(f"--device {name} cannot be used here ({problem}); choose another, such as cpu")
    return device


def trouble(device: torch.device) -> str:
    """Say why a device does not answer; the text is empty if it does."""
    try:
        synchronise(device)
        torch.ones(1, device=device).sum().item()
    except (RuntimeError, AssertionError, AttributeError) as error:
        return str(error).partition("\n")[0][:200]
    return ""


def facts(device: torch.device) -> Row:
    """Return the device's name and the versions of what drives it."""
    row: Row = {"device": str(device), "transformers": transformers.__version__}
    if device.type != "cuda":
        return {**row, "name": processor() if device.type == "cpu" else device.type}
    about = torch.cuda.get_device_properties(device)
    return {
        **row,
        "name": torch.cuda.get_device_name(device),
        "memory_mib": about.total_memory / 2**20,
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "driver": driver(),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
    }


def driver() -> str | None:
    """Return the version of NVIDIA's driver, if nvidia-smi tells it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.partition("\n")[0].strip() or None


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block after so many seconds, where the system has alarms."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(part: Part, device: torch.device, left: float) -> Row:
    """Run a part and return its row, whatever happens.

    Args:
        part: What to do.
        device: Where.
        left: Seconds that all parts together still have.
    """
    figures: Figures = {}
    row: Row = {"part": part.name, "status": "passed", "seconds": 0.0, "figures": figures}
    started = time.perf_counter()
    try:
        with limited(min(part.seconds, left)), products_in(part.precision):
            part.work(figures)
            synchronise(device)
    except SkippedError as error:
        row |= {"status": "skipped", "reason": str(error)}
    except OutOfTime as error:
        if left < part.seconds:
            row |= {"status": "skipped", "reason": "stopped where the budget ended"}
        else:
            row |= {"status": "failed", "error": told(error, f"took more than {part.seconds:.0f} s")}
    except Exception as error:  # whatever it is, the other parts go on
        row |= {"status": "failed", "error": told(error, str(error))}
    row["seconds"] = time.perf_counter() - started
    gc.collect()
    if device.type == "cuda" and not trouble(device):
        torch.cuda.empty_cache()
    return row


def told(error: BaseException, message: str) -> Row:
    """Turn an error into plain data: its type, its message, and its innermost frames, the last one last."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    where = [f"{'/'.join(Path(f.filename).parts[-2:])}:{f.lineno} {f.name}: {f.line}" for f in frames]
    return {
        "type": type(error).__name__,
        "message": harmless(message, newlines=True, limit=1000),
        "at": where,
    }


def run_all(parts: Sequence[Part], device: torch.device, budget: float) -> Iterator[Row]:
    """Yield the row of each part; once the time is up or the device is broken, the rest is skipped."""
    ends = time.perf_counter() + budget
    reason = ""
    for part in parts:
        left = ends - time.perf_counter()
        if not reason and left <= 0:
            reason = f"the budget of {budget:g} s was used up before it began"
        if reason:
            yield {"part": part.name, "status": "skipped", "seconds": 0.0, "figures": {}, "reason": reason}
            continue
        row = run(part, device, left)
        yield row
        problem = trouble(device) if row["status"] == "failed" else ""
        if problem:
            reason = f"the device has not answered since {part.name} ({problem}); run the rest with --only"


def in_words(row: Row) -> str:
    """Describe in one line how a part ended."""
    if row["status"] == "skipped":
        return str(row["reason"])
    shown = [f"{name} {number(value)}" for name, value in row["figures"].items()]
    if row["status"] == "failed":
        message = row["error"]["message"].partition("\n")[0]
        shown.insert(0, f"{row['error']['type']}: {message}")
    return ", ".join(shown)


def number(value: object, digits: int = 3) -> str:
    """Format a figure in few characters; a dash stands for a missing one."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"
    return str(value)


def show(rows: Sequence[Row]) -> None:
    """Print the tables."""
    console = Console(width=140)
    checks = Table("part", "", "s", "figures", box=None)
    speeds = Table(
        "part", "", "s", "rollout tok/s", "update tok/s", "rollout MiB", "update MiB", "waits a step", "",
        box=None,
    )  # fmt: skip
    columns = (
        "rollout_tokens_per_second", "update_tokens_per_second", "rollout_peak_mib", "update_peak_mib",
        "waits_per_step",
    )  # fmt: skip
    for row in rows:
        start = [row["part"].partition("/")[2], row["status"], f"{row['seconds']:.1f}"]
        timed = row["part"].startswith("speed/")
        if not timed:
            cells = [*start, in_words(row)]
        else:
            figures = [number(row["figures"].get(column)) for column in columns]
            cells = [*start, *figures, "" if row["status"] == "passed" else in_words(row)]
        table = speeds if timed else checks
        table.add_row(*(Text(harmless(cell)) for cell in cells))
    for table in (checks, speeds):
        if table.row_count:
            console.print(table)
            console.print()
    for row in rows:
        if row["status"] == "failed":
            lines = [f"{row['part']} failed: {row['error']['message']}", *row["error"]["at"]]
            console.print(Text("\n  ".join(harmless(line, newlines=True) for line in lines)))


def chosen(options: Options, device: torch.device, quick: bool) -> list[Part]:
    """Return the parts that `--only` names.

    Raises:
        ConfigError: There are none, or it is no regular expression; or there is no time for any.
    """
    if not options.budget > 0:
        raise ConfigError(f"--budget is {options.budget:g}; it must be more than 0 seconds")
    parts = all_parts(device, quick)
    try:
        found = [part for part in parts if re.search(options.only, part.name)]
    except re.error as error:
        raise ConfigError(f"--only {options.only!r} is no regular expression: {error}") from error
    if not found:
        names = ", ".join(part.name for part in parts)
        raise ConfigError(f"--only {options.only!r} fits none of the parts: {names}")
    return found


def measure(options: Options) -> list[Row]:
    """Run the parts, and write the file after each of them.

    Raises:
        ConfigError: An option makes no sense here, or the file cannot be written.
    """
    device = usable(options.device)
    quick = options.quick or device.type == "cpu"
    parts = chosen(options, device, quick)
    about = {"device": facts(device), "quick": quick, "budget": options.budget}
    rows: list[Row] = []

    def write() -> None:
        if options.json is None:
            return
        try:
            save(options.json, rows, **about)
        except OSError as error:
            raise ConfigError(f"--json {options.json} cannot be written: {error}") from error

    write()  # better now than after minutes
    print(", ".join(f"{name} {value}" for name, value in about["device"].items()), flush=True)  # type: ignore[attr-defined]
    for row in run_all(parts, device, options.budget):
        rows.append(row)
        print(f"{row['seconds']:6.1f} s  {row['status']:8}{row['part']}", flush=True)
        write()
    return rows


def main(options: Options) -> int:
    """Check, measure and print; returns the exit status: 1 if a part failed, 2 for bad options."""
    try:
        rows = measure(options)
    except ConfigError as error:
        print(f"device.py: ConfigError: {error}", file=sys.stderr)
        return 2
    show(rows)
    counts = {
        status: sum(row["status"] == status for row in rows) for status in ("passed", "failed", "skipped")
    }
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    logging.getLogger("text_gym").setLevel(logging.ERROR)  # no advice on how these policies learn
    sys.exit(main(tyro.cli(Options)))
