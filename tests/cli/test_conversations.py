"""SFT, DPO and reward models learn from conversations as a user types it; `transformers` reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from tests.simulated_cuda import SimulatedCUDA
from tests.test_chat import tokenizer, user
from text_gym import Prompt
from text_gym.agents import Policy
from text_gym.cli.main import main
from text_gym.reward_models.loading import load_reward

GOOD, BAD = "Yes.", "No!"
ASKED = [f"{word}?" for word in ("Rain", "Snow", "Milk", "Wind", "Salt", "Corn", "Wool", "Leaf")]
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model with random weights."""
    folder = tmp_path_factory.mktemp("chat")
    Policy.new(tokenizer("chatml"), layers=1, width=32, heads=2, context=160, device="cpu").save(folder)
    return folder


def written(file: Path, rows: Sequence[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def typed(*words: Any) -> None:
    assert main([*map(str, words), "--device", "cpu"]) == 0


def opened(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def log_prob(folder: Path, messages: list[dict[str, str]], reply: str) -> float:
    """Log-probability of a reply and of the end of its turn, by `transformers` alone."""
    model, tokens = opened(folder)
    whole = [*messages, {"role": "assistant", "content": reply}]
    start = len(tokens.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
    text = tokens.apply_chat_template(whole, tokenize=False).rstrip("\n")
    ids = tokens(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        said = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    return float(said[start - 1 :].sum())


@pytest.mark.parametrize("form", ["messages", "prompt and completion"])
def test_sft_teaches_the_replies_and_the_end_of_the_turn(chat: Path, tmp_path: Path, form: str) -> None:
    if form == "messages":  # with an earlier reply, which is learnt too
        rows: list[dict[str, Any]] = [{"messages": user(asked, GOOD, "Hi", "Hello.")} for asked in ASKED]
        columns = ["--prompt", "messages"]
    else:
        rows = [{"prompt": user(asked), "completion": [user("", GOOD)[1]]} for asked in ASKED]
        columns = ["--completion", "completion"]
    data = written(tmp_path / "talks.jsonl", rows)
    more = ["--system", SYSTEM["content"], "--epochs", 30, "--batch-size", 4, "--learning-rate", 1e-2]
    typed("sft", "--data", data, *columns, "--model", chat, *more, "--out", tmp_path / "out")
    model, tokens = opened(tmp_path / "out")
    asked = [SYSTEM, *user("Rain?")]
    as_ids: dict[str, Any] = {"return_tensors": "pt", "return_dict": True}
    given = tokens.apply_chat_template(asked, add_generation_prompt=True, **as_ids)
    found = model.generate(**given, max_new_tokens=12, do_sample=False)
    said, end, _ = tokens.decode(found[0, given["input_ids"].shape[1] :]).partition("<|im_end|>")
    assert (said, end) == (GOOD, "<|im_end|>")
    if form == "messages":
        assert log_prob(tmp_path / "out", [SYSTEM, *user("Rain?", GOOD, "Hi")], "Hello.") > -1


@pytest.mark.parametrize("form", ["explicit", "implicit"])
def test_dpo_prefers_the_chosen_replies(chat: Path, tmp_path: Path, form: str) -> None:
    prompts = written(tmp_path / "prompts.jsonl", [{"prompt": user(asked)} for asked in ASKED])
    replies = {"chosen": GOOD, "rejected": BAD}
    rows: list[dict[str, Any]] = []
    for asked in ASKED:
        if form == "implicit":  # whole conversations, as in many data sets of TRL's
            rows.append({column: user(asked, text) for column, text in replies.items()})
        else:
            turns = {column: [user("", text)[1]] for column, text in replies.items()}
            rows.append({"prompt": user(asked), **turns})
    pairs = written(tmp_path / "pairs.jsonl", rows)
    run = ["--algorithm", "dpo", "--max-tokens", 8, "--learning-rate", 1e-3, "--epochs", 3]
    typed("train", "--data", prompts, "--pairs", pairs, "--policy", chat, *run, "--out", tmp_path / "run")
    start, end = (
        log_prob(folder, user("Rain?"), GOOD) - log_prob(folder, user("Rain?"), BAD)
        for folder in (chat, tmp_path / "run" / "policy")
    )
    assert end > start + 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reward_model_learns_from_conversations(chat: Path, tmp_path: Path, dtype: str) -> None:
    rows = [{"chosen": user(asked, GOOD), "rejected": user(asked, BAD)} for asked in ASKED]
    pairs, out = written(tmp_path / "pairs.jsonl", rows), tmp_path / "out"
    how = ["--epochs", 20, "--batch-size", 4, "--learning-rate", 1e-3, "--dtype", dtype]
    typed("reward", "train", "--pairs", pairs, "--model", chat, *how, "--out", out)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["dtype"], summary["accuracy"]["value"]) == (dtype, 1.0)
    model = AutoModelForSequenceClassification.from_pretrained(out)
    tokens = AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.float32
    scores = []
    for reply in (GOOD, BAD):
        ids: Any = tokens.apply_chat_template(user("Rain?", reply), return_tensors="pt", return_dict=True)
        with torch.no_grad():
            scores.append(float(model(**ids).logits))
    asked = Prompt.from_messages(user("Rain?"), tokenizer("chatml"))
    ours = load_reward(str(out)).raw_scores([(asked, GOOD), (asked, BAD)])  # type: ignore[attr-defined]
    assert ours[:, 0].tolist() == pytest.approx(scores, abs=1e-5)
    assert scores[0] > scores[1]


def short(command: str, chat: Path, folder: Path) -> list[Any]:
    """The shortest training by a command; only its weights are looked at."""
    folder.mkdir()
    asked = written(folder / "prompts.jsonl", [{"prompt": user(asked), "reply": GOOD} for asked in ASKED])
    rows = [{"prompt": user(asked), "chosen": GOOD, "rejected": BAD} for asked in ASKED]
    pairs = ["--pairs", written(folder / "pairs.jsonl", rows)]
    train = ["train", "--data", asked, "--algorithm", "dpo", *pairs, "--policy", chat, "--max-tokens", 4]
    return {
        "sft": ["sft", "--data", asked, "--completion", "reply", "--model", chat, "--epochs", 1],
        "dpo": [*train, "--log"],
        "reward": ["reward", "train", *pairs, "--model", chat, "--epochs", 1],
    }[command]


@pytest.mark.parametrize("command", ["sft", "dpo", "reward"])
def test_products_are_made_in_the_dtype_asked_for(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    made: set[torch.dtype] = set()
    forward: Any = Conv1D.forward

    def spy(self: Any, x: Any) -> Any:
        found = forward(self, x)
        if found.requires_grad:
            made.add(found.dtype)
        return found

    monkeypatch.setattr(Conv1D, "forward", spy)
    for dtype in ("float32", "bfloat16"):
        made.clear()
        out = tmp_path / dtype / "out"
        typed(*short(command, chat, tmp_path / dtype), "--dtype", dtype, "--out", out)
        assert (torch.bfloat16 in made) == (dtype == "bfloat16")
        assert torch.float32 not in made or dtype == "float32"
        saved = out / "policy" if command == "dpo" else out
        kind = AutoModelForSequenceClassification if command == "reward" else AutoModelForCausalLM
        assert kind.from_pretrained(saved).dtype == torch.float32


@pytest.mark.parametrize("command", ["sft", "dpo", "reward"])
def test_a_dtype_that_the_device_lacks_is_refused_before_the_first_step(
    chat: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    words = [*short(command, chat, tmp_path / "files"), "--dtype", "bfloat16"]
    with SimulatedCUDA() as gpu:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
        assert main([*map(str, words), "--out", str(tmp_path / "out")]) == 2
    assert "dtype bfloat16: cuda does not have it" in capsys.readouterr().err
    assert not gpu.launches
    assert not list(tmp_path.glob("out/*"))
