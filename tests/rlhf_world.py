"""A tiny cycle for tests: texts of three words, gold counts one of them, people answer at once.

`python tests/rlhf_world.py FOLDER` runs it in a process of its own, to be killed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.figure_tools import figures_as_data
from text_gym import Prompt, Task, WordTokenizer, as_reward_source
from text_gym.agents import Policy
from text_gym.reward_models.labels.questions import LabelCriterion
from text_gym.rlhf import rlhf
from text_gym.rlhf.config import RLHFConfig
from text_gym.rlhf.people import simulated_people

TOKENIZER = WordTokenizer(["good", "bad", "very", "so"])
GOLD = as_reward_source(lambda completion: min(1.0, completion.split().count("good") / 3))
QUALITY = (LabelCriterion("quality"),)


def task() -> Task:
    prompts = [Prompt(text) for text in ("so", "very", "so so", "very so", "so very", "very very")]
    return Task("words", prompts, prompts[:4], TOKENIZER, GOLD, max_tokens=4)


def policy() -> Policy:
    return Policy.new(TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")


def config(**changes: Any) -> RLHFConfig:
    tiny: dict[str, Any] = {
        "rounds": 2,
        "labels_per_round": 24,
        "overlap": 0.2,
        "members": 2,
        "iterations": 3,
        "episodes": 16,
        "learning_rate": 1e-2,
    }
    return RLHFConfig(**(tiny | changes))


def run(folder: Path, people: Any = None, **changes: Any) -> list[dict[str, Any]]:
    settings = config(**changes)
    with Path(os.devnull).open("w") as nowhere:
        return rlhf(
            task(),
            settings,
            people or simulated_people(GOLD, QUALITY, seed=settings.seed),
            folder,
            policy=policy(),
            criteria=QUALITY,
            device="cpu",
            console=Console(file=nowhere),
            keep_rollouts=2,
        )


def result(folder: Path) -> dict[str, bytes]:
    """Every file that the answers decide: all but the store (it knows when) and PPO's metrics (how fast)."""
    names = ["rounds.jsonl", "report.html", "start/texts.jsonl", "view.html"]
    files = [folder / name for name in names]
    for round_folder in sorted(folder.glob("round-*")):
        files += [round_folder / name for name in ("candidates.jsonl", "questions.json", "opinions.jsonl")]
        files += [round_folder / "texts.jsonl", round_folder / "evaluation.json"]
        files += sorted((round_folder / "training" / "rollouts").glob("*"))
        files += sorted(f for kind in ("reward_model", "policy") for f in (round_folder / kind).rglob("*.*"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


if __name__ == "__main__":
    with figures_as_data():
        run(Path(sys.argv[1]))
