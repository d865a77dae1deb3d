from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from tests.sb3_world import TOKENIZER, language_model
from text_gym.agents.adapters.causal_actor_critic import CausalActorCritic, states_of
from text_gym.agents.policies.policy import Policy
from text_gym.errors import NonFiniteError


def texts() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Random texts with all their beginnings, in random order, and something random past each end."""
    rng = np.random.default_rng(0)
    whole = rng.integers(TOKENIZER.vocab_size, size=(5, 7))
    tokens, lengths = np.repeat(whole, 7, axis=0), np.tile(np.arange(1, 8), 5)
    beyond = np.arange(7) >= lengths[:, None]
    tokens[beyond] = rng.integers(TOKENIZER.vocab_size, size=int(beyond.sum()))
    order = rng.permutation(35)
    return tokens[order], lengths[order]


def alone(policy: Policy, tokens: Any, lengths: Any) -> torch.Tensor:
    """Every text read by itself."""
    rows = [torch.as_tensor(t[:n])[None] for t, n in zip(tokens, lengths, strict=True)]
    return torch.stack([policy.hidden(row).last_hidden_state[0, -1] for row in rows])


def test_states_of_texts_and_their_gradients_are_those_of_each_text_alone() -> None:
    tokens, lengths = texts()
    shared, single = language_model(), language_model()
    weights = torch.randn(35, shared.value_head.in_features, generator=torch.Generator().manual_seed(0))
    found = states_of(shared, torch.from_numpy(tokens), torch.from_numpy(lengths))
    expected = alone(single, tokens, lengths)
    assert torch.allclose(found, expected, atol=1e-5)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for a, b in zip(shared.model.parameters(), single.model.parameters(), strict=True):
        if b.grad is not None:
            assert a.grad is not None
            assert torch.allclose(a.grad, b.grad, atol=1e-3)


def test_texts_that_begin_alike_and_then_part_are_each_read() -> None:
    tokens = np.array(
        [[0, 1, 0, 0], [0, 1, 2, 3], [0, 2, 1, 0], [0, 1, 2, 0], [1, 1, 0, 0], [0, 2, 1, 1], [0, 2, 2, 1]]
    )
    lengths, policy = np.array([2, 4, 3, 3, 2, 4, 4]), language_model()
    with torch.no_grad():
        found = states_of(policy, torch.from_numpy(tokens), torch.from_numpy(lengths))
        assert torch.allclose(found, alone(policy, tokens, lengths), atol=1e-5)


def test_values_at_the_end_are_the_plays_although_something_was_predicted_in_between() -> None:
    actor_critic = CausalActorCritic(language_model())
    tokens, lengths = np.array([[0, 1, 0, 0], [2, 0, 0, 0], [1, 1, 0, 0]]), np.array([2, 1, 2])
    actions, _, _ = actor_critic.act(tokens, lengths)
    other = actor_critic.act(np.array([[2, 2, 2, 0]]), np.array([3]), caller="predict")
    assert len(other[0]) == 1
    tokens[np.arange(3), lengths] = actions.numpy()
    values = actor_critic.terminal_values(tokens, lengths + 1)
    expected = actor_critic.policy.values(alone(actor_critic.policy, tokens, lengths + 1))
    assert torch.allclose(values, expected, atol=1e-5)


def test_a_prediction_in_the_middle_of_a_rollout_does_not_cost_the_rollout_what_it_has_read() -> None:
    actor_critic = CausalActorCritic(language_model())
    tokens, lengths = np.array([[0, 1, 0, 0], [2, 0, 0, 0]]), np.array([2, 1])
    actions, _, _ = actor_critic.act(tokens, lengths)
    actor_critic.act(np.array([[2, 2, 2, 0], [1, 0, 2, 0]]), np.array([3, 3]), caller="predict")
    tokens[np.arange(2), lengths] = actions.numpy()
    actor_critic.act(tokens, lengths + 1)
    assert actor_critic.caches["play"].prefilled == 2  # its two prompts
    assert actor_critic.caches["play"].steps == 1


def test_texts_that_begin_others_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, lengths = texts()
    policy = language_model()
    read = []
    hidden = policy.hidden

    def watch(ids: torch.Tensor) -> Any:
        read.append(len(ids))
        return hidden(ids)

    monkeypatch.setattr(policy, "hidden", watch)
    states_of(policy, torch.from_numpy(tokens), torch.from_numpy(lengths))
    assert read == [5]


def test_a_mask_forbids_and_renormalises() -> None:
    actor_critic = CausalActorCritic(language_model())
    tokens, lengths = np.zeros((2000, 3), dtype=np.int64), np.full(2000, 2)
    allowed = np.zeros((2000, TOKENIZER.vocab_size), dtype=np.bool_)
    allowed[:, :2] = True
    torch.manual_seed(0)
    actions, log_probs, _ = actor_critic.act(tokens, lengths, allowed=allowed)
    assert actions.max() == 1
    log_p = torch.log_softmax(
        actor_critic.policy.logits(alone(actor_critic.policy, tokens[:1], lengths[:1])), 1
    )
    chosen = log_p[0, :2] - log_p[0, :2].logsumexp(0)
    assert torch.allclose(log_probs, chosen[actions], atol=1e-5)
    assert float((actions == 0).double().mean()) == pytest.approx(float(chosen[0].exp()), abs=0.05)


def test_terminal_values_are_those_of_the_texts_alone() -> None:
    policy = language_model()
    torch.nn.init.normal_(policy.value_head.weight)
    actor_critic = CausalActorCritic(policy)
    tokens, lengths = np.zeros((3, 6), dtype=np.int64), np.array([1, 2, 3])
    actions, _, values = actor_critic.act(tokens, lengths)
    assert torch.allclose(values, policy.values(alone(policy, tokens, lengths)), atol=1e-5)
    grown = tokens.copy()
    grown[np.arange(3), lengths] = actions.numpy()
    for row in (2, 0):  # one after another, in any order, as SB3 asks
        found = actor_critic.terminal_values(grown[[row]], lengths[[row]] + 1)
        assert torch.allclose(
            found, policy.values(alone(policy, grown[[row]], lengths[[row]] + 1)), atol=1e-5
        )
    assert actor_critic.caches["play"].steps == 1
    unknown = np.ones((1, 6), dtype=np.int64)
    found = actor_critic.terminal_values(unknown, np.array([5]))
    assert torch.allclose(found, policy.values(alone(policy, unknown, [5])), atol=1e-5)


def test_logits_that_are_not_finite_name_the_row() -> None:
    policy = copy.deepcopy(language_model())
    with torch.no_grad():
        policy.model.transformer.ln_f.bias[0] = float("nan")
    with pytest.raises(NonFiniteError, match="row 0"):
        CausalActorCritic(policy).act(np.zeros((2, 3), dtype=np.int64), np.array([1, 1]))
