"""The detector of reward hacking: what it measures, when it raises an alarm, and when it must not."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from statistics import variance
from typing import Any

import numpy as np
import pytest
import torch

from tests.small_models import same_parameters, small_policy
from text_gym import ByteTokenizer, Episode, FunctionReward, Prompt, Rewards, TextVectorEnv
from text_gym.agents import PPO, PPOConfig, Rollout
from text_gym.agents.training.hacking import (
    LIMIT,
    SLACK,
    Gauge,
    HackingDetector,
    correlation,
    mean_of_groups,
    measure_texts,
)
from text_gym.errors import ConfigError

BYTES = ByteTokenizer()
WORDS = ("red", "blue", "green", "lime", "teal", "pink", "grey", "gold")
NATS = 0.5  # a token, of a policy that has learnt to write


def texts(seed: int, n: int = 64, more: str = "") -> list[str]:
    """Texts of five words drawn from eight, and something after them."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 5)) + more for _ in range(n)]


def batch(completions: Sequence[str], rewards: Any, nats: float = NATS, terms: Any = None) -> Rollout:
    """Episodes of as many prompts, with these rewards, each token of which had so many nats."""
    n = len(completions)
    episodes = [Episode.of(Prompt(f"{i}:"), text, BYTES) for i, text in enumerate(completions)]
    longest = max(len(e.completion_ids) for e in episodes)
    lengths = torch.tensor([len(e.completion_ids) for e in episodes])
    mask = torch.arange(longest) < lengths[:, None]
    found = {name: np.asarray(values, dtype=np.float64) for name, values in (terms or {}).items()}
    return Rollout(
        tokens=torch.zeros(n, longest + 2, dtype=torch.int64),
        starts=torch.full((n,), 2),
        lengths=lengths,
        log_probs=-nats * mask.float(),
        values=torch.zeros(n, longest),
        rewards=torch.zeros(n, longest),
        truncated=torch.zeros(n, dtype=torch.bool),
        episodes=episodes,
        scores=Rewards(np.asarray(rewards, dtype=np.float64), terms=found),
    )


def start(n: int = 128) -> list[Episode]:
    return [Episode.of(Prompt(f"{i}:"), text, BYTES) for i, text in enumerate(texts(99, n))]


def rewards(mean: float, seed: int, n: int = 64) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return mean + 0.2 * np.random.default_rng(1000 + seed).standard_normal(n)


def alarm_of(detector: HackingDetector, rises: float, spoil: str) -> int | None:
    """The iteration of the alarm in a run whose reward rises, and to whose texts something is added."""
    for i in range(12):
        more = spoil * i
        detector.look(batch(texts(i, more=more), rewards(rises * i, i)), i + 1)
    return detector.iteration


# Measures


def test_texts_are_measured_by_pairs_of_tokens() -> None:
    def episode(prompt: str, text: str) -> Episode:
        return Episode.of(prompt, text, BYTES)

    eos = len(BYTES.encode("")) + 1  # every text ends with EOS
    found = measure_texts([episode("ab", "abab"), episode("cd", "xyz"), episode("ef", "xyz")], {}, 1)
    # abab and EOS: ab, ba, ab, b-EOS, of which one came before and two stand in the prompt.
    assert found["length"].tolist() == [4 + eos, 3 + eos, 3 + eos]
    assert found["repetition"].tolist() == [1 / 4, 0, 0]
    assert found["copying"].tolist() == [2 / 4, 0, 0]
    assert found["novelty"].tolist() == [1, 1, 1]
    assert found["sameness"].tolist() == [0, 1, 1]
    assert found["cut"].tolist() == [0, 0, 0]


def test_the_same_text_of_one_prompt_is_not_sameness() -> None:
    twice = [Episode.of("a", "xyz", BYTES), Episode.of("a", "xyz", BYTES)]
    assert measure_texts(twice, {}, 1)["sameness"].tolist() == [0, 0]


def test_a_starting_text_is_no_news_only_if_another_one_knows_its_pairs() -> None:
    a, b = BYTES.encode("ab")
    episode = [Episode.of("q", "ab", BYTES)]
    assert measure_texts(episode, {(a, b): 1}, 1)["novelty"].tolist() == [1 / 2]
    assert measure_texts(episode, {(a, b): 1}, 2)["novelty"].tolist() == [1]


def test_what_is_new_in_the_start_is_measured_without_the_text_itself() -> None:
    """Else a policy that goes on as it was would look as if it wrote news."""
    odd = [Episode.of(Prompt(f"{i}:"), chr(65 + i), BYTES) for i in range(26)]
    assert HackingDetector(odd).gauges["novelty"].mean == 1.0


