"""Gao et al. (2022), "Scaling laws for reward model overoptimization", on the products task.

    python benchmarks/overoptimisation.py synthetic --json benchmarks/results/gao_synthetic.json
    python benchmarks/overoptimisation.py best-of-n --json benchmarks/results/gao_best_of_n.json
    python benchmarks/overoptimisation.py rl --out DIR --json benchmarks/results/gao_rl.json

`synthetic` draws curves of known α and β and counts how often the benchmark's intervals hold them.
`best-of-n` fits n-gram reward models of several sizes to several numbers of simulated preferences and lets
each choose among many texts. `rl` optimises some of them with RLOO without a KL penalty. The two forms,
d (α − β d) and d (α − β log d), are compared by their error on seeds that they were not fitted to.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from machine import save
from text_pool import Pairs, Pool, count_features, write_texts

from text_gym import load_task
from text_gym.agents.algorithms.best_of_n import best_of_n_kl_bound
from text_gym.bench import bench_rewards
from text_gym.bench.analysis.frontier import FORMS, Form, curve, fit, held_out_error
from text_gym.bench.analysis.results import CellResult, read_results
from text_gym.bench.analysis.statistics import contrast
from text_gym.reward_models.learned.configs import NgramConfig
from text_gym.utils.interval import mean_interval

Row = dict[str, Any]
NEAR = 0.6  # of the largest distance: what is fitted where extrapolation is judged


@dataclass(frozen=True)
class Synthetic:
    """Fit curves of known α and β.

    Args:
        curves: Of each form.
        seeds: Runs of a curve.
        noise: Standard deviation of a point's gain.
        spread: Standard deviation of a seed's α and β, as a share of their means.
        json: File for the rows.
    """

    curves: int = 400
    seeds: int = 10
    noise: float = 0.05
    spread: float = 0.1
    json: Path | None = None


@dataclass(frozen=True)
class BestOfN:
    """Best-of-n over sizes of reward models and numbers of pairs.

    Args:
        prompts: Held-out prompts.
        candidates: Texts of each, the largest n.
        sizes: Features of a reward model, at most.
        pairs: Preferences it learns from.
        noise: Of the rater; 0.3 agrees with gold on seven pairs in ten.
        seeds: Raters and pairs of one run each.
        json: File for the rows.
    """

    prompts: int = 24
    candidates: int = 1000
    sizes: tuple[int, ...] = (30, 300, 3000)
    pairs: tuple[int, ...] = (100, 300, 1000, 3000)
    noise: float = 0.3
    seeds: tuple[int, ...] = tuple(range(10))
    json: Path | None = None


@dataclass(frozen=True)
class RL:
    """RLOO without a KL penalty, on the benchmark's reward models.

    Args:
        out: Folder of the benchmark; it goes on where it was stopped.
        designs: Of the benchmark's suite.
        seeds: Reward models and runs.
        iterations: Batches of 64 episodes.
        json: File for the rows.
    """

    out: Path
    designs: tuple[str, ...] = ("pairs-512", "pairs-2048")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    iterations: int = 60
    json: Path | None = None


def invented(
    form: Form, alpha: float, beta: float, rng: np.random.Generator, options: Synthetic
) -> list[CellResult]:
    """Runs along a curve of known α and β, with noise on every point."""
    cells = []
    nats = (
        np.array([best_of_n_kl_bound(2**i) for i in range(1, 11)])
        if form == "best_of_n"
        else np.linspace(1, 40, 10)
    )
    for seed in range(options.seeds):
        a, b = alpha * rng.normal(1, options.spread), beta * rng.normal(1, options.spread)
        gains = curve(a, b, np.sqrt(nats), form) + rng.normal(0, options.noise, len(nats))
        points = [{"kl_nats": k, "gold": g} for k, g in zip([0.0, *nats], [0.0, *gains], strict=True)]
        cells.append(CellResult({"seed": seed, "gold_std_start": 1.0}, points, []))
    return cells


def synthetic(options: Synthetic) -> list[Row]:
    """How often the intervals of α and β hold the truth, and which form is told to be the better one."""
    rows: list[Row] = []
    pairs: list[tuple[Form, Form]] = [("best_of_n", "rl"), ("rl", "best_of_n")]
    for form, other in pairs:
        rng = np.random.default_rng(len(rows))
        found = []
        for _ in range(options.curves):
            alpha, beta = rng.uniform(0.5, 2), rng.uniform(0.1, 0.4)
            cells = invented(form, alpha, beta, rng, options)
            fitted = fit(cells, form)
            assert fitted is not None
            own, others = (np.mean(list(held_out_error(cells, f).values())) for f in (form, other))
            held = [
                bool(fitted[k]["ci95"][0] <= v <= fitted[k]["ci95"][1])
                for k, v in (("alpha", alpha), ("beta", beta))
            ]
            found.append([*held, bool(own < others)])
        alpha_held, beta_held, told = np.mean(found, axis=0).tolist()
        rows.append(
            {
                "form": FORMS[form],
                "alpha_held": alpha_held,
                "beta_held": beta_held,
                "form_told": told,
                "curves": options.curves,
            }
        )
        told_by = f"{FORMS[form]}: intervals hold α in {alpha_held:.3f}, β in {beta_held:.3f} of the curves"
        print(f"{told_by}; the right form has the smaller held-out error in {told:.3f}", flush=True)
    return rows


def describe(cells: Sequence[CellResult]) -> Row:
    """Both forms fitted to the runs, with bootstrap intervals over seeds, and their errors on other seeds."""
    row: Row = {"forms": {}}
    errors = {}
    for form in FORMS:
        fitted = fit(cells, form)
        assert fitted is not None
        single = [fit([c], form) for c in cells]
        for name in ("alpha", "beta"):
            values = np.array([f[name]["value"] for f in single if f is not None])
            fitted[name] = mean_interval(values).summary()
        row["forms"][form] = {k: fitted[k] for k in ("alpha", "beta", "r2", "peak", "note")}
        errors[form] = held_out_error(cells, form), held_out_error(cells, form, NEAR)
        row["forms"][form] |= {"error": errors[form][0], "far_error": errors[form][1]}
    for i, name in enumerate(("difference", "far_difference")):
        # Positive: the form of best-of-n predicts worse.
        row[name] = contrast([errors["best_of_n"][i], errors["rl"][i]], [1.0, -1.0]).summary()
    gold = np.array([c.along("gold") for c in cells])
    row["gold"] = gold.mean(axis=0).tolist()
    row["proxy"] = np.mean([c.along("proxy") for c in cells], axis=0).tolist()
    row["kl_nats"] = np.mean([c.along("kl_nats") for c in cells], axis=0).tolist()
    row["end_gains"] = [
        float((c.along("gold")[-1] - c.along("gold")[0]) / c["gold_std_start"]) for c in cells
    ]
    row["peak_gains"] = [
        float((c.along("gold").max() - c.along("gold")[0]) / c["gold_std_start"]) for c in cells
    ]
    return row


def best_of_n_runs(options: BestOfN) -> list[Row]:
    """A row for each size and number of pairs."""
    task, config = load_task("products"), NgramConfig()
    texts = write_texts(task, task.held_out[: options.prompts], options.candidates, seed=1)
    gold = task.reward(texts).totals.reshape(options.prompts, options.candidates)
    pool = Pool(count_features(texts, config), gold)
    asked = write_texts(task, task.prompts[: max(options.pairs) * 4 // 3], 2, seed=2)
    pairs = Pairs(task, asked, count_features(asked, config))
    print(f"{len(texts)} texts, {pool.gold.mean():.3f} gold; {time.process_time():.0f} s", flush=True)
    answers = {seed: pairs.ask(options.noise, seed) for seed in options.seeds}
    rows = []
    for size in options.sizes:
        for count in options.pairs:
            cells = []
            for seed in options.seeds:
                chosen = np.random.default_rng([seed, 17]).permutation(len(pairs))[:count].tolist()
                model = pairs.fit(chosen, answers[seed], NgramConfig(max_features=size, alpha=1.0))
                cells.append(pool.curve(pool.scores(model), seed))
            rows.append({"features": size, "pairs": count, **describe(cells)})
            print(f"{size} features, {count} pairs; {time.process_time():.0f} s", flush=True)
    return rows


def rl_runs(options: RL) -> list[Row]:
    """A row for each design."""
    bench_rewards(
        options.out,
        only=list(options.designs),
        optimisers=["rloo"],
        kl_coefficients=[0.0],
        seeds=options.seeds,
        iterations=options.iterations,
        workers=0,
    )
    results = read_results(options.out)
    return [
        {"design": s.design, "iterations": options.iterations, **describe(cells)}
        for s, cells in results.settings.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Markdown: α, β and R² of d (α − β d), then of d (α − β log d), and their errors on other seeds."""
    headings = ["reward model", *("α", "β", "R²") * 2, "error", "error, log", "gain at best", "at the end"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for row in rows:
        name = row.get("design") or f"{row['features']} features, {row['pairs']} pairs"
        cells = [name]
        for form in FORMS:
            own = row["forms"][form]
            cells += [
                f"{own[k]['value']:.2f} [{own[k]['ci95'][0]:.2f}, {own[k]['ci95'][1]:.2f}]"
                for k in ("alpha", "beta")
            ]
            cells.append(f"{own['r2']:.2f}")
        cells += [f"{np.mean(list(row['forms'][form]['error'].values())):.4f}" for form in FORMS]
        cells += [f"{np.mean(row[k]):.2f}" for k in ("peak_gains", "end_gains")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    options: Annotated[Synthetic, tyro.conf.subcommand("synthetic")]
    | Annotated[BestOfN, tyro.conf.subcommand("best-of-n")]
    | Annotated[RL, tyro.conf.subcommand("rl")],
) -> None:
    """Run one part and print its table."""
    if isinstance(options, Synthetic):
        rows = synthetic(options)
    else:
        rows = best_of_n_runs(options) if isinstance(options, BestOfN) else rl_runs(options)
        print(f"\n{table(rows)}")
    if options.json:
        save(options.json, rows)


if __name__ == "__main__":
    tyro.cli(main, prog="overoptimisation.py", config=(tyro.conf.OmitArgPrefixes,))
