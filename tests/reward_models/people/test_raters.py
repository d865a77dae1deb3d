from __future__ import annotations

import math

import numpy as np
import pytest

from tests.reward_model_tools import TOKENIZER, episodes
from text_gym import Episode, FunctionReward, Rewards, as_reward_source
from text_gym.errors import ConfigError, DataError, RewardError, UnknownNameError
from text_gym.reward_models.people.raters import collect_pairs, collect_ratings
from text_gym.reward_models.people.simulated import RATERS, SimulatedRater, Vices, make_rater

GOLD = FunctionReward(lambda completion: completion.count("good") / 4, name="gold")


def numbered(text: str, count: int) -> list[Episode]:
    """The same text for many prompts."""
    return [Episode.of(f"prompt {i}:", text, TOKENIZER) for i in range(count)]


def test_a_clean_rater_says_what_gold_says() -> None:
    rater = make_rater("clean", GOLD)
    left, right = episodes("good", "bad", "bad", "good"), episodes("bad", "good", "text", "good")
    assert rater.compare(left, right) == ["left", "right", "tie", "tie"]
    assert rater.rate(left) == [{"score": 0.25}, {"score": 0.0}, {"score": 0.0}, {"score": 0.25}]


def test_noise_is_that_of_bradley_and_terry() -> None:
    count, noise = 4000, 0.2
    rater = SimulatedRater(GOLD, Vices(noise=noise), seed=3)
    answers = rater.compare(numbered("good good", count), numbered("good", count))
    expected = 1 / (1 + math.exp(-0.25 / noise))
    assert answers.count("left") / count == pytest.approx(expected, abs=4 * math.sqrt(0.25 / count))


def test_an_inattentive_rater_guesses_so_often() -> None:
    count = 4000
    rater = SimulatedRater(GOLD, Vices(inattention=0.4), seed=1)
    answers = rater.compare(numbered("good", count), numbered("bad", count))
    assert answers.count("right") / count == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("kind", list(RATERS))
def test_answers_follow_from_the_question_alone(kind: str) -> None:
    left = numbered("a good text", 40)
    right = [Episode.of(e.prompt, f"good good {i}", TOKENIZER) for i, e in enumerate(left)]
    rater = make_rater(kind, GOLD, seed=5)
    answers = rater.compare(left, right)
    assert rater.compare(left[::-1], right[::-1]) == answers[::-1]
    assert [rater.compare([a], [b])[0] for a, b in zip(left, right, strict=True)] == answers
    turned = {"left": "right", "right": "left", "tie": "tie", "skip": "skip"}
    assert rater.compare(right, left) == [turned[a] for a in answers]
    assert rater.rate(left) == make_rater(kind, GOLD, seed=5).rate(left)
    if rater.vices.noise:
        assert make_rater(kind, GOLD, seed=6).rate(left) != rater.rate(left)


def test_vices_by_hand() -> None:
    texts = episodes("amazing amazing", "one two three four!", "plain")
    long = SimulatedRater(GOLD, Vices(length=0.5)).utilities(texts)[:, 0]
    assert long == pytest.approx([0.1, 0.2, 0.05])  # 2, 4 and 1 words of 0.05 each
    loud = SimulatedRater(GOLD, Vices(hype=0.5)).utilities(texts)[:, 0]
    assert loud == pytest.approx([1.0, 0.5, 0.0])
    shy = SimulatedRater(GOLD, Vices(indifference=0.3))
    assert shy.compare(episodes("good", "good good"), episodes("bad", "bad")) == ["tie", "left"]


def test_marks_on_a_scale() -> None:
    terms = FunctionReward(
        lambda episodes: Rewards(
            np.zeros(len(episodes)),
            terms={"a": np.linspace(-1, 2, len(episodes)), "b": np.full(len(episodes), 0.5)},
        )
    )
    rater = SimulatedRater(terms, criteria=("a", "b"), scale=(1, 5))
    marks = rater.rate(episodes("1", "2", "3", "4"))
    assert [m["a"] for m in marks] == [1.0, 1.0, 5.0, 5.0]  # utilities -1, 0, 1, 2
    assert {m["b"] for m in marks} == {3.0}
    noisy = SimulatedRater(terms, Vices(noise=1.0), criteria=("a",), scale=(1, 5))
    assert {m["a"] for m in noisy.rate(numbered("x", 200))} == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_pairs_and_ratings_are_collected() -> None:
    rater = make_rater("clean", GOLD, name="ann")
    pairs = collect_pairs(rater, episodes("bad", "bad"), episodes("good", "text"), weight=2.0)
    assert [(p.chosen, p.rejected, p.tie, p.weight, p.rater) for p in pairs] == [
        ("good", "bad", False, 2.0, "ann"),
        ("bad", "text", True, 2.0, "ann"),
    ]
    (rating,) = collect_ratings(rater, episodes("good"))
    assert (rating.completion, rating.values, rating.rater) == ("good", {"score": 0.25}, "ann")


def test_what_skips_leaves_no_opinion() -> None:
    class Tired(SimulatedRater):
        def compare(self, left: object, right: object) -> list[str]:  # type: ignore[override]
            return ["skip", "left"]

        def rate(self, episodes: object) -> list[dict[str, float]]:
            return [{}, {"score": 1.0}]

    tired = Tired(GOLD)
    assert [p.chosen for p in collect_pairs(tired, episodes("a", "b"), episodes("c", "d"))] == ["b"]
    assert [r.completion for r in collect_ratings(tired, episodes("a", "b"))] == ["b"]


def test_faults_have_names() -> None:
    rater = make_rater("clean", GOLD)
    with pytest.raises(UnknownNameError, match="did you mean 'noisy'"):
        make_rater("nosy", GOLD)
    with pytest.raises(DataError, match="2 episodes on the left, 1 on the right"):
        collect_pairs(rater, episodes("a", "b"), episodes("a"))
    with pytest.raises(DataError, match="'Write:' and 'Sing:'"):
        collect_pairs(rater, episodes("a"), episodes("b", prompt="Sing:"))
    with pytest.raises(ConfigError, match="finite"):
        Vices(noise=math.nan)
    with pytest.raises(ConfigError, match="at most 1"):
        Vices(inattention=2)
    with pytest.raises(ConfigError, match="must rise"):
        SimulatedRater(GOLD, scale=(5, 1))
    silent = FunctionReward(lambda completion: None, abstains=True, name="silent")
    with pytest.raises(RewardError, match="'silent' has no opinion"):
        SimulatedRater(silent).rate(episodes("a"))
    with pytest.raises(UnknownNameError, match="'style'"):
        SimulatedRater(as_reward_source(lambda completion: 1.0), criteria=("style",)).rate(episodes("a"))
