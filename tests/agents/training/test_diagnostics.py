from __future__ import annotations

import json
import logging
import math
import re
from dataclasses import replace
from pathlib import Path
from statistics import mean, variance
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small_models import parameters_of, same_parameters, small_policy
from text_gym import ByteTokenizer, Episode, Prompt, Rewards, TextVectorEnv, WordTokenizer
from text_gym.agents import GRPO, PPO, BestOfN, BestOfNConfig, Checkpoints, GRPOConfig, PPOConfig, Rollout
from text_gym.agents.training.diagnostics import (
    Advisor,
    BatchMeans,
    Objective,
    ObjectiveEstimate,
    why_unscored,
)
from text_gym.agents.training.metrics import Metrics
from text_gym.errors import ConfigError

TOKENIZER = WordTokenizer("abcdefghi", separator="")


def scored(rewards: Any, abstained: list[bool] | None = None) -> Rewards:
    return Rewards(np.array(rewards), abstained=np.array(abstained or [False] * len(rewards)))


def batch(rewards: list[float], abstained: list[bool] | None = None, size: int = 1) -> Rollout:
    """Episodes of one token with these rewards; `size` neighbours share a prompt."""
    n = len(rewards)
    prompts = [Prompt("a") for _ in range(n // size + 1)]
    zeros = torch.zeros(n, 1)
    scores = scored(rewards, abstained)
    return Rollout(
        tokens=torch.zeros(n, 2, dtype=torch.int64),
        starts=torch.ones(n, dtype=torch.int64),
        lengths=torch.ones(n, dtype=torch.int64),
        log_probs=zeros,
        values=zeros,
        rewards=zeros,
        truncated=torch.zeros(n, dtype=torch.bool),
        episodes=[Episode.of(prompts[i // size], "b", TOKENIZER) for i in range(n)],
        scores=scores,
    )


def feed(series: Any, kl: float = 0.0, coefficient: float = 0.0) -> tuple[Objective, list[int]]:
    """An objective that saw these batches, and the iterations after which it said that it fell."""
    objective, tripped = Objective(), []
    for i, rewards in enumerate(series):
        objective.add(batch(list(rewards)), np.full(len(rewards), kl), coefficient, i)
        tripped += [i + 1] if objective.declined else []
    return objective, tripped


# Arithmetic


def test_a_batch_by_hand() -> None:
    """Objectives 1 − 0.5·2, 2 − 0.5·0, 6 − 0.5·4 = 0, 2, 4: mean 2, standard deviation 2."""
    objective = Objective()
    found = objective.add(batch([1.0, 2.0, 6.0]), np.array([2.0, 0.0, 4.0]), 0.5, 0)
    assert math.isclose(found["objective"], 2.0)
    assert math.isclose(found["objective_se"], 2 / math.sqrt(3))
    assert math.isclose(found["objective_average"], 2.0)


def test_what_was_not_scored_is_left_out() -> None:
    objective = Objective()
    odd = batch([1.0, 99.0, 2.0, 6.0], [False, True, False, False])
    found = objective.add(odd, np.array([2.0, math.nan, 0.0, 4.0]), 0.5, 0)
    assert math.isclose(found["objective"], 2.0)
    assert objective.add(batch([1.0, 2.0], [True, True]), np.zeros(2), 0.5, 1) == {}
    assert objective.add(batch([1.0, 2.0], [False, True]), np.zeros(2), 0.5, 2) == {}
    assert objective.state_dict()["recent"] == [objective.state_dict()["start"]]


def test_episodes_of_a_prompt_count_as_one_observation() -> None:
    """With groups of equal size the error is that of the mean of the groups' means."""
    rewards = [0.0, 0.2, 1.0, 1.4, 0.4, 0.4]
    means = [mean(rewards[i : i + 2]) for i in (0, 2, 4)]
    found = Objective().add(batch(rewards, size=2), np.zeros(6), 0.1, 0, group_size=2)
    assert math.isclose(found["objective_se"], math.sqrt(variance(means) / 3))
    alone = Objective().add(batch(rewards, size=6), np.zeros(6), 0.1, 0, group_size=6)  # a single group
    assert math.isclose(alone["objective_se"], math.sqrt(variance(rewards) / 6))


@given(
    st.lists(
        st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=6),
        min_size=1,
        max_size=9,
    ),
    st.floats(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_the_average_is_over_the_last_five_batches(
    series: list[list[tuple[float, float]]], beta: float
) -> None:
    objective, metrics = Objective(), {}
    for i, rows in enumerate(series):
        kl = np.array([k for _, k in rows])
        metrics = objective.add(batch([r for r, _ in rows]), kl, beta, i)
    own = [[r - beta * k for r, k in rows] for rows in series]
    last = own[-5:]
    average, start = objective.average(), objective.start()
    assert average is not None
    assert start is not None
    assert math.isclose(average.mean, mean(map(mean, last)), abs_tol=1e-9)
    errors = [variance(x) / len(x) for x in last]
    assert math.isclose(average.se, math.sqrt(sum(errors)) / len(last), rel_tol=1e-6, abs_tol=1e-6)
    assert math.isclose(start.mean, mean(own[0]), abs_tol=1e-9)
    assert metrics["objective_average"] == average.mean


def test_another_beta_may_be_asked_for() -> None:
    objective, _ = feed([[1.0, 3.0]], kl=4.0, coefficient=0.5)
    assert objective.average() == ObjectiveEstimate(0.0, 1.0)
    assert objective.average(0.25) == ObjectiveEstimate(1.0, 1.0)
    assert objective.start(0.0) == ObjectiveEstimate(2.0, 1.0)
    assert Objective().start() is None
    assert Objective().average() is None


# When it trips


def test_a_planted_ruin_is_seen_after_five_iterations_in_a_row() -> None:
    """The average of 5 is below by more than 3 errors from the first bad batch on: 4 more must follow."""
    good, bad = [0.9, 1.0, 1.1, 1.0], [0.1, 0.2, 0.1, 0.2]
    _, tripped = feed([good] * 10 + [bad] * 8)
    assert tripped == [15, 16, 17, 18]
    _, tripped = feed([good] * 10 + [bad] * 4 + [good] * 20)
    assert [t for t in tripped if t > 18] == []  # it recovered


def test_less_than_the_tolerance_or_more_noise_than_that_does_not_trip() -> None:
    sure = [0.0, 1.0] * 2000  # standard deviation 0.5, so the tolerance is 0.05; the error is 0.008
    assert feed([sure] + [[x - 0.045 for x in sure]] * 12)[1] == []
    assert feed([sure] + [[x - 0.055 for x in sure]] * 12)[1] != []
    noisy = [0.0, 1.0] * 8  # error 0.129; of a difference to the mean of five 0.141
    assert feed([noisy] + [[x - 0.4 for x in noisy]] * 12)[1] == []
    assert feed([noisy] + [[x - 0.45 for x in noisy]] * 12)[1] != []


def test_a_kl_that_costs_less_than_half_a_nat_does_not_trip_where_all_rewards_are_equal() -> None:
    def drift(nats: float) -> bool:
        objective = Objective()
        for i in range(12):
            objective.add(batch([0.0] * 4), np.full(4, nats if i else 0.0), 0.03, i)
        return objective.declined

    assert not drift(0.45)
    assert drift(0.55)


def test_noise_rarely_trips_it() -> None:
    """At most 2 % of 400 runs that stay as good as they began, 60 iterations of 16 episodes each."""
    chance, false = np.random.default_rng(0), 0
    for _ in range(400):
        false += bool(feed_fast(chance.normal(0.7, 0.15, size=(60, 16))))
    assert false <= 8


def test_a_fall_of_one_standard_deviation_is_seen_within_ten_iterations() -> None:
    chance, seen = np.random.default_rng(1), 0
    for _ in range(100):
        levels = np.r_[np.full(10, 0.7), np.full(10, 0.55)][:, None]
        seen += bool(feed_fast(chance.normal(levels, 0.15, size=(20, 64))))
    assert seen >= 98


def feed_fast(series: Any) -> list[int]:
    """As `feed`, with one batch object for all."""
    objective, tripped, made = Objective(), [], batch([0.0] * len(series[0]))
    for i, rewards in enumerate(series):
        object.__setattr__(made, "scores", scored(rewards))
        objective.add(made, np.zeros(len(rewards)), 0.0, i)
        tripped += [i + 1] if objective.declined else []
    return tripped


@given(st.floats(0.01, 100.0))
@settings(max_examples=20, deadline=None)
def test_the_unit_of_rewards_does_not_matter(scale: float) -> None:
    chance = np.random.default_rng(2)
    levels = 0.7 - 0.02 * np.arange(25)[:, None]
    series = chance.normal(levels, 0.15, size=(25, 16))
    plain = feed(series, kl=1.0, coefficient=0.02)[1]
    assert plain
    assert feed(series * scale, kl=1.0, coefficient=0.02 * scale)[1] == plain


def test_its_state_is_plain_data_and_comes_back() -> None:
    chance = np.random.default_rng(3)
    series = chance.normal(0.5, 1.0, size=(12, 4))
    whole, _ = feed(series)
    half, _ = feed(series[:7])
    resumed = Objective.of(json.loads(json.dumps(half.state_dict(), allow_nan=False)))
    assert resumed.state_dict() == half.state_dict()
    assert resumed.average() == half.average() is not None
    for i in range(7, 12):
        resumed.add(batch(list(series[i])), np.zeros(4), 0.0, i)
    assert resumed.state_dict() == whole.state_dict()
    assert Objective.of(None).state_dict() == Objective().state_dict()


def test_means_of_batches_are_plain_floats() -> None:
    found = BatchMeans.of(np.array([1.0, 2.0]), np.array([0.0, 1.0]), np.array([0, 1]))
    assert found == BatchMeans(1.5, 0.5, 0.25, 0.25, 0.25)
    assert BatchMeans.average([found, found]) == BatchMeans(1.5, 0.5, 0.125, 0.125, 0.125)


# In an agent


def world(reward: Any = None, num_envs: int = 16) -> TextVectorEnv:
    reward = reward or (lambda completion: completion.count("a"))
    return TextVectorEnv(["a", "bcd"], TOKENIZER, reward, 6, num_envs=num_envs, numbering="global")


@pytest.mark.parametrize("algorithm", [PPO, GRPO])
def test_an_agent_reports_reward_less_kl(algorithm: Any) -> None:
    logs: list[Metrics] = []
    config = algorithm.config_class(iterations=4, learning_rate=1e-2, kl_coef=0.2, kl_estimator="k3")
    learner = algorithm(small_policy(), world(), config)
    learner.learn(callback=lambda _, metrics: logs.append(metrics))
    for row in logs:
        assert math.isclose(row["objective"], row["reward"] - 0.2 * row["kl"], abs_tol=1e-5)
    assert logs[-1]["kl"] > 0.01
    average = mean(row["objective"] for row in logs)
    assert math.isclose(logs[-1]["objective_average"], average, abs_tol=1e-9)
    start = learner.objective.start()
    assert math.isclose(start.mean, logs[0]["reward"], abs_tol=1e-5)


def test_beta_is_the_one_in_force_when_the_batch_was_played() -> None:
    logs: list[Metrics] = []
    config = PPOConfig(iterations=3, learning_rate=1e-2, kl_coef=0.2, kl_target=0.01)
    PPO(small_policy(), world(), config).learn(callback=lambda _, metrics: logs.append(metrics))
    betas = [0.2, *(row["kl_coef"] for row in logs)]
    assert betas[2] != betas[3]
    for row, beta in zip(logs, betas, strict=False):
        assert math.isclose(row["objective"], row["reward"] - beta * row["kl"], abs_tol=1e-6)


@pytest.mark.parametrize("source", ["policy", "reference"])
def test_best_of_n_knows_its_kl_where_the_policy_writes(source: Any) -> None:
    logs: list[Metrics] = []
    learner = BestOfN(small_policy(), world(), BestOfNConfig(iterations=2, n=4, sample_from=source))
    learner.learn(callback=lambda _, metrics: logs.append(metrics))
    assert ("objective" in logs[0]) == (source == "policy")
    if source == "policy":
        row, beta = logs[1], learner.config.kl_coef
        assert math.isclose(row["objective"], row["reward"] - beta * row["kl"], abs_tol=1e-6)


def ruined(on_decline: Any, iterations: int = 30) -> PPO:
    """Learning so fast that nothing of the policy, which is at its best at the start, survives."""
    config = PPOConfig(
        iterations=iterations, learning_rate=0.5, warmup=0, anneal=False, kl_coef=0.5, on_decline=on_decline
    )
    return PPO(small_policy(), world(lambda completion: len(set(completion)) / 6), config)


def test_a_ruin_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    learner = ruined("warn")
    learner.learn()
    assert learner.iteration == 30
    assert learner.declined is not None
    assert [r.getMessage() for r in caplog.records].count(learner.declined) == 1
    start = learner.objective.start()
    assert learner.declined.startswith(f"The objective (reward − β·KL) fell from {start} to ")
    assert "by iteration" in learner.declined
    assert "% of texts cut at the limit" in learner.declined


def test_a_ruin_may_end_learning(tmp_path: Path) -> None:
    whole = ruined("stop")
    whole.learn()
    assert 5 <= whole.iteration < 30
    assert whole.stopped
    assert f"by iteration {whole.iteration}:" in str(whole.declined)
    half = ruined("stop")
    half.learn(whole.iteration - 2)
    assert half.declined is None
    Checkpoints(tmp_path).save(half)
    resumed = ruined("stop")
    Checkpoints(tmp_path).load(resumed)
    resumed.learn()
    assert (resumed.iteration, resumed.declined) == (whole.iteration, whole.declined)
    assert resumed.state_dict() == whole.state_dict()
    assert same_parameters(resumed.policy, parameters_of(whole.policy))
    resumed.learn()
    assert resumed.iteration == whole.iteration  # it stays where it is
    resumed.declined = None
    resumed.learn(1)
    assert resumed.iteration == whole.iteration + 1


def test_on_decline_is_one_of_two() -> None:
    with pytest.raises(ConfigError, match="on_decline is 'rewind'"):
        GRPOConfig(on_decline="rewind")  # type: ignore[arg-type]


# Advice: signs of trouble, planted one at a time; each is explained once, and nothing else is said


def wrote(texts: list[str], rewards: list[float], *, cut: bool = False, prompts: int = 2) -> Rollout:
    tokenizer = ByteTokenizer()
    episodes = []
    for i, text in enumerate(texts):
        prompt = Prompt(f"prompt {i % prompts}")
        if cut:
            ids = np.array(tokenizer.encode(text), np.int64)
            episodes.append(Episode(prompt, np.zeros(1, np.int64), ids, tokenizer, finish_reason="length"))
        else:
            episodes.append(Episode.of(prompt, text, tokenizer))
    lengths = torch.tensor([len(e.completion_ids) for e in episodes])
    zeros = torch.zeros(len(texts), int(lengths.max()))
    scores = Rewards(np.array(rewards))
    none = torch.zeros(len(texts), dtype=torch.bool)
    return Rollout(zeros.long(), none.long() + 1, lengths, zeros, zeros, zeros, none, episodes, scores)


GOOD = wrote([f"text {i}" for i in range(10)], [float(i) for i in range(10)])
CALM = {"kl": 2.0, "kl_per_token": 0.2}


@pytest.mark.parametrize(
    ("trouble", "metrics", "says"),
    [
        (GOOD, {"kl": 60.0, "kl_per_token": 1.5}, "KL blow-up: each token is 1.5 nats .* raise kl_coef"),
        (wrote(["same"] * 9 + ["b"], list(range(10))), CALM, "Collapse: 9 of 10 episodes.*'same'"),
        (
            wrote([f"{i}" for i in range(10)], [0.5] * 10),
            CALM,
            "All rewards are equal: .*10 episodes got 0.5",
        ),
        (
            wrote([f"{i}" for i in range(10)], list(range(10)), cut=True),
            CALM,
            "No episode ends: all 10 .*EOS",
        ),
    ],
    ids=["kl", "collapse", "rewards", "eos"],
)
def test_each_sign_is_explained_once_after_three_iterations(
    trouble: Rollout, metrics: dict[str, float], says: str
) -> None:
    advisor = Advisor()
    for _ in range(4):  # not in a row: nothing to say
        assert advisor.look(trouble, metrics, 0.1) == []
        assert advisor.look(GOOD, CALM, 0.1) == []
    said = [advisor.look(trouble, metrics, 0.1) for _ in range(8)]
    assert [len(s) for s in said] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert re.search(says, said[2][0])


def test_equal_rewards_are_seen_although_some_texts_were_not_judged() -> None:
    batch = wrote([f"{i}" for i in range(10)], [0.5] * 6 + [0.0] * 4)
    mute = np.arange(10) >= 6
    batch = replace(batch, scores=Rewards(batch.scores.values, abstained=mute))
    advisor = Advisor()
    said = [advisor.look(batch, CALM, 0.1) for _ in range(3)]
    assert "each of the 6 episodes got 0.5" in said[2][0]


def test_what_is_no_sign_of_trouble() -> None:
    quiet = [
        (wrote(["same"] * 10, list(range(10)), prompts=1), CALM, 0.1),  # one prompt may have one answer
        (GOOD, {"kl": 60.0, "kl_per_token": 1.5}, 0.0),  # who pays no KL has chosen to move
        (wrote(["same"] * 8 + ["b", "c"], list(range(10))), CALM, 0.1),
        (GOOD, {}, 0.1),
    ]
    for one, metrics, kl_coef in quiet:
        advisor = Advisor()
        assert [advisor.look(one, metrics, kl_coef) for _ in range(5)] == [[]] * 5


def test_an_agent_logs_what_its_advisor_says(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = WordTokenizer("abcdefghi", separator="")
    env = TextVectorEnv(["a", "bcd"], tokenizer, lambda completion: 1.0, 6, num_envs=16)
    ppo = PPO(small_policy(), env, PPOConfig(iterations=6, learning_rate=1e-2, warmup=0))
    with caplog.at_level(logging.WARNING, "text_gym"):
        ppo.learn()
    found = [r.getMessage() for r in caplog.records if "All rewards are equal" in r.getMessage()]
    assert len(found) == 1
    assert found[0].startswith("iteration 3: ")


class Down:
    """Never answers."""

    def respond(self, episodes: Any, generators: Any) -> Any:
        raise OSError("the simulator is down")


def test_a_respondent_that_failed_in_all_episodes_is_the_reason() -> None:
    talk: dict[str, Any] = {"respondent": Down(), "turn_stop": ".", "max_turns": 2, "on_bad_reply": "drop"}
    words = WordTokenizer("a.?", separator="")
    env = TextVectorEnv(["?"], words, lambda completion: 0.0, 4, num_envs=2, **talk)
    env.reset(seed=0)
    assert env.step(words.encode(".."))[3].all()
    assert "cut 0 of them, and in 2 the respondent failed: Down raised OSError: the sim" in why_unscored(env)
