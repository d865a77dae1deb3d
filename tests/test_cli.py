"""The command line as a user meets it: exit status, messages, files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from text_gym.cli import main

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-c", "from text_gym.cli import main; raise SystemExit(main())"]


def test_without_arguments_it_says_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for command in ("train", "sft", "sample", "evaluate", "play", "check"):
        assert f"  {command} " in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean 'train'"),
        (["train", "--task", "product"], "did you mean 'products'"),
        (["train", "--algorithm", "pppo"], "did you mean 'ppo'"),
        (["train", "--reward", "lenght"], "did you mean 'length'"),
        (["train", "--data", "missing.csv", "--policy", "x", "--reward", "slots"], "missing.csv: no such file"),
        (["train", "--data", "missing.csv"], "needs a --policy"),
        (["train", "--task", "copy"], "ships no policy"),
        (["train", "--policy", "no/such/folder"], "no/such/folder"),
        (["train", "--device", "gpu"], "unknown device 'gpu'"),
        (["train", "--episodes", "0"], "num_envs is 0"),
        (["train", "--max-tokens", "500"], "context"),
        (["sample", "--temperature", "0"], "temperature is 0"),
        (["sample", "--top-p", "0"], "top_p is 0"),
        (["sft", "--data", "missing.csv"], "pass --reference COLUMN"),
        (["play", "--env", "text_gym/Product-v0"], "did you mean 'text_gym/Products-v0'"),
    ],
)
def test_bad_input_is_one_line_and_a_status(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if arguments[0] == "train":
        arguments = [*arguments, "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert len(shown.strip().splitlines()) == 1


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(KeyError, match="trian"):
        main(["--debug", "trian"])


def test_train_leaves_everything_it_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "--iterations", "2", "--episodes", "8", "--out", str(out), "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert "before" in shown
    assert "persuasiveness" in shown

    summary = json.loads((out / "summary.json").read_text())
    assert summary["seed"] == 3
    assert summary["interrupted"] is False
    for when in ("before", "after"):
        for criterion in ("gold", "accuracy", "clarity", "persuasiveness", "perfect"):
            measure = summary[when][criterion]
            assert measure["ci95"][0] <= measure["mean"] <= measure["ci95"][1]
    assert summary["before"]["kl_nats"] == 0
    assert {"kl_nats", "seconds", "tokens"} <= summary.keys()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2]
    assert json.loads((out / "config.json").read_text())["algorithm"] == "ppo"
    assert (out / "samples.md").read_text().count("Before (") == 20
    assert (out / "curves.png").stat().st_size > 10_000
    assert list(out.glob("events.out.tfevents*"))

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(out / "policy")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(out / "policy"))


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert main(["train", "--iterations", "1", "--episodes", "8", "--out", str(tmp_path / name)]) == 0
    for file in ("policy/model.safetensors", "policy/value_head.safetensors", "samples.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


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
    assert main(["sample", "name[Zizzi], area[riverside]\n", "--policy", policy, "--json", "--count", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "name[Zizzi], area[riverside]\n"


def test_evaluate_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, transcripts = tmp_path / "e.json", tmp_path / "t.jsonl"
    assert main(["evaluate", "--greedy", "--out", str(out), "--transcripts", str(transcripts)]) == 0
    gold = json.loads(out.read_text())["gold"]["mean"]
    assert f"{gold:.4f}" in capsys.readouterr().out
    rewards = [json.loads(line)["reward"] for line in transcripts.read_text().splitlines()]
    assert sum(rewards) / len(rewards) == pytest.approx(gold)


def test_play_over_a_pipe() -> None:
    done = subprocess.run(
        [*COMMAND, "play"], input="Meet\n.\n", capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
    )
    assert done.returncode == 0
    assert "terminated" in done.stdout
    assert "return" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_stops_cleanly_and_keeps_what_was_learnt(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [*COMMAND, "train", "--episodes", "8", "--iterations", "100000", "--out", str(out)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (out / "metrics.jsonl").exists():
        time.sleep(0.1)
    while time.monotonic() < deadline and (out / "metrics.jsonl").stat().st_size == 0:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert json.loads((out / "summary.json").read_text())["interrupted"] is True
    assert (out / "policy" / "model.safetensors").exists()
