from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.reward_model_tools import small_reward_model
from text_gym import Episode, Prompt, load_task
from text_gym.cli.main import main
from text_gym.cli.process_reward import judge_steps
from text_gym.reward_models import ProcessReward, StepLabels, load_reward
from text_gym.reward_models.learned.configs import NgramConfig

NAMES = {"good": 1.0, "bad": 0.0}


def rows() -> list[dict[str, object]]:
    rng = random.Random(0)
    found: list[dict[str, object]] = []
    for i in range(60):
        steps = [rng.choice(list(NAMES)) for _ in range(3)]
        found.append({"prompt": f"text {i}:", "steps": steps, "labels": [NAMES[s] for s in steps]})
    return found


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return str(path)


def test_labels_become_a_process_reward_that_scores_transcripts(file: str, tmp_path: Path) -> None:
    out = tmp_path / "model"
    how = ["--aggregate", "product", "--pay", "scores", "--delimiter", ";\\n", "--order", "1"]
    assert main(["reward", "train", "--steps", file, "--out", str(out), *how]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["step_accuracy"]["value"] == summary["first_error"]["value"] == 1.0
    assert summary["solutions"] + summary["held_out_solutions"] == 60
    source = load_reward(str(out))
    assert isinstance(source, ProcessReward)
    assert (source.aggregate, source.pay, source.delimiter) == ("product", "scores", ";\n")
    texts = tmp_path / "texts.jsonl"
    lines = [{"prompt": "text 99:", "completion": text} for text in ("good;\nbad", "good")]
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    scored = tmp_path / "scored.jsonl"
    assert main(["reward", "score", str(texts), "--reward", str(out), "--out", str(scored)]) == 0
    mixed, good = (json.loads(line) for line in scored.read_text().splitlines())
    assert [mixed["terms"]["steps"], good["terms"]["steps"]] == [2.0, 1.0]
    assert mixed["terms"]["product"] < 0.2 < 0.8 < good["terms"]["product"]


def test_a_policy_is_trained_with_a_process_reward(file: str, tmp_path: Path) -> None:
    model, run = str(tmp_path / "model"), tmp_path / "run"
    assert main(["reward", "train", "--steps", file, "--out", model]) == 0
    words = ["--task", "reverse", "--policy", "new", "--reward", model, "--out", str(run)]
    assert main(["train", *words, "--iterations", "1", "--episodes", "8"]) == 0
    assert json.loads((run / "summary.json").read_text())["after"]["reward"]["name"] == "process"


def test_a_transformer_starts_from_a_model(file: str, tmp_path: Path) -> None:
    small_reward_model().save(tmp_path / "start")
    out = tmp_path / "model"
    words = ["--steps", file, "--model", str(tmp_path / "start"), "--out", str(out), "--epochs", "1"]
    assert main(["reward", "train", *words, "--device", "cpu"]) == 0
    assert json.loads((out / "summary.json").read_text())["kind"] == "transformer"
    task = load_task("products")
    text = Episode.of(task.held_out[0], "good\nbad", task.tokenizer)
    assert 0 < load_reward(str(out))([text]).totals[0] < 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--steps FILE, one of them"),
        (["--steps", "FILE", "--pairs", "FILE"], "--steps FILE, one of them"),
        (["--steps", "FILE", "--members", "3"], "a process reward is one model"),
        (["--steps", "FILE", "--normalise"], "a process reward is one model"),
        (["--steps", "FILE", "--delimiter", ""], "an empty --delimiter"),
        (["--steps", "FILE", "--delimiter", "oo"], "holds the delimiter 'oo'"),
    ],
)
def test_bad_options_are_refused(
    words: list[str], said: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [file if word == "FILE" else word for word in words]
    assert main(["reward", "train", *given, "--out", str(tmp_path / "model")]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_first_error_is_found_where_it_is() -> None:
    source = ProcessReward.fit(
        [StepLabels(Prompt(f"{i}"), (s,), (x,)) for i in range(20) for s, x in NAMES.items()],
        NgramConfig(groups=("words",), order=1),
    )
    prompt = Prompt("text:")
    found = judge_steps(
        source,
        [
            StepLabels(prompt, ("good", "good"), (1.0, 1.0)),  # all found right
            StepLabels(prompt, ("good", "bad"), (1.0, 1.0)),  # an error is found that is none
            StepLabels(prompt, ("bad", "good"), (1.0, 1.0)),  # the same, at once
            StepLabels(prompt, ("bad", "bad"), (0.0, 1.0)),  # the first error is found, and another
            StepLabels(prompt, ("good", "bad"), (0.0, 0.0)),  # the first error is found too late
        ],
    )
    assert found["step_accuracy"]["value"] == pytest.approx((1 + 4 * 0.5) / 5)
    assert found["first_error"]["value"] == pytest.approx(2 / 5)
    assert found["right_steps"] == 7 / 10
