"""Make the pages and pictures of the docs that follow from the sources: the reference and the floors.

python docs/make.py
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.house import FLOORS, House  # noqa: E402

PACKAGES = (
    "text_gym",
    "text_gym.agents",
    "text_gym.reward_models",
    "text_gym.bench",
    "text_gym.tasks.enumerable",
)
# What each folder holds, by floor from the ground up; the widths of boxes follow from it.
SAYS = {
    "text_gym": "episode, tokenizer,\ndata, errors",
    "text_gym.utils": "files, locks,\nintervals, charts",
    "text_gym.rewards": "one protocol,\nsums, transforms",
    "text_gym.tasks": "a file each",
    "text_gym.envs": "many episodes,\none episode, masks",
    "text_gym.models": "loading, devices,\nCPU fast path",
    "text_gym.agents": "policies, sampling,\nalgorithms, adapters",
    "text_gym.reward_models": "scripted, learned, judge,\npeople, labels, audit",
    "text_gym.runs": "train, data,\nfolder, console",
    "text_gym.rlhf": "the cycle",
    "text_gym.bench": "matrix, analysis,\nreport",
    "text_gym.cli": "a file a command",
}


def reference() -> str:
    """The page of all public names: what each is, in the first sentence of its docstring."""
    lines = [
        "# Reference",
        "",
        "Every public name, with the first sentence of its docstring; `help(name)` shows the rest.",
        "What is not here may change without notice. Made by `python docs/make.py`.",
    ]
    for package in PACKAGES:
        module = importlib.import_module(package)
        lines += ["", f"## {package}", "", f"{_sentence(module)}", "", "| name | what it is |", "|---|---|"]
        for name in sorted(module.__all__, key=str.lower):
            value = getattr(module, name)
            documented = inspect.isclass(value) or inspect.isfunction(value)
            lines.append(f"| `{name}` | {_sentence(value) if documented else _plain(value)} |")
    return "\n".join(lines) + "\n"


def _sentence(value: object) -> str:
    first = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
    return first.replace("|", "\\|")


def _plain(value: object) -> str:
    """What a name that is plain data holds."""
    names = list(value) if isinstance(value, (dict, list, tuple, set, frozenset)) else [value]
    shown = ", ".join(f"`{getattr(n, 'name', n)}`" for n in names[:12])
    return shown + (", …" if len(names) > 12 else "")


def draw_floors(file: Path) -> None:
    """The folders on their floors, with an arrow where the files of one import those of another."""
    house = House(ROOT)
    arrows: set[tuple[str, str]] = set()
    for name, targets in house.arrows().items():
        arrows |= {(_room(name), _room(target)) for target in targets if _room(name) != _room(target)}
    arrows = _without_shortcuts(arrows - {("text_gym.utils", "text_gym")})
    floors: dict[int, list[str]] = {}
    for room, floor in FLOORS.items():
        floors.setdefault(floor, []).append(room)
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    axes = figure.subplots()
    places: dict[str, tuple[float, float]] = {}
    for floor, rooms in floors.items():
        for i, room in enumerate(rooms):
            places[room] = ((i + 0.5) / len(rooms), float(floor))
    for start, end in sorted(arrows):
        (x0, y0), (x1, y1) = places[start], places[end]
        level = y0 == y1  # over the roofs, else from floor to ceiling
        axes.add_patch(
            FancyArrowPatch(
                (x0, y0 + 0.24 if level else y0 - 0.24),
                (x1, y1 + 0.24),
                arrowstyle="-|>",
                mutation_scale=9,
                color="0.6",
                linewidth=0.8,
                connectionstyle=f"arc3,rad={(0.25 if x0 > x1 else -0.25) if level else 0}",
                zorder=4 if level else 1,
            )
        )
    for room, (x, y) in places.items():
        axes.add_patch(
            FancyBboxPatch(
                (x - 0.095, y - 0.24),
                0.19,
                0.48,
                boxstyle="round,pad=0,rounding_size=0.02",
                mutation_aspect=5,
                facecolor="#eef3fb",
                edgecolor="#3465a4",
                zorder=2,
            )
        )
        short = room.removeprefix("text_gym.") if room != "text_gym" else "text_gym"
        axes.text(x, y + 0.12, f"{short}/", ha="center", va="center", fontsize=10, weight="bold", zorder=3)
        axes.text(x, y - 0.08, SAYS[room], ha="center", va="center", fontsize=7.5, zorder=3)
    axes.set(
        xlim=(0, 1),
        ylim=(0.6, max(floors) + 1.0),
        title="Imports point down; further down is allowed too, and a floor has one direction",
    )
    axes.set_axis_off()
    figure.savefig(str(file), dpi=130)


def _without_shortcuts(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that no path of others makes superfluous: the picture says the same with fewer lines."""
    reach = set(arrows)
    for _ in range(len(FLOORS)):
        reach |= {(a, d) for a, b in reach for c, d in arrows if b == c}
    return {(a, c) for a, c in arrows if not any((a, b) in reach and (b, c) in reach for b in FLOORS)}


def _room(module: str) -> str:
    parts = module.split(".")
    room = ".".join(parts[:2])
    return room if room in FLOORS else "text_gym"


if __name__ == "__main__":
    (ROOT / "docs" / "reference.md").write_text(reference(), encoding="utf-8")
    draw_floors(ROOT / "docs" / "floors.png")
