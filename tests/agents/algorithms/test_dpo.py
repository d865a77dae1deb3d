from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_models import parameters_of, same_parameters, small_policy
from text_gym import ByteTokenizer, Episode, Prompt
from text_gym.agents import DPO, DPOConfig, Policy, trajectory_log_probs
from text_gym.agents.algorithms.dpo import dpo_loss
from text_gym.agents.training.metrics import Metrics
from text_gym.errors import ConfigError, DataError, NonFiniteError

PROMPT = Prompt("a")
PAIRS = [(PROMPT, "bc", "d"), (Prompt("ef"), "g", "hia"), (PROMPT, "", "bbb")]


def log_probs(policy: Policy, texts: list[str], prompt: Prompt = PROMPT) -> Tensor:
    """`(n,)`, with gradients, of whole completions and the EOS after them, from plain forward passes."""
    return trajectory_log_probs(policy, [Episode.of(prompt, text, policy.tokenizer) for text in texts])


def test_the_loss_by_hand() -> None:
    chosen, rejected = torch.tensor([2.0, 0.0, -1.0]).double(), torch.tensor([1.0, 0.0, 1.0]).double()
    expected = [math.log(1 + math.exp(-m)) for m in (1, 0, -2)]
    assert dpo_loss(chosen, rejected).tolist() == pytest.approx(expected)
    flipped = [math.log(1 + math.exp(m)) for m in (1, 0, -2)]
    smoothed = [0.9 * a + 0.1 * b for a, b in zip(expected, flipped, strict=True)]
    assert dpo_loss(chosen, rejected, 0.1).tolist() == pytest.approx(smoothed)
    assert float(dpo_loss(chosen[:1] + 3, rejected[:1] + 3)) == pytest.approx(expected[0])


def test_prompts_may_be_texts() -> None:
    policy = small_policy(tokenizer=ByteTokenizer())
    texts = [(p.text, chosen, rejected) for p, chosen, rejected in PAIRS]
    found, expected = DPO(policy, texts), DPO(policy, PAIRS)
    assert torch.equal(found.reference_log_probs, expected.reference_log_probs)


def test_metrics_and_gradient_against_plain_forward_passes() -> None:
    policy = small_policy(dtype=torch.float64)
    reference = small_policy(seed=9, dtype=torch.float64).frozen()
    logs: list[Metrics] = []
    config = DPOConfig(beta=0.3, learning_rate=0.0)
    DPO(policy, PAIRS, config, reference).learn(callback=lambda metrics: logs.append(metrics))
    margins, chosen_rewards = [], []
    for prompt, chosen, rejected in PAIRS:
        ratio = log_probs(policy, [chosen, rejected], prompt) - log_probs(
            reference, [chosen, rejected], prompt
        )
        margins.append(0.3 * (ratio[0] - ratio[1]))
        chosen_rewards.append(0.3 * float(ratio[0].detach()))
    margin = torch.stack(margins)
    loss = torch.log1p(torch.exp(-margin)).mean()
    gradient = torch.autograd.grad(loss, list(policy.model.parameters()))
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradient))
    found = logs[0]
    assert found["loss"] == pytest.approx(float(loss.detach()), abs=1e-10)
    assert found["margin"] == pytest.approx(float(margin.detach().mean()), abs=1e-10)
    assert found["reward_chosen"] == pytest.approx(np.mean(chosen_rewards), abs=1e-10)
    assert found["reward_chosen"] - found["reward_rejected"] == pytest.approx(found["margin"], abs=1e-10)
    assert found["accuracy"] == pytest.approx(float((margin > 0).double().mean()), abs=1e-6)
    assert found["grad_norm"] == pytest.approx(norm, rel=1e-9)


def test_at_the_start_the_policy_is_the_reference() -> None:
    logs: list[Metrics] = []
    policy = small_policy()
    before = parameters_of(policy)
    config = DPOConfig(learning_rate=0.0, epochs=3, batch_size=2)
    DPO(policy, PAIRS, config).learn(callback=lambda metrics: logs.append(metrics))
    assert [m["step"] for m in logs] == list(range(1, 7))
    for metrics in logs:
        assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert metrics["margin"] == pytest.approx(0, abs=1e-5)
    assert same_parameters(policy, before)


@pytest.mark.parametrize(("won", "lost", "beta"), [(3, 1, 0.5), (1, 1, 1.0), (4, 1, 0.1)])
def test_two_texts_reach_the_closed_form(won: int, lost: int, beta: float) -> None:
    """β·(log p/q of the one - log p/q of the other) = log(won/lost): where the likelihood is largest."""
    policy = small_policy(initializer_range=0.2)
    texts = ["bc", "d"]
    with torch.no_grad():
        before = log_probs(policy, texts)
    pairs = [(PROMPT, "bc", "d")] * won + [(PROMPT, "d", "bc")] * lost
    DPO(policy, pairs, DPOConfig(beta=beta, epochs=200, learning_rate=3e-3)).learn()
    with torch.no_grad():
        ratio = log_probs(policy, texts) - before
    assert beta * float(ratio[0] - ratio[1]) == pytest.approx(math.log(won / lost), abs=0.01)


