"""Runs on preference pairs: what is read, what is left out, and what is learnt."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from tests.test_chat import tokenizer
from text_gym import Prompt, load_task
from text_gym.agents import DPOConfig
from text_gym.cli.main import main
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models.labels.questions import LabelCriterion, Question
from text_gym.reward_models.labels.store import LabelStore
from text_gym.runs.preferences import read_preferences
from text_gym.runs.train import train

pytestmark = pytest.mark.usefixtures("undrawn")

TASK = load_task("reverse")
KNOWN, HELD_OUT = TASK.prompts[0].text, TASK.held_out[0].text


def write_pairs(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_ties_weightless_pairs_and_held_out_prompts_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": KNOWN, "chosen": "a", "rejected": "b"},
        {"prompt": KNOWN, "chosen": "a", "rejected": "c", "tie": True},
        {"prompt": KNOWN, "chosen": "a", "rejected": "c", "weight": 0},
        {"prompt": KNOWN, "chosen": "a", "rejected": "a"},
        {"prompt": HELD_OUT, "chosen": "a", "rejected": "b"},
    ]
    file = write_pairs(tmp_path / "pairs.jsonl", rows)
    with caplog.at_level(logging.WARNING, "text_gym"):
        found = read_preferences(file, TASK)
    assert [(p.text, chosen, rejected) for p, chosen, rejected in found] == [(KNOWN, "a", "b")]
    (record,) = caplog.records
    assert record.getMessage().endswith("left out: 3 without a preference, 1 about held-out prompts")
    with pytest.raises(
        DataError, match="no pair to learn from: of 4, 3 without a preference, 1 about held-o"
    ):
        read_preferences(write_pairs(tmp_path / "none.jsonl", rows[1:]), TASK)


def test_pairs_of_a_conversation_are_told_why_they_teach_a_task_of_texts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_pairs(tmp_path / "p.jsonl", [{"prompt": "?", "chosen": "4", "rejected": "<"}])
    with pytest.raises(DataError, match="all prompts of task 'guess' read like one that it is judged on"):
        read_preferences(plain, load_task("guess"))
    said = [[{"role": role, "content": text}] for role, text in (("user", "?"), *[("assistant", "4")] * 2)]
    talk = write_pairs(tmp_path / "t.jsonl", [dict(zip(("prompt", "chosen", "rejected"), said, strict=True))])
    words = [
        "train",
        "--algorithm",
        "dpo",
        "--task",
        "guess",
        "--policy",
        "new",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*words, "--pairs", str(talk)]) == 2
    assert "task 'guess' reads plain texts: pass pairs whose prompt" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_separator_is_added_where_it_lacks(tmp_path: Path) -> None:
    rows = [{"q": text, "chosen": "a", "rejected": "b"} for text in (KNOWN, f"{KNOWN}\n")]
    found = read_preferences(write_pairs(tmp_path / "p.jsonl", rows), TASK, prompt="q", separator="\n")
    assert [p.text for p, *_ in found] == [f"{KNOWN}\n"] * 2


def test_held_out_prompts_are_known_with_their_separator(tmp_path: Path) -> None:
    task = dataclasses.replace(TASK, held_out=[Prompt(f"{HELD_OUT}\n")])
    rows = [{"prompt": text, "chosen": "a", "rejected": "b"} for text in (KNOWN, HELD_OUT)]
    found = read_preferences(write_pairs(tmp_path / "p.jsonl", rows), task, separator="\n")
    assert [p.text for p, *_ in found] == [f"{KNOWN}\n"]


def test_a_label_store_gives_its_comparisons_and_its_ratings(tmp_path: Path) -> None:
    file = tmp_path / "labels.db"
    marks = (LabelCriterion("clarity"), LabelCriterion("accuracy"))
    with LabelStore(file) as store:
        questions = [
            Question.comparison(KNOWN, "ab", "ba"),
            Question.best_of_n(KNOWN, ["a", "b", "c"]),
            Question.rating(KNOWN, "aa", marks),
            Question.rating(KNOWN, "bb", marks),
        ]
        answers: list[dict[str, Any]] = [
            {"preference": "right"},
            {"preference": 3},
            {"clarity": 1, "accuracy": 4},
            {"clarity": 3, "accuracy": 3},
        ]
        for item, values in zip(store.put(questions), answers, strict=True):
            store.claim("ada", [item])
            store.record(item, "ada", values, latency=1.0)
    found = read_preferences(file, TASK)
    assert {(chosen, rejected) for _, chosen, rejected in found} == {
        ("ba", "ab"), ("c", "a"), ("c", "b"), ("bb", "aa"),
    }  # fmt: skip
    with LabelStore(tmp_path / "empty.db"):
        pass
    with pytest.raises(DataError, match="text-gym label --kind comparison"):
        read_preferences(tmp_path / "empty.db", TASK)


def test_a_policy_learns_from_pairs_what_their_rater_wants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pairs that prefer the reversed text to a shuffled one: gold, which nobody optimised, rises."""
    rng = random.Random(0)
    prompts = [rng.choice(TASK.prompts).text for _ in range(384)]
    shuffled = ["".join(rng.sample(text, len(text))) for text in prompts]
    rows = [
        {"prompt": text, "chosen": text[::-1], "rejected": other if other != text[::-1] else f"{other}a"}
        for text, other in zip(prompts, shuffled, strict=True)
    ]
    file, out = write_pairs(tmp_path / "pairs.jsonl", rows), tmp_path / "run"
    options = ["--algorithm", "dpo", "--pairs", str(file), "--epochs", "4", "--learning-rate", "3e-3"]
    assert main(["train", "--task", "reverse", "--policy", "new", *options, "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["before"]["gold"]["mean"] < 0.4
    assert summary["after"]["gold"]["mean"] > 0.6
    assert summary["kl_nats"] > 0.5
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in metrics] == list(range(1, 4 * 12 + 1))
    assert metrics[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # −log ½: nothing is learnt yet
    assert metrics[-1]["accuracy"] > 0.9
    assert {"policy", "samples.md", "curves.png", "README.md"} <= {p.name for p in out.iterdir()}
    config = json.loads((out / "config.json").read_text())
    assert (config["algorithm"], config["pairs"], config["options"]["pairs"]) == ("dpo", 384, str(file))
    assert "reward" not in config
    assert json.loads((out / "policy" / "text_gym.json").read_text())["reward"] is None
    shown = " ".join(capsys.readouterr().out.split())
    assert "loss 0." in shown
    assert "accuracy" in shown
    assert main(["train", "--resume", str(out)]) == 2
    assert "runs of dpo take no checkpoints" in capsys.readouterr().err


def test_pairs_and_dpo_go_together(tmp_path: Path) -> None:
    for algorithm, pairs in (("dpo", []), ("ppo", [(TASK.prompts[0], "a", "b")])):
        with pytest.raises(ConfigError, match="preference pairs are what dpo learns from"):
            train(algorithm, DPOConfig(), TASK, pairs=pairs, out=tmp_path / "run")


def test_whole_conversations_are_refused_and_turns_are_rendered_by_the_policys_template(
    tmp_path: Path,
) -> None:
    task = dataclasses.replace(TASK, tokenizer=tokenizer("chatml"))
    asked = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    asked.append({"role": "user", "content": "So?"})
    a, b = ([{"role": "assistant", "content": text}] for text in "ab")
    texts = {"prompt": "user: Hi\n…", "chosen": "a", "rejected": "b"}
    row = {"prompt": asked, "chosen": a, "rejected": b, "texts": texts}
    ((prompt, chosen, _),) = read_preferences(write_pairs(tmp_path / "turns.jsonl", [row]), task)
    assert (prompt.text, chosen) == (Prompt.from_messages(asked, task.tokenizer).text, "a")
    whole = {**row, "chosen": [*a, *asked[2:], *b]}
    with pytest.raises(DataError, match=r"whole conversations, and dpo learns one reply.*--per-turn"):
        read_preferences(write_pairs(tmp_path / "whole.jsonl", [whole]), task)
