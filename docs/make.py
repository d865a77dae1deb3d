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
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from sentiment_report import preferences, runs, samples  # noqa: E402

from tests.house import FLOORS, House  # noqa: E402
from tests.mutants.record import count_by_part  # noqa: E402
from text_gym.bench.report.figures import plates  # noqa: E402
from text_gym.plot import diagram, reward_and_gold, save, spread  # noqa: E402

# A block of Python, and the picture that follows it, if one does.
SNIPPET = re.compile(r"```python\n(.*?)```\n(?:\n!\[[^]]*\]\(([\w/-]+\.svg)\))?", re.DOTALL)
# The public packages, and the page of the site that has all of their docstrings.
API = {
    "text_gym": "api/text_gym.md",
    "text_gym.agents": "api/agents.md",
    "text_gym.reward_models": "api/reward_models.md",
    "text_gym.bench": "api/bench.md",
    "text_gym.plot": "api/plot.md",
}
# What each folder holds, by floor from the ground up; the widths of boxes follow from it.
SAYS = {
    "text_gym": "episode, tokenizer,\ndata, errors",
    "text_gym.utils": "files, locks,\nintervals, sandbox",
    "text_gym.plot": "curves, trees,\nSVG and PNG",
    "text_gym.pages": "the frame of\nevery report",
    "text_gym.rewards": "one protocol,\nsums, transforms",
    "text_gym.tasks": "a file each",
    "text_gym.bridges": "other libraries,\nin and out",
    "text_gym.envs": "many episodes,\none episode, masks",
    "text_gym.models": "loading, devices,\nCPU fast path",
    "text_gym.agents": "policies, sampling,\nalgorithms, adapters",
    "text_gym.reward_models": "scripted, learned, judge,\npeople, labels, audit",
    "text_gym.viewer": "kept episodes,\ntheir page",
    "text_gym.runs": "train, data,\nfolder, console",
    "text_gym.rlhf": "the cycle",
    "text_gym.bench": "matrix, analysis,\nreport",
    "text_gym.validation": "graded levels",
    "text_gym.cli": "a file a command",
}

SENTIMENT = "![Mean sentiment over the iterations, and over the KL with the highest reachable](sentiment.png)"
# Rewards that were optimised, with their names in the benchmark.
GOLD_OF = {
    "gold itself": "gold",
    "one of its three criteria": "clarity",
    "a model of 512 choices": "pairs-512",
    "of 128 choices": "pairs-128",
    "of raters who like length": "length-biased-512",
    "counting calls to action": "keywords",
}


def reference() -> str:
    """The page of all public names: what each is, in the first sentence of its docstring."""
    lines = [
        "# Reference",
        "",
        "Every public name, with the first sentence of its docstring; the whole of it is in `help(name)`",
        "and, on the built site, behind the link. What is not here may change without notice.",
        "Made by `python docs/make.py`.",
    ]
    for package, page in API.items():
        module = importlib.import_module(package)
        lines += ["", f"## {package}", "", f"{_sentence(module)}", "", "| name | what it is |", "|---|---|"]
        for name in sorted(module.__all__, key=str.lower):
            value = getattr(module, name)
            documented = inspect.isclass(value) or inspect.isfunction(value)
            link = f"[`{name}`]({page}#{package}.{name})"
            lines.append(f"| {link} | {_sentence(value) if documented else _plain(value)} |")
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
    for snippet, picture in SNIPPET.findall(text):
        exec(compile(snippet, str(page), "exec"), names)
        if picture:
            (page.parent / picture).parent.mkdir(exist_ok=True)
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


