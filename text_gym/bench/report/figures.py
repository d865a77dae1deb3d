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
from text_gym.utils.charts import (
    COLOURS,
    FAINT,
    INK,
    PAPER,
    SOFT,
    STYLES,
    Panel,
    Plate,
    dots,
    place_names,
    root_scale,
)
from text_gym.utils.display import harmless

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

    def draw(own: Sequence[str]) -> Callable[[Any], None]:
        # Agents: a panel a task, and tasks have nothing in common; a colour is an algorithm.
        seen = {k: line for k, line in lines.items() if k[0] in own or not agents}
        points = [p for line in seen.values() for p in line if math.isfinite(sum(p))]
        low, high = min((y for _, y in points), default=0.0), max((y for _, y in points), default=1.0)

        def lines_of(axes: Any) -> None:
            for (design, optimiser), line in seen.items():
                x, y = zip(*line, strict=True)
                style = "-" if agents else STYLES[optimisers.index(optimiser) % len(STYLES)]
                if design not in own:
                    colour, width = (SOFT, 1.2) if design == "gold" else (FAINT, 1.0)
                    axes.plot(x, y, style, color=colour, linewidth=width, zorder=1)
                    continue
                first = optimiser == next(o for d, o in lines if d == design)
                label = design.rpartition(": ")[2] if agents else design
                colour = COLOURS[own.index(design)]
                axes.plot(x, y, style, marker="o", color=colour, label=label if first else None, zorder=3)
            root_scale(axes, max((x for x, _ in points), default=1.0))
            axes.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
            axes.set(xlabel=x_label, ylabel=y_label)

        return lines_of

    present = {d for d, _ in lines}
    panels = [
        Panel(group, draw(own), (3.9, 3.4))
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
            legend: Any = "none" if panels else "inside"
            panels.append(Panel(_label(summary, design), _gains(own, design), (2.9, 2.4), legend=legend))
    title = "The frontier: gain of proxy and gold, in standard deviations of the start"
    return Plate("frontier", title, panels, 4) if panels else None


def _gains(settings: Sequence[Item], design: Item) -> Callable[[Any], None]:
    """At the smallest coefficient proxy and gold, beside it gold at larger ones, best-of-n, and the fits."""
    betas = [s["kl_coefficient"] for s in settings if s["kl_coefficient"] is not None]
    least = min(betas, default=None)
    names = list(dict.fromkeys(s["optimiser"] for s in settings if s["kl_coefficient"] is not None))

    def draw(axes: Any) -> None:
        labelled: set[str] = set()

        def line(curve: Sequence[Item], measure: str, name: str, style: str, **look: Any) -> None:
            x, y = [p["kl_nats"] for p in curve], [p[f"{measure}_gain"] for p in curve]
            axes.plot(x, y, style, label=None if name in labelled else name, **look)
            labelled.add(name)

        for s in settings:
            if s["kl_coefficient"] is None:
                line(s["curve"], "gold", "gold, best-of-n", "-", color=COLOURS[2])
                continue
            style = STYLES[names.index(s["optimiser"]) % len(STYLES)]
            if s["kl_coefficient"] == least:
                line(s["curve"], "proxy", "proxy", style, color=COLOURS[0])
                line(s["curve"], "gold", "gold", style, color=COLOURS[1])
            else:
                line(s["curve"], "gold", "gold, larger β", style, color=FAINT, linewidth=1.0, zorder=1)
        for form in FORMS:
            _fitted(axes, design["frontier"][form], form)
        axes.axhline(0, color=SOFT, linewidth=0.8)
        seen = [p["kl_nats"] for s in settings for p in s["curve"]]
        root_scale(axes, max([1.0, *(v for v in seen if math.isfinite(v))]))
        axes.set(xlabel="KL, nats per text")

    return draw


def _fitted(axes: Any, found: Item | None, form: Form) -> None:
    """A thin line, as far as points were seen; none where the fit is not meaningful."""
    if found is None or found["note"]:
        return
    d = np.linspace(0.0, found["d_max"], 60)
    gain = curve(found["alpha"]["value"], found["beta"]["value"], d, form)
    axes.plot(d**2, gain, "-", color=INK, linewidth=0.7, zorder=4)


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
    return dots(
        "ranking",
        "Gold after optimisation",
        rows,
        names,
        "gold",
        _mean(list(summary["starts"].values())),
        "start",
    )


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
    return dots("length", "Length drift", rows, names, "words per text, end less start", 0.0, "")


def _algorithms(summary: Mapping[str, Any]) -> Plate | None:
    rows = [(_label(summary, s), [s["measures"]["gold"]]) for s in summary["settings"]]
    return dots("algorithms", "Gold at the end", rows, ["gold"], "gold", math.nan, "")


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

    def draw(axes: Any) -> None:
        x, y, _ = zip(*points, strict=True)
        axes.plot(x, y, "o", color=COLOURS[0], markersize=6)
        axes.margins(0.14, 0.1)
        axes.set(xlabel="accuracy on pairs of the start's texts", ylabel=f"best gold within {budget} nats")
        place_names(axes, points)

    return Plate("accuracy", "Static accuracy and gold", [Panel("", draw, (7.2, 4.6), legend="none")], 1)


def _null_rulers(summary: Mapping[str, Any]) -> Plate | None:
    """For the PNG; the page has a table."""
    designs = [d for d in summary["designs"] if d["null_rulers"]]
    rulers = list(dict.fromkeys(r for d in designs for r in d["null_rulers"]))
    if not rulers:
        return None

    def draw(axes: Any) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        values = [[d["null_rulers"].get(r, math.nan) for r in rulers] for d in designs]
        colours = LinearSegmentedColormap.from_list("ranks", [PAPER, COLOURS[4]])
        axes.imshow(values, cmap=colours, vmin=0, vmax=1, aspect="auto")
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                colour = PAPER if value > 0.6 else INK
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(rulers)), [harmless(r) for r in rulers])
        axes.set_yticks(range(len(designs)), [_label(summary, d) for d in designs])
        axes.grid(visible=False)
        axes.tick_params(length=0)

    size = (2.2 + 1.1 * len(rulers), 0.9 + 0.28 * len(designs))
    return Plate(
        "null_rulers", "Mean rank of texts that take no skill", [Panel("", draw, size, legend="none")], 1
    )


