from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.ranks.start import finish, start
from text_gym.cli.main import main

COMMANDS = {
    "sft": "sft --data texts.jsonl --completion chosen --epochs 5 --layers 1 --width 16 --dropout 0 "
    "--batch-size 7 --vocab-size 270",
    "sft-sharded": "sft --data texts.jsonl --completion chosen --epochs 5 --layers 1 --width 16 --dropout 0 "
    "--batch-size 7 --vocab-size 270 --shard",
    "dpo": "train --algorithm dpo --pairs texts.jsonl --policy new --layers 1 --width 16 --batch-size 7 "
    "--epochs 2 --task products",
    "reward": "reward train --pairs texts.jsonl --kind transformer --batch-size 7 --epochs 2 --normalise",
    "grpo": "train --algorithm grpo --policy new --layers 1 --width 16 --task products --episodes 16 "
    "--iterations 2 --max-tokens 5 --keep-rollouts 2",
}
WEIGHTS = {"dpo": "policy/model.safetensors", "grpo": "policy/model.safetensors"}


def fields(found: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a JSON object, by the names that lead there."""
    if not isinstance(found, dict):
        return {name.removeprefix("/"): found}
    return {
        path: leaf for key, inner in found.items() for path, leaf in fields(inner, f"{name}/{key}").items()
    }


@pytest.mark.nightly
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_two_processes_gives_the_weights_of_one(command: str, tmp_path: Path) -> None:
    rng = random.Random(0)
    words = ["red", "blue", "green", "fast", "slow", "small", "large"]

    def text() -> str:
        return " ".join(rng.choices(words, k=rng.randint(1, 5)))

    rows = [{"prompt": text() + f" {i}", "chosen": text(), "rejected": text()} for i in range(30)]
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = [str(data) if word == data.name else word for word in COMMANDS[command].split()]
    found = {}
    for ranks in (1, 2):
        out = tmp_path / f"of-{ranks}"
        given = [a for a in arguments if a != "--shard" or ranks > 1]
        ended = finish(start(ranks, ["-m", "tests.ranks.commands", *given, "--out", str(out)]), 300)
        assert all(status == 0 for status, _ in ended), ended
        assert all("saved in" not in said and "results in" not in said for _, said in ended[1:])
        found[ranks] = load_file(out / WEIGHTS.get(command, "model.safetensors"))
    if command == "grpo":
        kept = [sorted(p.name for p in (tmp_path / f"of-{n}" / "rollouts").iterdir()) for n in (1, 2)]
        assert kept[0] == kept[1] == ["00000001.jsonl.gz", "00000002.jsonl.gz"]
        one, two = (fields(json.loads((tmp_path / f"of-{n}" / "summary.json").read_text())) for n in (1, 2))
        assert one.keys() == two.keys()
        assert one.keys() > {"after/gold/mean", "objective/last/se", "policy_of_iteration", "seconds"}
        for name in one.keys() - {"seconds"}:
            near = pytest.approx(one[name], abs=1e-9) if isinstance(one[name], float) else one[name]
            assert two[name] == near, name
    for name, weight in found[1].items():
        assert str(weight.dtype) == "torch.float64"
        assert float((weight - found[2][name]).abs().max()) < 1e-9, name


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--episodes 2", "--episodes is 2; 3 processes need at least 3"),
        ("--algorithm grpo --episodes 16", "--episodes is 16; 3 processes need at least 24"),
        ("--engine ray --workers 4 --episodes 3", "--episodes is 3; 4 processes need at least 4"),
    ],
)
def test_too_few_episodes_for_the_processes_are_refused_before_a_folder_is_made(
    options: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("text_gym.cli.options.train._check_ray", lambda options: None)
    out = tmp_path / "run"
    assert main(["train", "--task", "reverse", "--policy", "new", *options.split(), "--out", str(out)]) == 2
    assert told in capsys.readouterr().err
    assert not out.exists()
