from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small_models import small_policy
from text_gym import Episode, Prompt, Rewards, TextVectorEnv, WordTokenizer
from text_gym.agents import Policy, Sampling, evaluate, trajectory_log_probs
from text_gym.agents.sampling.evaluation import Measure
from text_gym.rewards.source import RewardSource

LETTERS = WordTokenizer("abcdefghi", separator="")


class Letters(RewardSource):
    """The number of letters, with two terms."""

    def score(self, episodes: object) -> Rewards:
        assert isinstance(episodes, list)
        lengths = np.array([float(len(e.completion)) for e in episodes])
        a = np.array([float(e.completion.count("a")) for e in episodes])
        return Rewards(lengths, terms={"a": a, "half": lengths / 2})


def world(prompts: list[str] | None = None, num_envs: int = 3) -> TextVectorEnv:
    prompts = prompts or ["a", "bcd", "efghi"]
    return TextVectorEnv(prompts, LETTERS, Letters(), 8, num_envs=num_envs)


def many(count: int) -> list[Prompt]:
    """Prompts that are all different."""
    return [
        Prompt(LETTERS.decode([i // 81, i // 9 % 9, i % 9][-(1 + i % 3) :]), id=str(i)) for i in range(count)
    ]


@given(seed=st.integers(0, 1000), size=st.integers(30, 200))
@settings(max_examples=15, deadline=None)
def test_the_bootstrap_interval_is_near_the_t_interval(seed: int, size: int) -> None:
    x = np.random.default_rng(seed).normal(3, 2, size=size)
    found = Measure.of(x)
    low, high = scipy.stats.t.interval(0.95, size - 1, loc=x.mean(), scale=scipy.stats.sem(x))
    assert found.mean == x.mean()
    assert found.ci95[0] < found.mean < found.ci95[1]
    assert found.ci95 == pytest.approx((low, high), abs=0.15 * (high - low))
    assert Measure.of(x) == found  # no global generator


def test_intervals_of_little_and_of_nothing() -> None:
    assert Measure.of(np.array([0.5])) == Measure(0.5, (0.5, 0.5))
    assert Measure.of(np.full(9, 0.1)).ci95 == pytest.approx((0.1, 0.1))
    assert Measure.of(np.array([1.0, np.nan, 3.0])).mean == 2.0
    assert math.isnan(Measure.of(np.array([np.nan])).mean)


@pytest.mark.parametrize("count", [1, 5, 128, 129, 300])
def test_every_prompt_is_judged_once_and_in_order(count: int) -> None:
    prompts = many(count)
    policy = small_policy()
    report = evaluate(policy, world(), prompts, seed=4)
    assert [e.prompt.id for e in report.episodes] == [p.id for p in prompts]
    assert len(report.rewards) == count
    lengths = [len(e.completion) for e in report.episodes]
    assert report.rewards.tolist() == lengths
    assert report.reward.mean == pytest.approx(np.mean(lengths))
    assert report.terms["a"].mean == pytest.approx(
        np.mean([e.completion.count("a") for e in report.episodes])
    )
    assert report.terms["half"].mean == pytest.approx(report.reward.mean / 2)
    assert report.length == np.mean([len(e.completion_ids) for e in report.episodes])
    assert report.terminated == np.mean([e.finish_reason != "length" for e in report.episodes])


def test_texts_are_scored_as_they_stand_whatever_the_limit_means_to_the_environment() -> None:
    found = []
    for limit in ("end", "truncate"):
        env = TextVectorEnv(["a", "bcd"], LETTERS, Letters(), 3, limit=limit)
        found.append(evaluate(small_policy(), env, seed=4, episodes_per_prompt=20))
    assert 0 < found[0].terminated < 1
    lengths = [len(e.completion) for e in found[1].episodes]
    assert found[0].rewards.tolist() == found[1].rewards.tolist() == lengths
    assert found[0].terms == found[1].terms


def test_a_prompts_text_does_not_depend_on_how_many_follow() -> None:
    policy = small_policy()
    few, more = (evaluate(policy, world(), many(n), seed=1).episodes for n in (100, 150))
    assert [e.completion for e in few] == [e.completion for e in more[:100]]


def test_several_texts_a_prompt_stand_together() -> None:
    report = evaluate(small_policy(), world(), many(60), episodes_per_prompt=3)
    assert [e.prompt.id for e in report.episodes] == [str(i) for i in range(60) for _ in range(3)]
    assert len({e.completion for e in report.episodes[:3]}) > 1


def test_the_environments_own_prompts_are_taken_where_none_are_given() -> None:
    env = world()
    assert [e.prompt for e in evaluate(small_policy(), env).episodes] == env.prompts


def exact(policy: Policy, episodes: list[Episode]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    with torch.no_grad():
        return trajectory_log_probs(policy, episodes).double().numpy()


def test_kl_and_perplexity_by_hand() -> None:
    policy, reference = small_policy(dtype=torch.float64), small_policy(seed=5, dtype=torch.float64)
    report = evaluate(policy, world(), many(140), reference=reference)
    log_p, log_q = exact(policy, report.episodes), exact(reference, report.episodes)
    assert report.kl.mean == pytest.approx(float(np.mean(log_p - log_q)), abs=1e-10)
    tokens = sum(len(e.completion_ids) for e in report.episodes)
    assert report.perplexity == pytest.approx(math.exp(-log_q.sum() / tokens), rel=1e-10)


def test_the_kl_to_oneself_is_exactly_zero() -> None:
    policy = small_policy()
    for reference in (policy, policy.frozen()):
        report = evaluate(policy, world(), many(40), reference=reference)
        assert report.kl == Measure(0.0, (0.0, 0.0))
    tokens = sum(len(e.completion_ids) for e in report.episodes)
    assert report.perplexity == pytest.approx(
        math.exp(-exact(policy, report.episodes).sum() / tokens), rel=1e-5
    )


def test_without_a_reference_the_kl_is_not_known() -> None:
    report = evaluate(small_policy(), world(), many(40))
    assert math.isnan(report.kl.mean)
    assert math.isnan(report.perplexity)
    assert np.isnan(report.episode_kl).all()
    assert report.reward.mean > 0


def test_greedy_texts_are_the_same_for_every_seed() -> None:
    policy = small_policy()
    first, second = (evaluate(policy, world(), sampling=Sampling(greedy=True), seed=s) for s in (0, 1))
    assert [e.completion for e in first.episodes] == [e.completion for e in second.episodes]
    sampled = [[e.completion for e in evaluate(policy, world(), many(20), seed=s).episodes] for s in (0, 1)]
    assert sampled[0] != sampled[1]


def test_a_missing_opinion_is_no_zero() -> None:
    def moody(completion: str) -> float:
        return float("nan") if len(completion) % 2 else 1.0

    env = TextVectorEnv(["a"], LETTERS, moody, 8, on_bad_reward="drop")
    report = evaluate(small_policy(), env, many(40))
    odd = [len(e.completion) % 2 == 1 for e in report.episodes]
    assert any(odd)
    assert report.reward.mean == 1.0
    assert np.isnan(report.rewards).tolist() == odd


def test_the_summary_is_plain_data() -> None:
    report = evaluate(small_policy(), world())
    summary = json.loads(json.dumps(report.summary()))
    assert summary["reward"] == {"mean": report.reward.mean, "ci95": list(report.reward.ci95)}
    measured = {"kl_nats", "perplexity", "length_tokens", "terminated"}
    assert summary.keys() == measured | {"reward", "a", "half"}
    assert report.summary("gold").keys() == measured | {"gold", "a", "half"}
    assert report.summary(None).keys() == measured


def test_evaluating_changes_neither_policy_nor_environment() -> None:
    policy, env = small_policy(), world()
    env.reset(seed=1)
    tokens = env.batch.tokens.copy()
    before = [p.clone() for p in policy.parameters()]
    evaluate(policy, env, many(10))
    assert np.array_equal(env.batch.tokens, tokens)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), before, strict=True))


def test_a_report_shows_its_means_and_texts() -> None:
    policy = small_policy()
    report = evaluate(policy, world(), many(30), reference=policy.frozen(), seed=4)
    low, high = report.reward.ci95
    said = f"reward {report.reward.mean:.3f} [{low:.3f}, {high:.3f}]"
    assert repr(report) == f"Report(30 episodes, {said}, KL {report.kl.mean:.3g} nats)"
    html = report._repr_html_()
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", html)
    assert ["reward", f"{report.reward.mean:.3f}", f"[{low:.3f}, {high:.3f}]"] == cells[:3]
    assert cells[cells.index("half") + 1] == f"{report.terms['half'].mean:.3f}"
    assert "KL, nats per episode" in html
    assert "… 25 more" in html
    unknown = evaluate(policy, world(), many(3))
    assert "KL" not in repr(unknown)
    assert "KL" not in unknown._repr_html_()
