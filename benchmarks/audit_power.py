"""How many planted vices the audit of a reward names, and how often it accuses a clean reward.

    OMP_NUM_THREADS=1 python benchmarks/audit_power.py --seeds 100 101 102 --json FILE

A seed draws 40 planted and 40 clean rewards for the products task (`audit_rewards`); each is audited as
`text-gym reward audit` does it, on written held-out texts. The audit was tuned on seeds 0 to 2;
`results/` has seeds that were run once, afterwards.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from audit_rewards import CachedGold, Case, clean, planted
from machine import save

from text_gym import Episode, load_task
from text_gym.reward_models import AuditConfig, audit_reward

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Audit planted and clean rewards.

    Args:
        seeds: Each draws its rewards, and the texts that are looked at.
        which: `planted`, `clean` or `all`.
        only: Audit only rewards whose name has this in it.
        json: File for the rows.
    """

    seeds: tuple[int, ...] = (0,)
    which: str = "all"
    only: str = ""
    json: Path | None = None


def audited(case: Case, gold: CachedGold, texts: Sequence[Episode], seed: int) -> Row:
    """A row about a case: what was found, and whether that is right."""
    started = time.process_time()
    found = audit_reward(case.source, texts, gold, AuditConfig(explained=0, seed=seed))
    biases = [f for f in found.findings if f.kind == "bias"]
    return {
        "seed": seed,
        "reward": case.name,
        "planted": case.named is not None,
        "named": None if case.named is None else case.named(found),
        "biases": [f.bias for f in biases],
        "others": [f.bias for f in found.findings if f.kind != "bias"],
        "statements": [f.statement for f in biases],
        "agreement": None if found.agreement is None else found.agreement.value,
        "mark": found.mark,
        "seconds": time.process_time() - started,
    }


def summary(rows: Sequence[Row]) -> Row:
    """Recall and false alarms of some rows."""
    hits = [row["named"] for row in rows if row["planted"]]
    alarms = [bool(row["biases"]) for row in rows if not row["planted"]]
    green = [row["mark"] == "good" for row in rows if row["planted"]]
    return {
        "planted": len(hits),
        "recall": float(np.mean(hits)) if hits else None,
        "planted_and_green": sum(green),
        "clean": len(alarms),
        "false_alarms": float(np.mean(alarms)) if alarms else None,
        "seconds": sum(row["seconds"] for row in rows),
    }


def line(row: Row) -> str:
    """A row of the printed table."""
    if row["planted"]:
        verdict = "named" if row["named"] else "MISSED"
    else:
        verdict = "FALSE ALARM" if row["biases"] else "clean"
    found = "; ".join([*row["biases"], *row["others"]]) or "–"
    return f"| {row['seed']} | {row['reward']} | {verdict} | {found[:160]} |"


def main(options: Options) -> None:
    """Audit everything and print the tables."""
    task = load_task("products")
    assert task.corpus is not None
    gold = CachedGold(task.reward)
    texts = [Episode.of(p, text, task.tokenizer) for p, text in task.corpus()[1]]
    rows: list[Row] = []
    print("| seed | reward | verdict | found |\n|---|---|---|---|")
    for seed in options.seeds:
        made = {"planted": planted(gold, texts, seed), "clean": clean(gold, seed)}
        for case in itertools.chain(
            *(cases for kind, cases in made.items() if options.which in (kind, "all"))
        ):
            if options.only in case.name:
                rows.append(audited(case, gold, texts, seed))
                print(line(rows[-1]), flush=True)
    seeds = {str(seed): summary([r for r in rows if r["seed"] == seed]) for seed in options.seeds}
    for name, found in (*seeds.items(), ("all", summary(rows))):
        shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}
        print(f"seed {name}: {shown}")
    if options.json:
        save(options.json, rows, seeds=seeds, all=summary(rows))


if __name__ == "__main__":
    main(tyro.cli(Options, prog="audit_power.py"))