def speed_page(text: str) -> str:
    """Return the page of speeds with its tables made anew from the committed results."""
    tables = {
        "compare": _compared,
        "compare-qwen3-epyc": _compared,
        "kernel_threads": _threads,
        "kernel_parts": _parts,
        "architectures": _architectures,
        "turn_cost": _turns,
        "env_speed": _steps,
        "sb3_speed": _sb3,
    }
    for name, table in tables.items():
        found = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))
        made = ", ".join(str(found["machine"][key]) for key in ("processor", "date", "torch"))
        lines = ["", *map(_row, table(found["rows"])), "", f"*`benchmarks/results/{name}.json`: {made}*", ""]
        block = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = block.sub(lambda at, lines=lines: at[1] + "\n".join(lines) + "\n" + at[2], text)
    return text


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _compared(rows: list[dict[str, Any]]) -> list[list[str]]:
    memory = {(r["what"], r["model"], r["batch"]): r["ratio"] for r in rows if "memory added" in r["what"]}
    lines = [["what", "model", "episodes", "peer", "ours", "theirs", "ratio", "memory"], ["---"] * 8]
    for r in rows:
        if "memory added" not in r["what"]:
            added = memory.get((f"{r['what']}, memory added", r["model"], r["batch"]))
            numbers = [f"{r['ours']:,.0f}", f"{r['peer']:,.0f}", f"{r['ratio']:.2f}"]
            memory_ratio = "–" if added is None else f"{added:.2f}"
            lines.append([r["what"], r["model"], str(r["batch"]), r["peer_name"], *numbers, memory_ratio])
    return lines


def _architectures(rows: list[dict[str, Any]]) -> list[list[str]]:
    lines = [["architecture", "read by", "rollout, nats", "update, nats", "gradients"], ["---"] * 5]
    for r in rows:
        errors = [f"{r[key]:.0e}" for key in ("log_probs", "update", "gradients")]
        lines.append([r["architecture"], "the fast path" if r["fast"] else "its own code", *errors])
    return lines


def _threads(rows: list[dict[str, Any]]) -> list[list[str]]:
    lines = [["model", "asked for", "rollout", "update", "iteration"], ["---"] * 5]
    for r in rows:
        if r["contestant"] != "1 threads":
            faster = [f"{1 / r[f'{what}_ratio']:.2f}" for what in ("rollout", "update", "iteration")]
            lines.append([r["model"], r["contestant"], *faster])
    return lines


def _parts(rows: list[dict[str, Any]]) -> list[list[str]]:
    lines = [["model", "", "rollout", "update", "iteration"], ["---"] * 5]
    for r in rows:
        slower = [f"{r[f'{what}_ratio']:.2f}" for what in ("rollout", "update", "iteration")]
        lines.append([r["model"], r["contestant"], *slower])
    return lines


def _turns(rows: list[dict[str, Any]]) -> list[list[str]]:
    names = ["model", "episodes", "tokens of a reply", "with replies, µs", "without, µs", "ratio", "95 %"]
    lines = [names, ["---"] * len(names)]
    for r in (r for r in rows if "ratio" in r):
        model, (low, high) = f"{r['layers']} × {r['width']}", r["ci95"]
        about = [model, str(r["batch"]), str(r["reply_tokens"])]
        times = [f"{r['with_replies_us']:.1f}", f"{r['without_us']:.1f}", f"{r['ratio']:.2f}"]
        lines.append([*about, *times, f"{low:.2f}–{high:.2f}"])
    return lines


def _steps(rows: list[dict[str, Any]]) -> list[list[str]]:
    lines = [["tokenizer", "rows", "steps a second", "over `SyncVectorEnv`", "over lists"], ["---"] * 5]
    for r in rows:
        ratios = [f"{r['over_sync']:.1f}", f"{r['over_lists']:.1f}"]
        lines.append([r["tokenizer"], f"{r['num_envs']:,}", f"{r['zero-copy']:,.0f}", *ratios])
    return lines


def _sb3(rows: list[dict[str, Any]]) -> list[list[str]]:
    lines = [["what", "straightforward, s", "ours, s", "ratio"], ["---"] * 4]
    return lines + [[r["what"], f"{r['slow']:.2f}", f"{r['fast']:.2f}", f"{r['ratio']:.0f}"] for r in rows]


