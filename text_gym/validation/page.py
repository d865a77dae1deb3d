"""A validation as files: the report as JSON and as a page, and a badge for shields.io."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from text_gym.pages.page import render_page
from text_gym.utils.json_files import write_json

from .checks import CHECKS, LEVELS
from .result import ValidationReport

_TEMPLATE = Path(__file__).parent / "validation.html"


def write_validation(reports: Sequence[ValidationReport], folder: str | Path) -> Path:
    """Write `validation.json`, `validation.html` and `badge.json` into a folder, made if need be.

    Returns:
        The page's path. With several reports the JSON is a list, and the badge is that of the worst.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = [report.summary() for report in reports]
    write_json(folder / "validation.json", found[0] if len(found) == 1 else found)
    write_json(folder / "badge.json", min(reports, key=lambda r: r.grade).badge())
    page = folder / "validation.html"
    page.write_text(validation_page(reports), encoding="utf-8")
    return page


def validation_page(reports: Sequence[ValidationReport]) -> str:
    """Render the page of one or several reports."""
    values = {"reports": reports, "checks": CHECKS, "levels": LEVELS}
    return render_page(_TEMPLATE, values, filters={"figures": _figures})


def _figures(measured: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was measured as pairs of a name and a short text."""
    shown = []
    for name, value in measured.items():
        if isinstance(value, Mapping) and "ci95" in value:
            low, high = value["ci95"]
            shown.append((name, f"{_short(value['value'])} [{_short(low)}, {_short(high)}]"))
        elif isinstance(value, Mapping):
            shown.append((name, "; ".join(f"{k}: {_short(v)}" for k, v in value.items())))
        else:
            shown.append((name, _short(value)))
    return [(name.replace("_", " "), text) for name, text in shown]


def _short(value: Any) -> str:
    return f"{value:.3g}".replace("-", "−") if isinstance(value, float) else str(value)
