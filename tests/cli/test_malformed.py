"""Folders and files that are broken in every way: each command refuses them with one line that names them.

None may give a traceback, and none may run on.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from text_gym import Episode, PretrainedTokenizer, Prompt, write_transcripts
from text_gym.agents import LoRAPolicy, Policy
from text_gym.cli.main import main
from text_gym.reward_models import NgramModel, RewardModel
from text_gym.reward_models.preferences.opinions import PreferencePair

TEXTS = ["red shoe", "blue hat", "a warm red coat", "a hat for rain"]
DEEP = "[" * 100_000 + "]" * 100_000
Break = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, a LoRA adapter, two reward models, and files, all of which can be used."""
    place = tmp_path_factory.mktemp("whole")
    tokenizer = PretrainedTokenizer.train(TEXTS, vocab_size=300)
    small: dict[str, Any] = {"layers": 1, "width": 8, "heads": 2, "context": 128, "device": "cpu"}
    Policy.new(tokenizer, **small).save(place / "policy")
    RewardModel.new(tokenizer, **small).save(place / "learned")
    pairs = [PreferencePair(Prompt(f"{t} {i}\n"), t, t[:3]) for i in range(5) for t in TEXTS]
    NgramModel.fit(pairs).save(place / "ngrams")
    adapted = LoRAPolicy(Policy.from_pretrained(place / "policy", device="cpu"), 2, merge=False)
    adapted.save(place / "adapter")
    rows = [{"prompt": f"{t} {i}", "answer": t} for i in range(3) for t in TEXTS]
    (place / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "data.csv").write_text(
        "prompt,answer\n" + "".join(f"{r['prompt']},{r['answer']}\n" for r in rows)
    )
    pair_rows = [{"prompt": r["prompt"], "chosen": "a b", "rejected": "c d"} for r in rows]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pair_rows))
    write_transcripts(place / "texts.jsonl", [Episode.of(t, "hat", tokenizer) for t in TEXTS])
    return place


def tensors(file: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Break:
    """Change the tensors of a safetensors file."""

    def apply(folder: Path) -> None:
        found = {k: v.clone() for k, v in load_file(folder / file).items()}
        change(found)
        save_file(found, folder / file, metadata={"format": "pt"})

    return apply


def poison(value: float, name: str = "") -> Callable[[dict[str, torch.Tensor]], None]:
    def apply(found: dict[str, torch.Tensor]) -> None:
        key = next(k for k in sorted(found) if name in k)
        found[key].view(-1)[0] = value

    return apply


def rename(found: dict[str, torch.Tensor]) -> None:
    key = sorted(found)[0]
    found["renamed." + key] = found.pop(key)


def grow(found: dict[str, torch.Tensor]) -> None:
    key = sorted(found)[0]
    found[key] = torch.cat([found[key], found[key]])


def cut(file: str, share: float) -> Break:
    """Cut a file short."""

    def apply(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(len(content) * share)])

    return apply


def text(file: str, content: str | bytes) -> Break:
    """Put something else into a file."""

    def apply(folder: Path) -> None:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return apply


def settings(file: str, **changes: Any) -> Break:
    """Change values of a JSON file."""

    def apply(folder: Path) -> None:
        found = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(found | changes))

    return apply


def without(file: str) -> Break:
    return lambda folder: (folder / file).unlink()


def other_tokenizer(vocab_size: int, words: list[str]) -> Break:
    def apply(folder: Path) -> None:
        PretrainedTokenizer.train(words, vocab_size).save(folder)

    return apply


