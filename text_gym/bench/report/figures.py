"""The figures of a report, from its summary: the frontier over √KL, where runs end, lengths, accuracy.

Nothing is computed here but positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from text_gym.bench.analysis.frontier import FORMS, Form, curve
from text_gym.bench.analysis.results import optimiser_name
from text_gym.plot.estimates import intervals
from text_gym.plot.lines import Line, curves, frontier, reward_and_gold
from text_gym.plot.maps import heat_map
from text_gym.plot.points import scatter
from text_gym.plot.style import COLOURS, STYLES
from text_gym.utils.display import harmless
from text_gym.utils.interval import Interval

from .plates import Panel, Plate

_AT_ONCE = 5  # designs with a colour of their own in one panel
Item = Mapping[str, Any]


def plates(summary: Mapping[str, Any]) -> dict[str, Plate]:
    """The figures that a summary has the numbers for, by name, in the order of the page."""
    makers: tuple[Callable[[Mapping[str, Any]], Plate | None], ...] = (
        (_algorithms, _learning, _ends)
        if summary["what"] == "agents"
        else (_ranking, _frontier, _ends, _best_of_n, _length, _accuracy, _null_rulers)
    )
    found = [plate for make in makers if (plate := make(summary)) is not None]
    return {plate.name: plate for plate in found}


# Lines over KL, a panel a group


def _ends(summary: Mapping[str, Any]) -> Plate | None:
    """Gold against KL at the end of runs, a line over the KL coefficients for each design."""
    settings = [s for s in summary["settings"] if s["kl_coefficient"] is not None]
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for s in sorted(settings, key=lambda s: -float(s["kl_coefficient"])):
        key = (_label(summary, s), s["optimiser"])
        lines.setdefault(key, []).append((s["measures"]["kl_nats"]["value"], s["measures"]["gold"]["value"]))
    title = "The end of runs"
    return _by_group(summary, "ends", title, lines, "KL to the start, nats per text", "gold at the end")


def _best_of_n(summary: Mapping[str, Any]) -> Plate | None:
    """Gold against n, which fixes the KL."""
    settings = [s for s in summary["settings"] if s["optimiser"] == "best_of_n"]
    lines = {
        (_label(summary, s), "best_of_n"): [(p["kl_nats"], p["gold"]) for p in s["curve"]] for s in settings
    }
    return _by_group(summary, "best_of_n", "Best-of-n", lines, "KL bound log n − (n − 1)/n, nats", "gold")


def _by_group(
    summary: Mapping[str, Any],
    name: str,
    title: str,
    lines: Mapping[tuple[str, str], list[tuple[float, float]]],
    x_label: str,
    y_label: str,
) -> Plate | None:
    if not lines:
        return None
    optimisers = list(dict.fromkeys(o for _, o in lines))
    agents = summary["what"] == "agents"

    def draw(own: Sequence[str]) -> Callable[[Any], object]:
        # Agents: a panel a task, and tasks have nothing in common; a colour is an algorithm.
        seen = {k: line for k, line in lines.items() if k[0] in own or not agents}
        found = []
        for (design, optimiser), line in seen.items():
            x, y = zip(*line, strict=True)
            style = "-" if agents else STYLES[optimisers.index(optimiser) % len(STYLES)]
            if design not in own:
                grey, width = ("soft", 1.2) if design == "gold" else ("faint", 1.0)
                found.append(Line(x, y, colour=grey, style=style, width=width))
                continue
            first = optimiser == next(o for d, o in lines if d == design)
            label = design.rpartition(": ")[2] if agents else design
            found.append(
                Line(x, y, label if first else "", colour=own.index(design), style=style, marks=True)
            )
        return lambda axes: frontier(found, x_label=x_label, y_label=y_label, ax=axes)

    present = {d for d, _ in lines}
    panels = [
        Panel(group, draw(own))
        for group, designs in _groups(summary)
        if (own := [d for d in designs if d in present])
    ]
    return Plate(name, title, panels)


def _groups(summary: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Groups of designs in the order of their cells; those of a single design share a panel."""
    found: dict[str, list[str]] = {}
    for s in summary["settings"]:
        own = found.setdefault(str(s["task"] if _several_tasks(summary) else s["group"]), [])
        label = _label(summary, s)
        own += [] if label in own else [label]
    panels: list[tuple[str, list[str]]] = []
    singles: list[tuple[str, list[str]]] = []
    for group, designs in found.items():
        if len(designs) == 1:
            singles.append((group, designs))
        for i in range(0, len(designs), _AT_ONCE) if len(designs) > 1 else ():
            panels.append((harmless(group), designs[i : i + _AT_ONCE]))
    chunk = -(-len(singles) // -(-len(singles) // _AT_ONCE)) if singles else 1  # as equal as can be
    for i in range(0, len(singles), chunk):
        some = singles[i : i + chunk]
        panels.append((", ".join(harmless(g) for g, _ in some), [d for _, own in some for d in own]))
    return panels


def _frontier(summary: Mapping[str, Any]) -> Plate | None:
    """Gain of proxy and gold along √KL, a panel a design, the user's first."""
    panels: list[Panel] = []
    for design in sorted(summary["designs"], key=lambda d: not d["yours"]):
        own = [s for s in _of(summary, design) if len(s["curve"]) > 1]
        if own:
            panels.append(Panel(_label(summary, design), _gains(own, design), (3.6, 3.1)))
    title = "The frontier: gain of proxy and gold, in standard deviations of the start"
    return Plate("frontier", title, panels, 4) if panels else None


def _gains(settings: Sequence[Item], design: Item) -> Callable[[Any], object]:
    """At the smallest coefficient proxy and gold, beside it gold at larger ones, best-of-n, and the fits."""
    betas = [s["kl_coefficient"] for s in settings if s["kl_coefficient"] is not None]
    least = min(betas, default=None)
    names = list(dict.fromkeys(s["optimiser"] for s in settings if s["kl_coefficient"] is not None))
    labelled: set[str] = set()

    def line(curve: Sequence[Item], measure: str, name: str, style: str, colour: int | str) -> Line:
        x, y = [p["kl_nats"] for p in curve], [p[f"{measure}_gain"] for p in curve]
        known = name in labelled
        labelled.add(name)
        width = 1.0 if colour == "faint" else 1.7
        return Line(x, y, "" if known else name, colour=colour, style=style, width=width, marks=False)

    proxy, gold, others = [], [], []
    for s in settings:
        style = STYLES[names.index(s["optimiser"]) % len(STYLES)] if s["optimiser"] in names else "-"
        if s["kl_coefficient"] is None:
            others.append(line(s["curve"], "gold", "gold, best-of-n", "-", 2))
        elif s["kl_coefficient"] == least:
            proxy.append(line(s["curve"], "proxy", "proxy", style, 0))
            gold.append(line(s["curve"], "gold", "gold", style, 1))
        else:
            others.append(line(s["curve"], "gold", "gold, larger β", style, "faint"))
    fits = {
        f"fit, {name}": fitted
        for form, name in zip(FORMS, ("best-of-n", "learning"), strict=True)
        if (fitted := _fitted(design["frontier"][form], form)) is not None
    }
    zero = Line(
        [0, max([1.0, *(p["kl_nats"] for s in settings for p in s["curve"])])],
        [0, 0],
        colour="soft",
        style="-",
        width=0.8,
    )
    return lambda axes: reward_and_gold(proxy, gold, others=[zero, *others], fits=fits, ax=axes)


def _fitted(found: Item | None, form: Form) -> tuple[Any, Any] | None:
    """KL and gain, as far as points were seen; none where the fit is not meaningful."""
    if found is None or found["note"]:
        return None
    d = np.linspace(0.0, found["d_max"], 60)
    return d**2, curve(found["alpha"]["value"], found["beta"]["value"], d, form)


# Dots, a line a design


def _ranking(summary: Mapping[str, Any]) -> Plate | None:
    budget = f"{summary['ranked_at']:g}"
    rows = [
        (
            _label(summary, d),
            [
                d["budgets"][budget]["gold"] if d["budgets"][budget] else None,
                d["at_least"]["gold"] if d["least_kl_coefficient"] is not None else None,
            ],
        )
        for d in summary["designs"]
    ]
    names = [f"best within {budget} nats", "at the end, smallest KL coefficient"]
    start = _mean(list(summary["starts"].values()))
    return _dots("ranking", "Gold after optimisation", rows, names, "gold", start, "start")


def _length(summary: Mapping[str, Any]) -> Plate | None:
    settings = [s for s in summary["settings"] if s["kl_coefficient"] is not None]
    betas = sorted({s["kl_coefficient"] for s in settings})[: len(COLOURS)]
    if not betas:
        return None
    rows = []
    for d in summary["designs"]:
        own = {end["kl_coefficient"]: end["length_drift"] for end in d["ends"]}
        rows.append((_label(summary, d), [own.get(beta) for beta in betas]))
    names = [f"β = {beta:g}" for beta in betas]
    return _dots("length", "Length drift", rows, names, "words per text, end less start", 0.0)


def _algorithms(summary: Mapping[str, Any]) -> Plate | None:
    rows = [(_label(summary, s), [s["measures"]["gold"]]) for s in summary["settings"]]
    return _dots("algorithms", "Gold at the end", rows, ["gold"], "gold")


def _dots(
    name: str,
    title: str,
    rows: Sequence[tuple[str, Sequence[Item | None]]],
    series: Sequence[str],
    x_label: str,
    reference: float = math.nan,
    reference_name: str = "",
) -> Plate | None:
    """A line a design, with a dot and its interval for each series, and a ring at the worst run."""
    if not rows:
        return None
    found: dict[str, list[Interval | None]] = {}
    worst: dict[str, list[float]] = {}
    for n, label in enumerate(series):
        own = [values[n] for _, values in rows]
        found[label] = [_interval(v) for v in own]
        worst[label] = [v.get("worst", math.nan) if v else math.nan for v in own]

    def draw(axes: Any) -> object:
        return intervals(
            [label for label, _ in rows],
            found,
            worst=worst,
            reference=reference,
            reference_name=reference_name,
            x_label=x_label,
            ax=axes,
        )

    height = 1.0 + (0.3 + 0.07 * max(0, len(series) - 2)) * len(rows)
    return Plate(name, title, [Panel("", draw, (7.2, height))], 1)


# Others


def _accuracy(summary: Mapping[str, Any]) -> Plate | None:
    budget = f"{summary['ranked_at']:g}"
    points = [
        (d["static_accuracy"]["mean"], d["budgets"][budget]["gold"]["value"], _label(summary, d))
        for d in summary["designs"]
        if d["budgets"][budget] and math.isfinite(d["static_accuracy"]["mean"])
    ]
    if len(points) < 2:
        return None

    x, y, names = zip(*points, strict=True)

    def draw(axes: Any) -> object:
        labels = {"x_label": "accuracy on pairs of the start's texts"}
        labels["y_label"] = f"best gold within {budget} nats"
        if len(points) > 60:
            return scatter({"": (x, y)}, **labels, ax=axes)
        return scatter({"": (x, y)}, names=names, **labels, ax=axes)

    return Plate("accuracy", "Static accuracy and gold", [Panel("", draw, (7.2, 4.6))], 1)


def _null_rulers(summary: Mapping[str, Any]) -> Plate | None:
    """Draw the null rulers for the PNG; the page has a table."""
    designs = [d for d in summary["designs"] if d["null_rulers"]]
    rulers = list(dict.fromkeys(r for d in designs for r in d["null_rulers"]))
    if not rulers:
        return None
    values = [[d["null_rulers"].get(r, math.nan) for r in rulers] for d in designs]

    def draw(axes: Any) -> object:
        return heat_map([_label(summary, d) for d in designs], rulers, values, ax=axes)

    size = (2.2 + 1.1 * len(rulers), 0.9 + 0.28 * len(designs))
    return Plate("null_rulers", "Mean rank of texts that take no skill", [Panel("", draw, size)], 1)


def _learning(summary: Mapping[str, Any]) -> Plate | None:
    """Gold over tokens (episodes, where they were not counted), a panel a task, a colour an optimiser."""
    tasks: dict[str, list[Item]] = {}
    for s in summary["settings"]:
        tasks.setdefault(s["task"], []).append(s)

    def draw(settings: Sequence[Item]) -> Callable[[Any], object]:
        counted = all(math.isfinite(p["tokens"]) for s in settings for p in s["curve"])
        unit = "tokens" if counted else "episodes"
        found = [
            Line(
                [p[unit] for p in s["curve"]],
                [p["gold"] for p in s["curve"]],
                _label(summary, s).rpartition(": ")[2],
            )
            for s in settings
        ]
        return lambda axes: curves(found, x_label=unit, y_label="gold", ax=axes)

    panels = [Panel(harmless(task), draw(settings)) for task, settings in tasks.items()]
    return Plate("learning", "Learning", panels) if panels else None


def _interval(value: Item | None) -> Interval | None:
    return None if value is None else Interval(value["value"], value["ci95"][0], value["ci95"][1], value["n"])


def _of(summary: Mapping[str, Any], design: Item) -> list[Item]:
    return [s for s in summary["settings"] if (s["task"], s["design"]) == (design["task"], design["name"])]


def _label(summary: Mapping[str, Any], item: Item) -> str:
    """Return the label that tells a design or setting from the others of its kind."""
    if summary["what"] == "agents" and "optimiser" in item:
        betas = {s["kl_coefficient"] for s in summary["settings"]}
        beta = (
            f", β = {item['kl_coefficient']:g}"
            if len(betas) > 1 and item["kl_coefficient"] is not None
            else ""
        )
        task = f"{harmless(item['task'])}: " if _several_tasks(summary) else ""
        return task + optimiser_name(item["optimiser"]) + beta
    return harmless(str(item.get("design") or item["name"]), limit=40)


def _several_tasks(summary: Mapping[str, Any]) -> bool:
    return len({s["task"] for s in summary["settings"]}) > 1


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return sum(known) / len(known) if known else math.nan
