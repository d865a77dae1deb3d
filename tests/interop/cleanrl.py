"""CleanRL: a repository of single files, not a package; its `ppo.py` is run as it stands there.

CLEANRL_SOURCE can name a clone; without it, one is made from GitHub.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .library import Library, Names, Recipe, drawn, mean_return

COMMIT = "fe8d8a03c41a7ef5b523e2e354bd01c363e786bb"


def clone(folder: Path) -> None:
    """Put CleanRL's repository, as it was when this was written, beside the block."""
    if (folder / "cleanrl").exists():
        return
    source = os.environ.get("CLEANRL_SOURCE", "https://github.com/vwxyzjn/cleanrl")
    try:
        subprocess.run(["git", "clone", "--quiet", source, "cleanrl"], cwd=folder, check=True)
        subprocess.run(["git", "checkout", "--quiet", COMMIT], cwd=folder / "cleanrl", check=True)
    except subprocess.CalledProcessError:
        shutil.rmtree(folder / "cleanrl", ignore_errors=True)
        raise


def measure(names: Names, env_id: str) -> float:
    """Return the mean return of the block's `agent`, sampled."""
    import torch

    with torch.no_grad():
        return mean_return(lambda shown: drawn(names["agent"].actor(torch.as_tensor(shown))), env_id)


LIBRARY = Library(
    title="CleanRL",
    requirements=("tyro", "tensorboard"),
    recipes=(Recipe(measure, env_ids=("text_gym/Reverse-onehot-v0", "text_gym/Sort-onehot-v0")),),
    shown=("gymnasium", "torch"),
    prepare=clone,
)
