"""Run one block of `docs/your-library.md`, in the environment of its library, and say what came of it.

python -m tests.interop.block LIBRARY TITLE OUT [--env-id ID] [--seed N] [--steps N]

`OUT` is the JSON file to write: seconds, and for a recipe its return and steps.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import time
from pathlib import Path
from typing import Any

import text_gym  # noqa: F401  # as at the top of a user's script: processes that are spawned import this file

from .library import Library, Recipe


def load(name: str) -> Library:
    """Return the library of a file in this folder."""
    library = importlib.import_module(f"tests.interop.{name}").LIBRARY
    assert isinstance(library, Library)
    return library


def written(code: str, recipe: Recipe, env_id: str, seed: int, steps: int | None) -> str:
    """Return a recipe's Python for another id, seed and number of steps."""
    assert recipe.env_ids[0] in code, f"the block names no {recipe.env_ids[0]}"
    code = code.replace(recipe.env_ids[0], env_id)
    code, seeds = re.subn(r"^seed = 0$", f"seed = {seed}", code, flags=re.MULTILINE)
    assert seeds == 1, "the block has no line `seed = 0`"
    if steps is not None:
        code = re.sub(r"^steps = [\d_]+", f"steps = {steps}", code, flags=re.MULTILINE)
    return code


def run(name: str, title: str, env_id: str = "", seed: int = 0, steps: int | None = None) -> dict[str, Any]:
    """Run a block, and measure what it trained if it is a recipe."""
    library = load(name)
    code = library.blocks()[title]
    recipe = next((r for r in library.recipes if r.title == title), None)
    if recipe is not None:
        code = written(code, recipe, env_id or recipe.env_ids[0], seed, steps)
    if library.prepare is not None:
        library.prepare(Path.cwd())
    names: dict[str, Any] = {"__name__": "__main__"}
    began = time.perf_counter()
    exec(compile(code, f"{name}: {title}", "exec"), names)
    found: dict[str, Any] = {"seconds": time.perf_counter() - began}
    if recipe is not None:
        found["steps"] = int(names["steps"])
        measured = recipe.measure(names, env_id or recipe.env_ids[0])
        found |= measured if isinstance(measured, dict) else {"return": measured}
    return found


def main() -> None:
    """Run the block that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("title")
    parser.add_argument("out", type=Path)
    parser.add_argument("--env-id", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    found = run(args.library, args.title, args.env_id, args.seed, args.steps)
    args.out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
