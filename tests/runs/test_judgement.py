"""Judgements: what is called gold, and looks at gold that change nothing."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from tests import kill_harness
from text_gym import Prompt, Rewards, RewardSource, TextVectorEnv, as_reward_source
from text_gym.agents import PPO, Policy, PPOConfig, evaluate, rollout, trajectory_log_probs
from text_gym.runs.judgement import GoldWatch, judge_policy, judge_texts, rows_of
from text_gym.tasks.task import NoGold, Task

pytestmark = pytest.mark.usefixtures("undrawn")


class Vowels(RewardSource):
    """A reward with a term that is called as itself, and an abstention."""

    name = "vowels"
    abstains = True

    def score(self, episodes: Any) -> Rewards:
        """The number of a's and e's; no opinion on the first text."""
        found = np.array([float(e.completion.count("a") + e.completion.count("e")) for e in episodes])
        return Rewards(found, terms={"vowels": found}, abstained=np.arange(len(found)) == 0)


def policy(seed: int = 0) -> Policy:
    return Policy.new(
        kill_harness.TOKENIZER, layers=1, width=16, heads=2, context=16, seed=seed, device="cpu"
    )


def many() -> Task:
    task = kill_harness.task()
    return dataclasses.replace(task, held_out=list(task.prompts) * 20)


def report(task: Task) -> Any:
    env = TextVectorEnv(**task.env_kwargs(prompts=task.held_out), shuffle=False)
    return evaluate(policy(1), env, reference=policy(0))


def test_gold_is_the_tasks_own_reward_and_another_one_has_its_name() -> None:
    task = many()
    found = judge_texts(report(task), task, Vowels())
    texts = [e.completion for e in found.sampled.episodes]
    assert found.summary["gold"]["mean"] == pytest.approx(
        np.mean([t.count("a") + 0.1 * t.count("b") for t in texts])
    )
    vowels = [t.count("a") + t.count("e") for t in texts]
    assert found.summary["reward"]["name"] == "vowels"
    assert found.summary["reward"]["mean"] == pytest.approx(np.mean(vowels[1:]))
    assert found.summary["reward"]["terms"]["vowels"]["mean"] == pytest.approx(np.mean(vowels))
    assert found.scores(3, task, Vowels()) == {
        "gold": pytest.approx(texts[3].count("a") + 0.1 * texts[3].count("b")),
        "vowels": vowels[3],
    }
    assert list(rows_of(found.summary)) == ["gold", "reward (vowels)", "vowels: vowels"]


def test_a_policy_is_judged_on_held_out_prompts() -> None:
    task = dataclasses.replace(kill_harness.task(), held_out=[Prompt("ghi"), Prompt("hi")])
    found = judge_policy(policy(1), policy(0), task, Vowels())
    assert [e.prompt.text for e in found.sampled.episodes] == ["ghi", "hi"]


def test_gold_itself_is_shown_once() -> None:
    task = many()
    found = judge_texts(report(task), task, task.reward)
    assert "reward" not in found.summary
    assert list(rows_of(found.summary)) == ["gold"]


def test_where_a_task_has_no_reward_of_its_own_nothing_is_called_gold() -> None:
    task = dataclasses.replace(many(), reward=NoGold())
    found = judge_policy(policy(1), policy(0), task, Vowels())
    assert "gold" not in found.summary
    assert "gold" not in found.summary["greedy"]
    assert list(rows_of(found.summary)) == ["reward (vowels)", "vowels: vowels"]
    assert found.scores(3, task, Vowels()).keys() == {"vowels"}
    assert math.isfinite(found.summary["kl_nats"])


def test_people_are_not_asked() -> None:
    asked = Vowels()
    asked.interactive = True
    asked.score = lambda episodes: pytest.fail("asked")  # type: ignore[method-assign]
    task = many()
    assert "reward" not in judge_policy(policy(1), policy(0), task, asked).summary
    own = judge_policy(policy(1), policy(0), dataclasses.replace(task, reward=asked), asked)
    assert math.isnan(own.summary["gold"]["mean"])


def test_a_term_of_gold_may_be_called_reward() -> None:
    measure = {"mean": 0.5, "ci95": [0.4, 0.6]}
    assert list(rows_of({"gold": measure, "reward": measure, "kl_nats": 1.0})) == ["gold", "reward"]


# Looks at gold


def test_a_look_is_gold_and_kl_of_its_texts() -> None:
    task, learner, start = many(), policy(1), policy(0)
    watch = GoldWatch(task, episodes=8, iterations=100)
    found = watch.look(learner, start)
    episodes = rollout(learner, watch.env, np.arange(64), seed=0).episodes
    assert [e.prompt.text for e in episodes] == [p.text for p in task.held_out[:64]]
    gold = np.mean([e.completion.count("a") + 0.1 * e.completion.count("b") for e in episodes])
    assert found["gold"] == pytest.approx(gold)
    with torch.no_grad():
        kl = (trajectory_log_probs(learner, episodes) - trajectory_log_probs(start, episodes)).mean()
    assert found["gold_kl"] == pytest.approx(float(kl), abs=1e-4)
    assert abs(found["gold_kl"]) > 0.01


def test_the_first_look_is_taken_from_the_judgement_before() -> None:
    task, start = many(), policy(0)
    watch = GoldWatch(task, episodes=8, iterations=100)
    first = watch.first(judge_policy(start, start.frozen(), task, Vowels()))
    assert first["iteration"] == 0
    assert first["gold"] == pytest.approx(watch.look(start, start.frozen())["gold"], abs=1e-12)
    assert first["gold_kl"] == 0


def test_the_first_look_is_of_the_watched_texts_alone() -> None:
    """A judgement of just these prompts has the same texts, whose KL is then the mean of all."""
    task, learner, start = many(), policy(1), policy(0)
    watch = GoldWatch(task, episodes=8, iterations=100)
    assert len(watch.prompts) < len(task.held_out)
    alone = dataclasses.replace(task, held_out=task.held_out[:64])
    whole, own = (judge_policy(learner, start, t, Vowels()) for t in (task, alone))
    assert watch.first(whole)["gold_kl"] == pytest.approx(own.sampled.kl.mean, abs=1e-6)
    assert own.sampled.kl.mean != pytest.approx(whole.sampled.kl.mean, abs=1e-4)


def test_few_episodes_are_looked_at_less_often() -> None:
    """The 64 texts of a look are at most a fifth of what was trained on since the last one."""
    for episodes, every in ((8, 40), (64, 5), (1024, 5)):
        watch = GoldWatch(many(), episodes, iterations=203)
        due = [i for i in range(1, 204) if watch.due(i)]
        assert due == [*range(every, 204, every), 203]


class Counting(RewardSource):
    """A gold reward that remembers how often it was asked, as a running average would."""

    name = "counting"
    calls = 0

    def score(self, episodes: Any) -> list[float]:
        """The number of a's, more of them with every call."""
        self.calls += 1
        return [e.completion.count("a") * (1 + 0.1 * self.calls) for e in episodes]

    def state_dict(self) -> dict[str, Any]:
        """The calls so far."""
        return {"calls": self.calls}

    def load_state_dict(self, state: Any) -> None:
        """Take them up."""
        self.calls = state["calls"]


