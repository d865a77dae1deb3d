"""Golden texts: are others paid more, and by more than a learned or noisy reward is off?"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import numpy as np
import pytest

from tests.agents.training.test_hacking import BYTES, WORDS, batch, texts
from text_gym import Episode, FunctionReward, Prompt, load_task
from text_gym.agents import Rollout
from text_gym.agents.training.golden import GoldenTexts, Overpayment, may_score_golden_texts
from text_gym.errors import RewardError
from text_gym.reward_models import ChatEndpoint, Judge
from text_gym.rewards.calls import Parallel
from text_gym.rewards.source import WeightedSum
from text_gym.rewards.transforms import RunningStandardize

GOLDEN = "red red red red red"


def reds(completion: str) -> float:
    """From 0 to 1; golden texts have 1."""
    return completion.count("red") / 5


def played(reward: FunctionReward, completions: Sequence[str]) -> Rollout:
    """A batch of these texts, one a prompt, that earned this reward."""
    episodes = [Episode.of(Prompt(f"{i}:"), text, BYTES) for i, text in enumerate(completions)]
    return batch(completions, reward(episodes).totals)


def overpayment(reward: FunctionReward) -> Overpayment:
    return Overpayment(reward, GoldenTexts(lambda prompt: GOLDEN))


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.01, -3.0), (1000.0, 7.0)])
@pytest.mark.parametrize("trick", [0.0, 10.0])
def test_texts_that_a_trick_pays_more_than_golden_ones_are_counted(
    scale: float, offset: float, trick: float
) -> None:
    """Four of 64 texts have a mark, which counts as much as a whole golden text and nine more."""

    def paid(completion: str) -> float:
        return offset + scale * (reds(completion) + trick * completion.count("!"))

    reward = FunctionReward(paid, name="paid")
    pay = overpayment(reward)
    metrics = [pay.look(played(reward, [*texts(i, 60), *texts(100 + i, 4, "!")])) for i in range(3)]
    assert pay.found is (trick > 0)
    assert metrics == [{"overpaid": 4 / 64 if trick else 0.0}] * 3
    if trick:
        assert pay.excess == pytest.approx(scale * (trick + max(_reds_of(texts(102, 4))) - 1))


def _reds_of(completions: Sequence[str]) -> list[float]:
    return [reds(text) for text in completions]


def test_what_is_off_by_less_than_half_of_the_lead_of_golden_texts_is_a_learned_rewards_error() -> None:
    """At first one word in eight is red, so that golden texts are ahead by 7/8, or about that."""
    for off, told in ((0.40, False), (0.50, True)):

        def learned(completion: str, off: float = off) -> float:
            return reds(completion) + off * completion.endswith("!")

        reward = FunctionReward(learned, name="learned")
        pay = overpayment(reward)
        for i in range(3):
            pay.look(played(reward, texts(i) if i == 0 else [GOLDEN + "!"] * 64))
        assert pay.lead == pytest.approx(1 - np.mean(_reds_of(texts(0))))
        assert pay.found is told


@pytest.mark.parametrize(("bonus", "marked", "told"), [(0.0, 64, False), (12.0, 8, True), (1.5, 64, True)])
def test_noise_is_no_overpayment(bonus: float, marked: int, told: bool) -> None:
    """All texts are as good as golden ones, and half are paid more by chance.

    A bonus is no chance: of 12 standard deviations for some texts, or of 1.5 for all of them.
    """
    rng = np.random.default_rng(5)

    def noisy(completion: str) -> float:
        return float(rng.normal()) + bonus * completion.endswith("!")

    reward = FunctionReward(noisy, name="noisy", deterministic=False)
    pay, found = overpayment(reward), []
    for i in range(60):
        pay.look(played(reward, [*texts(i, 64 - marked), *texts(i, marked, "!" if i >= 50 else "")]))
        found.append(pay.found)
    assert pay.noise == pytest.approx(2**0.5, abs=0.4)
    assert found == [False] * 50 + [told] * 10


def test_one_prompt_may_have_a_golden_text_that_is_not_the_best() -> None:
    reward = FunctionReward(lambda completion: reds(completion) + 2 * completion.count("!"), name="paid")
    for odd, told in ((1, False), (2, True)):
        pay = overpayment(reward)
        pay.look(played(reward, [*texts(0, 64 - odd), *texts(1, odd, "!")]))
        assert pay.found is told
    assert str(pay).startswith("texts of 2 prompts earned more than golden ones in this batch, by up to 1.")


def test_it_is_over_when_nothing_is_overpaid_for_three_batches() -> None:
    reward = FunctionReward(lambda completion: reds(completion) + 2 * completion.count("!"), name="paid")
    pay, found = overpayment(reward), []
    for more in ("!", "", "", ""):
        pay.look(played(reward, texts(3, more=more)))
        found.append(pay.found)
    assert found == [True, True, True, False]


def test_each_golden_text_is_scored_once_and_at_first_twice_and_no_more_than_64_at_a_time() -> None:
    asked: list[str] = []

    def paid(prompt: str, completion: str) -> float:
        if completion == GOLDEN:
            asked.append(prompt)
        return reds(completion)

    reward = FunctionReward(paid, name="paid")
    pay = overpayment(reward)
    counts = []
    for n in (10, 10, 12, 100, 100, 100):
        pay.look(played(reward, texts(0, n)))
        counts.append(len(asked))
    assert counts == [20, 20, 22, 22 + 64, 22 + 88, 22 + 88]
    assert len(set(asked)) == 100


def test_prompts_of_one_text_and_other_columns_have_golden_texts_of_their_own() -> None:
    golden = GoldenTexts(lambda prompt: prompt.columns["wanted"])
    found = [golden.of(Episode.of(Prompt("say", {"wanted": word}), "red", BYTES)) for word in WORDS]
    assert [e.completion for e in found if e is not None] == list(WORDS)


def test_who_is_asked_about_golden_texts() -> None:
    """Not people, nor judges, nor who pays other texts differently afterwards."""
    reward, judge = (
        FunctionReward(reds, name="reds"),
        Judge(ChatEndpoint("http://x", "m"), {"clear": "Clear?"}),
    )
    people = FunctionReward(reds, name="people")
    people.interactive = True
    assert may_score_golden_texts(reward)
    assert may_score_golden_texts(WeightedSum({"a": (reward, 0.5), "b": (reward, 0.5)}))
    assert may_score_golden_texts(load_task("products").reward)
    for other in (judge, people, RunningStandardize(reward)):
        assert not may_score_golden_texts(other)
        assert not may_score_golden_texts(WeightedSum({"a": (reward, 0.5), "b": (other, 0.5)}))
    assert not may_score_golden_texts(Parallel(judge, workers=2, chunk=1))


def test_a_reward_that_fails_on_golden_texts_ends_no_run(caplog: pytest.LogCaptureFixture) -> None:
    def paid(completion: str) -> float:
        if completion == GOLDEN:
            raise RewardError("not \x1b[2J this one")
        return 1.0

    reward = FunctionReward(paid, name="paid")
    pay = overpayment(reward)
    with caplog.at_level(logging.WARNING, "text_gym"):
        assert pay.look(played(reward, texts(0))) == {}
    assert not pay.found
    assert "golden texts could not be scored" in caplog.text
    assert "\x1b" not in caplog.text


def test_a_resumed_comparison_goes_on_where_it_was() -> None:
    reward = FunctionReward(lambda completion: reds(completion) + 0.4 * completion.count("!"), name="paid")
    rows = [played(reward, [*texts(i, 40), *texts(i, 24, "!" * (i % 4))]) for i in range(8)]
    # Ahead of golden texts, but by less than half of what these were ahead at first.
    rows[4] = played(reward, [GOLDEN + "!"] * 64)
    whole, first = overpayment(reward), overpayment(reward)
    expected = [whole.look(row) for row in rows]
    found = [first.look(row) for row in rows[:4]]
    second = overpayment(reward)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += [second.look(row) for row in rows[4:]]
    assert found == expected
    assert str(second) == str(whole)
    assert any(m["overpaid"] not in (0, 1) for m in found)
