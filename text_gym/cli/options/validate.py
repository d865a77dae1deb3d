"""Options of `text-gym validate`, and how they are read from the command line."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from text_gym.errors import ConfigError

from .checks import at_least, check_data, check_out_folder, check_task
from .parsing import parse


@dataclass(frozen=True)
class ValidateOptions:
    """Validate a task, a reward or an installed package in graded levels: text-gym validate TARGET.

    The exit status is 0, or 10 more than the lowest level that failed (13: level 3). Writes a page, the
    report as JSON, and a badge.

    Args:
        target: A task; a reward: a name, module:function, file.py:function, or the folder of a learned model;
            or an installed package that has tasks.
        task: Task whose prompts and texts a reward is tried on; its own reward is gold then.
        levels: Those that are run. 0: it loads, and texts are judged by themselves. 1: golden and empty
            texts. 2: tricks. 3: leaks. 4: a policy learns from it. 5: people or gold agree.
        golden: Column of the prompts that holds a perfect completion; by default the task knows one.
        maximum: Largest reward there is, where the task does not know it.
        canaries: File of texts that are known hacks, with columns prompt and completion.
        ratings: File of texts that people marked, with columns prompt, completion and the criteria.
        criteria: Columns of the marks.
        pairs: File of texts that people compared, with columns prompt, chosen and rejected.
        out: Folder for validation.html, validation.json and badge.json.
        prompts: Prompts that are looked at.
        seconds: CPU time of level 4's learning.
        seed: Decides prompts, tricks and the learning's noise.
        trust: Run modules and packages of others in this process, not in a sandbox.
    """

    target: Positional[str]
    task: str = "products"
    levels: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    golden: str | None = None
    maximum: float | None = None
    canaries: str | None = None
    ratings: str | None = None
    criteria: tuple[str, ...] = ("rating",)
    pairs: str | None = None
    out: str = "validation"
    prompts: int = 24
    seconds: float = 60.0
    seed: int = 0
    trust: bool = False


def read_validate(argv: list[str]) -> tuple[ValidateOptions]:
    """Options of `text-gym validate`."""
    (options,) = parse("validate", argv, ValidateOptions)
    check_task(options.task)
    for option in ("canaries", "ratings", "pairs"):
        check_data(getattr(options, option), option)
    check_out_folder(options.out)
    at_least(1, prompts=options.prompts)
    if not options.levels or set(options.levels) - set(range(6)):
        raise ConfigError(f"--levels is {' '.join(map(str, options.levels))}; choose of 0 to 5")
    if not options.seconds > 0:
        raise ConfigError(f"--seconds is {options.seconds}; it must be above 0")
    return (options,)
