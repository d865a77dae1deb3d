"""Rewards of finished episodes while others are played: the same numbers, sooner."""

from __future__ import annotations

import heapq
import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from text_gym import ByteTokenizer, Episode, EpisodeBatch, EpisodeOptions, RewardSource, TextVectorEnv
from text_gym.agents import GRPO, PPO, GRPOConfig, Policy, PPOConfig
from text_gym.agents.algorithms.agent import Agent
from text_gym.agents.algorithms.configs import AgentConfig
from text_gym.agents.algorithms.online_dpo import OnlineDPO, OnlineDPOConfig
from text_gym.agents.policies.critic import Critic
from text_gym.agents.sampling import decoder
from text_gym.agents.sampling.overlap import (
    EARLY,
    LARGE,
    CallCost,
    Scoring,
    chunk_sizes,
    is_batch_invariant,
)
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.sampling.sampler import rollout
from text_gym.errors import ConfigError, RewardError
from text_gym.reward_models import Judge
from text_gym.rewards.calls import Parallel
from text_gym.rewards.source import FunctionReward, Scale
from text_gym.rewards.transforms import RunningStandardize
from text_gym.rewards.values import Rewards

B, T = 12, 10
TOKENIZER = ByteTokenizer()
STOP = tuple(chr(c) for c in range(33, 100))


class Remembering(RewardSource):
    """Pays per token and in the end, abstains now and then, and notes whom it was asked about when."""

    name, abstains = "remembering", True

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.threads: set[int] = set()
        self.gradients: set[bool] = set()

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        self.asked.append([int(e.index or 0) for e in episodes])
        self.threads.add(threading.get_ident())
        self.gradients.add(torch.is_grad_enabled())
        lengths = np.array([float(len(e.completion_ids)) for e in episodes])
        per_token = tuple(np.arange(n) / 8 for n in lengths.astype(int))
        values = np.array([float(e.completion_ids.sum()) for e in episodes])
        return Rewards(values, per_token, {"length": lengths}, lengths == 3)


@pytest.fixture(scope="module")
def policy() -> Policy:
    """A policy that writes any byte; a quarter of them end the text."""
    return Policy.new(TOKENIZER, width=16, layers=1, context=T + 4, seed=1)


def batch_of(reward: Any, **options: Any) -> EpisodeBatch:
    return EpisodeBatch(["ab", "c"], TOKENIZER, reward, T, B, EpisodeOptions(stop=STOP, **options))


def play(policy: Policy, reward: Any, overlap: int, **options: Any) -> Rollout:
    return rollout(policy, batch_of(reward, **options), np.arange(B), seed=3, overlap_scoring=overlap)


