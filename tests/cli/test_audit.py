from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from text_gym import Episode, load_task
from text_gym.cli.audit import _correlation
from text_gym.cli.main import main
from text_gym.transcripts import write_transcripts
from text_gym.utils.interval import rank_correlation

SMALL = ["--count", "24", "--edited", "8", "--explained", "1", "--words", "8"]


def run(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, object]]:
    status = main(["reward", "audit", *arguments, *SMALL, "--out", str(tmp_path / "out")])
    file = tmp_path / "out" / "audit.json"
    return status, json.loads(file.read_text()) if file.exists() else {}


def test_a_reward_on_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = run(tmp_path, "readability")
    assert status == 0
    assert (found["source"], found["gold"]) == ("readability", "products")
    assert (tmp_path / "out" / "audit.html").is_file()
    out = capsys.readouterr().out
    assert "rank correlation with gold: " in out
    assert "rank correlation with length: " in out
    assert "best of 64 by this reward: gold 0." in out


def test_the_gold_reward_has_no_bias(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = run(tmp_path, "gold")
    assert (status, found["findings"]) == (0, [])
    out = " ".join(capsys.readouterr().out.split())
    assert "rank correlation with gold: 1.000" in out
    assert "It follows gold, and none of the biases looked for was found." in out


def test_what_is_the_same_for_all_texts_correlates_with_nothing() -> None:
    numbers = np.arange(6.0)
    assert (
        _correlation(rank_correlation(numbers, np.ones(6))) == "none, one of them is the same for all texts"
    )
    assert _correlation(rank_correlation(numbers, numbers)).startswith("1.000 (1.000 to 1.000")


def test_texts_of_a_data_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.csv"
    rows = [f"question {i},An answer{' and more' * (i % 5)}." for i in range(30)]
    data.write_text("\n".join(["q,a", *rows]) + "\n")
    (tmp_path / "mine.py").write_text("def longer(completion):\n    return len(completion)\n")
    reward = f"{tmp_path / 'mine.py'}:longer"
    status, found = run(tmp_path, reward, "--data", str(data), "--prompt", "q", "--reference", "a")
    assert (status, found["gold"]) == (0, None)
    assert "length" in [f["bias"] for f in found["findings"]]  # type: ignore[attr-defined]
    out = capsys.readouterr().out
    assert "length: A sentence" in out
    assert "rank correlation with gold: not known" in out
    assert "follows gold" not in out
    assert run(tmp_path, "gold", "--data", str(data), "--prompt", "q", "--reference", "a")[0] == 2


def test_texts_of_transcripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = load_task("products")
    texts = [Episode.of(p, f"Order it {i} times.", task.tokenizer) for i, p in enumerate(task.held_out[:20])]
    write_transcripts(tmp_path / "texts.jsonl", texts)
    status, found = run(tmp_path, "length", "--texts", str(tmp_path / "texts.jsonl"))
    assert status == 0
    assert sorted(found["texts"]) == sorted(e.completion for e in texts)  # type: ignore[call-overload]
    assert run(tmp_path, "length", "--texts", str(tmp_path / "none.jsonl"))[0] == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_wrong_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "lenght")[0] == 2
    assert "did you mean 'length'" in capsys.readouterr().err
    assert run(tmp_path, "length", "--task", "copy")[0] == 2
    assert "--texts or --data" in capsys.readouterr().err
