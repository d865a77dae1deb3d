"""The report of `rlhf`: one HTML page, no network, no script, light and dark; text of models is escaped.

It is made of the files of a run's folder alone. Nothing is measured here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from text_gym.utils.display import harmless
from text_gym.utils.sealed import write_atomic
from text_gym.utils.svg import Series, chart

from .verdict import headline, policy_name

_TEMPLATE = Path(__file__).parent / "report.html"
_LIMIT = 1200  # characters of a text that are shown
_SAMPLES = 4  # prompts whose texts are shown


def write_rlhf_report(folder: Path, rounds: int) -> Path:
    """Write `report.html` about the first rounds of a run; returns its path."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["text"] = lambda text: harmless(text.strip(), newlines=True, limit=_LIMIT)
    environment.filters["number"] = _number
    environment.filters["interval"] = _interval
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    found = [_read(folder / f"round-{n}" / "evaluation.json") for n in range(1, rounds + 1)]
    rows = [f["row"] for f in found]
    settings = _read(folder / "config.json")
    page = template.render(
        settings=settings,
        rows=rows,
        start=_read(folder / "start" / "evaluation.json")["row"],
        last=found[-1],
        figures=_figures(folder, found, settings),
        samples=_samples(folder, found),
        raters=[{**p, "round": f["row"]["round"]} for f in found for p in f["raters"]],
        has_gold=rows[-1]["gold"]["mean"] is not None,
        headline=headline(rows),
        vice=settings["bias"] if settings.get("bias", "none") != "none" else None,
        blameless=settings.get("rater") == "simulated" and settings.get("bias") == "none",
        end=_end(rows[-1]),
    )
    write_atomic(folder / "report.html", page)
    return folder / "report.html"


def _end(row: Mapping[str, Any]) -> dict[str, Any]:
    """The policy that stands after the last round: its figures, and what it is called."""
    given_up = row["kept"] != row["round"]
    names = {"gold": "gold", "kl": "kl_nats", "words": "words", "proxy": "proxy", "cut": "cut"}
    before = {"gold": "gold_before", "kl": "kl_before", "words": "words_before", "proxy": "proxy_before"}
    before["cut"] = "cut_before"
    found = {name: row[key] for name, key in (before if given_up else names).items()}
    return {**found, "name": policy_name(row["kept"]), "given_up": given_up}


def _figures(folder: Path, found: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    start, rows = _read(folder / "start" / "evaluation.json"), [f["row"] for f in found]
    at = [float(r["round"]) for r in rows]
    since_start = [0.0, *at]
    gold = [start["row"]["gold"], *(r["gold"] for r in rows)]
    reward = [
        Series("gold", since_start, _values(g["mean"] for g in gold), [_ends(g["ci95"]) for g in gold]),
        Series("proxy", at, _values(r["proxy"] for r in rows)),
    ]
    known = [s for s in reward if any(map(math.isfinite, s.y))]
    names = list(dict.fromkeys(name for r in rows for name in r["alphas"]))
    figures: dict[str, Any] = {
        "reward": chart(known, "round", "mean on held-out prompts", x_ticks=since_start),
        "kl": chart(
            [Series("KL", since_start, [0.0, *_values(r["kl_nats"] for r in rows)])],
            "round",
            "KL to the first policy, nats per text",
            y_range=(0, 1),
            x_ticks=since_start,
        ),
        "words": chart(
            [Series("words", since_start, [start["row"]["words"], *(r["words"] for r in rows)])],
            "round",
            "words per text",
            y_range=(0, 1),
            x_ticks=since_start,
        ),
        "length": chart(
            [
                s
                for s in (
                    Series("proxy", at, _values(r["proxy_length"] for r in rows)),
                    Series("gold", at, _values(r["gold_length"] for r in rows)),
                )
                if any(map(math.isfinite, s.y))
            ],
            "round",
            "rank correlation with length",
            y_range=(-0.5, 0.5),
            x_ticks=at,
        ),
        "scatter": _scatter(found[-1]["points"]),
        "training": _training(folder, [r["round"] for r in rows], settings.get("algorithm", "ppo")),
        "alpha": None,
    }
    if any(a is not None for r in rows for a in r["alphas"].values()):
        alphas = [Series(n, at, _values(r["alphas"].get(n) for r in rows)) for n in names[:4]]
        figures["alpha"] = chart(
            alphas, "round", "α" if len(alphas) > 1 else "Krippendorff's α", y_range=(0, 1), x_ticks=at
        )
    return figures


def _scatter(points: Mapping[str, Sequence[float | None]]) -> Any:
    """Reward against length on the last round's texts."""
    some = [
        Series(name, _values(points["words"]), _values(points[name]), dots=True)
        for name in ("proxy", "gold")
        if any(v is not None for v in points[name])
    ]
    return chart(some, "words", "reward of a text")


def _training(folder: Path, rounds: Sequence[int], algorithm: str) -> Any:
    """The reward that was optimised over the iterations of all rounds."""
    series, before = [], 0
    for n in rounds:
        lines = (folder / f"round-{n}" / "training" / "metrics.jsonl").read_text(encoding="utf-8")
        metrics = [json.loads(line) for line in lines.splitlines()]
        x = [before + i + 1.0 for i in range(len(metrics))]
        before += len(metrics)
        series.append((x, _values(m["reward"] for m in metrics)))
    # One colour: a line for each round, since each has a reward model of its own.
    x_all = [v for x, _ in series for v in (*x, math.nan)]
    y_all = [v for _, y in series for v in (*y, math.nan)]
    return chart(
        [Series("reward", x_all, y_all, marks=False)],
        f"iterations of {algorithm.upper()}, all rounds",
        "reward that is optimised",
    )


def _samples(folder: Path, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For some held-out prompts: the text at the start and after each round."""
    lines = (folder / "start" / "texts.jsonl").read_text(encoding="utf-8").splitlines()
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
    """JSON's null as NaN."""
    return [math.nan if v is None else float(v) for v in values]


def _ends(pair: Sequence[float | None]) -> tuple[float, float]:
    low, high = _values(pair)
    return low, high


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def _interval(value: Mapping[str, Any] | None) -> str:
    """`0.82 [0.80, 0.84]` of `{"mean" or "value", "ci95"}`."""
    centre = None if value is None else value.get("mean", value.get("value"))
    if value is None or centre is None:
        return "–"
    low, high = value["ci95"]
    return f"{_number(centre, 3)} [{_number(low, 3)}, {_number(high, 3)}]"
