"""`text-gym sft`, `sample` and `evaluate`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.own_data import COLUMNS, training, write_data, write_policy
from text_gym import PretrainedTokenizer, TextVectorEnv, read_transcripts
from text_gym.agents import Policy, trajectory_log_probs
from text_gym.cli.main import main
from text_gym.errors import ConfigError


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
    assert "gold" not in summary["after"]
    assert summary["after"]["reward"]["name"] == "slots"
    assert {"precision", "recall", "perfect"} <= summary["after"]["reward"]["terms"].keys()
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


# Of a trained policy: its own data, and the KL to what it started from


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a policy, and two runs from it: without a reward of the data's own, and with one."""
    folder = tmp_path_factory.mktemp("world")
    write_data(folder / "data.jsonl")
    write_policy(folder / "start")
    assert main(training(folder, "run", "--reward", "length")) == 0
    assert main(training(folder, "slots", "--gold", "slots")) == 0
    return folder


def measured(folder: Path, *arguments: str) -> dict[str, Any]:
    out = folder / "evaluation.json"
    assert main(["evaluate", *arguments, "--device", "cpu", "--out", str(out)]) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_a_run_is_evaluated_on_its_data_against_its_start(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = world / "texts.jsonl"
    found = measured(world, str(world / "run"), "--reward", "length", "--transcripts", str(texts))
    shown = capsys.readouterr().out
    tokenizer = PretrainedTokenizer.from_pretrained(world / "start")
    episodes = list(read_transcripts(texts, tokenizer))
    assert episodes
    assert all(e.prompt.text.endswith("] => ") for e in episodes)
    policies = [Policy.from_pretrained(world / p, device="cpu") for p in ("run/policy", "start")]
    with torch.no_grad():
        after, before = (trajectory_log_probs(p, episodes) for p in policies)
    assert found["kl_nats"] == pytest.approx(float((after - before).mean()), abs=1e-4)
    assert abs(found["kl_nats"]) > 0.01
    assert (found["reference"], found["task"]) == (str(world / "start"), "data")
    assert f"KL to            {world / 'start'}" in shown
    assert "column 'frage', separator ' => '" in shown
    # Nobody named a reward of the data's own, so nothing is gold.
    assert "gold" not in found
    assert "gold" not in shown
    assert "reward (length)" in shown
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    assert found["reward"]["mean"] == pytest.approx(np.mean([row["reward"] for row in rows]))
    assert "gold" not in rows[0]


def test_gold_of_data_is_the_reward_that_was_named_as_its_own(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = world / "texts.jsonl"
    capsys.readouterr()
    found = measured(
        world, str(world / "slots" / "policy"), "--reward", "length", "--transcripts", str(texts)
    )
    assert {"gold", "precision", "recall"} <= found.keys()
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    for what, name in (("gold", "gold"), ("reward", "reward")):
        assert found[what]["mean"] == pytest.approx(np.mean([row[name] for row in rows]))
    said = [len(row["completion"].split()) for row in rows]
    assert found["reward"]["terms"]["length"]["mean"] == pytest.approx(np.mean(said))
    assert "gold " in capsys.readouterr().out
    summary = json.loads((world / "slots" / "summary.json").read_text())
    assert {"gold", "recall"} <= summary["after"].keys()
    assert "reward" not in summary["after"]  # gold is what was optimised


def test_what_you_say_comes_before_what_the_folder_says(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_policy(world / "other", seed=3)
    found = measured(world, str(world / "run"), "--reference", str(other), "--prompt", "antwort")
    assert found["reference"] == str(other)
    policy = str(world / "run" / "policy")
    assert measured(world, policy, "--reference", policy)["kl_nats"] == 0
    assert main(["evaluate", policy, "--task", "products", "--max-tokens", "4"]) == 2
    assert "different tokenizers" in capsys.readouterr().err


def test_policies_of_older_versions_say_nothing_and_the_kl_is_not_known(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = world / "old"
    shutil.copytree(world / "run" / "policy", old, dirs_exist_ok=True)
    origin = json.loads((old / "text_gym.json").read_text())
    for name in ("start_policy", "gold", "reward"):
        del origin[name]
    (old / "text_gym.json").write_text(json.dumps(origin))
    found = measured(world, "--policy", str(old))
    assert (found["kl_nats"], found["perplexity"], found["reference"]) == (None, None, None)
    shown = capsys.readouterr().out
    assert "not known: the policy's folder does not say what it started from; pass --reference" in shown
    assert "0.0000" not in shown.split("kl_nats")[1].splitlines()[0]
    assert measured(world, str(old), "--reference", str(world / "start"))["kl_nats"] is not None


def test_a_gold_reward_that_a_folder_names_as_code_is_not_run(world: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    shutil.copytree(world / "run" / "policy", policy)
    code = tmp_path / "evil.py"
    code.write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\ndef f(c): return 1.0\n"
    )
    origin = json.loads((policy / "text_gym.json").read_text())
    (policy / "text_gym.json").write_text(json.dumps({**origin, "gold": f"{code}:f"}))
    assert "gold" not in measured(tmp_path, str(policy))
    assert not (tmp_path / "ran").exists()
    trusted = [str(policy), "--gold", f"{code}:f", "--no-sandbox"]
    assert measured(tmp_path, *trusted)["gold"]["mean"] == 1.0
    assert (tmp_path / "ran").exists()


def test_data_that_is_gone_and_tasks_from_python_are_told(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy"
    shutil.copytree(world / "run" / "policy", policy)
    origin = json.loads((policy / "text_gym.json").read_text())
    (policy / "text_gym.json").write_text(json.dumps({**origin, "data": str(tmp_path / "gone.jsonl")}))
    assert main(["evaluate", str(policy)]) == 2
    assert "gone.jsonl, which cannot be read now" in capsys.readouterr().err
    written = []
    for folder in (world / "run" / "policy", policy):  # typed prompts need no data
        assert main(["sample", "--policy", str(folder), "a", "b"]) == 0
        written.append(capsys.readouterr().out)
    assert written[0] == written[1] != ""
    assert main(["sample", "--policy", str(policy)]) == 2
    assert "gone.jsonl, which cannot be read now" in capsys.readouterr().err
    data = ["--data", str(world / "data.jsonl")]
    assert measured(tmp_path, str(policy), *data)["reference"] == str(world / "start")
    (policy / "text_gym.json").write_text(json.dumps({"max_tokens": 8, "start_policy": None}))
    assert main(["evaluate", str(policy)]) == 2
    assert "made in Python; pass --task" in capsys.readouterr().err
    assert main(["evaluate", str(policy), *data, *COLUMNS, "--reference", str(world / "no")]) == 2
    assert main(["evaluate", str(policy), *data, "--reference-column", "antwort", "--prompt", "frage"]) == 0
    assert "made from nothing" in capsys.readouterr().out


def test_a_reference_with_other_tokens_is_refused(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from text_gym import load_task

    assert main(["evaluate", str(world / "run"), "--reference", str(load_task("products").policy)]) == 2
    assert "other tokens than the policy" in capsys.readouterr().err


def test_sft_from_a_model_knows_that_model_and_a_new_one_knows_that_there_is_none(world: Path) -> None:
    data = ["--data", str(world / "data.jsonl"), *COLUMNS, "--epochs", "1", "--device", "cpu"]
    assert main(["sft", *data, "--model", str(world / "start"), "--out", str(world / "sft")]) == 0
    found = measured(world, str(world / "sft"))
    assert found["reference"] == str(world / "start")
    assert found["kl_nats"] != 0
    small = ["--layers", "1", "--width", "16", "--heads", "2", "--vocab-size", "280"]
    assert main(["sft", *data, *small, "--out", str(world / "new")]) == 0
    assert json.loads((world / "new" / "text_gym.json").read_text())["start_policy"] is None
    assert measured(world, str(world / "new"))["kl_nats"] is None


def test_the_folder_of_a_run_may_stand_before_the_prompts(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(world / "run")
    said = []
    for command in (["sample", run, "a prompt"], ["sample", "a prompt", "--policy", run]):
        assert main([*command, "--json", "--count", "1"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert json.loads(said[0])["prompt"] == "a prompt"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").mkdir()  # a folder without a policy is a word like any other
    assert main(["sample", "words", "--json", "--count", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "words"
    assert main(["sample", "x" * 300, "--max-tokens", "2"]) == 2  # no file can have such a name
    assert "300 prompt tokens" in capsys.readouterr().err


def test_a_mistyped_folder_is_no_prompt(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    for word, hint in (("rum", "; did you mean 'run'. If"), (str(world / "none"), "none'. If")):
        assert main(["sample", word, "a prompt"]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "there is no policy in" in said
        assert hint in said
    assert main(["sample", "rum", "--policy", "run", "--count", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "rum"


def test_the_stop_string_reaches_the_environment(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Seen(TextVectorEnv):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            raise ConfigError(f"it stops at {kwargs.get('stop')}")

    monkeypatch.setattr("text_gym.cli.evaluate.TextVectorEnv", Seen)
    for command in (["evaluate", str(world / "run")], ["sample", "--policy", str(world / "run")]):
        assert main([*command, "--stop", "zq"]) == 2
        assert "it stops at" in (said := capsys.readouterr().err)
        assert "zq" in said
