"""Models, devices and templates that cannot do what is asked: a named error before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_chat import tokenizer, user
from text_gym import PretrainedTokenizer
from text_gym.agents import Policy
from text_gym.cli import train
from text_gym.cli.main import main

COMMANDS = ("sft", "dpo", "reward", "ppo")


def typed(command: str, model: Path, folder: Path, asked: Any, *more: str) -> list[str]:
    """The words of a command that learns from four rows, as texts or conversations."""
    rows = [{"prompt": x, "reply": "Yes.", "chosen": "Yes.", "rejected": "No."} for x in asked]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = {
        "sft": f"sft --data {data} --completion reply --model {model}",
        "dpo": f"train --data {data} --pairs {data} --algorithm dpo --policy {model}",
        "reward": f"reward train --pairs {data} --model {model}",
        "ppo": f"train --data {data} --reward length --policy {model}",
    }
    return [*words[command].split(), "--device", "cpu", "--out", str(folder / "out"), *more]


def saved(folder: Path, tokens: PretrainedTokenizer) -> Path:
    Policy.new(tokens, layers=1, width=8, heads=2, context=160, device="cpu").save(folder / "model")
    return folder / "model"


def refused(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said about it; nothing was learnt or written."""
    assert main(words) == 2
    assert not [f for f in folder.glob("out/**/*") if f.suffix == ".safetensors"]
    return capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_template_that_rewrites_what_was_said(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(tmp_path, tokenizer("thinking"))
    asked = [user("Tea?", f"<think>{i}</think>Yes.", f"More {i}?") for i in range(4)]
    said = refused(typed(command, model, tmp_path, asked), tmp_path, capsys)
    assert "not prefix-preserving: with message 3" in said or "leaves out or rewrites message 1" in said
    assert "row 1" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_conversations_for_a_model_without_a_template(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(tmp_path, tokenizer(None))
    asked = [user(f"Tea {i}?") for i in range(4)]
    assert "no chat template" in refused(typed(command, model, tmp_path, asked), tmp_path, capsys)


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        ("sft", (), "has no EOS id, so completions could never be taught to end"),
        ("dpo", (), "has no EOS id, so completions could never be taught to end"),
        ("ppo", ("--limit", "truncate"), "has no EOS id: every text runs to the limit of 64 tokens, and"),
    ],
)
def test_a_tokenizer_without_eos(
    command: str, more: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(tmp_path, PretrainedTokenizer(tokenizer(None).backend, eos_ids=[]))
    words = typed(command, model, tmp_path, [f"Tea {i}?" for i in range(4)], *more)
    assert said in refused(words, tmp_path, capsys)


def test_a_plan_that_cannot_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(tmp_path, tokenizer(None))
    monkeypatch.setattr(train, "LARGE", 1)
    monkeypatch.setattr(train, "available_memory", lambda device: 1000)
    words = typed("ppo", model, tmp_path, [f"Tea {i}?" for i in range(4)])
    assert "NotEnoughMemoryError: weights, gradients and optimizer" in refused(words, tmp_path, capsys)
