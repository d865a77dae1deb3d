"""A benchmark with made-up runs that can be submitted, and submissions tampered with, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench_folder import write_benchmark
from text_gym.bench.leaderboard.submission import Entrant, write_submission
from text_gym.bench.matrix.designs import DESIGNS, load_design
from text_gym.bench.matrix.settings import Settings
from text_gym.utils.sealed import write_sealed

REWARD = "def warm(completion):\n    return float('you' in completion)  # <script>alert(1)</script>\n"
ANN = Entrant("first", "Ann")


def write_run(
    folder: Path,
    design: str = "hackable",
    seeds: Sequence[int] = (0, 1, 2),
    optimisers: Sequence[str] = ("best_of_n", "ppo"),
) -> Path:
    """Write a finished benchmark of one design of the user's own, or of the suite."""
    reward = folder / "warm.py"
    folder.mkdir(parents=True)
    reward.write_text(REWARD)
    write_benchmark(folder, [design], optimisers, [0.0, 0.3], seeds)
    own = DESIGNS[design] if design in DESIGNS else load_design(f"{design}={reward}")
    config = json.loads((folder / "config.json").read_text())
    settings = {k: v for k, v in Settings().to_dict().items() if k not in ("override", "what", "algorithms")}
    config |= {
        "tasks": ["products"],
        "settings": {"products": settings},
        "contents": {"products": {"gold reward": "products: ProductsReward"}},
        "optimiser_settings": {o: Settings().optimiser(o) for o in optimisers},
    }
    config["designs"][0] |= {"fingerprint": own.fingerprint, "description": own.description}
    (folder / "config.json").write_text(json.dumps(config))
    for file in (folder / "cells").iterdir():
        file.write_text(json.dumps({**json.loads(file.read_text()), "fingerprint": own.fingerprint}))
    versions = {"version of text-gym": "0.2.0", "version of torch": "2.6"}
    record = {"format": 1, "config": {}, "conditions": versions, "accepted": []}
    (folder / "started_with.json").write_text(json.dumps(record))
    return folder


def submitted(folder: Path, entrant: Entrant = ANN, **how: Any) -> Path:
    """A submission made of a benchmark beside it."""
    run = write_run(folder.with_name(f"{folder.name}-run"), **how)
    return write_submission(run, how.get("design", "hackable"), entrant, folder, validate=False)


def forged(folder: Path, change: Callable[[dict[str, Any]], Mapping[str, Any] | None], *files: str) -> Path:
    """Change JSON files of a submission (all cells if none is named) and seal it again, as a forger can."""
    texts = {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    texts.pop("manifest.json")
    for name in files or sorted(n for n in texts if n.startswith("cells/")):
        content = json.loads(texts[name])
        content = change(content) or content
        texts[name] = json.dumps(content).encode()

    if not files:  # a careful one
        rows = [json.loads(texts[n])["row"] for n in sorted(texts) if n.startswith("cells/")]
        texts["results.json"] = json.dumps(rows).encode()

    def fill(partial: Path) -> None:
        for name, text in texts.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(text)

    write_sealed(folder, fill, {})
    return folder


def moved(amount: Callable[[int], float]) -> Callable[[dict[str, Any]], None]:
    """A change of a cell: so much more gold at its end, by its seed, in row and curve alike."""

    def change(cell: dict[str, Any]) -> None:
        for point in cell["curve"][1:]:
            point["gold"] += amount(cell["row"]["seed"])
        cell["row"]["gold"] = cell["curve"][-1]["gold"]
        cell["row"]["gold_best"] = max(p["gold"] for p in cell["curve"])

    return change