def _learning(summary: Mapping[str, Any]) -> Plate | None:
    """Gold over tokens (episodes, where they were not counted), a panel a task, a colour an optimiser."""
    tasks: dict[str, list[Item]] = {}
    for s in summary["settings"]:
        tasks.setdefault(s["task"], []).append(s)

    def draw(settings: Sequence[Item]) -> Callable[[Any], None]:
        counted = all(math.isfinite(p["tokens"]) for s in settings for p in s["curve"])
        unit = "tokens" if counted else "episodes"

        def lines(axes: Any) -> None:
            for n, s in enumerate(settings):
                x, y = [p[unit] for p in s["curve"]], [p["gold"] for p in s["curve"]]
                label = _label(summary, s).rpartition(": ")[2]
                style, colour = STYLES[n // len(COLOURS) % len(STYLES)], COLOURS[n % len(COLOURS)]
                axes.plot(x, y, style, color=colour, label=label)
            axes.set(xlabel=unit, ylabel="gold")

        return lines

    panels = [Panel(harmless(task), draw(settings), (3.9, 3.4)) for task, settings in tasks.items()]
    return Plate("learning", "Learning", panels) if panels else None


def _of(summary: Mapping[str, Any], design: Item) -> list[Item]:
    return [s for s in summary["settings"] if (s["task"], s["design"]) == (design["task"], design["name"])]


def _label(summary: Mapping[str, Any], item: Item) -> str:
    """What tells a design or setting from the others of its kind."""
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
