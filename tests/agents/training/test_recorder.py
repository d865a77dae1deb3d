"""The recorder: every number of a token against what the models themselves say, and nothing else changed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from tests.kill_harness import TOKENIZER, task
from text_gym import TextVectorEnv
from text_gym.agents import GRPO, PPO, Agent, BestOfN, BestOfNConfig, GRPOConfig, Policy, PPOConfig
from text_gym.agents.training.recorder import IterationRecord, Recorder

STEPS: dict[str, Any] = {"iterations": 3, "learning_rate": 1e-2, "epochs": 2, "minibatches": 2, "warmup": 0}


def make(algorithm: Any, config: Any, **changes: Any) -> Agent[Any]:
    policy = Policy.new(TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")
    env = TextVectorEnv(**task().env_kwargs(), num_envs=8, numbering="global", **changes)
    return algorithm(policy, env, config)  # type: ignore[no-any-return]


def said(policy: Policy, record: IterationRecord, i: int) -> torch.Tensor:
    """Log-probabilities of all tokens before each of an episode's, `(T, V)`, by `transformers` alone."""
    episode = record.episodes[i]
    ids = [*episode.prompt_ids.tolist(), *episode.completion_ids.tolist()]
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([ids])).logits[0, :, : TOKENIZER.vocab_size]
    before: torch.Tensor = logits.log_softmax(-1)[len(episode.prompt_ids) - 1 : -1].double()
    return before


def test_the_numbers_of_a_token_are_what_the_models_say() -> None:
    records: list[IterationRecord] = []
    agent = make(PPO, PPOConfig(whiten_advantages=False, lam=1.0, **STEPS))
    before: list[Policy] = []
    values: list[torch.Tensor] = []
    update = agent.update

    def watched(batch: Any) -> Any:
        before.append(copy.deepcopy(agent.policy))
        values.append(batch.values.clone())
        return update(batch)

    agent.update = watched  # type: ignore[method-assign]
    agent.recorder = Recorder(lambda number: number == 2, records.append)
    rows: list[dict[str, float]] = []
    agent.learn(2, callback=lambda _, metrics: rows.append(metrics))
    (record,) = records
    assert (record.iteration, record.group_size, len(record.episodes)) == (2, 1, 8)
    columns = record.columns
    for i, episode in enumerate(record.episodes):
        ids = episode.completion_ids
        count, here = len(ids), torch.from_numpy(ids)
        old, new = said(before[1], record, i), said(agent.policy, record, i)
        taken = old.gather(1, here[:, None])[:, 0]
        start = said(agent.reference, record, i).gather(1, here[:, None])[:, 0]
        wanted = {
            "log_prob": taken,
            "kl": taken - start,
            "entropy": -(old.exp() * old).sum(1),
            "ratio": (new.gather(1, here[:, None])[:, 0] - taken).exp(),
            "value": values[1][i, :count],
        }
        for name, column in wanted.items():
            np.testing.assert_allclose(columns[name][i, :count], column, atol=2e-5, err_msg=name)
            assert np.isnan(columns[name][i, count:]).all()
        paid = episode.completion.count("a") + 0.1 * episode.completion.count("b")
        assert record.rewards[i] == pytest.approx(paid)
        assert columns["reward"][i, :count].sum() == pytest.approx(paid, abs=1e-6)
        # With λ = γ = 1 the first advantage is the return, less β times the KL, less the first value.
        told = paid - agent.kl.coefficient * float(wanted["kl"].sum()) - float(values[1][i, 0])
        assert columns["advantage"][i, 0] == pytest.approx(told, abs=1e-5)
    assert np.nansum(columns["kl"]) / 8 == pytest.approx(rows[1]["kl"], abs=1e-5)
    assert np.nanmax(np.abs(columns["ratio"] - 1)) > 1e-3  # not that of the first step


def test_a_group_has_its_advantages_and_unpaid_episodes_have_none() -> None:
    records: list[IterationRecord] = []
    agent = make(GRPO, GRPOConfig(group_size=4, **STEPS), limit="truncate")
    agent.recorder = Recorder(lambda number: True, records.append)
    agent.learn(3)
    unpaid = 0
    for record in records:
        assert record.group_size == 4
        for first in (0, 4):
            rewards = record.rewards[first : first + 4]
            paid = ~np.isnan(rewards)
            cut = [e.finish_reason == "length" for e in record.episodes[first : first + 4]]
            assert paid.tolist() == [not c for c in cut]
            unpaid += sum(cut)
            spread = rewards[paid].std()
            centred = (rewards - rewards[paid].mean()) / spread if spread else 0 * rewards
            for i in range(4):
                found = record.columns["advantage"][first + i]
                if not paid[i]:
                    assert np.isnan(found).all()
                    assert np.isnan(record.columns["kl"][first + i]).all()
                    continue
                np.testing.assert_allclose(found[~np.isnan(found)], centred[i], atol=1e-5)
        assert "value" not in record.columns  # there is no critic
    assert 0 < unpaid < 24


def test_an_algorithm_with_an_update_of_its_own_has_what_is_left() -> None:
    records: list[IterationRecord] = []
    agent = make(BestOfN, BestOfNConfig(n=4, iterations=2, learning_rate=1e-2))
    agent.recorder = Recorder(lambda number: True, records.append)
    rows: list[dict[str, float]] = []
    agent.learn(callback=lambda _, metrics: rows.append(metrics))
    assert set(records[1].columns) == {"log_prob", "entropy", "ratio", "reward", "kl"}
    assert np.nansum(records[1].columns["kl"]) / 8 == pytest.approx(rows[1]["kl"], abs=1e-5)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_recording_changes_no_bit(algorithm: str) -> None:
    kept: list[IterationRecord] = []
    agents = []
    for wants in (None, lambda number: True, lambda number: False):
        ppo = make(PPO, PPOConfig(**STEPS))
        agents.append(ppo if algorithm == "ppo" else make(GRPO, GRPOConfig(group_size=4, **STEPS)))
        agents[-1].recorder = None if wants is None else Recorder(wants, kept.append)
        agents[-1].learn()
    assert [record.iteration for record in kept] == [1, 2, 3]
    for other in agents[1:]:
        for name, tensor in other.policy.state_dict().items():
            assert torch.equal(tensor, agents[0].policy.state_dict()[name]), name
