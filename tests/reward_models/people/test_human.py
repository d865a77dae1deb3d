from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.rater_terminal import RaterTerminal
from text_gym import ByteTokenizer, Episode, Prompt
from text_gym.errors import ConfigError, RaterLeftError
from text_gym.reward_models import HumanReward, LabelStore, load_reward
from text_gym.reward_models.labels.questions import LabelCriterion
from text_gym.reward_models.people.human import HumanRater
from text_gym.reward_models.people.raters import collect_pairs


def episodes(*texts: str, prompt: str = "Sell a mug.\n") -> list[Episode]:
    return [Episode.of(Prompt(prompt), text, ByteTokenizer()) for text in texts]


class Person:
    """Rates accuracy by length and the rest with 3, skips empty texts, leaves at "stop"."""

    def __init__(self, store: LabelStore, name: str = "ada", least: int = 0) -> None:
        self.store, self.name, self.least = store, name, least
        self.batches: list[int] = []

    def __call__(self, items: Sequence[str]) -> None:
        self.batches.append(len(items))
        while (item := self.store.claim(self.name, items)) is not None:
            texts = item.question.completions
            if "stop" in texts:
                raise RaterLeftError("gone")
            if item.question.kind == "comparison":
                longer = "left" if len(texts[0]) > len(texts[1]) else "right"
                self.store.record(item.id, self.name, {"preference": longer})
            elif not texts[0]:
                self.store.skip(item.id, self.name)
            else:
                marks = {
                    "accuracy": min(5, max(1, len(texts[0]) + self.least)),
                    "clarity": 3,
                    "persuasiveness": 3,
                }
                self.store.record(item.id, self.name, marks)


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / "labels.db")


def test_ratings_become_rewards_with_the_criteria_as_terms(store: LabelStore) -> None:
    found = HumanReward(store, Person(store))(episodes("a", "abc", "abcde"))
    # (1-1)/4, (3-1)/4, (5-1)/4; the other two criteria are at 1/2
    assert found.terms["accuracy"].tolist() == [0.0, 0.5, 1.0]
    assert found.terms["clarity"].tolist() == [0.5, 0.5, 0.5]
    assert found.values == pytest.approx([1 / 3, 0.5, 2 / 3])
    assert not found.abstained.any()


def test_weights(store: LabelStore) -> None:
    found = HumanReward(store, Person(store), weights=(3, 1, 0))(episodes("abcde"))
    assert found.values == pytest.approx([0.75 * 1.0 + 0.25 * 0.5])
    for weights in ((1, 1), (1, 1, -1), (0, 0, 0), (1, 1, np.nan)):
        with pytest.raises(ConfigError, match="give one number"):
            HumanReward(store, Person(store), weights=weights)


def test_equal_texts_are_asked_once_now_and_later(store: LabelStore, tmp_path: Path) -> None:
    person = Person(store)
    reward = HumanReward(store, person)
    first = reward(episodes("ab", "ab", "abc"))
    again = reward(episodes("abc", "ab"))
    assert person.batches == [2]
    assert again.values.tolist() == [first.values[2], first.values[0]]
    reopened = HumanReward(LabelStore(tmp_path / "labels.db"), person)
    assert reopened(episodes("ab")).values.tolist() == [first.values[0]]
    reward(episodes("ab", prompt="Sell a hat.\n"))  # another question
    assert person.batches == [2, 1]


def test_a_skipped_text_is_abstained_from(store: LabelStore) -> None:
    found = HumanReward(store, Person(store))(episodes("abc", ""))
    assert found.abstained.tolist() == [False, True]
    assert found.values[1] == 0.0
    assert np.isnan(found.terms["clarity"][1])


def test_leaving_loses_no_answer_and_the_rest_waits(store: LabelStore) -> None:
    reward = HumanReward(store, Person(store))
    with pytest.raises(RaterLeftError):
        reward(episodes("ab", "stop", "abc"))
    assert [x.question.completions for x in store.labels()] == [("ab",)]
    assert store.progress("ada").left == 2


def test_several_raters_are_averaged(store: LabelStore) -> None:
    ada, bob = Person(store, "ada"), Person(store, "bob", least=2)

    def both(items: Sequence[str]) -> None:
        ada(items)
        bob(items)

    found = HumanReward(store, both, overlap=2)(episodes("a"))
    assert found.terms["accuracy"].tolist() == [((1 - 1) / 4 + (3 - 1) / 4) / 2]
    assert store.progress("ada").settled == 1


def test_it_waits_for_raters_elsewhere(store: LabelStore) -> None:
    """Nobody answers here: the asker returns at once, and another thread labels a little later."""
    rater = HumanRater(store, lambda items: None, poll=0.01)

    def later() -> None:
        time.sleep(0.2)
        Person(store)([i.id for i in store.items()])

    thread = threading.Thread(target=later)
    thread.start()
    assert rater.rate(episodes("abcd")) == [{"accuracy": 4.0, "clarity": 3.0, "persuasiveness": 3.0}]
    thread.join()


