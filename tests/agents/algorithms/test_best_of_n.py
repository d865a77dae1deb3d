from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.algorithms.test_ppo import world
from tests.small_models import parameters_of, same_parameters, small_policy
from tests.tiny_world import QUICK, every_pair, learn_in, pair
from text_gym import Episode, Prompt, TextVectorEnv, WordTokenizer, load_task
from text_gym.agents import BestOfN, BestOfNConfig, Policy, trajectory_log_probs
from text_gym.agents.algorithms.best_of_n import best_of_n, best_of_n_kl_bound, choose_best
from text_gym.agents.training.metrics import Metrics
from text_gym.errors import ConfigError
from text_gym.rewards.source import FunctionReward
from text_gym.tasks.enumerable import best_of_n_law, kl_divergence, total_variation

# Choosing


def test_the_best_is_chosen_and_the_first_among_equals() -> None:
    rewards = torch.tensor([[1.0, 5.0, 5.0], [3.0, 2.0, 1.0], [0.0, 0.0, 9.0], [1.0, 2.0, 3.0]])
    judged = torch.tensor([[True] * 3, [True] * 3, [True, True, False], [False] * 3])
    assert choose_best(rewards, judged).tolist() == [1, 0, 0, 0]
    below = torch.tensor([[-3.0, -2.0, 0.0]])  # 0 stands where nobody judged
    assert choose_best(below, torch.tensor([[True, True, False]])).tolist() == [1]


def handmade(episodes: list[Episode]) -> list[float | None]:
    """The episode's number decides, whatever the text; number 3 is not judged."""
    return [
        None if e.index == 3 else 10.0 if e.index in (2, 8, 11) else -float(e.index or 0) for e in episodes
    ]


def test_sampling_keeps_the_argmax_of_any_reward() -> None:
    policy, env = small_policy(), world()
    prompts = [Prompt("a"), Prompt("bc"), Prompt("d")]
    found = best_of_n(policy, env, 4, prompts, reward=FunctionReward(handmade, abstains=True), seed=5)
    assert [e.prompt.text for e in found.episodes] == ["a"] * 4 + ["bc"] * 4 + ["d"] * 4
    assert [e.index for e in found.best] == [2, 4, 8]  # of 8 and 11 the first
    assert [e is found.episodes[i] for e, i in zip(found.best, (2, 4, 8), strict=True)] == [True] * 3
    expected = [[0, -1, 10, math.nan], [-4, -5, -6, -7], [10, -9, -10, 10]]
    assert np.array_equal(found.rewards, np.array(expected, dtype=np.float64), equal_nan=True)
    own = best_of_n(policy, env, 4, prompts, seed=5)  # the environment's reward counts the letter a
    assert [e.completion for e in own.episodes] == [e.completion for e in found.episodes]
    counts = np.array([e.completion.count("a") for e in own.episodes]).reshape(3, 4)
    assert own.rewards.tolist() == counts.tolist()
    assert [e.completion.count("a") for e in own.best] == counts.max(axis=1).tolist()


def test_candidates_are_scored_as_they_stand_whatever_the_limit_means_to_the_environment() -> None:
    policy = small_policy()
    prompts: Any = (["a", "bcd"], policy.tokenizer, len, 3)
    end, cut = (best_of_n(policy, TextVectorEnv(*prompts, limit=limit), 16) for limit in ("end", "truncate"))
    assert {e.finish_reason for e in cut.episodes} == {"eos", "length"}
    assert end.rewards.tolist() == cut.rewards.tolist()
    assert [e.completion for e in end.best] == [e.completion for e in cut.best]


def test_many_prompts_are_played_in_parts() -> None:
    policy, env = small_policy(), world()
    prompts = [Prompt("abcdefghi"[i % 9], id=str(i)) for i in range(50)]
    whole = best_of_n(policy, env, 3, prompts, seed=1)
    assert len(whole.best) == 50
    assert len(whole.episodes) == 150
    assert [e.prompt.id for e in whole.best] == [p.id for p in prompts]
    assert [e.index for e in whole.episodes] == list(range(150))
    first = best_of_n(policy, env, 3, prompts[:2], seed=1)
    assert [e.completion for e in first.best] == [e.completion for e in whole.best[:2]]


def test_more_candidates_are_better() -> None:
    policy, env = small_policy(), world()
    means = [float(best_of_n(policy, env, n, seed=2).rewards.max(axis=1).mean()) for n in (1, 8, 64)]
    assert means[0] <= means[1] <= means[2]  # the first candidates are the same
    assert means[0] < means[2]
    assert best_of_n(policy, env, 1).rewards.shape == (3, 1)


# The distribution of the best


def test_of_two_the_best_has_the_distribution_in_closed_form() -> None:
    """Summed over all pairs of trajectories, weighted by their probabilities."""
    task = load_task("enumerable")
    batch, weights, episodes = every_pair(pair(task)[0], task)
    rewards = batch.rewards.sum(dim=1).view(-1, 2)
    best = choose_best(rewards, torch.ones_like(rewards, dtype=torch.bool))
    number = torch.arange(len(episodes))
    pairs = torch.stack([number.repeat_interleave(len(number)), number.repeat(len(number))], dim=1)
    chosen = pairs.gather(1, best[:, None])[:, 0]
    shares = weights[0::2] / len(episodes) ** 2
    found = torch.bincount(chosen, weights=shares, minlength=len(number)).numpy()
    probs = batch.log_probs.sum(dim=1).exp()[1 : 2 * len(number) : 2].numpy()
    assert probs.sum() == pytest.approx(1)
    expected = best_of_n_law(probs, task.reward(episodes).values, 2)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 32])
