"""The report of `rlhf`: one HTML page without network or scripts, light and dark, with texts escaped.

It is made of the files of a run's folder alone. Nothing is measured here. Where rollouts were kept, their
page is made beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from text_gym.pages.page import render_page
from text_gym.plot.canvas import panels, to_svg
from text_gym.plot.lines import Line, curves
from text_gym.plot.points import scatter
from text_gym.utils.sealed import write_atomic
from text_gym.viewer.page import keeps_rollouts, write_run_page

from .verdict import headline, policy_name

_TEMPLATE = Path(__file__).parent / "report.html"
_SIZE = (4.3, 3.1)  # of a figure, inches
_CRITERIA = 7  # criteria whose agreement is drawn
_SAMPLES = 4  # prompts whose texts are shown


def write_rlhf_report(folder: Path, rounds: int) -> Path:
    """Write `report.html` about the first rounds of a run, and return its path."""
    found = [_read(folder / f"round-{n}" / "evaluation.json") for n in range(1, rounds + 1)]
    rows = [f["row"] for f in found]
    settings = _read(folder / "config.json")
    values = {
        "settings": settings,
        "rows": rows,
        "start": _read(folder / "start" / "evaluation.json")["row"],
        "last": found[-1],
        "figures": {n: ax and to_svg(ax, page=True) for n, ax in _figures(folder, found, settings).items()},
        "samples": _samples(folder, found),
        "raters": [{**p, "round": f["row"]["round"]} for f in found for p in f["raters"]],
        "has_gold": rows[-1]["gold"]["mean"] is not None,
        "headline": headline(rows),
        "vice": settings["bias"] if settings.get("bias", "none") != "none" else None,
        "blameless": settings.get("rater") == "simulated" and settings.get("bias") == "none",
        "end": _end(rows[-1]),
    }
    values["view"] = write_run_page(folder).name if keeps_rollouts(folder) else None
    write_atomic(folder / "report.html", render_page(_TEMPLATE, values))
    return folder / "report.html"


def _end(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures and the name of the policy kept after the last round."""
    given_up = row["kept"] != row["round"]
    names = {"gold": "gold", "kl": "kl_nats", "words": "words", "proxy": "proxy", "cut": "cut"}
    before = {"gold": "gold_before", "kl": "kl_before", "words": "words_before", "proxy": "proxy_before"}
    before["cut"] = "cut_before"
    found = {name: row[key] for name, key in (before if given_up else names).items()}
    return {**found, "name": policy_name(row["kept"]), "given_up": given_up}


def _figures(folder: Path, found: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Draw the figures by name; None where there is nothing to draw."""
    start, rows = _read(folder / "start" / "evaluation.json"), [f["row"] for f in found]
    at = [float(r["round"]) for r in rows]
    since_start = [0.0, *at]
    gold = [start["row"]["gold"], *(r["gold"] for r in rows)]
    low, high = zip(*(_values(g["ci95"]) for g in gold), strict=True)
    # Gold and proxy keep their colours and dashes from figure to figure.
    reward = [
        Line(since_start, _values(g["mean"] for g in gold), "gold", low, high, colour=1, style="--"),
        Line(at, _values(r["proxy"] for r in rows), "proxy", colour=0, style="-"),
    ]
    length = [
        Line(at, _values(r["proxy_length"] for r in rows), "proxy", colour=0, style="-"),
        Line(at, _values(r["gold_length"] for r in rows), "gold", colour=1, style="--"),
    ]
    kl = [0.0, *_values(r["kl_nats"] for r in rows)]
    words = [start["row"]["words"], *(r["words"] for r in rows)]
    return {
        "reward": _curves(reward, "mean on held-out prompts"),
        "kl": _curves([Line(since_start, kl)], "KL to the first policy, nats per text", (0, 1)),
        "words": _curves([Line(since_start, words)], "words per text", (0, 1)),
        "length": _curves(length, "rank correlation with length", (-0.5, 0.5)),
        "scatter": _scatter(found[-1]["points"]),
        "training": _training(folder, [r["round"] for r in rows], settings.get("algorithm", "ppo")),
        "alpha": _alpha(rows),
    }


def _curves(lines: Sequence[Line], label: str, reach: Sequence[float] = (), x_label: str = "round") -> Any:
    """Return the lines with known points."""
    known = [line for line in lines if np.isfinite(np.asarray(line.y, dtype=np.float64)).any()]
    return curves(known, x_label=x_label, y_label=label, reach=reach, ax=panels(1, size=_SIZE)[1][0])


def _alpha(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Draw the agreement of raters over the rounds, one line per criterion."""
    if all(a is None for r in rows for a in r["alphas"].values()):
        return None
    at = [float(r["round"]) for r in rows]
    names = list(dict.fromkeys(name for r in rows for name in r["alphas"]))[:_CRITERIA]
    return _curves([Line(at, _values(r["alphas"].get(n) for r in rows), n) for n in names], "α", (0, 1))


def _scatter(points: Mapping[str, Sequence[float | None]]) -> Any:
    """Draw reward against length on the last round's texts."""
    some = {
        name: (_values(points["words"]), _values(points[name]))
        for name in ("proxy", "gold")
        if any(v is not None for v in points[name])
    }
    return scatter(some, x_label="words", y_label="reward of a text", ax=panels(1, size=_SIZE)[1][0])


def _training(folder: Path, rounds: Sequence[int], algorithm: str) -> Any:
    """Draw the optimised reward over all iterations; each round has its own reward model."""
    lines, before = [], 0
    for n in rounds:
        text = (folder / f"round-{n}" / "training" / "metrics.jsonl").read_text(encoding="utf-8")
        metrics = [json.loads(line) for line in text.split("\n") if line]
        x = np.arange(1, len(metrics) + 1) + before
        before += len(metrics)
        lines.append(Line(x, _values(m["reward"] for m in metrics), colour=0, style="-", marks=False))
    label = f"iterations of {algorithm.upper()}, all rounds"
    return _curves(lines, "reward that is optimised", x_label=label)


def _samples(folder: Path, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Collect some held-out prompts' texts from the start and after each round."""
    # Not `splitlines`: a text may hold U+2028, which ends no row.
    lines = (folder / "start" / "texts.jsonl").read_text(encoding="utf-8").split("\n")
    result = []
    for i, sample in enumerate(found[-1]["samples"][:_SAMPLES]):
        first = json.loads(lines[i])
        texts = [{"when": "start", "text": first["completion"], "gold": first["reward"], "proxy": None}]
        texts += [{"when": f"round {f['row']['round']}", **f["samples"][i]} for f in found]
        result.append({"prompt": sample["prompt"], "texts": texts})
    return result


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _values(values: Any) -> list[float]:
    """Turn JSON's null into NaN."""
    return [math.nan if v is None else float(v) for v in values]
