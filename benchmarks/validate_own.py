"""What `validate` says of text-gym's own tasks and scripted rewards: the table of docs/validate.md.

    OMP_NUM_THREADS=1 python benchmarks/validate_own.py --json FILE

Tasks are validated by their names, scripted rewards on the texts of `products`, with their defaults where
they have any, so that some are judged on texts that they were not made for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from machine import save

from text_gym import RewardSource, validate
from text_gym.reward_models import load_reward
from text_gym.tasks.task import TASKS, load_task

REWARDS: dict[str, dict[str, Any]] = {
    "format": {"pattern": r"[A-Z].*[.!?]"},
    "keywords": {"required": ["you", "order"]},
    "length": {"low": 20, "high": 40},
    "readability": {},
    "repetition": {},
    "token_repetition": {},
}


@dataclass(frozen=True)
class Options:
    """Validate our own tasks and scripted rewards.

    Args:
        only: Only those whose name has this in it.
        levels: Those that are run.
        seconds: CPU time of each probe.
        seed: Of the validation.
        json: File for the rows.
    """

    only: str = ""
    levels: tuple[int, ...] = (0, 1, 2, 3, 4)
    seconds: float = 60.0
    seed: int = 0
    json: Path | None = None


def main(options: Options) -> None:
    """Print the table."""
    # Conversations are not validated.
    single = [name for name in TASKS if load_task(name).respondent is None]
    targets: dict[str, str | RewardSource] = {name: name for name in single}
    targets |= {f"reward {name}": load_reward(name, **kwargs) for name, kwargs in REWARDS.items()}
    rows = []
    print("| | L0 | L1 | L2 | L3 | L4 | what fails |\n|---|---|---|---|---|---|---|")
    for name, target in targets.items():
        if options.only not in name:
            continue
        report = validate(target, levels=options.levels, seconds=options.seconds, seed=options.seed)
        broken = {r.check_id: list(r.evidence[:2]) for r in report.results if r.broken}
        warned = [r.check_id for r in report.results if r.status == "fail" and not r.broken]
        levels = report.levels
        marks = " | ".join(levels.get(level, "–") for level in range(5))
        print(f"| {name} | {marks} | {', '.join(broken) or '–'} |", flush=True)
        rows.append({"target": name, "levels": levels, "broken": broken, "warned": warned})
        if options.json:  # after each, so that what was run is kept
            save(options.json, rows, seed=options.seed, seconds=options.seconds)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="validate_own.py"))
