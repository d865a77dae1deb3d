"""`text-gym sft`, `sample` and `evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from text_gym.cli import main


def test_real_data_from_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "places.csv"
    rows = [
        f'"name[{name}], area[{area}]",{name} is in the {area}.'
        for name in ("Zizzi", "Cotto", "Aromi", "Fitzbillies", "Strada")
        for area in ("city centre", "riverside")
    ]
    data.write_text("\n".join(["mr,ref", *rows]) + "\n", encoding="utf-8")
    policy = str(tmp_path / "policy")
    common = ["--data", str(data), "--prompt", "mr"]
    sft = ["--reference", "ref", "--out", policy, "--epochs", "3", "--width", "16", "--vocab-size", "300"]
    assert main(["sft", *common, *sft]) == 0
    train = ["--policy", policy, "--reward", "slots", "--iterations", "1", "--episodes", "4"]
    assert main(["train", *common, *train, "--out", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {"gold", "precision", "recall", "perfect"} <= summary["after"].keys()
    capsys.readouterr()
    assert (
        main(["sample", "name[Zizzi], area[riverside]\n", "--policy", policy, "--json", "--count", "1"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["prompt"] == "name[Zizzi], area[riverside]\n"


def test_evaluate_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, transcripts = tmp_path / "e.json", tmp_path / "t.jsonl"
    assert main(["evaluate", "--greedy", "--out", str(out), "--transcripts", str(transcripts)]) == 0
    gold = json.loads(out.read_text())["gold"]["mean"]
    assert f"{gold:.4f}" in capsys.readouterr().out
    rewards = [json.loads(line)["reward"] for line in transcripts.read_text().splitlines()]
    assert sum(rewards) / len(rewards) == pytest.approx(gold)
