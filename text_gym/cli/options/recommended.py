"""The settings that a task recommends, as if they had been typed; what was typed has the last word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from text_gym.errors import TextGymError
from text_gym.tasks.task import load_task

from .parsing import value_of


def with_recommended(argv: Sequence[str], algorithm: str) -> list[str]:
    """Return the words with those settings of `Task.recommended` that they leave out, and print these.

    Args:
        argv: What stands after `text-gym train` or `text-gym sft`.
        algorithm: Whose settings; `"sft"` has some, too.
    """
    name = value_of(argv, "--task", value_of(argv, "--env", ""))
    if not name or "-h" in argv or "--help" in argv:
        return list(argv)
    try:
        settings = load_task(name).recommended.get(algorithm, {})
    except TextGymError:  # is told when the options are checked
        return list(argv)
    more = _as_words(settings, {_option(word) for word in argv if word.startswith("--")})
    if more:
        print(f"recommended for {name}: {' '.join(more)}", flush=True)
    return [*argv, *more]


def _as_words(settings: Mapping[str, Any], typed: set[str]) -> list[str]:
    """Write the settings that were not typed as options."""
    words = []
    for key, value in settings.items():
        option = key.replace("_", "-")
        if option in typed:
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return words


def _option(word: str) -> str:
    """Return an option's own name: `--no_anneal` and `--anneal=True` are `anneal`."""
    name = word.partition("=")[0].removeprefix("--").replace("_", "-").removeprefix("no-")
    return "policy" if name == "model" else name
