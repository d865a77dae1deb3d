"""A package as pip leaves it in a folder: a module, and metadata with entry points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

TASK = '''
from text_gym import FunctionReward, Prompt, Task, WordTokenizer


def colours(wanted: str = "red") -> Task:
    """Name a colour.

    It has two prompts.
    """
    reward = FunctionReward(lambda completion: float(completion == wanted))
    prompts = [Prompt("sky"), Prompt("sea")]
    return Task("colours", prompts[:1], prompts[1:], WordTokenizer(["sky", "sea", "red", "blue"]), reward, 2)
'''


def install(
    folder: Path, package: str, tasks: Mapping[str, str], code: str = TASK, version: str = "1.2"
) -> None:
    """Write a package of one module with the tasks `{name: function}` into a folder on the path."""
    (folder / f"{package}.py").write_text(code, encoding="utf-8")
    about = folder / f"{package}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    lines = [f"{name} = {package}:{function}" for name, function in tasks.items()]
    (about / "entry_points.txt").write_text("\n".join(["[text_gym.tasks]", *lines]) + "\n")
