"""A benchmark of a few texts, and jobs that are no benchmark at all, for tests."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from text_gym.bench.matrix.cells import Cell
from text_gym.bench.matrix.designs import DESIGNS, Design
from text_gym.bench.matrix.recipes import Learned
from text_gym.bench.matrix.settings import Settings
from text_gym.bench.matrix.start import SamplingJob

TINY = Settings(
    iterations=2, episodes=8, points=2, watched=8, held_out=16, candidates=4, prompts=4, pool=64
)  # fmt: skip
FEW_PAIRS = Design("pairs-48", "opinions", "learned from the texts there are", Learned(48))


def prepared(cell: Cell, folder: Path) -> Cell:
    """The cell, when all that it needs is in the folder."""
    for use in cell.design_job.uses:
        job = SamplingJob(cell.settings, use)
        if not job.done(folder):
            job.run(folder)
    candidates = SamplingJob(cell.settings, "candidates", cell.seed)
    if candidates.place in cell.needs and not candidates.done(folder):
        candidates.run(folder)
    if not cell.design_job.done(folder):
        cell.design_job.run(folder)
    return cell


def tiny_cell(design: str | Design, optimiser: str, beta: float | None = 0.0, seed: int = 0) -> Cell:
    """A cell that takes a second."""
    return Cell(TINY, DESIGNS[design] if isinstance(design, str) else design, optimiser, beta, seed)


@dataclass(frozen=True)
class Note:
    """A job that copies one file to another, or does what `how` says."""

    name: str
    how: str = "copy"
    needs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.name

    @property
    def makes(self) -> list[str]:
        return [f"{self.name}.txt", *([f"{self.name}-folder"] if self.how == "folder" else [])]

    def done(self, folder: Path) -> bool:
        return (folder / self.makes[0]).exists()

    def run(self, folder: Path) -> None:
        if self.how == "raise":
            raise ValueError("on purpose")
        if self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "sleep":
            time.sleep(60)
        if self.how == "folder":
            from text_gym.utils.sealed import write_sealed

            def fill(partial: Path) -> None:
                (partial / "weights").write_bytes(b"\0\1\2")

            write_sealed(folder / self.makes[1], fill, {"about": self.name})
        read = [(folder / path).read_text() for path in self.needs if (folder / path).is_file()]
        (folder / self.makes[0]).write_text(" ".join([self.name, *read]))


class Unpicklable:
    """A design's function that cannot be sent anywhere."""

    def __init__(self) -> None:
        self.here: Any = lambda: None

    def __call__(self, inputs: Any, seed: int) -> Any:
        return inputs.task.reward