def test_label_smoothing_is_the_same_as_wrong_labels() -> None:
    margins = []
    for pairs, smoothing in (
        ([(PROMPT, "bc", "d")], 0.2),
        ([(PROMPT, "bc", "d")] * 4 + [(PROMPT, "d", "bc")], 0.0),
    ):
        policy = small_policy(initializer_range=0.2)
        logs: list[Metrics] = []
        config = DPOConfig(beta=0.5, epochs=200, learning_rate=3e-3, label_smoothing=smoothing)
        DPO(policy, pairs, config).learn(callback=logs.append)
        with torch.no_grad():
            ratio = log_probs(policy, ["bc", "d"]) - log_probs(
                small_policy(initializer_range=0.2), ["bc", "d"]
            )
        margins.append(0.5 * float(ratio[0] - ratio[1]))
    assert margins == [pytest.approx(math.log(4), abs=0.01)] * 2


def test_a_bradley_terry_rater_leads_to_the_optimum_of_rlhf() -> None:
    """π ∝ π_ref·exp(r/β) among the texts compared, each preferred as often as such a rater would."""
    beta, texts = 0.5, ["", "b", "cd"]
    strength = {"": 1, "b": 2, "cd": 4}  # exp(r)
    pairs = [
        (PROMPT, x, y)
        for x in texts
        for y in texts
        if x != y
        for _ in range(round(30 * strength[x] / (strength[x] + strength[y])))
    ]
    policy = small_policy(initializer_range=0.2)
    with torch.no_grad():
        q = log_probs(policy, texts).exp().double().numpy()
    DPO(policy, pairs, DPOConfig(beta=beta, epochs=100, batch_size=180, learning_rate=3e-3)).learn()
    with torch.no_grad():
        p = log_probs(policy, texts).exp().double().numpy()
    best = q * np.array([strength[t] for t in texts]) ** (1 / beta)
    assert np.abs(p / p.sum() - best / best.sum()).sum() / 2 <= 0.01
    assert np.abs(q / q.sum() - best / best.sum()).sum() / 2 > 0.1


def test_the_same_seed_gives_the_same_bits() -> None:
    def run(seed: int) -> Policy:
        policy = small_policy()
        DPO(policy, PAIRS * 5, DPOConfig(epochs=2, batch_size=4, seed=seed)).learn()
        return policy

    first = parameters_of(run(0))
    assert same_parameters(run(0), first)
    assert not same_parameters(run(1), first)


def test_the_reference_and_the_value_head_stay() -> None:
    policy, reference = small_policy(), small_policy(seed=9).frozen()
    head, before = policy.value_head.weight.clone(), parameters_of(reference)
    seen: list[Metrics] = []
    trainer = DPO(policy, PAIRS, DPOConfig(epochs=50), reference)
    trainer.learn(callback=lambda metrics: seen.append(metrics) or len(seen) < 3)  # type: ignore[func-returns-value]
    assert trainer.steps == 3
    assert torch.equal(policy.value_head.weight, head)
    assert same_parameters(reference, before)


def test_nan_stops_before_the_weights() -> None:
    policy = small_policy()
    trainer = DPO(policy, PAIRS)
    before = parameters_of(policy)
    trainer.reference_log_probs[0] = math.nan
    with pytest.raises(NonFiniteError, match="step 0"):
        trainer.learn()
    assert same_parameters(policy, before)


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match=r"no .* pairs"):
        DPO(small_policy(), [])
    with pytest.raises(DataError, match="context is 64"):
        DPO(small_policy(), [(PROMPT, "a", "b" * 70)])
    wrongs: list[dict[str, Any]] = [
        {"beta": 0.0}, {"label_smoothing": 0.5}, {"epochs": 0}, {"batch_size": 0},
    ]  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            replace(DPOConfig(), **wrong)


@pytest.mark.parametrize(("pairs", "epochs", "size"), [(1, 1, 32), (5, 2, 4), (8, 3, 4), (9, 1, 4)])
def test_the_number_of_steps_is_known_beforehand(pairs: int, epochs: int, size: int) -> None:
    config = DPOConfig(epochs=epochs, batch_size=size, learning_rate=0.0)
    policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    found = DPO(policy, [(Prompt("a"), "b", "c")] * pairs, config).learn()
    assert found.steps == config.steps(pairs)


@pytest.mark.parametrize(
    "wrong",
    ["abc", {"prompt": "a", "chosen": "b", "rejected": "c"}, ("a", "b"), ("a", "b", None), ("a",) * 4],
)
def test_what_is_no_pair_is_named(wrong: Any) -> None:
    with pytest.raises(DataError, match=r"pair 1 is .*; write \(prompt, chosen, rejected\)"):
        DPO(small_policy(), [("a", "b", "c"), wrong])
