"""The detector of reward hacking: what it measures, when it raises an alarm, and when it must not."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests.small_models import same_parameters, small_policy
from text_gym import ByteTokenizer, Episode, FunctionReward, Prompt, Rewards, TextVectorEnv
from text_gym.agents import PPO, PPOConfig, Rollout
from text_gym.agents.training.hacking import HackingDetector
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


def test_what_is_new_in_the_start_is_measured_without_the_text_itself() -> None:
    """Else a policy that goes on as it was would look as if it wrote news."""
    odd = [Episode.of(Prompt(f"{i}:"), chr(65 + i), BYTES) for i in range(26)]
    assert HackingDetector(odd).gauges["novelty"].mean == 1.0


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
    words = FunctionReward(lambda completion: -completion.count("red"), name="no red")
    longer = FunctionReward(lambda completion: len(completion), name="longer")

    def fresh() -> HackingDetector:
        return HackingDetector(start(), [words], lambda prompt: "blue lime", longer)

    whole, first, second = fresh(), fresh(), fresh()
    rows = [batch(texts(i, more="!" * i), rewards(0.1 * i, i)) for i in range(10)]
    expected = [whole.look(row, i + 1) for i, row in enumerate(rows)]
    found = [first.look(row, i + 1) for i, row in enumerate(rows[:4])]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += [second.look(row, i + 1) for i, row in enumerate(rows[4:], 4)]
    assert found == expected
    assert second.alarm == whole.alarm is not None
    assert json.dumps(second.state_dict()) == json.dumps(whole.state_dict())


def test_a_reward_that_selects_against_the_criteria_is_told_before_anything_has_changed() -> None:
    """Neither texts nor the mean reward have moved; only which texts are paid says what will."""
    alarms = {}
    for sign in (1, -1):
        words = FunctionReward(lambda completion: -completion.count("red"), name="no red")
        detector = HackingDetector(start(), [words])
        for i in range(8):
            written = texts(i)
            paid = [-sign * text.count("red") + 0.0 for text in written]
            detector.look(batch(written, paid), i + 1)
        alarms[sign] = detector
    assert alarms[1].alarm is None
    assert alarms[-1].iteration is not None
    assert alarms[-1].iteration <= 3
    assert "hacked: it selects against watch/no red. Read" in str(alarms[-1].alarm)


def test_a_reward_that_hardly_selects_for_the_criteria_is_told_if_it_rises() -> None:
    for rises in (0.0, 0.1):
        words = FunctionReward(lambda completion: -completion.count("red"), name="no red")
        detector = HackingDetector(start(), [words])
        for i in range(20):
            detector.look(batch(texts(i), rewards(rises * i, i)), i + 1)
        assert (detector.alarm is not None) is (rises > 0)
        if rises:
            assert "; it hardly selects for watch/no red. Read" in str(detector.alarm)
            assert "hacked: it has risen from 0" in str(detector.alarm)


def test_golden_texts_say_which_way_is_good() -> None:
    """Shorter texts are an alarm, unless golden ones are short; the overlap with them is a criterion."""
    for golden, told in ((None, True), (lambda prompt: "red", False)):
        detector = HackingDetector(start(), golden=golden)
        for i in range(12):
            shorter = [" ".join(["red", *t.split()[: max(0, 4 - i)]]) for t in texts(i)]
            detector.look(batch(shorter, rewards(0.1 * i, i) - [len(t) for t in shorter]), i + 1)
        assert ("length" in str(detector.alarm)) is told
        assert ("watch/overlap with golden texts" in detector.gauges) is not told


@pytest.mark.parametrize("interactive", [False, True])
def test_texts_may_change_as_they_like_while_golden_ones_are_the_best_paid(interactive: bool) -> None:
    """Marks are new, and the reward rises; people are not asked about golden texts, so nothing is known."""
    asked = []

    def fewer_reds(completion: str) -> float:
        asked.append(completion)
        return -float(completion.count("red"))

    reward = FunctionReward(fewer_reds, name="no red")
    reward.interactive = interactive
    detector = HackingDetector(start(), golden=lambda prompt: "blue lime", reward=reward)
    for i in range(12):
        written = texts(i, more="!" * i)
        written[: 5 * i] = [text.replace("red", "pink") for text in written[: 5 * i]]
        detector.look(batch(written, [-t.count("red") for t in written]), i + 1)
    assert (detector.alarm is None) is not interactive
    assert bool(asked) is not interactive
    assert detector.gauges["novelty"].out


def test_texts_paid_more_than_golden_ones_are_an_alarm_before_the_reward_rises() -> None:
    reward = FunctionReward(lambda completion: completion.count("!"), name="marks")
    detector = HackingDetector(start(), golden=lambda prompt: "blue lime", reward=reward)
    metrics = detector.look(batch([*texts(0, 60), *texts(1, 4, "!")], [0] * 60 + [1] * 4), 1)
    assert metrics["overpaid"] == 4 / 64
    assert detector.iteration == 1
    assert str(detector.alarm).startswith(
        "iteration 1: the reward may be hacked: texts of 4 prompts earned more than golden ones in this "
        "batch, by up to 1. Read some texts; "
    )


def test_criteria_that_golden_texts_fail_are_left_out() -> None:
    words = FunctionReward(lambda completion: -completion.count("red"), name="no red")
    assert "watch/no red" in HackingDetector(start(), [words], lambda prompt: "blue lime").gauges
    assert "watch/no red" not in HackingDetector(start(), [words], lambda prompt: "red red red").gauges


def test_prompts_without_a_golden_text_are_passed_over() -> None:
    def golden(prompt: Prompt) -> str:
        if prompt.text == "0:":
            raise ConfigError("none")
        return "red"

    detector = HackingDetector(start(), golden=golden)
    assert detector.gauges["watch/overlap with golden texts"].count == 127


def test_what_cannot_be_watched_is_refused() -> None:
    silent = FunctionReward(lambda completion: math.nan, name="silent", abstains=True)
    people = FunctionReward(lambda completion: 1.0, name="people")
    people.interactive = True
    with pytest.raises(ConfigError, match="at least 16 texts of the start, not 15; hold out more"):
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
