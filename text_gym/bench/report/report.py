"""The report of a benchmark: one HTML page, light and dark, whose only script sorts and filters.

It is made of the cells of a folder alone, finished or not, and the same cells give the same bytes. What
models and users wrote is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from text_gym.bench.analysis.outcomes import hardest, worst_setting
from text_gym.bench.analysis.results import CellResult, Results, optimiser_name, read_results
from text_gym.bench.analysis.samples import RULES, telling, troubles, worst_run
from text_gym.bench.analysis.summary import whole_summary
from text_gym.bench.analysis.verdicts import chance_note
from text_gym.pages.page import render_page, shown_text
from text_gym.utils.display import harmless
from text_gym.utils.json_files import write_json
from text_gym.utils.sealed import write_atomic

from .figures import plates

_TEMPLATE = Path(__file__).parent / "report.html"
_SCRIPT = Path(__file__).parent / "report.js"


def write_report(folder: str | Path) -> Path:
    """Write `summary.json`, `figures/*.png` and `report.html` into a benchmark's folder.

    Raises:
        ConfigError: The folder holds no benchmark.
        DataError: It has no finished cell, or one that cannot be read.
    """
    folder = Path(folder)
    results = read_results(folder)
    summary = whole_summary(results)
    write_json(folder / "summary.json", summary)
    drawn = plates(summary)
    (folder / "figures").mkdir(exist_ok=True)
    for plate in drawn.values():
        plate.write_png(folder / "figures")
    figures = {name: plate.svgs() for name, plate in drawn.items() if name != "null_rulers"}
    write_atomic(folder / "report.html", _page(results, summary, figures))
    return folder / "report.html"


def _page(results: Results, summary: Mapping[str, Any], figures: Mapping[str, Sequence[Markup]]) -> str:
    values = {
        "s": summary,
        "config": results.config,
        "settings": _flat(
            {k: v for k, v in results.config.items() if k not in ("designs", "machine", "command")}
        ),
        "figures": figures,
        "samples": _samples(results, summary),
        "findings": _findings(summary),
        "chance": chance_note(summary["multiplicity"]),
        "rules": RULES,
        "runs": _runs(summary["runs"]),
        "rulers": _rulers(summary),
        "kinds": _kinds(summary),
        "without_runs": _without_runs(results),
        "rollouts": [(_name(c), c.rollouts) for c in results.cells if c.rollouts is not None],
    }
    filters: dict[str, Callable[..., Any]] = {
        "text": _text,
        "optimiser": lambda name: harmless(optimiser_name(name)),
        "key": _key,
        "failed": _failed,
        "known": math.isfinite,
        "chance": lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}",
    }
    return render_page(_TEMPLATE, values, script=_SCRIPT.read_text(encoding="utf-8"), filters=filters)


def _samples(results: Results, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Show each design's texts under its hardest optimisation, the user's designs first."""
    agents = summary["what"] == "agents"
    if agents:
        chosen: list[Sequence[CellResult]] = list(results.settings.values())
    else:
        names = dict.fromkeys(d["name"] for d in sorted(summary["designs"], key=lambda d: not d["yours"]))
        chosen = [worst_setting(p.strata) for name in names if (p := hardest(results, name)) is not None]
    found = []
    for cells in chosen:
        setting, worst = cells[0].setting, worst_run(cells)
        about = results.about(setting.design)
        found.append(
            {
                "title": f"{setting.task}: {optimiser_name(setting.optimiser)}" if agents else str(setting),
                "description": about.get("description") or "",
                "tree": about.get("tree"),
                "troubles": troubles(cells),
                "seed": worst.row["seed"],
                "rollouts": worst.rollouts,
                "runs": len(cells),
                "prompts": _shown(worst),
            }
        )
    return found


def _without_runs(results: Results) -> list[dict[str, Any]]:
    """Return the designs of which no run has finished, as the configuration tells of them."""
    asked: Sequence[Mapping[str, Any]] = results.config.get("designs") or ()
    return [
        {"name": d["name"], "group": d.get("group") or "", "description": d.get("description") or ""}
        for d in asked
        if d["name"] not in results.designs
    ]


def _name(cell: CellResult) -> str:
    """Return the name of a run in a list of all."""
    return f"{cell.setting.task}: {cell.setting}, seed {cell.row['seed']}"


def _findings(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Group the findings: the user's designs, several designs together, each design of the suite."""
    yours = [d["name"] for d in summary["designs"] if d["yours"]]
    found: dict[str, Any] = {"yours": {}, "general": [], "suite": {}}
    for f in summary["findings"]:
        if f["design"]:
            found["yours" if f["design"] in yours else "suite"].setdefault(f["design"], []).append(f)
        else:
            found["general"].append(f)
    return found


def _shown(cell: CellResult) -> list[dict[str, Any]]:
    """Return a run's samples, without showing a text twice."""
    prompts = []
    for sample in (cell.samples[i] for i in telling(cell)):
        texts: list[dict[str, Any]] = []
        for text in sample["texts"]:
            same = next((t for t in texts if t["text"] == text["text"]), None)
            if same is None:
                texts.append({**text, "when": str(text["when"])})
            else:
                same["when"] += f" and {text['when']}"
        prompts.append({"prompt": sample["prompt"], "texts": texts})
    return prompts


def _runs(runs: Mapping[str, Any]) -> str:
    """Say how many runs there are, and what that is worth."""
    least, most = runs["least"], runs["most"]
    count = f"{least} {'run' if least == 1 else 'runs'}" + (f" to {most}" if most > least else "")
    if least == 1:
        return f"Each setting has {count}. A single run has no interval: it says nothing about its spread."
    text = f"Each setting has {count}, with a seed each."
    if least <= 3:
        text += (
            f" A bootstrap interval over {least} seeds is just their range, which holds the median of all "
            f"possible seeds with probability {100 * runs['coverage_of_range']:.0f} %, not 95 %."
        )
    return text


def _rulers(summary: Mapping[str, Any]) -> list[str]:
    """Tabulate the null rulers, where designs are compared."""
    designs = summary["designs"] if summary["what"] == "rewards" else ()
    return list(dict.fromkeys(r for d in designs for r in d["null_rulers"]))


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Flatten nested settings into one list, leaving out unset ones."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name} · ")
        elif isinstance(value, (list, tuple)):
            found[before + name] = ", ".join(map(str, value))
        elif value is not None:
            found[before + name] = str(value)
    return found


def _kinds(summary: Mapping[str, Any]) -> str:
    """Explain which line style is which optimiser's, where figures use it."""
    names = ("solid", "dashed", "dotted", "dash-dotted")
    known = list(
        dict.fromkeys(s["optimiser"] for s in summary["settings"] if s["kl_coefficient"] is not None)
    )
    return ", ".join(f"{kind} {optimiser_name(o)}" for kind, o in zip(names, known, strict=False))


def _text(value: object) -> str:
    """Make a text harmless, and keep a coefficient with its sign."""
    return shown_text(value).replace("β = ", "β\u00a0=\u00a0")


def _failed(gold: Mapping[str, Any]) -> str:
    """Count the runs that ended below their start."""
    return f"{gold['below_start']} of {gold['n']}" if gold["n"] else "–"


def _key(value: Any) -> str:
    """Return a cell's sort key, empty if unknown."""
    if isinstance(value, Mapping):
        value = value["value"]
    return "" if value is None or math.isnan(value) else f"{value:.6g}"