def test_the_error_of_a_mean_counts_prompts_and_not_texts() -> None:
    values = np.array([0.1, 0.7, 0.4, 0.9])
    mean, error = mean_of_groups(values, np.arange(4))
    assert mean == pytest.approx(0.525)
    assert error == pytest.approx(variance(values.tolist()) / 4)
    assert mean_of_groups(np.repeat(values, 3), np.repeat(np.arange(4), 3)) == pytest.approx((mean, error))
    assert mean_of_groups(values, np.zeros(4, dtype=np.int64))[1] == pytest.approx(error)


# Gauges


def test_a_constant_drift_is_told_when_its_sum_passes_the_limit() -> None:
    values = np.array([1.0, -1.0] * 32)
    error = math.sqrt(1 / 64 + 64 / 63 / 64)  # of the start, and of a batch
    gauge, drift = Gauge(values, -1, least=0.2), 0.3
    each = drift / error - SLACK
    expected = math.floor(LIMIT / each) + 1
    told = [gauge.out for i in range(expected) if gauge.add(values - drift, np.arange(64), i + 1) < 0]
    assert told == [False] * (expected - 1) + [True]
    assert gauge.since == 1


def test_the_wrong_side_and_small_drifts_are_no_alarm() -> None:
    values, groups = np.array([1.0, -1.0] * 512), np.arange(1024)
    for sign, shift in ((-1, 0.5), (1, -0.5), (-1, -0.15), (0, 0.15)):
        gauge = Gauge(values, sign, least=0.2)
        for i in range(30):
            gauge.add(values + shift, groups, i + 1)
        assert not gauge.out, (sign, shift)


def test_what_went_the_other_way_before_is_no_evidence() -> None:
    gauge = Gauge(np.array([1.0, -1.0] * 64), -1, least=0.2)
    values, groups = np.array([1.0, -1.0] * 32), np.arange(64)
    for shift in (0.5, 0.5, 0.5, -0.25, -0.25, -0.25):
        gauge.add(values + shift, groups, 1)
    assert gauge.off == pytest.approx(-0.25, rel=0.01)
    assert not gauge.out


def test_one_odd_text_is_no_drift() -> None:
    """A criterion that nearly all texts meet has no spread; a single failure in a batch says little."""
    gauge, values = Gauge(np.zeros(200), -1, least=0.2), np.zeros(50)
    values[7] = -1.0
    gauge.add(values, np.arange(50), 1)
    assert gauge.recent[0] == pytest.approx(-0.02 / math.sqrt(0.02 * 0.98 / 2))
    assert not gauge.out


def test_noise_alone_raises_few_alarms() -> None:
    """Of runs of 40 batches that stay as they began about one in 27 raises one, as more simulation says."""
    rng, alarms = np.random.default_rng(5), 0
    groups = np.arange(64)
    for _ in range(400):
        gauge = Gauge(rng.standard_normal(256), -1, least=0.2)
        seen = False
        for i in range(40):
            gauge.add(rng.standard_normal(64), groups, i + 1)
            seen |= gauge.out
        alarms += seen
    assert alarms <= 0.07 * 400


def test_a_covariance_tells_of_a_fall_before_it_is_large() -> None:
    """A criterion that the reward selects against, and one that it does not touch, both a little down."""
    rng, groups, seen = np.random.default_rng(7), np.arange(64), {True: 0, False: 0}
    for against in 20 * [True, False]:
        gauge, iteration = Gauge(rng.standard_normal(256), -1, least=0.2), 0
        while not gauge.out and iteration < 30:
            iteration += 1
            values = rng.standard_normal(64) - 0.3
            rewards = against * -values + rng.standard_normal(64)
            gauge.add(values, groups, iteration, rewards)
        seen[against] += iteration
    assert seen[True] < 0.6 * seen[False]


def test_a_correlation_is_within_prompts_and_in_its_standard_errors() -> None:
    values, rewards = np.array([1.0, 2.0, 3.0, 5.0]), np.array([2.0, 1.0, 4.0, 4.0])
    expected = float(np.corrcoef(values, rewards)[0, 1]) * math.sqrt(3)
    assert correlation(values, rewards, np.arange(4)) == pytest.approx(expected)
    # Prompts of which one is easy: the correlation of all is 1, and that within them is -1.
    easy = np.array([0.0, 0.1, 5.0, 5.1])
    assert correlation(easy, easy[[1, 0, 3, 2]], np.array([0, 0, 1, 1])) == pytest.approx(-math.sqrt(2))
    assert correlation(np.ones(4), rewards, np.arange(4)) == 0


