"""Planted bugs of several processes that learn together."""

from __future__ import annotations

from .mutant import Mutant

_WORLD, _TOGETHER = "text_gym/models/world.py", "agents/sampling/together.py"
_OF_WORLD = "tests/models/test_world.py::test_"
_EQUAL = (_OF_WORLD + "two_processes_learn_what_one_does",)

MUTANTS = [
    Mutant(
        "gradients-of-other-processes-forgotten",
        _WORLD,
        "gradient.copy_(total.view_as(gradient))",
        "gradient.copy_(gradient)",
        _EQUAL,
    ),
    Mutant(
        "gradients-averaged-over-processes",
        _WORLD,
        "gradient.copy_(total.view_as(gradient))",
        "gradient.copy_(total.view_as(gradient) / self.size)",
        _EQUAL,
    ),
    Mutant(
        "minibatch-divided-by-its-share",
        "agents/algorithms/policy_gradient.py",
        "            rows = rows[self.world.part(episodes)]\n",
        "            rows = rows[self.world.part(episodes)]\n            episodes = len(rows)\n",
        (_OF_WORLD + "two_processes_learn_what_one_does",),
    ),
    Mutant(
        "reference-known-for-own-rows-only",
        "agents/training/together.py",
        "return world.fill(whole, rows)",
        "return whole",
        _EQUAL,
    ),
    Mutant(
        "what-others-guessed-is-added",
        _WORLD,
        "        whole.zero_()\n",
        "",
        _EQUAL,
    ),
    Mutant(
        "everybody-scores-everything",
        _TOGETHER,
        "if remembers(batch.reward) else mine",
        "if remembers(batch.reward) else every",
        _EQUAL,
    ),
    Mutant(
        "groups-torn-between-processes",
        _WORLD,
        "units * rank // self.size * unit for rank",
        "units * unit * rank // self.size for rank",
        (_OF_WORLD + "shares_divide_everything_in_whole_units",),
    ),
    Mutant(
        "last-share-beyond-the-end",
        _WORLD,
        "return slice(begin, min(end, n))",
        "return slice(begin, end + unit)",
        (_OF_WORLD + "shares_divide_everything_in_whole_units",),
    ),
]