WEIGHTS = "model.safetensors"
VALUE_HEAD = "value_head/value_head.safetensors"
OF_ANY_MODEL: dict[str, Break] = {
    "weights cut": cut(WEIGHTS, 0.5),
    "weights cut in the header": cut(WEIGHTS, 0.01),
    "weights empty": cut(WEIGHTS, 0),
    "weights missing": without(WEIGHTS),
    "weights are a pickle": text(WEIGHTS, b"\x80\x04\x95."),
    "tensor missing": tensors(WEIGHTS, lambda found: found.pop(sorted(found)[0])),
    "tensor renamed": tensors(WEIGHTS, rename),
    "tensor extra": tensors(WEIGHTS, lambda found: found.update(extra=torch.zeros(2))),
    "tensor of another shape": tensors(WEIGHTS, grow),
    "tensor NaN": tensors(WEIGHTS, poison(math.nan)),
    "tensor infinite": tensors(WEIGHTS, poison(-math.inf)),
}
OF_A_TRANSFORMER: dict[str, Break] = {
    **OF_ANY_MODEL,
    "n_head 0": settings("config.json", n_head=0),
    "n_head 3": settings("config.json", n_head=3),
    "n_head a word": settings("config.json", n_head="two"),
    "n_layer 0": settings("config.json", n_layer=0),
    "n_layer 2": settings("config.json", n_layer=2),
    "n_embd 12": settings("config.json", n_embd=12),
    "n_positions 2": settings("config.json", n_positions=2),
    "vocab_size 10": settings("config.json", vocab_size=10),
    "unknown activation": settings("config.json", activation_function="nonsense"),
    "epsilon a word": settings("config.json", layer_norm_epsilon="small"),
    "unknown model_type": settings("config.json", model_type="nonsense"),
    "config deep": text("config.json", DEEP),
    "config a list": text("config.json", "[]"),
    "config cut": cut("config.json", 0.5),
    "config not UTF-8": text("config.json", b'{"model_type": "gpt2\xff"}'),
    "tokenizer deep": text("tokenizer.json", DEEP),
    "tokenizer cut": cut("tokenizer.json", 0.5),
    "tokenizer of other words": other_tokenizer(300, ["zebra zone zoo", "zebra crossing zone"]),
    "tokenizer larger than the weights": other_tokenizer(400, ["abcdefghij klmnop qrst uvw xyz " * 9] * 9),
    "tokenizer settings deep": text("tokenizer_config.json", DEEP),
    "tokenizer settings a list": text("tokenizer_config.json", "[1]"),
    "EOS a list": settings("tokenizer_config.json", eos_token=[1]),
    "EOS with a surrogate": text("tokenizer_config.json", '{"eos_token": "\\ud800"}'),
}
OF_A_POLICY: dict[str, Break] = {
    "EOS id a word": text("generation_config.json", '{"eos_token_id": "end"}'),
    "EOS id outside": text("generation_config.json", '{"eos_token_id": 100000}'),
    "value head NaN": tensors(VALUE_HEAD, poison(math.nan)),
    "value head cut": cut(VALUE_HEAD, 0.5),
    "value head renamed": tensors(VALUE_HEAD, rename),
    "origin deep": text("text_gym.json", DEEP),
    "origin with a surrogate": text("text_gym.json", '{"separator": "\\udfff"}'),
    "origin's task a number": text("text_gym.json", '{"task": 5}'),
    "origin's task unknown": text("text_gym.json", '{"task": "nonsense"}'),
    "origin's task takes no such arguments": text(
        "text_gym.json", '{"task": "reverse", "task_arguments": {"nonsense": 1}}'
    ),
    "origin's limit a word": text("text_gym.json", '{"task": "products", "max_tokens": "many"}'),
    "origin's limit 0": text("text_gym.json", '{"task": "products", "max_tokens": 0}'),
}
ADAPTER = "adapter_model.safetensors"
OF_AN_ADAPTER: dict[str, Break] = {
    "adapter cut": cut(ADAPTER, 0.5),
    "adapter empty": cut(ADAPTER, 0),
    "adapter tensor missing": tensors(ADAPTER, lambda found: found.pop(sorted(found)[0])),
    "adapter tensor renamed": tensors(ADAPTER, rename),
    "adapter tensor extra": tensors(ADAPTER, lambda found: found.update(extra=torch.zeros(2))),
    "adapter tensor of another shape": tensors(ADAPTER, grow),
    "adapter tensor NaN": tensors(ADAPTER, poison(math.nan)),
    "adapter settings deep": text("adapter_config.json", DEEP),
    "adapter rank 0": settings("adapter_config.json", r=0),
    "adapter rank 3": settings("adapter_config.json", r=3),
    "adapter of nothing": settings("adapter_config.json", base_model_name_or_path="/nonsense/there/is/none"),
}
SETTINGS = "reward_model.json"
OF_A_REWARD_MODEL: dict[str, Break] = {
    "settings deep": text(SETTINGS, DEEP),
    "settings a list": text(SETTINGS, "[]"),
    "kind unknown": settings(SETTINGS, kind="nonsense"),
    "criteria a number": settings(SETTINGS, criteria=5),
    "criteria two": settings(SETTINGS, criteria=["a", "b"]),
    "scales NaN": settings(SETTINGS, scales={"factor": [math.nan], "offset": [0], "weight": [1]}),
    "scales short": settings(SETTINGS, scales={"factor": [], "offset": [], "weight": []}),
    "scales a list": settings(SETTINGS, scales=[1]),
}
OF_NGRAMS: dict[str, Break] = {
    **OF_ANY_MODEL,
    **OF_A_REWARD_MODEL,
    "vocabulary deep": text("vocabulary.json", DEEP),
    "vocabulary short": text("vocabulary.json", '["a"]'),
    "vocabulary of numbers": text("vocabulary.json", "[1, 2]"),
    "vocabulary a number": text("vocabulary.json", "3"),
    "vocabulary missing": without("vocabulary.json"),
    "order a word": settings(SETTINGS, config={"groups": ["words"], "order": "three"}),
    "groups unknown": settings(SETTINGS, config={"groups": ["nonsense"]}),
}
OF_ROWS: dict[str, str | bytes] = {
    "deep": '{"prompt": ' + DEEP + "}\n",
    "deep column": '{"prompt": "a", "answer": ' + "[" * 200 + "]" * 200 + "}\n",
    "lone surrogate": '{"prompt": "a \\ud83d b", "answer": "c"}\n',
    "lone surrogate in a key": '{"prompt": "a", "answer": "c", "\\udc00": 1}\n',
    "not UTF-8": b'{"prompt": "\xed\xa0\x80", "answer": "c"}\n',
    "cut": '{"prompt": "a", "ans',
    "a list": "[1]\n",
    "prompt a number": '{"prompt": 1, "answer": "c"}\n',
    "prompt null": '{"prompt": null, "answer": "c"}\n',
    "empty": "",
}
OF_TRANSCRIPTS: dict[str, str | bytes] = {
    "deep": DEEP,
    "lone surrogate": '{"prompt": "a", "completion": "\\ud800"}\n',
    "not UTF-8": b'{"prompt": "\xff", "completion": "c"}\n',
    "a list": "[1]\n",
    "completion a number": '{"prompt": "a", "completion": 1}\n',
    "prompt a list": '{"prompt": ["a"], "completion": "c"}\n',
    "columns a list": '{"prompt": "a", "completion": "c", "columns": [1]}\n',
    "finish_reason a list": '{"prompt": "a", "completion": "c", "finish_reason": [1]}\n',
}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], *named: str) -> str:
    """A command refuses its input in one line that names the place."""
    code = main(arguments)
    said = capsys.readouterr()
    assert code == 2, said.out[-500:]
    line = said.err.strip().split("\n")[-1]
    assert line.startswith("text-gym: ")
    assert "Traceback" not in said.err
    assert any(name in line for name in named), line
    return line