def test_the_kl_bound_holds_and_is_reached_by_many_equally_likely_texts(n: int) -> None:
    rng = np.random.default_rng(n)
    bound = best_of_n_kl_bound(n)
    for texts in (2, 40, 100_000):
        p = np.full(texts, 1 / texts) if texts > 40 else rng.dirichlet(np.ones(texts))
        rewards = rng.permutation(texts).astype(np.float64)
        if texts > 40:
            rank = (rewards + 1) / texts
            q = rank**n - (rank - 1 / texts) ** n
        else:
            q = best_of_n_law(p, rewards, n)
        kl = kl_divergence(q, p)
        assert kl <= bound + 1e-9
    assert kl == pytest.approx(bound, abs=1e-3)


@pytest.mark.parametrize("seed", [pytest.param(s, marks=pytest.mark.nightly) for s in range(10)])
def test_distillation_from_the_reference_reaches_best_of_n(seed: int) -> None:
    """Maximum likelihood on the best of n texts of the reference: the fixed point is their distribution."""
    settings = {**QUICK, "kl_coef": 0.0, "epochs": 1, "minibatches": 1, "n": 2}
    config = BestOfNConfig(**settings, sample_from="reference", seed=seed)
    logs: list[Metrics] = []

    class Logged(BestOfN):
        def update(self, batch: Any) -> Metrics:
            logs.append(super().update(batch))
            return logs[-1]

    task, episodes, before, after = learn_in(
        seed, lambda policy, env: Logged(policy, env, config), num_envs=512
    )
    best = best_of_n_law(before, task.reward(episodes).values, 2)
    began, reached = total_variation(before, best), total_variation(after, best)
    print(f"best of 2, seed {seed}: total variation {began:.4f} -> {reached:.4f}")
    assert began > 0.2
    assert reached <= 0.05  # it is fitted to the few texts chosen last: 0.018 to 0.036 on seeds 0 to 4
    exact = kl_divergence(best, before)
    assert exact < best_of_n_kl_bound(2)
    assert np.mean([m["kl"] for m in logs[-20:]]) == pytest.approx(exact, abs=0.05)


# Distillation


def test_only_the_best_of_each_prompt_is_learnt() -> None:
    """One step on the negative log-likelihood of the argmax, by hand from plain forward passes."""
    policy = small_policy(dtype=torch.float64)
    agent = BestOfN(policy, world(8), BestOfNConfig(n=4, epochs=1, learning_rate=0.0))
    batch = agent.collect()
    batch.rewards.zero_()
    batch.rewards[1, 0], batch.rewards[6, batch.lengths[6] - 1], batch.rewards[4, 0] = 2.0, 3.0, 1.0
    metrics = agent.update(batch)
    chosen = [batch.episodes[1], batch.episodes[6]]
    loss = -trajectory_log_probs(policy, chosen).mean()
    assert metrics["loss"] == pytest.approx(float(loss.detach()), abs=1e-10)
    assert metrics["reward_best"] == 2.5
    norm = math.sqrt(
        sum(float((g**2).sum()) for g in torch.autograd.grad(loss, list(policy.model.parameters())))
    )
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-9)
    assert metrics["kl"] == pytest.approx(0, abs=1e-9)
    assert {"entropy", "clip_fraction", "kl_per_token"} <= metrics.keys()


def test_prompts_that_were_not_judged_teach_nothing() -> None:
    policy = small_policy()
    env = TextVectorEnv(
        ["a"], WordTokenizer("abcdefghi", separator=""), lambda completion: math.nan, 4, num_envs=8,
        on_bad_reward="drop",
    )  # fmt: skip
    before = parameters_of(policy)
    logs: list[Metrics] = []
    BestOfN(policy, env, BestOfNConfig(iterations=1)).learn(callback=lambda _, m: logs.append(m))
    assert same_parameters(policy, before)
    assert logs[0]["updates"] == 0


def test_writing_from_the_policy_improves_round_after_round() -> None:
    policy = Policy.new(
        WordTokenizer("abcdefghi", separator=""), width=16, layers=1, heads=2, context=16, device="cpu"
    )
    logs: list[Metrics] = []
    config = BestOfNConfig(iterations=25, learning_rate=1e-2, warmup=0, n=8)
    BestOfN(policy, world(), config).learn(callback=lambda _, metrics: logs.append(metrics))
    assert logs[0]["reward"] < 2
    assert logs[-1]["reward"] > 5
    assert logs[-1]["kl"] > best_of_n_kl_bound(8)  # the bound is one of a single round


def test_the_same_seed_gives_the_same_bits() -> None:
    def run(seed: int, **settings: Any) -> BestOfN:
        config = BestOfNConfig(iterations=2, learning_rate=1e-2, warmup=0, seed=seed, **settings)
        agent = BestOfN(small_policy(), world(16), config)
        agent.learn()
        return agent

    for settings in ({}, {"sample_from": "reference"}):
        first = list(run(0, **settings).policy.parameters())
        assert same_parameters(run(0, **settings).policy, first)
        assert not same_parameters(run(1, **settings).policy, first)
    assert run(0).settings()["algorithm"] == "best_of_n"


@pytest.mark.parametrize("wrong", [{"kl_coef": 0.1}, {"epochs": 0}, {"sample_from": "nobody"}])
def test_settings_without_sense_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        BestOfNConfig(**wrong)