def test_looks_change_nothing_in_the_training_whatever_the_reward_remembers() -> None:
    found = []
    for looking in (False, True):
        gold = Counting()
        task = dataclasses.replace(many(), reward=gold)
        env = TextVectorEnv(**task.env_kwargs(reward=2.0 * gold), num_envs=8, numbering="global")
        agent = PPO(policy(), env, PPOConfig(iterations=4, learning_rate=1e-2))
        watch = GoldWatch(task, 8, 4) if looking else None
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        rows: list[float] = []

        def look(agent: Any, metrics: Any, watch: Any = watch, rows: Any = rows) -> None:
            rows.append(metrics["reward"])
            if watch is not None:
                watch.look(agent.policy, agent.reference)

        agent.learn(callback=look)
        found.append((rows, agent.policy.digest(), float(torch.rand(1)), float(np.random.rand())))  # noqa: NPY002
    assert found[0] == found[1]


def test_gold_without_an_opinion_is_not_known() -> None:
    silent = as_reward_source(lambda completion: 1.0)
    task = dataclasses.replace(many(), reward=NoGold())
    assert not task.has_gold
    assert dataclasses.replace(task, reward=silent).has_gold
    assert math.isnan(GoldWatch(task, 8, 4).look(policy(), policy())["gold"])
