"""Prompts of one's own with two odd column names and separator, and a tiny policy for them, on disk."""

from __future__ import annotations

import json
from pathlib import Path

from text_gym import PretrainedTokenizer
from text_gym.agents import Policy

SEPARATOR = " => "
COLUMNS = ["--prompt", "frage", "--reference", "antwort", "--separator", SEPARATOR]


def write_data(file: Path) -> Path:
    """Twelve prompts with a reference each; gold could be `slots`."""
    rows = [
        {"frage": f"name[{name}], area[{area}]", "antwort": f"{name} is in the {area}."}
        for name in ("Zizzi", "Cotto", "Aromi", "Strada")
        for area in ("city centre", "riverside", "harbour")
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_policy(folder: Path, seed: int = 0) -> Path:
    """A policy with random weights that reads and writes such texts."""
    texts = ["name[Zizzi], area[city centre] => ", "Zizzi is in the area."]
    tokenizer = PretrainedTokenizer.train(texts * 4, 280)
    Policy.new(tokenizer, layers=1, width=16, heads=2, context=64, seed=seed, device="cpu").save(folder)
    return folder


def training(folder: Path, out: str, *more: str) -> list[str]:
    """Arguments of `text-gym` that train that policy a little, and fast, in a folder that has both."""
    data, policy = str(folder / "data.jsonl"), str(folder / "start")
    settings = ["--iterations", "2", "--episodes", "8", "--learning-rate", "0.02", "--max-tokens", "8"]
    common = ["--data", data, *COLUMNS, "--policy", policy, "--out", str(folder / out), "--device", "cpu"]
    return ["train", *common, *settings, *more]