def test_a_new_batch_comes_before_what_was_left_over(store: LabelStore) -> None:
    reward = HumanReward(store, Person(store))
    with pytest.raises(RaterLeftError):
        reward(episodes("stop", "old"))
    reward(episodes("new"))
    item = store.claim("bob")
    assert item is not None
    assert [x.question.completions for x in store.labels()] == [("new",)]


def test_comparisons(store: LabelStore) -> None:
    person = Person(store)
    rater = HumanRater(store, person)
    left, right = episodes("abc", "a", "same"), episodes("ab", "ab", "same")
    assert rater.compare(left, right) == ["left", "right", "tie"]
    assert person.batches == [2]
    pairs = collect_pairs(rater, left, right)
    assert [(p.chosen, p.rejected, p.tie, p.rater) for p in pairs] == [
        ("abc", "ab", False, "human"),
        ("ab", "a", False, "human"),
        ("same", "same", True, "human"),
    ]


def test_the_version_of_the_policy_is_kept(store: LabelStore) -> None:
    reward = HumanReward(
        store,
        Person(store),
        criteria=(LabelCriterion("accuracy"), LabelCriterion("clarity"), LabelCriterion("persuasiveness")),
    )
    reward.rater.policy = "iteration 7"
    reward(episodes("abc"))
    assert [x.policy for x in store.labels()] == ["iteration 7"]


def test_load_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here, there = load_reward("human"), load_reward(f"human:{tmp_path}/other.db")
    assert isinstance(here, HumanReward)
    assert isinstance(there, HumanReward)
    assert list(tmp_path.iterdir()) == []  # nothing is made before a question is asked
    assert here.rater.store.path == Path("labels.db")
    assert there.rater.store.path == tmp_path / "other.db"
    assert here.interactive
    assert (0.5 * here + 1).interactive


TRAIN = ["train", "--algorithm", "reinforce", "--iterations", "3", "--episodes", "2", "--max-tokens", "6"]


def test_a_persons_live_answers_reach_stable_baselines3_and_leaving_saves(tmp_path: Path) -> None:
    rows = [
        "--num-envs",
        "2",
        "--n-steps",
        "6",
        "--iterations",
        "3",
        "--max-tokens",
        "6",
        "--batch-size",
        "12",
    ]
    arguments = ["train", "--algorithm", "sb3.ppo", *rows, "--reward", "human", "--out", "run"]
    with RaterTerminal(*arguments, cwd=tmp_path) as terminal:
        answered = 0
        while (
            not (tmp_path / "run" / "metrics.jsonl").exists()
            or not (tmp_path / "run" / "metrics.jsonl").read_text()
        ):
            for name in ("accuracy", "clarity", "persuasiveness"):
                terminal.wait_for(f"{name}  1  2  3  4  5  > ", 120)
                terminal.type("4")
            answered += 1
            terminal.wait_for("question", 60)  # the next one: what came before it has been answered and used
        terminal.wait_for("> ", 60)
        terminal.type("q")
        terminal.wait_for(f"left; answers saved: {answered}", 60)
        assert terminal.wait(120) == 130
    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["interrupted"]
    assert 1 <= summary["iterations"] < 3
    metrics = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert [m["reward"] for m in metrics] == [0.75] * len(metrics)  # (4 - 1) / 4, without the KL penalty
    assert (run / "policy" / "model.safetensors").exists()
    assert (run / "checkpoints" / f"{summary['iterations']:08d}" / "sb3.safetensors").exists()
    with LabelStore(tmp_path / "labels.db", create=False) as store:
        assert len(list(store.labels())) == answered


def test_a_person_on_a_terminal_is_the_reward_of_a_training(tmp_path: Path) -> None:
    arguments = [*TRAIN, "--reward", "human", "--out", "run"]
    with RaterTerminal(*arguments, cwd=tmp_path) as terminal:
        for _ in range(2):
            for name in ("accuracy", "clarity", "persuasiveness"):
                terminal.wait_for(f"{name}  1  2  3  4  5  > ", 120)
                terminal.type("4")
        terminal.wait_for("question", 60)  # of the second iteration
        terminal.wait_for("> ", 60)
        terminal.type("q")
        terminal.wait_for("left; answers saved: 2", 60)
        assert terminal.wait(120) == 130
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["iterations"], summary["interrupted"]) == (1, True)
    metrics = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [m["reward"] for m in metrics] == [0.75]  # (4 - 1) / 4
    assert metrics[0]["reward/clarity"] == 0.75
    assert (tmp_path / "run" / "policy" / "model.safetensors").exists()
    with LabelStore(tmp_path / "labels.db", create=False) as store:
        assert len(list(store.labels())) == 2
        assert store.progress("nobody").items == 4  # nothing was asked for the judging of the policy
        store.verify()