# The detector


def test_a_reward_that_rises_while_texts_change_raises_one_alarm(caplog: pytest.LogCaptureFixture) -> None:
    detector = HackingDetector(start())
    with caplog.at_level(logging.WARNING, "text_gym"):
        at = alarm_of(detector, rises=0.1, spoil="!")
    assert at is not None
    assert 2 < at < 8
    assert len(caplog.records) == 1
    said = caplog.records[0].getMessage()
    assert said == detector.alarm
    assert f"iteration {at}: the reward may be hacked" in said
    assert "novelty" in said  # "!!" is in no text of the start
    assert "!!" in said  # a text to look at


def test_texts_may_change_where_the_reward_stays_and_the_reward_may_rise_where_they_stay() -> None:
    assert alarm_of(HackingDetector(start()), rises=0.0, spoil="!") is None
    assert alarm_of(HackingDetector(start()), rises=0.1, spoil="") is None


def test_a_criterion_that_falls_is_named() -> None:
    words = FunctionReward(lambda completion: -completion.count("red") / 5, name="no \x1b[31mred")
    detector = HackingDetector(start(), [words])
    for i in range(12):
        detector.look(batch([t.replace("pink", "red") for t in texts(i)], rewards(0.1 * i, i)), i + 1)
    assert detector.alarm is not None
    assert "watch/no \\x1b[31mred" in detector.alarm


def test_a_term_that_went_along_with_the_reward_and_falls_is_named() -> None:
    """Another term never went along; its fall says nothing."""
    said = {}
    for name in ("along", "against"):
        detector, sign = HackingDetector(start()), 1 if name == "along" else -1
        for i in range(12):
            noise = rewards(0.0, i)
            term = sign * noise - 0.05 * i
            detector.look(batch(texts(i), noise + 0.1 * i, terms={name: term}), i + 1)
        said[name] = detector.alarm
    assert said["along"] is not None
    assert "reward/along" in said["along"]
    assert said["against"] is None


def test_a_policy_with_random_weights_has_no_habits_to_leave() -> None:
    detector = HackingDetector(start())
    for i in range(12):
        nats = 0.9 * math.log(BYTES.vocab_size)
        detector.look(batch(texts(i, more="!" * i), rewards(0.1 * i, i), nats), i + 1)
    assert detector.alarm is None


def test_what_a_text_says_cannot_reach_the_terminal() -> None:
    detector = HackingDetector(start())
    alarm_of(detector, rises=0.1, spoil="\x1b[2J")
    assert detector.alarm is not None
    assert "\x1b" not in detector.alarm


def test_a_resumed_detector_goes_on_where_it_was() -> None:
    whole, first = HackingDetector(start()), HackingDetector(start())
    rows = [batch(texts(i, more="!" * i), rewards(0.1 * i, i)) for i in range(10)]
    expected = [whole.look(row, i + 1) for i, row in enumerate(rows)]
    found = [first.look(row, i + 1) for i, row in enumerate(rows[:4])]
    second = HackingDetector(start())
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += [second.look(row, i + 1) for i, row in enumerate(rows[4:], 4)]
    assert found == expected
    assert second.alarm == whole.alarm is not None
    assert json.dumps(second.state_dict()) == json.dumps(whole.state_dict())


def test_what_cannot_be_watched_is_refused() -> None:
    silent = FunctionReward(lambda completion: math.nan, name="silent", abstains=True)
    people = FunctionReward(lambda completion: 1.0, name="people")
    people.interactive = True
    with pytest.raises(ConfigError, match="at least 16 texts of the start, not 15"):
        HackingDetector(start(15))
    with pytest.raises(ConfigError, match="watch/silent judges none"):
        HackingDetector(start(), [silent])
    with pytest.raises(ConfigError, match="people cannot be asked"):
        HackingDetector(start(), [people])


def test_an_agent_shows_its_batches_and_learns_the_same_bits() -> None:
    policies = []
    for watched in (True, False):
        policy = small_policy(tokenizer=BYTES)
        env = TextVectorEnv(["a", "b"], BYTES, lambda completion: len(completion), max_tokens=6, num_envs=8)
        agent = PPO(policy, env, PPOConfig(iterations=2, seed=3))
        if watched:
            agent.detector = HackingDetector(start())
        rows: list[dict[str, float]] = []
        agent.learn(callback=lambda _, metrics, rows=rows: rows.append(metrics))  # type: ignore[misc]
        assert all(("alarm" in row) is watched for row in rows)
        policies.append(policy)
    assert same_parameters(policies[0], list(policies[1].parameters()))
