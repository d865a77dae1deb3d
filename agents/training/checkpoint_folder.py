"""A folder of sealed checkpoints, one subfolder an iteration; what is in them is their writer's business."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from text_gym.errors import CheckpointError, ConfigError, DamagedError
from text_gym.utils.sealed import check_sealed, restore_replaced, write_sealed

LOG = logging.getLogger("text_gym")


class CheckpointFolder:
    """Finds the newest intact checkpoint of a run, and removes old ones.

    Args:
        folder: Where.
        keep: How many of the latest stay, at least 1.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise ConfigError(f"keep is {keep}; at least 1 checkpoint has to stay")
        self.folder, self.keep = Path(folder), keep

    def _newest(self, set_aside: bool = False) -> tuple[Path | None, dict[str, Any]]:
        """Find the newest intact checkpoint, and read what it holds besides tensors."""
        damaged: dict[Path, str] = {}
        for folder in reversed(self._all()):
            try:
                state = check_sealed(folder)
            except DamagedError as error:
                damaged[folder] = str(error)
                continue
            for bad, what in damaged.items() if set_aside else ():
                LOG.warning("%s; going on from checkpoint %s", what, folder.name)
                aside = bad.with_name(bad.name + ".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                bad.rename(aside)
            return folder, state
        if damaged:
            raise CheckpointError(f"no checkpoint in {self.folder} is intact: {'; '.join(damaged.values())}")
        return None, {}

    def _all(self) -> list[Path]:
        """List the checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        restore_replaced(self.folder)
        return sorted(f for f in self.folder.iterdir() if f.name.isdecimal() and f.is_dir())

    def _write(self, iteration: int, fill: Callable[[Path], None], about: Any) -> Path:
        """Write the checkpoint of an iteration, remove old ones, and return its folder."""
        target = self.folder / f"{iteration:08d}"
        write_sealed(target, fill, about)
        self._prune()
        return target

    def _best(self, found: list[Path]) -> Path | None:
        """Return a checkpoint, one of `found`, that stays however old it is."""
        return None

    def _prune(self) -> None:
        """Remove all checkpoints but the latest and the best."""
        found = self._all()
        best = self._best(found)
        for folder in found[: -self.keep]:
            if folder != best:
                shutil.rmtree(folder, ignore_errors=True)