def check_same(one: Rollout, two: Rollout) -> None:
    for name in ("tokens", "lengths", "log_probs", "values", "rewards", "truncated"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert np.array_equal(one.scores.values, two.scores.values)
    assert np.array_equal(one.scores.abstained, two.scores.abstained)
    assert one.scores.terms.keys() == two.scores.terms.keys()
    for name, term in one.scores.terms.items():
        assert np.array_equal(term, two.scores.terms[name], equal_nan=True)
    assert [e.index for e in one.episodes] == [e.index for e in two.episodes]


@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize("limit", ["end", "truncate"])
def test_a_rollout_is_the_same_and_scored_while_it_is_played(
    policy: Policy, in_flight: int, limit: str
) -> None:
    source = Remembering()
    whole = play(policy, Remembering(), 0, limit=limit)
    check_same(play(policy, source, in_flight, limit=limit), whole)
    assert len(set(whole.host_lengths.tolist())) > 3  # episodes of many lengths, or this shows nothing
    assert len(source.asked) > 1
    asked = sorted(index for chunk in source.asked for index in chunk)
    cut = whole.truncated.tolist()
    assert asked == [i for i in range(B) if not cut[i]]  # each once, and none that was cut
    assert threading.get_ident() not in source.threads
    assert source.gradients == {False}


def test_the_first_finished_episodes_are_scored_before_the_last_token_is_drawn(policy: Policy) -> None:
    """A source that waits for its first call sees it while rows still play."""
    seen = threading.Event()

    class Waits(Remembering):
        def score(self, episodes: Sequence[Episode]) -> Rewards:
            seen.set()
            return super().score(episodes)

    batch = batch_of(Waits())
    advance = batch.advance
    early: list[bool] = []

    def watched(rows: Any, tokens: Any) -> Any:
        if batch.done.any() and not batch.done.all():
            early.append(all(early) and seen.wait(10))
        return advance(rows, tokens)

    batch.advance = watched  # type: ignore[method-assign]
    rollout(policy, batch, np.arange(B), seed=3, overlap_scoring=1)
    assert early
    assert all(early)


def test_rows_that_are_played_again_are_scored_again(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out in the middle of the first part; what was known of its rows is forgotten."""
    step, count = decoder.Decoder.step, [0]

    def fails_once(self: Any, tokens: Any) -> None:
        count[0] += 1
        if count[0] == 4:
            raise torch.OutOfMemoryError("no memory")
        step(self, tokens)

    whole = play(policy, Remembering(), 0)
    monkeypatch.setattr(decoder, "_FITTING", {})
    monkeypatch.setattr(decoder.Decoder, "step", fails_once)
    monkeypatch.setattr(decoder, "smaller", lambda rows, tokens, error: rows // 2)
    check_same(play(policy, source := Remembering(), 2), whole)
    asked = [index for chunk in source.asked for index in chunk]
    assert len(asked) > B  # some twice
    assert sorted(set(asked)) == list(range(B))


def test_what_was_said_of_an_earlier_attempt_does_not_count() -> None:
    """A row ends, begins again, and ends with another text."""
    batch = EpisodeBatch(["a"], TOKENIZER, lambda completion: float(completion), T, B)
    rows = np.arange(B)
    zeros = np.zeros(B, dtype=np.int64)

    def write(text: str, rows: Any) -> None:
        batch.begin(rows, zeros[rows], rows)
        for token in (ord(text), TOKENIZER.eos_ids[0]):
            batch.advance(rows, np.full(len(rows), token))

    scoring = Scoring(batch, 2)
    write("1", rows)
    scoring.look(rows)
    scoring.forget(rows[:3])
    write("7", rows[:3])
    assert scoring.finish(rows[::-1]).values.tolist() == [1.0] * (B - 3) + [7.0] * 3


def test_an_error_stops_the_rollout_and_is_the_sources(policy: Policy) -> None:
    class Fails(Remembering):
        def score(self, episodes: Sequence[Episode]) -> Rewards:
            if any(len(e.completion_ids) == 2 for e in episodes):
                raise ConnectionError("the line is dead")
            return super().score(episodes)

    with pytest.raises(RewardError, match="'remembering' raised ConnectionError: the line is dead"):
        play(policy, Fails(), 2)
    assert not [t for t in threading.enumerate() if t.name.startswith("reward")]


def simulated(ends: list[float], in_flight: int, a: float, b: float, cost: CallCost) -> tuple[float, int]:
    """When the last of episodes that end at these times is scored, by how many calls of a + b · n seconds."""
    events = [(t, n, 0, 0.0) for t, n in sorted(Counter(ends).items())]  # what ends at once is seen at once
    waiting = running = calls = 0
    plays = len(ends)
    now = 0.0
    while events:
        now, ended, scored, seconds = heapq.heappop(events)
        waiting, plays = waiting + ended, plays - ended
        if scored:
            running -= 1
            cost.add(scored, seconds)
        for n in chunk_sizes(waiting, in_flight - running, in_flight, cost, playing=plays > 0):
            waiting, running, calls = waiting - n, running + 1, calls + 1
            heapq.heappush(events, (now + a + b * n, 0, n, a + b * n))
    assert waiting == running == 0
    return now, calls


def known(a: float, b: float) -> CallCost:
    cost = CallCost()
    for n in (1, 4):
        cost.add(n, a + b * n)
    return cost


@settings(max_examples=100, deadline=None)
@given(
    ends=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=60),
    in_flight=st.integers(1, 20),
    a=st.sampled_from((0.0, 0.05, 1.0, 20.0)),
    b=st.sampled_from((0.0, 0.01, 0.3, 5.0)),
)
@example(ends=[0.0] * 14 + [1.0], in_flight=3, a=1.0, b=0.3)
def test_overlap_loses_at_most_four_times_what_a_call_costs_against_scoring_in_the_end(
    ends: list[float], in_flight: int, a: float, b: float
) -> None:
    """Its worst case: a call for what waits is made by one thread, and then the last texts end."""
    took, _ = simulated(ends, in_flight, a, b, known(a, b))
    in_turn = max(ends) + a + b * math.ceil(len(ends) / in_flight)  # chunks of one size, all at a time
    divided = b * len(ends) / in_flight / LARGE  # calls of a thread that has more than are made at once
    assert took <= in_turn + EARLY * a + b + divided + 1e-9
    if b == 0:
        assert took == pytest.approx(in_turn)


def test_where_texts_are_what_costs_scoring_and_playing_overlap() -> None:
    """Ten seconds each: together they take little more than ten; more so the more a call itself costs."""
    ends = [i / 50 for i in range(500)]
    for in_flight, a, most in ((1, 0.0, 11.5), (1, 0.05, 11.5), (4, 0.05, 11.5), (16, 0.2, 13.0)):
        b = 0.02 * in_flight
        took, _ = simulated(ends, in_flight, a, b, known(a, b))
        assert took < most, (in_flight, a)
    assert simulated(ends, 16, 0.2, 0.0, known(0.2, 0.0))[1] == 1  # and where it is the call, there is one


def test_what_calls_cost_is_tried_by_two_small_ones() -> None:
    ends = [i / 50 for i in range(500)]
    took, calls = simulated(ends, 8, 0.2, 0.0, CallCost())
    assert took == pytest.approx(max(ends) + 0.2)
    assert calls == 3
    took, _ = simulated(ends, 8, 0.0, 0.1, CallCost())
    assert took < max(ends) + 1


@given(st.floats(0.01, 10), st.floats(0.001, 5), st.lists(st.integers(1, 500), min_size=2, max_size=50))
def test_the_cost_of_a_call_is_found(a: float, b: float, sizes: list[int]) -> None:
    cost = CallCost()
    for n in sizes:
        cost.add(n, a + b * n)
    if len(set(sizes)) == 1:
        assert cost.even is None
    elif max(sizes) > 1.1 * min(sizes):
        assert cost.even is None or cost.even == pytest.approx(a / b, rel=1e-3, abs=1e-3)


def test_what_is_known_of_calls_is_kept_for_the_next_rollout_of_the_same_source(policy: Policy) -> None:
    source = Remembering()
    batch = batch_of(source)
    rollout(policy, batch, np.arange(B), seed=3, overlap_scoring=1)
    cost = Scoring(batch, 1)._cost
    assert cost.largest >= 1
    batch.reward = Remembering()
    assert Scoring(batch, 1)._cost.largest == 0


class Judged(RewardSource):
    """Not deterministic, but each text alone."""

    name, deterministic, batch_invariant = "judged", False, True

    def score(self, episodes: Sequence[Episode]) -> list[float]:
        return [0.0] * len(episodes)


def test_sources_that_need_the_whole_batch_are_refused(policy: Policy) -> None:
    unsure = FunctionReward(lambda completion: 0.0, deterministic=False)
    assert Judge.batch_invariant
    for source, invariant in (
        (Judged(), True),
        (Parallel(Scale(Judged() + Remembering(), 2.0)), True),
        (unsure, False),
        (Judged() + unsure, False),
        (RunningStandardize(Judged()), False),
        (2 * RunningStandardize(Remembering()), False),
    ):
        assert is_batch_invariant(source) is invariant, source
        if not invariant:
            with pytest.raises(ConfigError, match=r"overlap_scoring must be 0 here: .* together"):
                play(policy, source, 1)

    class Asks(Judged):
        interactive = True

    class Keeps(Judged):
        def state_dict(self) -> dict[str, Any]:
            return {"seen": 1}

    with pytest.raises(ConfigError, match="asks people"):
        play(policy, Asks(), 1)
    with pytest.raises(ConfigError, match="remembers earlier calls"):
        play(policy, Keeps(), 1)
    env = TextVectorEnv(["a"], TOKENIZER, Keeps(), T, num_envs=2)
    with pytest.raises(ConfigError, match="remembers earlier calls"):  # before anything is played
        PPO(policy, env, PPOConfig(overlap_scoring=1))
    with pytest.raises(ConfigError, match="overlap_scoring is -1"):
        GRPOConfig(overlap_scoring=-1)


def test_while_the_last_texts_are_scored_the_others_are_read(policy: Policy) -> None:
    """A source whose last call waits until the rollout has been read; what was read is in the rollout."""
    read = threading.Event()

    class Waits(Remembering):
        def score(self, episodes: Sequence[Episode]) -> Rewards:
            if ended.is_set():
                assert read.wait(10)
            return super().score(episodes)

    batch, ended = batch_of(Waits()), threading.Event()
    advance = batch.advance

    def watched(rows: Any, tokens: Any) -> Any:
        over = advance(rows, tokens)
        if batch.done.all():
            ended.set()
        return over

    def reads(unscored: Rollout) -> dict[str, Tensor]:
        assert not unscored.rewards.any()
        assert unscored.scored.all()
        read.set()
        return {"values": unscored.log_probs + 1, "reference_log_probs": unscored.log_probs - 1}

    batch.advance = watched  # type: ignore[method-assign]
    found = rollout(policy, batch, np.arange(B), seed=3, overlap_scoring=2, meanwhile=reads)
    whole = play(policy, Remembering(), 0)
    assert torch.equal(found.rewards, whole.rewards)
    assert found.rewards.any()
    assert torch.equal(found.values, whole.log_probs + 1)
    assert found.reference_log_probs is not None
    assert torch.equal(found.reference_log_probs, whole.log_probs - 1)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (PPO, PPOConfig(iterations=2, critic="shared")),
        (PPO, PPOConfig(iterations=2, critic="separate")),
        (PPO, PPOConfig(iterations=2, critic="detached")),
        (GRPO, GRPOConfig(iterations=2, group_size=4)),
        (OnlineDPO, OnlineDPOConfig(iterations=2)),
    ],
)
def test_training_takes_the_same_steps(
    kind: type[Agent[Any]], config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the judge abstains; the reference policy and the critic read every text once."""
    digests, asked = [], Counter[str]()

    def count(who: type[Policy | Critic], name: str) -> None:
        score = who.score

        def counted(*given: Any, **named: Any) -> Tensor:
            asked[name] += 1
            return score(*given, **named)

        monkeypatch.setattr(who, "score", counted)

    count(Policy, "policy")
    count(Critic, "critic")
    for overlap in (0, 2):
        asked.clear()
        learner = Policy.new(TOKENIZER, width=16, layers=1, context=T + 4, seed=1)
        env = TextVectorEnv(["ab", "c"], TOKENIZER, Remembering(), T, num_envs=16, numbering="global")
        agent = kind(learner, env, replace(config, overlap_scoring=overlap)).learn()
        digests.append(agent.policy.digest())
        assert asked["policy"] == 2
        assert asked["critic"] == 2 * (config == PPOConfig(iterations=2, critic="separate"))
    assert digests[0] == digests[1]
