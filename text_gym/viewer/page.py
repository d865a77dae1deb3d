"""The page of a run: its kept episodes token by token, in one HTML file that needs no network.

The numbers lie in the page as they were kept; its script adds them up, so that what it says of an iteration
can be held against `metrics.jsonl`. What models wrote reaches the page as text only.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from text_gym.errors import ConfigError, DataError, did_you_mean
from text_gym.json_text import parse_json, read_object
from text_gym.pages.page import render_page
from text_gym.plot.style import label
from text_gym.plot.texts import shown_token
from text_gym.utils.display import harmless
from text_gym.utils.sealed import write_atomic

from .store import FOLDER, METRICS, KeptIteration, fitting, kept_files, read_iteration

PAGE = "view.html"  # in a run's folder
MOST_TOKENS = 600_000  # of a page: about 30 MB
_TEMPLATE = Path(__file__).parent / "view.html"
_SCRIPT = Path(__file__).parent / "view.js"
_PROMPT = 4000  # characters of a prompt that are shown
_ADDED_UP = ("reward", "kl", "kl_per_token", "length", "truncated", "eos")  # metrics, and those of `reward/`
# Columns in the order of the page: what they are called there, how they are coloured (about 0, from 0 on, or
# about 1 on a scale of ratios), and what they are.
_COLUMNS: Mapping[str, tuple[str, str, str]] = {
    "advantage": ("advantage", "signed", "what the loss was weighed with; none where nothing was learnt"),
    "kl": (
        "KL",
        "signed",
        "log π(token) − log π_ref(token), nats; an episode’s sum estimates its KL to the reference policy",
    ),
    "ratio": (
        "ratio",
        "ratio",
        "π(token) after the update’s last step over π(token) when it was drawn; 1 is unchanged",
    ),
    "value": ("value", "signed", "what the critic expected to follow before the token"),
    "entropy": ("entropy", "rising", "of the distribution that the token was drawn from, nats"),
    "log_prob": ("log-probability", "falling", "of the token when it was drawn, nats"),
    "reward": ("reward", "signed", "what the task paid for the token, without any KL"),
}


@dataclass(frozen=True)
class _Shown:
    """An iteration and the row of `metrics.jsonl` about it, under a name such as `round 2, iteration 10`."""

    name: str
    kept: KeptIteration
    metrics: Mapping[str, Any]


def write_run_page(run: str | Path, output: str | Path | None = None, title: str = "") -> Path:
    """Write the page about the rollouts that a run has kept, and return its path.

    Args:
        run: Folder of a run of `text-gym train` or `text-gym rlhf` with `--keep-rollouts`.
        output: The file; `view.html` in that folder if None.
        title: Of the page; the run's task and algorithm if empty.

    Raises:
        ConfigError: There is no such folder, or it keeps no rollouts.
        DataError: A file there is damaged; it is named.
    """
    run = Path(run)
    shown = _read(run)
    most = max(1, MOST_TOKENS // len(shown))
    limits = {name: _limit(shown, name, how[1]) for name, how in _COLUMNS.items()}
    known = [name for name, limit in limits.items() if limit is not None]
    columns = [
        {"name": n, "label": shown_as, "kind": kind, "about": what, "limit": limits[n]}
        for n, (shown_as, kind, what) in _COLUMNS.items()
        if n in known
    ]
    if not known:
        raise DataError(f"{run}: no token in its {FOLDER} has any number; remove that folder")
    about = {"columns": columns, "iterations": [harmless(s.name) for s in shown]}
    values = {
        "title": label(title or _title(run), 200),
        "about": _script_json(about),
        "iterations": [_script_json(_data(s, known, most)) for s in shown],
        "count": len(shown),
    }
    target = run / PAGE if output is None else Path(output)
    write_atomic(target, render_page(_TEMPLATE, values, script=_SCRIPT.read_text(encoding="utf-8")))
    return target


def keeps_rollouts(run: str | Path) -> bool:
    """Return True if a run, or a round of one, has kept rollouts that a page can show."""
    return any(kept_files(folder) for _, folder in _parts(Path(run)))


def _title(run: Path) -> str:
    """Return a run's task and algorithm, or the folder's name where nothing says what they are."""
    settings = read_object(run / "config.json") if (run / "config.json").is_file() else {}
    names = [settings[key] for key in ("task", "algorithm") if isinstance(settings.get(key), str)]
    return " · ".join(Path(name).name for name in names) or run.resolve().name


def _parts(run: Path) -> list[tuple[str, Path]]:
    """Return the folders that a run trained in, each with what comes before the name of an iteration."""
    rounds = [f for f in run.glob("round-*") if f.name.removeprefix("round-").isdecimal()]
    rounds.sort(key=lambda folder: int(folder.name.removeprefix("round-")))
    return [("", run), *((f"round {f.name.removeprefix('round-')}, ", f / "training") for f in rounds)]


def _read(run: Path) -> list[_Shown]:
    if not run.is_dir():
        raise ConfigError(f"there is no folder {run}{did_you_mean(run)}")
    found = []
    for before, folder in _parts(run):
        files = kept_files(folder)
        rows = _metrics(folder / METRICS) if files else {}
        for number, file in files.items():
            row = rows.get(number, {})
            alarm = ", after an alarm (see log.txt)" if row.get("alarm") else ""
            found.append(_Shown(f"{before}iteration {number}{alarm}", read_iteration(file), row))
    if not found:
        raise ConfigError(
            f"{run} keeps no rollouts (no iteration is in {run / FOLDER}): train with --keep-rollouts 10"
        )
    return found


def _metrics(file: Path) -> dict[int, dict[str, Any]]:
    """Read the rows of `metrics.jsonl` by iteration; the last one may be torn."""
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    rows = [parse_json(line, f"{file}, line {n}") for n, line in enumerate(lines, 1)]
    return {row["iteration"]: row for row in rows if isinstance(row, dict) and "iteration" in row}


def _limit(shown: Sequence[_Shown], name: str, kind: str) -> float | None:
    """Return the value of the deepest colour, the same for all iterations; None if there are no values.

    One token in fifty may lie beyond it, so that a single one does not make all others pale.
    """
    columns = [e["numbers"][name] for s in shown for e in s.kept.episodes if name in e["numbers"]]
    values = np.array([x for column in columns for x in column if x is not None], dtype=np.float64)
    if not len(values):
        return None
    if kind == "ratio":
        values = np.log(np.maximum(values, 1e-9))
    sizes = np.abs(values)
    beyond = float(np.quantile(sizes, 0.98))
    return beyond if beyond > 0 else float(sizes.max())


def _data(shown: _Shown, columns: Sequence[str], most: int) -> dict[str, Any]:
    """Return what the page's script knows of an iteration, as plain data.

    The tokens' numbers are 32-bit floats in Base64, of all episodes one after another, NaN for none.
    """
    kept = shown.kept
    lengths = [len(e["tokens"]) for e in kept.episodes]
    episodes = kept.episodes[: fitting(lengths, kept.group_size, most)]
    tokens = sum(len(e["tokens"]) for e in episodes)
    packed = {}
    for name in columns:
        column = np.full(tokens, np.nan, dtype="<f4")
        at = 0
        for e in episodes:
            count = len(e["tokens"])
            if name in e["numbers"]:
                column[at : at + count] = [math.nan if x is None else x for x in e["numbers"][name]]
            at += count
        packed[name] = base64.b64encode(column.tobytes()).decode()
    prompts = list(dict.fromkeys(e["prompt"] for e in episodes))
    places = {prompt: i for i, prompt in enumerate(prompts)}
    return {
        "played": kept.played,
        "group": kept.group_size,
        "prompts": [harmless(p.strip("\n"), newlines=True, limit=_PROMPT) for p in prompts],
        "metrics": {
            harmless(name): value
            for name, value in shown.metrics.items()
            if (name in _ADDED_UP or name.startswith("reward/")) and isinstance(value, (int, float))
        },
        "columns": packed,
        "episodes": [
            {
                "prompt": places[e["prompt"]],
                "tokens": [shown_token(token) for token in e["tokens"]],
                "ids": e["completion_ids"],
                "end": e.get("finish_reason"),
                "index": e.get("index"),
                "reward": e["reward"],
                "terms": {harmless(name): value for name, value in e["terms"].items()},
                **({"agent": [int(bool(x)) for x in e["agent"]]} if "agent" in e else {}),
                **({"turns": [[harmless(role), n] for role, n in e["turns"]]} if "turns" in e else {}),
            }
            for e in episodes
        ],
    }


def _script_json(value: Any) -> Markup:
    r"""Return JSON that may stand in a script element, whatever texts it holds.

    >>> print(_script_json({"text": "</script><!--"}))
    {"text":"\u003c/script\u003e\u003c!--"}
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