def broken(whole: Path, kind: str, breaks: Break, folder: Path) -> Path:
    shutil.copytree(whole / kind, folder / kind)
    breaks(folder / kind)
    return folder / kind


@pytest.mark.parametrize("name", [*OF_A_TRANSFORMER, *OF_A_POLICY])
def test_a_broken_policy(name: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = broken(whole, "policy", {**OF_A_TRANSFORMER, **OF_A_POLICY}[name], tmp_path)
    where = (str(place), "task 'nonsense'")
    if name.startswith("origin"):
        refused(["evaluate", "--policy", str(place)], capsys, *where)
    else:
        refused(["sample", "--policy", str(place), "a red"], capsys, *where)
    if name in ("tensor extra", "tensor NaN", "n_head 0", "tokenizer of other words"):
        data = ["--data", str(whole / "data.jsonl"), "--reward", "length", "--iterations", "1"]
        out = ["--out", str(tmp_path / "run"), "--episodes", "2", "--max-tokens", "2"]
        refused(["train", "--policy", str(place), *data, *out], capsys, *where)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", OF_AN_ADAPTER)
def test_a_broken_adapter(name: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    place = broken(whole, "adapter", OF_AN_ADAPTER[name], tmp_path)
    refused(["sample", "--policy", str(place), "a red"], capsys, str(place))


@pytest.mark.parametrize("name", [*OF_A_TRANSFORMER, *OF_A_REWARD_MODEL])
def test_a_broken_reward_model(
    name: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = broken(whole, "learned", {**OF_A_TRANSFORMER, **OF_A_REWARD_MODEL}[name], tmp_path)
    scored = ["reward", "score", str(whole / "texts.jsonl"), "--out", str(tmp_path / "scored.jsonl")]
    refused([*scored, "--reward", str(place)], capsys, str(place), "scales", "outputs", "factor")
    assert not (tmp_path / "scored.jsonl").exists()


@pytest.mark.parametrize("name", OF_NGRAMS)
def test_a_broken_model_of_ngrams(
    name: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = broken(whole, "ngrams", OF_NGRAMS[name], tmp_path)
    scored = ["reward", "score", str(whole / "texts.jsonl"), "--out", str(tmp_path / "scored.jsonl")]
    refused([*scored, "--reward", str(place)], capsys, str(place), "scales", "factor", "groups")


@pytest.mark.parametrize("name", OF_ROWS)
def test_broken_rows(name: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    content = OF_ROWS[name]
    start = (whole / "data.jsonl").read_bytes() if name != "empty" else b""
    file.write_bytes(start + (content if isinstance(content, bytes) else content.encode()))
    policy = ["--policy", str(whole / "policy"), "--data", str(file)]
    named = (str(file), "row 13")
    refused(["train", *policy, "--reward", "length", "--out", str(tmp_path / "run")], capsys, *named)
    refused(["evaluate", *policy], capsys, *named)
    refused(
        ["sft", "--data", str(file), "--reference", "answer", "--out", str(tmp_path / "s")], capsys, *named
    )
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_bytes(file.read_bytes().replace(b'"answer"', b'"rejected": "x", "chosen"'))
    refused(
        ["reward", "train", "--pairs", str(pairs), "--out", str(tmp_path / "m")], capsys, str(pairs), "row 13"
    )


@pytest.mark.parametrize("name", OF_TRANSCRIPTS)
def test_broken_transcripts(
    name: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, content = tmp_path / "texts.jsonl", OF_TRANSCRIPTS[name]
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    words = ["reward", "score", str(file), "--reward", "length", "--out", str(tmp_path / "scored.jsonl")]
    line = refused(words, capsys, str(file))
    assert "line 1" in line or name == "not UTF-8"


@pytest.mark.parametrize("ids", [[-1], [10**6], [0.5], ["a"], 5, None, [True]])
def test_transcripts_with_ids_of_no_token(
    ids: Any, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.jsonl"
    row = json.loads((whole / "texts.jsonl").read_text().split("\n")[0])
    file.write_text(json.dumps(row | {"completion_ids": ids}) + "\n")
    words = ["reward", "score", str(file), "--reward", "length", "--out", str(tmp_path / "scored.jsonl")]
    refused([*words, "--policy", str(whole / "policy")], capsys, "completion_ids")


def test_what_is_whole_is_taken(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The other tests break what works."""
    texts = str(whole / "texts.jsonl")
    for policy in ("policy", "adapter"):
        assert main(["sample", "--policy", str(whole / policy), "a red"]) == 0
    for model in ("learned", "ngrams"):
        words = ["reward", "score", texts, "--reward", str(whole / model)]
        assert main([*words, "--out", str(tmp_path / f"{model}.jsonl")]) == 0
    data = ["--policy", str(whole / "policy"), "--data", str(whole / "data.csv")]
    assert main(["evaluate", *data, "--max-tokens", "2"]) == 0
    assert capsys.readouterr().err == ""