def course_page(text: str) -> str:
    """Return the page of the course, the table of times made anew from `benchmarks/course_times.py`."""
    found = json.loads((ROOT / "benchmarks/results/course_times.json").read_text(encoding="utf-8"))
    lines = [["lab", "tests, s", "pictures, s", "together", "of a processor, s", "load"], ["---"] * 6]
    for row in found["rows"]:
        parts = [row[part]["seconds"] for part in ("tests", "pictures")]
        spent = sum(row[part]["processor_seconds"] for part in ("tests", "pictures"))
        numbers = [f"{seconds:.0f}" for seconds in (*parts, sum(parts), spent)]
        lines.append([row["lab"].removeprefix("lab").replace("_", " "), *numbers, f"{row['load']:.1f}"])
    made = f"{found['machine']['processor']}, {found['machine']['cores']} cores, {found['machine']['date']}"
    table = "\n".join([*map(_row, lines), "", f"*`benchmarks/results/course_times.json`: {made}*"])
    block = re.compile(r"(<!-- table: course_times -->\n).*?(<!-- end -->)", re.DOTALL)
    return block.sub(lambda at: f"{at[1]}\n{table}\n\n{at[2]}", text)


def library_page(text: str) -> str:
    """Return the page of other libraries, its table made anew from the rows of `python -m tests.interop`."""
    tasks = ("Reverse", "Sort", "Products")
    heads = [
        "library",
        "recipe",
        "first lines",
        *tasks,
        "steps",
        "steps a second",
        "date",
    ]
    lines = [heads, ["---"] * len(heads)]
    for file in sorted((ROOT / "benchmarks/results/interop").glob("*.json")):
        row = json.loads(file.read_text(encoding="utf-8"))
        package, version = next(iter(row["versions"].items()))
        first = "run" if set(row["blocks"].values()) <= {"runs"} else "stop"
        titles = dict.fromkeys(run["title"] for run in row["recipes"])
        for title in titles or ("–",):
            runs = [r for r in row["recipes"] if r["title"] == title]
            cells = [
                ", ".join(_returned(r) for r in runs if f"/{task}-" in r["env_id"]) or "–" for task in tasks
            ]
            done = [r for r in runs if "error" not in r]
            steps = ", ".join(f"{n:,}" for n in sorted({r["steps"] for r in done})) or "–"
            speed = median(r["steps"] / r["seconds"] for r in done) if done else 0.0
            lines.append(
                [
                    f"{row['library']} ({package} {version})",
                    title,
                    first,
                    *cells,
                    steps,
                    f"{speed:,.0f}" if speed >= 1 else "–",
                    row["date"],
                ]
            )
    block = re.compile(r"(<!-- table: interop -->\n).*?(<!-- end -->)", re.DOTALL)
    table = "\n".join(map(_row, lines))
    return block.sub(lambda at: f"{at[1]}\n{table}\n\n{at[2]}", text)


def _returned(run: dict[str, Any]) -> str:
    if "return" not in run:
        return "error"
    return f"{run['return']:.3f}" + (f" ({run['kl']:.1f} nats)" if "kl" in run else "")


def trust_page(text: str) -> str:
    """Return "How it is tested", its table made anew from what `python -m tests.trust` found."""
    rows = json.loads((ROOT / "benchmarks/results/trust.json").read_text(encoding="utf-8"))
    lines = [["promise", "tried", "what happened", "test", "date"], ["---"] * 5]
    for test, row in rows.items():
        found = ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in row["found"].items())
        happened = f"{row['failed']} FAILED" if row["failed"] else found or "it held every time"
        file, _, name = test.partition("::")
        tried = f"{row['tried']:,} {row['unit']}"
        lines.append([row["promise"], tried, happened, f"`{name}` in `{file}`", row["date"]])
    block = re.compile(r"(<!-- table: trust -->\n).*?(<!-- end -->)", re.DOTALL)
    table = "\n".join(map(_row, lines))
    return block.sub(lambda at: f"{at[1]}\n{table}\n\n{at[2]}", text)


