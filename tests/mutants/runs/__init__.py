"""Bugs of everything that runs for long: `rlhf`, training runs, the benchmark, the command line, figures."""

from __future__ import annotations

from . import adapters, bench, runs

MUTANTS = [*adapters.MUTANTS, *bench.MUTANTS, *runs.MUTANTS]
