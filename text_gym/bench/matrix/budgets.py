"""Budgets list a matrix's cells and what each part is meant to show; nothing is run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from .cells import Cell
from .designs import Design, suite
from .recipes import Gold
from .settings import BEST_OF_N, OwnAlgorithm, Settings


@dataclass(frozen=True)
class Sweep:
    """A part of a matrix: designs × optimisers × KL coefficients, for each seed.

    Args:
        optimisers: Names.
        kl_coefficients: β; best-of-n has none and is not repeated for each.
        designs: Names of the suite.
        others: The user's own designs too, and those of the suite that were asked for by name and are in no
            sweep.
    """

    optimisers: tuple[str, ...]
    kl_coefficients: tuple[float, ...]
    designs: tuple[str, ...]
    others: bool = True


_ALL = tuple(design.name for design in suite("products").values() if not design.credit)
_SMALL = (
    "gold", "accuracy", "persuasiveness", "weighted", "gated", "clipped", "pairs-128", "pairs-512",
    "pairs-2048", "clean-512", "length-biased-512", "hype-loving-512", "ratings-512", "ensemble-512",
    "keywords",
)  # fmt: skip
_HELD = (
    "pairs-128", "pairs-512", "pairs-2048", "length-biased-512", "hype-loving-512", "ensemble-512",
    "keywords",
)  # fmt: skip
_KEY = ("gold", "pairs-512", "ensemble-512", "length-biased-512", "keywords")
_PAID = ("gold", "gold-per-token")  # PPO tells them apart

SEEDS: dict[str, tuple[int, ...]] = {"small": (0, 1), "full": (0, 1, 2)}
SWEEPS: dict[str, tuple[Sweep, ...]] = {
    "small": (
        Sweep((BEST_OF_N,), (), _SMALL),
        Sweep(("rloo",), (0.0,), _SMALL),
        Sweep(("rloo",), (0.1,), _HELD),
        Sweep(("ppo",), (0.1,), _PAID, others=False),
    ),
    "full": (
        Sweep((BEST_OF_N,), (), _ALL),
        Sweep(("rloo",), (0.0, 0.1, 0.4), _ALL),
        Sweep(("ppo", "grpo"), (0.0, 0.1), _KEY, others=False),
        Sweep(("ppo",), (0.0, 0.1), _PAID, others=False),
    ),
}
# On E2E gold takes longer to compute, and DPO and distillation are tried beside RLOO on a few designs.
_E2E_SMALL = (
    "gold", "accuracy", "pairs-128", "pairs-512", "clean-512", "length-biased-512", "keywords",
)  # fmt: skip
_E2E_HELD = ("gold", "pairs-512", "keywords", "length-biased-512")
_E2E_KEY = ("gold", "pairs-512")
_E2E_ALL = tuple(design.name for design in suite("e2e").values() if not design.credit)
_E2E_SWEEPS: dict[str, tuple[Sweep, ...]] = {
    "small": (
        Sweep((BEST_OF_N,), (), _E2E_SMALL),
        Sweep(("rloo",), (0.0, 0.1), _E2E_HELD),
        Sweep(("dpo", "distillation"), (0.1,), _E2E_KEY, others=False),
        Sweep(("rloo",), (0.0,), _E2E_SMALL, others=False),
    ),
    "full": (
        Sweep((BEST_OF_N,), (), _E2E_ALL),
        Sweep(("rloo",), (0.0, 0.1, 0.4), _E2E_ALL),
        Sweep(("dpo", "distillation"), (0.1, 0.4), _E2E_HELD, others=False),
        Sweep(("ppo", "grpo"), (0.0, 0.1), _KEY, others=False),
        Sweep(("ppo",), (0.0, 0.1), _PAID, others=False),
    ),
}
# Agents: task -> settings that differ, and β in units of its reward.
AGENTS = ("ppo", "grpo", "rloo", "reinforce", "sb3.ppo")
AGENT_SEEDS: dict[str, tuple[int, ...]] = {"small": (0, 1, 2), "full": (0, 1, 2, 3, 4)}
AGENT_TASKS: dict[str, tuple[dict[str, Any], float]] = {
    "products": ({}, 0.02),
    "sort": ({"iterations": 80}, 0.0),
    "slots": ({"iterations": 80}, 0.0),
}
_OTHER_TASKS: dict[str, tuple[dict[str, Any], float]] = {"reverse": ({"iterations": 80}, 0.0)}


def sweeps_of(task: str) -> dict[str, tuple[Sweep, ...]]:
    """Return the sweeps of each budget of a task; a task without its own has those of products."""
    return _E2E_SWEEPS if task == "e2e" else SWEEPS


def coefficients(optimiser: str, betas: Sequence[float]) -> tuple[float | None, ...]:
    """Return the KL coefficients with which an optimiser is run, of those that are asked for.

    Best-of-n has none, distillation of best-of-n no penalty, and DPO no optimum without one.

    >>> [coefficients(name, (0.0, 0.1)) for name in ("best_of_n", "rloo", "dpo", "distillation")]
    [(None,), (0.0, 0.1), (0.1,), (0.0,)]
    """
    if optimiser == BEST_OF_N:
        return (None,)
    if optimiser == "distillation":
        return (0.0,)
    return tuple(beta for beta in betas if beta > 0 or optimiser != "dpo")


def plan_rewards(
    settings: Settings,
    budget: str,
    designs: Sequence[Design],
    *,
    optimisers: Sequence[str] | None = None,
    kl_coefficients: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Cell]:
    """List a budget's cells for the chosen designs.

    Args:
        settings: Of the benchmark.
        budget: `small` or `full`.
        designs: Asked for.
        optimisers: In place of the budget's: all designs by all of them.
        kl_coefficients: In place of the budget's.
        seeds: In place of the budget's.
    """
    sweeps = sweeps_of(settings.task)[budget]
    known = {name for sweep in sweeps for name in sweep.designs}
    if optimisers is not None:
        betas = tuple(dict.fromkeys(beta for sweep in sweeps for beta in sweep.kl_coefficients))
        sweeps = (Sweep(tuple(optimisers), betas, tuple(d.name for d in designs)),)
    cells: dict[str, Cell] = {}
    for sweep in sweeps:
        own = [d for d in designs if d.name in sweep.designs or (sweep.others and d.name not in known)]
        betas = sweep.kl_coefficients if kl_coefficients is None else tuple(kl_coefficients)
        for design, optimiser in product(own, sweep.optimisers):
            for beta, seed in product(coefficients(optimiser, betas), seeds or SEEDS[budget]):
                cell = Cell(settings, design, optimiser, beta, seed)
                cells[cell.key] = cell
    return list(cells.values())


def plan_agents(
    tasks: Sequence[str],
    budget: str,
    *,
    algorithms: Mapping[str, OwnAlgorithm] | None = None,
    optimisers: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    iterations: int | None = None,
) -> list[Cell]:
    """List the cells of the comparison of agents: tasks × agents × seeds, on the tasks' own rewards.

    Args:
        tasks: Names.
        budget: A name in `AGENT_SEEDS`.
        algorithms: The user's own, by the names they have as optimisers; they run beside the others.
        optimisers: In place of `AGENTS`.
        seeds: In place of the budget's.
        iterations: Of all tasks.
    """
    algorithms = dict(algorithms or {})
    gold = Design("gold", "gold", "the task's own reward", Gold())
    cells = []
    for task in tasks:
        own, beta = {**_OTHER_TASKS, **AGENT_TASKS}.get(task, ({}, 0.0))
        settings = Settings(**{"what": "agents", "task": task, "algorithms": algorithms, **own})
        if iterations is not None:
            settings = replace(settings, iterations=iterations)
        names = [*algorithms, *(AGENTS if optimisers is None else optimisers)]
        for optimiser in names:
            for own_beta, seed in product(coefficients(optimiser, (beta,)), seeds or AGENT_SEEDS[budget]):
                cells.append(Cell(settings, gold, optimiser, own_beta, seed))
    return cells


def budget_settings(budget: str, design: str, task: str = "products") -> set[tuple[str, float | None]]:
    """Return the optimisers and KL coefficients (None for best-of-n) by which a budget optimises a design."""
    sweeps = sweeps_of(task)[budget]
    known = {name for sweep in sweeps for name in sweep.designs}
    return {
        (optimiser, beta)
        for sweep in sweeps
        if design in sweep.designs or (sweep.others and design not in known)
        for optimiser in sweep.optimisers
        for beta in coefficients(optimiser, sweep.kl_coefficients)
    }


def budgeted(budget: str, task: str = "products") -> list[str]:
    """Return the names of the suite's designs that a budget includes."""
    return [n for n in suite(task) if any(n in sweep.designs for sweep in sweeps_of(task)[budget])]
