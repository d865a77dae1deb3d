"""The audit as one HTML page: no network, no script, light and dark; everything a model wrote is escaped.

Numbers come from the audit as they are; nothing is computed here but positions and colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from text_gym.pages.page import render_page
from text_gym.plot.canvas import to_svg
from text_gym.plot.estimates import Estimate, intervals
from text_gym.plot.points import scatter
from text_gym.reward_models.scripted.rules import split_words
from text_gym.utils.display import harmless
from text_gym.utils.interval import Interval
from text_gym.utils.json_files import write_json

from .attribution import Attribution
from .result import EFFECT, PART, Audit, Shift

_TEMPLATE = Path(__file__).parent / "audit.html"
Series = dict[str, Sequence[Estimate]]
_SHOWN_PARTS, _LABEL = 16, 24  # parts in the figure; characters of their labels


def write_audit(found: Audit, folder: str | Path) -> Path:
    """Write `audit.html` and `audit.json` into a folder, made if need be; returns the page's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "audit.json", found.summary())
    page = folder / "audit.html"
    page.write_text(audit_page(found), encoding="utf-8")
    return page


def audit_page(found: Audit) -> str:
    """Render the audit's page."""
    values = {
        "a": found,
        "effect": EFFECT,
        "part": PART,
        "weights": [w for w in found.weights if _surely(w.weight)],
        "confirmed": _confirmed(found),
        "figures": {name: to_svg(ax, alt=name, page=True) for name, ax in _figures(found).items()},
        "explanations": [_coloured(e) for e in found.explanations],
        "gradients": [_coloured(e) for e in found.gradients],
        "scores": _summary(found.scores),
    }
    return render_page(_TEMPLATE, values)


def _surely(effect: Interval) -> bool:
    return abs(effect.value) >= PART and (effect.low > 0 or effect.high < 0)


def _confirmed(found: Audit) -> dict[str, str]:
    """Say whether an edit confirms each associated word: `yes`, `no`, or nothing."""
    surely = {p.part.lower(): p.effect.value for p in found.parts if _surely(p.effect)}
    said = {}
    for w in found.weights:
        name = w.name.removeprefix("first word: ")
        if name in surely:
            said[w.name] = "yes" if surely[name] * w.weight.value > 0 else "no"
    return said


def _figures(found: Audit) -> dict[str, Any]:
    """Axes by the name of the figure."""

    def both(rows: Sequence[Any], field: str, gold: str) -> Series:
        series: Series = {"this reward": [getattr(r, field) for r in rows]}
        return series if found.gold is None else {**series, "gold": [getattr(r, gold) for r in rows]}

    def shifts(rows: Sequence[Shift]) -> Any:
        unit = "mean absolute change of score (standard deviations)"
        return intervals([r.name for r in rows], both(rows, "size", "gold"), reference=0, x_label=unit)

    names = [s.name for s in found.surfaces]
    correlations: Series = {"as it is": [s.correlation for s in found.surfaces]}
    if found.gold is not None:
        correlations["at equal gold"] = [s.partial for s in found.surfaces]
    length = np.array([len(split_words(text)) for text in found.texts], dtype=np.float64)
    figures: dict[str, Any] = {}
    shown = found.parts[:_SHOWN_PARTS]
    if shown:
        labels = [f"{p.kind}: {harmless(p.part, limit=_LABEL)}" for p in shown]
        unit = "change of score (standard deviations)"
        figures["parts"] = intervals(
            labels, {"this reward": [p.effect for p in shown]}, reference=0, x_label=unit
        )
    unit = "change of score by the edit (standard deviations)"
    beaten, nulls = both(found.nulls, "beaten", "gold"), [n.name for n in found.nulls]
    figures |= {
        "nulls": intervals(nulls, beaten, reference=0.5, x_label="share of real texts beaten"),
        "correlations": intervals(
            names, correlations, reference=0, x_label="rank correlation with the score (Spearman)"
        ),
        "effects": intervals(names, both(found.surfaces, "effect", "gold"), reference=0, x_label=unit),
        "length": scatter(
            {"": (length, found.scores)}, x_label="length (words)", y_label="score (units of this reward)"
        ),
    }
    if found.swaps:
        figures["swaps"] = shifts(found.swaps)
    if found.stability:
        figures["stability"] = shifts(found.stability)
    return figures


def _coloured(explained: Attribution) -> dict[str, Any]:
    """Each term's pieces with the strength of their colour in [-1, 1]; `reward` first."""
    terms = []
    for name, values in explained.values.items():
        largest = float(np.nanmax(np.abs(values))) if len(values) and not np.isnan(values).all() else 0.0
        if not largest and name != "reward":
            continue
        strength = np.nan_to_num(values / largest) if largest else np.zeros(len(values))
        terms.append(
            {
                "name": name,
                "total": explained.totals[name],
                "largest": largest,
                "pieces": [
                    {
                        "space": piece[: len(piece) - len(piece.lstrip())],
                        "text": harmless(piece.lstrip(), newlines=True),
                        "sign": "up" if s > 0 else "down",
                        "percent": round(70 * abs(float(s))),
                        "value": _signed(float(v)),
                    }
                    for piece, s, v in zip(explained.pieces, strength, values, strict=True)
                ],
            }
        )
    return {"terms": terms}


def _summary(scores: Any) -> dict[str, float]:
    low, middle, high = np.quantile(scores, [0, 0.5, 1])
    return {"mean": float(scores.mean()), "low": float(low), "median": float(middle), "high": float(high)}


def _signed(value: float) -> str:
    return "no opinion" if math.isnan(value) else f"{value:+.3g}".replace("-", "−")
