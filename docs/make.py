"""Make the pages and pictures of the docs: the reference, the floors, the plots, and figures of results.

python docs/make.py
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from tests.house import FLOORS, House  # noqa: E402
from text_gym.bench.report.figures import plates  # noqa: E402
from text_gym.plot import diagram, save  # noqa: E402

PACKAGES = (
    "text_gym",
    "text_gym.agents",
    "text_gym.reward_models",
    "text_gym.bench",
    "text_gym.plot",
    "text_gym.tasks.enumerable",
)
# What each folder holds, by floor from the ground up; the widths of boxes follow from it.
SAYS = {
    "text_gym": "episode, tokenizer,\ndata, errors",
    "text_gym.utils": "files, locks,\nintervals, sandbox",
    "text_gym.plot": "curves, trees,\nSVG and PNG",
    "text_gym.pages": "the frame of\nevery report",
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
    names = {room: f"{room.removeprefix('text_gym.')}/" for room in FLOORS}
    boxes = {
        names[room]: ((i + 0.5) / len(rooms), float(floor), SAYS[room])
        for floor, rooms in floors.items()
        for i, room in enumerate(rooms)
    }
    title = "Imports point down; further down is allowed too, and a floor has one direction"
    save(diagram(boxes, {(names[a], names[b]) for a, b in arrows}, title=title), file)


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


def draw_plots(page: Path) -> None:
    """Run the snippets of a page; after each that a picture follows, save the axes `ax` as that picture."""
    names: dict[str, object] = {}
    text = page.read_text(encoding="utf-8")
    for snippet, picture in re.findall(
        r"```python\n(.*?)```\n\n!\[[^]]*\]\((plots/\w+\.svg)\)", text, re.DOTALL
    ):
        exec(compile(snippet, str(page), "exec"), names)
        save(names["ax"], page.parent / picture)  # type: ignore[arg-type]


def draw_results(folder: Path) -> None:
    """Draw what committed results of benchmarks have the numbers for."""
    from stability_report import write_figure

    summary = json.loads((ROOT / "benchmarks/results/rewards/summary.json").read_text(encoding="utf-8"))
    plates(summary)["frontier"].write_png(folder).replace(folder / "benchmark-curves.png")
    found = json.loads((ROOT / "benchmarks/results/stability.json").read_text(encoding="utf-8"))
    # The file has the mean curve of the seeds, not the curve of each.
    means = {(s["world"], s["candidate"]): s["curves"] for s in found["summaries"] if "curves" in s}
    rows = [
        r | {"curves": means[r["world"], r["candidate"]]}
        for r in found["rows"]
        if (r["world"], r["candidate"]) in means
    ]
    write_figure(folder / "stability.png", rows, found["reachable"])


if __name__ == "__main__":
    (ROOT / "docs" / "reference.md").write_text(reference(), encoding="utf-8")
    draw_floors(ROOT / "docs" / "floors.png")
    draw_plots(ROOT / "docs" / "plots.md")
    draw_results(ROOT / "docs")
