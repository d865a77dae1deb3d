"""Bugs of everything that makes rewards: sums, learned models, people and their labels, judges, audits."""

from __future__ import annotations

from . import composition, judging, labels, learned, page, people, process

MUTANTS = [
    mutant
    for area in (composition, learned, process, people, labels, page, judging)
    for mutant in area.MUTANTS
]
