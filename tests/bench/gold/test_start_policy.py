"""The starting policy: made once, whole or not at all, and the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.bench_e2e import write_table
from text_gym import load_task
from text_gym.agents import Policy, SFTConfig
from text_gym.agents.algorithms.sft import completion_loss
from text_gym.bench.gold.e2e import e2e
from text_gym.bench.gold.start_policy import POLICY, start_policy
from text_gym.errors import ConfigError

FEW = SFTConfig(epochs=8.0, batch_size=16)


def test_a_policy_is_fitted_to_the_texts_once(tmp_path: Path) -> None:
    file = write_table(tmp_path)
    task = e2e(file)
    place = start_policy(task, tmp_path, FEW)
    assert place == tmp_path / POLICY
    made = (place / "model.safetensors").read_bytes()
    assert start_policy(task, tmp_path, SFTConfig(epochs=1.0)) == place
    assert (place / "model.safetensors").read_bytes() == made
    own = e2e(file, place)  # the task has the policy's tokenizer
    assert own.tokenizer.fingerprint == task.tokenizer.fingerprint
    assert own.policy == place
    policy = Policy.from_pretrained(place, device="cpu")
    untrained = Policy.new(task.tokenizer, width=96, context=policy.context or 0, seed=0, device="cpu")
    assert own.corpus is not None
    _, held_out = own.corpus()
    assert completion_loss(policy, held_out) < 0.5 * completion_loss(untrained, held_out)
    longest = max(len(p.encode(own.tokenizer)) for p in (*own.prompts, *own.held_out))
    assert (policy.context or 0) >= longest + own.max_tokens


def test_the_same_texts_give_the_same_policy(tmp_path: Path) -> None:
    task = e2e(write_table(tmp_path))
    few = SFTConfig(epochs=1.0)
    one, two = (
        Policy.from_pretrained(start_policy(task, tmp_path / name, few), device="cpu") for name in ("a", "b")
    )
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)


def test_a_task_without_texts_has_no_policy_to_be_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pass --policy"):
        start_policy(load_task("guess"), tmp_path)
    assert not (tmp_path / POLICY).exists()
