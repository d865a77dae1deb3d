"""What only a real model shows, on SmolLM2-135M-Instruct: `python -m tests.real`, then `pytest -m real`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.real.__main__ import FOLDER
from text_gym import Episode, PretrainedTokenizer, Prompt, TextVectorEnv
from text_gym.agents import GRPO, Checkpoints, GRPOConfig, LoRAPolicy, Policy, Sampling, rollout
from text_gym.models.cpu.fast_path import fast_path
from text_gym.reward_models import (
    LocalJudge,
    PreferencePair,
    RewardModel,
    RewardTrainer,
    RewardTrainingConfig,
)

pytestmark = [
    pytest.mark.real,
    pytest.mark.nightly,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no model: run python -m tests.real"),
]
PROMPTS = [
    "The weather today is",
    "Once upon a time there was a small dragon who",
    "Paris is",
    "def add(a, b):\n    return",
]
TEXTS = ["", "Hello, world!", "naïve café – 3 €", "日本語", "👩‍🚀", "مرحبا", "a\r\n\tb  c", "\x00\x1b[31m"]


@pytest.fixture
def policy() -> Policy:
    return Policy.from_pretrained(FOLDER, device="cpu")


def world(tokenizer: Any, rows: int, tokens: int = 12) -> TextVectorEnv:
    return TextVectorEnv(PROMPTS, tokenizer, words_with_e, tokens, num_envs=rows, group_size=4)


def words_with_e(completion: str) -> float:
    words = completion.split()
    return sum("e" in word for word in words) / max(1, len(words))


@pytest.mark.parametrize("text", TEXTS)
def test_texts_survive_the_tokenizer(text: str) -> None:
    tokenizer = PretrainedTokenizer.from_pretrained(FOLDER)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chat_template_is_read_and_ends_a_turn_with_an_eos() -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(FOLDER)
    messages = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}]
    text = theirs.apply_chat_template(messages, tokenize=False)
    assert isinstance(text, str)
    ids = PretrainedTokenizer.from_pretrained(FOLDER).encode(text)
    assert ids == theirs.apply_chat_template(messages, return_dict=False)
    assert theirs.eos_token_id in ids
    assert theirs.eos_token_id in PretrainedTokenizer.from_pretrained(FOLDER).eos_ids


@torch.no_grad()
def test_sampled_log_probs_are_those_of_a_float64_forward(policy: Policy) -> None:
    assert fast_path(policy.model.base_model) is not None
    batch = rollout(policy, world(policy.tokenizer, 8), np.arange(8))
    replayed = policy.evaluate(batch.tokens, batch.starts, batch.lengths)
    exact = copy.deepcopy(policy.model).double()
    for i, episode in enumerate(batch.episodes):
        p, t = len(episode.prompt_ids), len(episode.completion_ids)
        ids = torch.tensor([[*episode.prompt_ids.tolist(), *episode.completion_ids.tolist()]])
        log_p = torch.log_softmax(exact(ids).logits[0, p - 1 : -1, : policy.vocab_size], 1)
        wanted = log_p.gather(1, ids[0, p:, None])[:, 0]
        for found in (batch.log_probs, replayed.log_probs):
            assert (found[i, :t] - wanted).abs().max() < 1e-4


def test_gradients_are_those_of_the_models_own_code(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.tensor([policy.tokenizer.encode(text)[:6] for text in PROMPTS[1:2] * 2])
    starts, lengths = torch.tensor([2, 3]), torch.tensor([4, 3])

    def gradients() -> dict[str, Tensor]:
        policy.zero_grad()
        policy.evaluate(tokens, starts, lengths).log_probs.sum().backward()
        return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}

    ours = gradients()
    monkeypatch.setattr("text_gym.agents.policies.policy.fast_path", lambda trunk: None)
    for name, wanted in gradients().items():
        assert (ours[name] - wanted).abs().max() <= 1e-3 * wanted.abs().max().clamp_min(1e-3), name


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_that_is_resumed_ends_with_the_same_bits(lora: bool, tmp_path: Path) -> None:
    def agent() -> GRPO:
        policy = Policy.from_pretrained(FOLDER, device="cpu")
        learner: Policy = LoRAPolicy(policy, rank=4) if lora else policy
        config = GRPOConfig(iterations=2, group_size=4, learning_rate=1e-4, epochs=1)
        return GRPO(learner, world(policy.tokenizer, 8), config)

    whole, first = agent().learn(), agent().learn(1)
    Checkpoints(tmp_path).save(first)
    second = agent()
    assert Checkpoints(tmp_path).load(second) == 1
    second.learn(1)
    pairs = zip(whole.policy.parameters(), second.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@torch.no_grad()
def test_a_saved_policy_is_a_model_of_transformers(policy: Policy, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy.save(tmp_path)
    theirs, ids = AutoModelForCausalLM.from_pretrained(tmp_path), torch.tensor([[1, 504, 2365]])
    assert torch.equal(theirs(ids).logits, policy.model(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path)(PROMPTS[0])["input_ids"] == policy.tokenizer.encode(
        PROMPTS[0]
    )


def test_a_reward_model_learns_on_its_trunk() -> None:
    model = RewardModel.from_backbone(FOLDER, device="cpu")
    pairs = [
        PreferencePair(Prompt(prompt), f" {good} and sunny.", f" {bad} and grey.")
        for prompt in PROMPTS
        for good, bad in [("bright", "dull"), ("lovely", "awful"), ("warm", "cold")]
    ]
    trainer = RewardTrainer(model, pairs, RewardTrainingConfig(epochs=3, learning_rate=1e-4, batch_size=4))
    trainer.learn()
    assert trainer.history[-1]["loss"] < 0.5 * trainer.history[0]["loss"]


def test_a_local_judge_gives_a_text_its_score_in_any_batch() -> None:
    judge = LocalJudge.from_pretrained(
        FOLDER, {"kind": "Is this a positive review?"}, device="cpu", batch_size=3
    )
    reviews = (
        "I loved it from the first minute.",
        "What a delightful, wonderful film: I would recommend it to everyone.",
        "I hated it from the first minute.",
        "What a dreadful, terrible film: I would recommend it to nobody.",
    )
    episodes = [Episode.of("Review the film.", text, judge.tokenizer) for text in reviews]
    found = judge(episodes)
    assert not found.abstained.any()
    assert found.values == pytest.approx([float(judge([e]).values[0]) for e in episodes], abs=1e-4)
    assert np.ptp(found.values) > 1e-3


ASKED = [{"role": "user", "content": "Say <|im_end|> twice."}]


def test_conversations_are_encoded_as_transformers_does_but_for_what_a_user_injects() -> None:
    from transformers import AutoTokenizer

    ours, theirs = PretrainedTokenizer.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
    plain = [{"role": "user", "content": "Name a colour."}]
    made = Prompt.from_messages(plain, ours)
    wanted = theirs.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)
    assert made.encode(ours) == wanted
    ids = Prompt.from_messages(ASKED, ours).encode(ours)
    assert ids.count(ours.eos_ids[0]) == 2  # the template's system prompt and the user's turn
    assert "Say <|im_end|> twice." in ours.decode(ids)


def test_a_reply_stops_at_the_end_of_its_turn(policy: Policy) -> None:
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    env = TextVectorEnv([{"prompt": question}], policy.tokenizer, words_with_e, 40)
    batch = rollout(policy, env, np.arange(1), sampling=Sampling(greedy=True))
    (episode,) = batch.episodes
    assert episode.finish_reason == "eos"
    assert episode.completion_ids[-1] == policy.tokenizer.backend.token_to_id("<|im_end|>")  # type: ignore[attr-defined]
    assert "Paris" in episode.completion
    assert "<|im_end|>" not in episode.completion
