"""Conversations in rollouts and updates, against a dialogue whose every expectation is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.envs.test_conversation import WORDS, Chance
from tests.small_models import small_policy
from tests.tiny_world import BETA, assert_same, columns_of_update, gradient_of_update, pair
from tests.worlds import as_played
from text_gym import (
    Episode,
    EpisodeBatch,
    EpisodeOptions,
    MinLength,
    Prompt,
    Task,
    TextVectorEnv,
    WordTokenizer,
    load_task,
)
from text_gym.agents import (
    GRPO,
    PPO,
    REINFORCE,
    RLOO,
    GRPOConfig,
    Policy,
    PPOConfig,
    REINFORCEConfig,
    RLOOConfig,
    exact_policy_gradient,
    trajectory_log_probs,
)
from text_gym.agents.policies import policy as policies
from text_gym.agents.sampling.rollout import Rollout, assemble, own_rewards
from text_gym.agents.sampling.sampler import Sampling, rollout
from text_gym.errors import ConfigError
from text_gym.rewards.values import Rewards
from text_gym.tasks.conversations.enumerable_dialogue import dialogue_returns, dialogues


def batch_of(policy: Policy, task: Task, episodes: list[Episode]) -> Rollout:
    """These conversations as if the policy had just played them."""
    batch, rows = as_played(task, episodes), np.arange(len(episodes))
    zeros = torch.zeros(len(episodes), task.max_tokens, dtype=policy.dtype)
    played = assemble(batch, {"log_probs": zeros, "values": zeros}, *batch.score(rows))
    exact = torch.zeros(played.rewards.shape, dtype=policy.dtype)
    for row, own in enumerate(own_rewards(played.scores, played.episodes) or ()):
        exact[row, : len(own)] = torch.from_numpy(own)
        exact[row, len(own) - 1] += float(played.scores.values[row])
    assert torch.equal(exact.float(), played.rewards)
    played = replace(played, rewards=exact)
    with torch.no_grad():
        said = policy.evaluate(played.tokens, played.host_starts, played.host_lengths)
    return replace(played, log_probs=said.log_probs, values=said.values)


STILL: dict[str, Any] = {"iterations": 1, "learning_rate": 0.0, "warmup": 0, "kl_coef": BETA}


def exact(task: Task) -> list[Tensor]:
    policy, reference = pair(task)
    every = dialogues(task)
    worth = dialogue_returns(task, every)
    return list(exact_policy_gradient(policy, every, worth, reference=reference, beta=BETA).values())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("baseline", ["moving_average", "critic"])
def test_the_expected_first_step_is_the_exact_policy_gradient(baseline: Any, seed: int) -> None:
    task = load_task("enumerable-dialogue", seed=seed)
    policy, reference = pair(task)
    batch = batch_of(policy, task, dialogues(task))
    config = REINFORCEConfig(**STILL, value_coef=0.0, baseline=baseline)
    agent = REINFORCE(policy, TextVectorEnv(task=task), config, reference)
    agent.moving_average = 0.37
    weights = batch.log_probs.sum(dim=1).exp() * len(batch.tokens)
    assert_same(gradient_of_update(agent, batch, weights), exact(task))


def test_log_probabilities_are_those_of_the_agents_tokens_alone() -> None:
    task = load_task("enumerable-dialogue")
    policy, _ = pair(task)
    every = dialogues(task)
    with torch.no_grad():
        plain = trajectory_log_probs(policy, every)  # the model's own forward pass
    assert float(plain.exp().sum()) == pytest.approx(1, abs=1e-12)
    batch = batch_of(policy, task, every)
    assert torch.allclose(batch.log_probs.sum(dim=1), plain, rtol=0, atol=1e-12)
    assert batch.num_tokens == int(batch.mask.sum()) == sum(len(e.agent_ids) for e in every)
    assert batch.metrics()["length"] == pytest.approx(np.mean([len(e.agent_ids) for e in every]))
    for row, e in enumerate(every):
        # A turn is paid on its own last token, and the whole on the agent's last one.
        own = [t for t in e.turns if t.role == "assistant"]
        ends = np.cumsum([len(t.ids) for t in own]) - 1
        wanted = np.zeros(len(e.agent_ids))
        np.add.at(wanted, ends, [t.reward for t in own])
        wanted[-1] += batch.scores.values[row]
        np.testing.assert_allclose(batch.rewards[row, : len(wanted)], wanted, rtol=0, atol=1e-7)


ONCE: dict[str, Any] = {**STILL, "epochs": 1, "minibatches": 1}


@pytest.mark.parametrize(
    ("agent_class", "config", "planted"),
    [
        (PPO, PPOConfig(**ONCE, critic="shared", entropy_coef=0.01, micro_batch_size=7), float("nan")),
        (PPO, PPOConfig(**ONCE, critic="shared", entropy_coef=0.01), 1e6),
        (PPO, PPOConfig(**ONCE, critic="separate"), float("nan")),
        (GRPO, GRPOConfig(**ONCE, group_size=2), float("nan")),
        (RLOO, RLOOConfig(**ONCE, group_size=2), 1e6),
        (REINFORCE, REINFORCEConfig(**STILL, baseline="critic"), float("nan")),
    ],
)
def test_what_stands_in_the_environments_places_changes_no_bit(
    agent_class: Any, config: Any, planted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States at places from which the agent draws nothing are never looked at."""
    task = load_task("enumerable-dialogue")
    policy, reference = pair(task)
    batch = batch_of(policy, task, dialogues(task)[1:97:4])
    env = TextVectorEnv(task=task, num_envs=2)
    by_kernels = gradient_of_update(agent_class(policy, env, config, reference), batch)
    monkeypatch.setattr(policies, "fast_path", lambda trunk: None)
    clean = gradient_of_update(agent_class(policy, env, config, reference), batch)
    assert_same(by_kernels, clean)
    texts, places = batch.tokens.tolist(), 0

    def poison(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        nonlocal places
        tokens = kwargs["input_ids"]
        drawn_from = torch.zeros(tokens.shape, dtype=torch.bool)
        for i, row in enumerate(tokens.tolist()):
            for j, text in enumerate(texts):
                if text[: len(row)] == row and int(batch.host_ends[j]) - 1 <= len(row):
                    drawn_from[i, batch.host_starts[j, : int(batch.lengths[j])] - 1] = True
        output.last_hidden_state = torch.where(drawn_from[..., None], output.last_hidden_state, planted)
        places += int((~drawn_from).sum())
        return output

    agent = agent_class(policy, env, config, reference)
    critic = getattr(agent, "critic", None)
    for network in (policy.model.base_model, reference.model.base_model, *([critic.trunk] if critic else [])):
        network.register_forward_hook(poison, with_kwargs=True)
    for before, after in zip(clean, gradient_of_update(agent, batch), strict=True):
        assert torch.equal(before, after)
    assert places > 20


@pytest.mark.parametrize("mask", [None, MinLength(1)])
def test_a_rollout_says_what_a_policy_without_a_cache_says(mask: Any) -> None:
    options = EpisodeOptions(respondent=Chance(), turn_stop=".", max_turns=4, max_context=30, mask=mask)
    policy = small_policy(tokenizer=WORDS, dtype=torch.float64)
    batch = EpisodeBatch(["ab", "c"], WORDS, lambda completion: len(completion), 10, 24, options)
    played = rollout(policy, batch, np.arange(24), seed=3, keep_states=True)
    again = policy.score(
        played.tokens, played.host_starts, played.host_lengths, action_masks=played.action_masks
    )
    assert torch.allclose(again, played.log_probs, rtol=0, atol=1e-9)
    assert max(e.agent_turns for e in played.episodes) > 2
    assert (played.rewards[~played.mask] == 0).all()
    assert (played.log_probs[played.mask] < 0).all()
    # The same alone, and in any order: an episode is a function of its number.
    few = EpisodeBatch(["ab", "c"], WORDS, lambda completion: len(completion), 10, 3, options)
    numbers = np.array([17, 2, 9])
    alone = rollout(policy, few, numbers, seed=3)
    for i, number in enumerate(numbers.tolist()):
        assert alone.episodes[i].completion_ids.tolist() == played.episodes[number].completion_ids.tolist()
    part = played.only(torch.arange(24) % 3 == 0)
    again = policy.score(part.tokens, part.host_starts, part.host_lengths, action_masks=part.action_masks)
    assert torch.allclose(again, part.log_probs, rtol=0, atol=1e-9)


def test_drawn_conversations_have_the_probabilities_of_the_listed_ones() -> None:
    task = load_task("enumerable-dialogue")
    policy = small_policy(tokenizer=task.tokenizer, seed=1, initializer_range=0.2)
    every = dialogues(task)
    with torch.no_grad():
        probabilities = trajectory_log_probs(policy, every).exp().numpy()
    place = {tuple(e.completion_ids.tolist()): i for i, e in enumerate(every)}
    env = TextVectorEnv(task=task, num_envs=4096)
    drawn = rollout(policy, env, np.arange(4096)).episodes
    counts = np.bincount([place[tuple(e.completion_ids.tolist())] for e in drawn], minlength=len(every))
    expected = 4096 * probabilities
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert chi < len(every) + 4 * np.sqrt(2 * len(every))  # four standard deviations


def test_generators_have_no_part_in_conversations() -> None:
    env = TextVectorEnv(task="enumerable-dialogue", num_envs=2)
    policy = small_policy(tokenizer=env.tokenizer)
    with pytest.raises(ConfigError, match="conversations"):
        rollout(policy, env, np.arange(2), weights="int8", sampling=Sampling())


def by_turns(batch: Rollout) -> list[list[float]]:
    """What each episode was paid from each of its turns on, as one would compute it by hand."""
    found = []
    for e, final in zip(batch.episodes, batch.scores.values.tolist(), strict=True):
        own = [t.reward for t in e.turns if t.role == "assistant"]
        found.append([sum(own[j:]) + final for j in range(len(own))])
    return found


def test_credit_by_turns_compares_turns_of_the_same_number() -> None:
    task = load_task("enumerable-dialogue")
    policy, reference = pair(task)
    every = sorted(dialogues(task), key=lambda e: -e.agent_turns)
    batch = batch_of(policy, task, [*every[:3], every[-1], *every[3:5], *every[-3:-1]])
    config = GRPOConfig(**ONCE, group_size=4, std_normalisation=False, credit="turn")
    agent = GRPO(policy, TextVectorEnv(task=task, num_envs=4), config, reference)
    columns, _ = columns_of_update(agent, batch)
    worth = by_turns(batch)
    for i, e in enumerate(batch.episodes):
        others = worth[i // 4 * 4 : i // 4 * 4 + 4]
        wanted = []
        for j, turn in enumerate(t for t in e.turns if t.role == "assistant"):
            peers = [w[j] for w in others if len(w) > j]
            wanted += [worth[i][j] - sum(peers) / len(peers)] * len(turn.ids)
        found = columns["advantages"][i]
        np.testing.assert_allclose(found[: len(wanted)], wanted, rtol=0, atol=1e-12)
        assert (found[len(wanted) :] == 0).all()


def test_credit_by_turns_of_rloo_steps_along_the_policy_gradient_of_turns() -> None:
    """Over all pairs; a second turn that the other episode lacks has nothing to be compared to."""
    task = load_task("enumerable-dialogue", max_tokens=2)
    policy, reference = pair(task)
    every = dialogues(task)
    batch = batch_of(policy, task, [e for a in every for b in every for e in (a, b)])
    p = batch.log_probs.sum(dim=1).exp()
    weights = (p[0::2] * p[1::2]).repeat_interleave(2) * len(p) / 2
    config = RLOOConfig(**{**ONCE, "kl_coef": 0.0}, group_size=2, credit="turn")
    agent = RLOO(policy, TextVectorEnv(task=task, num_envs=2), config, reference)
    found = gradient_of_update(agent, batch, weights)
    alone = batch_of(policy, task, every)
    said = policy.evaluate(alone.tokens, alone.host_starts, alone.host_lengths).log_probs
    probabilities = said.sum(dim=1).exp().detach()
    second = float(sum(q for q, e in zip(probabilities, every, strict=True) if e.agent_turns > 1))
    value = said.new_zeros(())
    for i, worth in enumerate(by_turns(alone)):
        begin = 0
        own = [t for t in every[i].turns if t.role == "assistant"]
        for j, turn in enumerate(own):
            log_prob = said[i, begin : begin + len(turn.ids)].sum()
            value = value + probabilities[i] * worth[j] * log_prob * (1 if j == 0 else second)
            begin += len(turn.ids)
    assert 0.05 < second < 0.95
    assert_same(found, torch.autograd.grad(value, list(policy.model.parameters())))


def test_what_a_reply_is_paid_falls_to_the_agents_token_before_it() -> None:
    prompt, tokenizer = Prompt("a"), WordTokenizer("ab", separator="")
    mask = np.array([True, True, False, False, True])
    ids = np.array([0, 1, 1, 0, 1])
    episode = Episode(prompt, np.array([0]), ids, tokenizer, finish_reason="length", agent_mask=mask)
    scores = Rewards(np.zeros(1), per_token=(np.array([1.0, 2.0, 10.0, 20.0, 3.0]),))
    (own,) = own_rewards(scores, [episode]) or ()
    assert own.tolist() == [1.0, 32.0, 3.0]
