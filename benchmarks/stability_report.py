"""What the runs of `stability.py` come to: tables, a JSON file, and a figure with a dot for every run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import save
from stability_runs import CURVES, GOAL, figures
from stability_worlds import read

from text_gym.errors import ConfigError, DataError
from text_gym.plot import Line, curves, panels, spread
from text_gym.plot import save as save_figure
from text_gym.plot.style import STYLES, empty

Row = dict[str, Any]
SHARES = (0.96, 0.95, 0.93)  # of held-out gold
ORDER = ("gold", "gold0", "ngrams", "transformer", "slots", "rlhf")
LEAST_KL = 0.1  # nats; in the figure, less is drawn as this
BEGIN, END = "<!-- table -->", "<!-- /table -->"
_HEADINGS = (
    "world", "candidate", "seeds", "gold: mean (worst–best)", "≥ 0.96", "≥ 0.95", "≥ 0.93",
    "KL at the end", "highest KL", "iterations to 0.96", "seconds to 0.96",
    "explained variance at iteration 10", "lowest after", "worst fall of the objective",
)  # fmt: skip


def rows_of(out: Path) -> list[Row]:
    """All runs of a folder, in the order of the tables.

    Raises:
        DataError: There is none.
    """
    rows = [read(file) for file in sorted((out / "runs").glob("*/*.json"))]
    if not rows:
        raise DataError(f"there are no runs in {out / 'runs'}; make some with `stability.py run --out {out}`")
    for row in rows:
        if "curves" in row:
            row |= figures(row["curves"])
            # The last update may be the one that ruins a policy, and no batch was played after it.
            row["kl_highest"] = _most([row["kl_highest"], row["after"]["kl"]])

    def place(row: Row) -> tuple[int, str, int, int, str, int]:
        world, candidate = row["world"], row["candidate"]
        known = ORDER.index(world) if world in ORDER else len(ORDER)
        peer, plain = candidate.startswith(("sb3.", "trl.")), len(candidate.split()) > 1
        first = (
            ("ppo", "grpo", "rloo", "reinforce", "best_of_n").index(candidate.split()[0]) if not peer else 9
        )
        return known, world, first, int(plain), candidate, row["seed"]

    return sorted(rows, key=place)


def groups(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Runs by world and candidate."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["world"], row["candidate"]), []).append(row)
    return found


def summary(rows: Sequence[Row]) -> Row:
    """Over the seeds of a candidate in a world.

    Returns:
        `gold_mean`, `gold_worst`, `gold_best`, `gold_before`; `share_0.96` and so on, the share of runs that
        end there or above; `kl_end` (mean) and `kl_highest` (of all runs); `reached`, how many reached 0.96
        in training, and of these the mean `reached_iteration` and `reached_seconds`; means of `ev_early` and
        `ev_lowest`; `fall`, the worst.
    """
    gold = np.array([row["after"]["gold"] for row in rows], dtype=np.float64)
    reached = [row for row in rows if row["reached_iteration"] is not None]
    return {
        "seeds": [row["seed"] for row in rows],
        "failed": sum(row["failed"] is not None for row in rows),
        "declined": sum(row["declined"] is not None for row in rows),
        "gold_before": _mean(row["before"]["gold"] for row in rows),
        "gold_mean": float(gold.mean()),
        "gold_worst": float(gold.min()),
        "gold_best": float(gold.max()),
        **{f"share_{share}": float((gold >= share).mean()) for share in SHARES},
        "kl_end": _mean(row["after"]["kl"] for row in rows),
        "kl_highest": _most(row["kl_highest"] for row in rows),
        "reached": len(reached),
        "reached_iteration": _mean(row["reached_iteration"] for row in reached),
        "reached_seconds": _mean(row["reached_seconds"] for row in reached),
        "ev_early": _mean(row["ev_early"] for row in rows),
        "ev_lowest": _mean(row["ev_lowest"] for row in rows),
        "fall": -_most(-_number(row["fall"]) for row in rows),
    }


def tables(rows: Sequence[Row], out: Path) -> str:
    """Markdown: runs with one reward, best reachable explained variance, and whole cycles."""
    found = groups(rows)
    parts = [_runs_table({key: own for key, own in found.items() if "curves" in own[0]})]
    parts += [
        _reachable_table(out),
        _cycles_table({k: own for k, own in found.items() if "rounds" in own[0]}),
    ]
    return "\n\n".join(part for part in parts if part)


def _runs_table(found: dict[tuple[str, str], list[Row]]) -> str:
    lines = []
    for (world, candidate), rows in found.items():
        s = summary(rows)
        n = len(rows)
        lines.append(
            [
                world,
                f"`{candidate}`",
                f"{n}" + (f", {s['failed']} failed" if s["failed"] else ""),
                f"{s['gold_mean']:.3f} ({s['gold_worst']:.3f}–{s['gold_best']:.3f})",
                *(f"{100 * s[f'share_{share}']:.0f} %" for share in SHARES),
                _shown(s["kl_end"], 1),
                _shown(s["kl_highest"], 1),
                f"{_shown(s['reached_iteration'], 0)} ({s['reached']}/{n})",
                _shown(s["reached_seconds"], 0),
                _shown(s["ev_early"], 2),
                _shown(s["ev_lowest"], 2),
                _shown(s["fall"], 3),
            ]
        )
    return markdown(_HEADINGS, lines) if lines else ""


def _cycles_table(found: dict[tuple[str, str], list[Row]]) -> str:
    lines = []
    for (world, candidate), rows in found.items():
        last = min(len(row["rounds"]) for row in rows)
        for number in range(last):
            own = [row["rounds"][number] for row in rows]
            gold = [r["gold"]["mean"] for r in own]
            width = _mean(r["gold"]["ci95"][1] - r["gold"]["ci95"][0] for r in own)
            verdicts = [r["verdict"] for r in own]
            told = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(sorted(verdicts)))
            before = _mean(r["gold_before"]["mean"] for r in own)
            lines.append(
                [
                    world,
                    f"`{candidate}`",
                    str(len(rows)),
                    str(own[0]["round"]),
                    f"{before:.3f}",
                    f"{np.mean(gold):.3f} ({min(gold):.3f}–{max(gold):.3f})",
                    f"± {width / 2:.3f}",
                    told,
                    _shown(_mean(r["kl_nats"] for r in own), 1),
                    _shown(_most(r["kl_nats"] for r in own), 1),
                    f"{100 * _mean(r['cut'] for r in own):.0f} %",
                ]
            )
    headings = (
        "world", "algorithm", "seeds", "round", "gold before", "gold after: mean (worst–best)",
        "95 % interval of a run", "verdicts", "KL, mean", "highest KL", "cut at the limit",
    )  # fmt: skip
    return markdown(headings, lines) if lines else ""


def reachable_rows(out: Path) -> list[Row]:
    """What `stability.py reachable` measured."""
    return [read(file) for file in sorted((out / "reachable").glob("*.json"))]


def best_reachable(measured: Sequence[Row]) -> dict[str, Row]:
    """World -> mean best explained variance at the `start` and `after` a run, over what was measured."""
    found: dict[str, list[Row]] = {}
    for row in measured:
        found.setdefault(row["world"], []).append(row)
    return {
        world: {at: _mean(row[at]["best"] for row in rows) for at in ("start", "after")}
        for world, rows in found.items()
    }


def _reachable_table(out: Path) -> str:
    lines = []
    for (world, candidate), rows in groups(reachable_rows(out)).items():
        figures_ = [
            _shown(_mean(row[at][what] for row in rows), 2)
            for at in ("start", "after")
            for what in ("ridge", "network", "best")
        ]
        lines.append([world, f"`{candidate}`", str(len(rows)), *figures_])
    headings = ["world", "after", "seeds"]
    headings += [
        f"{what}, {at}" for at in ("start", "end") for what in ("ridge", "network", "best reachable")
    ]
    return markdown(headings, lines) if lines else ""


def markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def results(file: Path, rows: Sequence[Row], out: Path) -> None:
    """Write a row a run, summaries over seeds with their mean curves, and what is reachable."""
    compact = [{k: v for k, v in row.items() if k not in ("curves", "settings")} for row in rows]
    summaries = []
    for (world, candidate), own in groups(rows).items():
        head = {"world": world, "candidate": candidate, "settings": _without_seed(own[0]["settings"])}
        if "curves" in own[0]:
            head |= summary(own)
            head["curves"] = {name: _rounded(_mean_curve(own, name)) for name in CURVES}
        summaries.append(head)
    save(file, compact, summaries=summaries, reachable=reachable_rows(out))


def fill_docs(file: Path, text: str) -> None:
    """Put tables between a page's markers.

    Raises:
        ConfigError: The page has not both markers, in this order.
    """
    page = file.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{file} has no place for the tables: lines {BEGIN} and {END}")
    file.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def write_figure(file: Path, rows: Sequence[Row], measured: Sequence[Row]) -> None:
    """Draw a row of panels for each world: gold at the end, highest KL, and explained variance.

    Args:
        file: Where to.
        rows: A row a run, with its curves.
        measured: What `reachable_rows` has.
    """
    found = {key: own for key, own in groups(rows).items() if "curves" in own[0]}
    worlds = list(dict.fromkeys(world for world, _ in found))
    if not worlds:
        raise DataError("there are no runs to draw but whole cycles")
    names = list(dict.fromkeys(candidate for _, candidate in found))
    colours = {name: i for i, name in enumerate(names)}
    reachable = best_reachable(measured)
    most = max(sum(world == w for w, _ in found) for world in worlds)
    figure, places = panels(3 * len(worlds), columns=3, size=(4.6, 1.9 + 0.32 * most))
    for n, world in enumerate(worlds):
        gold, kl, variance = places[3 * n : 3 * n + 3]
        own = {candidate: r for (w, candidate), r in found.items() if w == world}
        before = _mean(row["before"]["gold"] for r in own.values() for row in r)
        own_colours = [colours[candidate] for candidate in own]
        own = {f"{name} ({len(r)})": r for name, r in own.items()}
        ends = {name: [_number(x["after"]["gold"]) for x in r] for name, r in own.items()}
        highest = {name: [max(_number(x["kl_highest"]), LEAST_KL) for x in r] for name, r in own.items()}
        spread(
            ends, references={"start": before, f"{GOAL}": GOAL}, colours=own_colours, x_label="gold",
            title=f"{world}: held-out gold at the end", ax=gold,
        )  # fmt: skip
        spread(
            highest, logarithmic=True, colours=own_colours, x_label="nats per episode",
            title=f"{world}: highest KL on the way", ax=kl,
        )  # fmt: skip
        kl.set_xlim(LEAST_KL * 0.8, max(30.0, 1.5 * _most(kl.get_xlim())))
        kl.set_yticklabels([])  # as on the left
        _variance(variance, f"{world}: explained variance", own, own_colours, reachable.get(world))
    save_figure(figure, file)


def _variance(
    ax: Any, title: str, runs: dict[str, list[Row]], colours: Sequence[int], reachable: Row | None
) -> None:
    """Each seed thin, their mean thick, of the candidates whose critic is known; colours as on the left."""
    lines: list[Line] = []
    longest = 0
    for colour, (candidate, rows) in zip(colours, runs.items(), strict=True):
        found = [np.array([_number(x) for x in row["curves"]["explained_variance"]]) for row in rows]
        if all(np.isnan(curve).all() for curve in found):
            continue
        look: Row = {"colour": colour, "marks": False}
        lines += [Line(np.arange(1, len(c) + 1), c, style="-", width=0.4, **look) for c in found]
        mean = _mean_curve(rows, "explained_variance")
        style = STYLES[colour % len(STYLES)]
        lines.append(Line(np.arange(1, len(mean) + 1), mean, candidate, style=style, width=2.0, **look))
        longest = max(longest, len(mean))
    if not lines:
        empty(ax, "nobody here has a critic", title=title)
        return
    if reachable is not None:
        x, y = [1, max(longest, 2)], [reachable["start"], reachable["after"]]
        lines.append(Line(x, y, "best reachable, start and end", colour="ink", style="--", width=1.0))
    curves(lines, x_label="iteration", title=title, ax=ax)
    ax.set_ylim(-0.5, 1)


def _mean_curve(rows: Sequence[Row], name: str) -> Any:
    """`(n,)`, the mean over the runs that are still going on; NaN where none knows a number."""
    longest = max(len(row["curves"][name]) for row in rows)
    values = np.full((len(rows), longest), math.nan)
    for i, row in enumerate(rows):
        values[i, : len(row["curves"][name])] = [_number(x) for x in row["curves"][name]]
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    sums = np.where(known, values, 0.0).sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)


def _rounded(values: Any) -> list[float]:
    return [float(f"{x:.4g}") for x in values]


def _without_seed(settings: Row) -> Row:
    config = {k: v for k, v in settings["config"].items() if k != "seed"}
    # Where the file lies is nobody's business.
    data = {"data": Path(settings["data"]).name} if settings.get("data") else {}
    return settings | {"config": config} | data


def _number(x: float | None) -> float:
    """JSON has no NaN."""
    return math.nan if x is None else float(x)


def _mean(values: Iterable[float | None]) -> float:
    known = [x for x in map(_number, values) if not math.isnan(x)]
    return float(np.mean(known)) if known else math.nan


def _most(values: Iterable[float | None]) -> float:
    known = [x for x in map(_number, values) if not math.isnan(x)]
    return max(known) if known else math.nan


def _shown(x: float, digits: int) -> str:
    return "–" if math.isnan(x) else f"{round(x, digits) + 0.0:.{digits}f}".replace("-", "−")