def mutants_page(text: str) -> str:
    """Return "How it is tested", its table made anew from what `python -m tests.mutants --json` found."""
    file = ROOT / "benchmarks/results/mutants.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    parts = count_by_part(rows)
    counts = ["planted", "caught", "equivalent", "skipped", "survived", "suspect", "broken"]
    lines = [["bugs in", *counts, "minutes", "date"], ["---"] * (len(counts) + 3)]
    for part, row in parts.items():
        minutes = f"{row['seconds'] / 60:.1f}"
        lines.append([f"`{part}`", *(str(row[key]) for key in counts), minutes, row["date"]])
    sums = [str(sum(row[key] for row in parts.values())) for key in counts]
    minutes = f"{sum(row['seconds'] for row in parts.values()) / 60:.1f}"
    lines.append(["these together", *sums, minutes, ""])
    block = re.compile(r"(<!-- table: mutants -->\n).*?(<!-- end -->)", re.DOTALL)
    table = "\n".join(map(_row, lines)) if rows else "*None has been planted yet.*"
    return block.sub(lambda at: f"{at[1]}\n{table}\n\n{at[2]}", text)


def sentiment_page(text: str) -> str:
    """Return the page of the sentiment task, its tables made anew from `benchmarks/sentiment.py`."""
    results = ROOT / "benchmarks/results/sentiment.json"
    if not results.is_file():
        return text
    found = json.loads(results.read_text(encoding="utf-8"))
    tables = {"sentiment": runs, "sentiment-preferences": preferences, "sentiment-samples": samples}
    for name, table in tables.items():
        start, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(start)
        after = rest.partition(end)[2]
        picture = [SENTIMENT, ""] if name == "sentiment" else []
        text = "\n".join([before + start, *picture, *map(_row, table(found)), "", end + after])
    return text


def draw_concepts(folder: Path) -> None:
    """Draw the pictures of the concepts that need more than a snippet: those of the benchmark's results."""
    results = ROOT / "benchmarks/results/rewards"
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    rows = json.loads((results / "results.json").read_text(encoding="utf-8"))
    (setting,) = (
        s
        for s in summary["settings"]
        if (s["design"], s["optimiser"], s["kl_coefficient"]) == ("pairs-2048", "rloo", 0.0)
    )
    kl, proxy, gold = (
        [point[name] for point in setting["curve"]] for name in ("kl_nats", "proxy_gain", "gold_gain")
    )
    ax = reward_and_gold((kl, proxy), (kl, gold), y_label="gain, standard deviations")
    save(ax, folder / "over-optimisation.svg")

    hard = [r for r in rows if r["optimiser"] == "rloo" and r["kl_coefficient"] == 0]
    groups = {name: [r["gold"] for r in hard if r["design"] == design] for name, design in GOLD_OF.items()}
    ax = spread(groups, references={"gold at the start": hard[0]["gold_start"]}, x_label="gold at the end")
    save(ax, folder / "gold.svg")


if __name__ == "__main__":
    (ROOT / "docs" / "reference.md").write_text(reference(), encoding="utf-8")
    speeds = ROOT / "docs" / "how-fast.md"
    speeds.write_text(speed_page(speeds.read_text(encoding="utf-8")), encoding="utf-8")
    libraries = ROOT / "docs" / "your-library.md"
    libraries.write_text(library_page(libraries.read_text(encoding="utf-8")), encoding="utf-8")
    tested = ROOT / "docs" / "how-it-is-tested.md"
    tested.write_text(mutants_page(trust_page(tested.read_text(encoding="utf-8"))), encoding="utf-8")
    course = ROOT / "docs" / "course.md"
    course.write_text(course_page(course.read_text(encoding="utf-8")), encoding="utf-8")
    feeling = ROOT / "docs" / "sentiment.md"
    feeling.write_text(sentiment_page(feeling.read_text(encoding="utf-8")), encoding="utf-8")
    draw_floors(ROOT / "docs" / "floors.png")
    for page in [ROOT / "docs" / "plots.md", *sorted((ROOT / "docs" / "concepts").glob("*.md"))]:
        draw_plots(page)
    draw_concepts(ROOT / "docs" / "concepts" / "pictures")
    draw_results(ROOT / "docs")
