"""`validate`: each level names the fault that belongs to it, and nothing where there is none."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from text_gym import ByteTokenizer, FunctionReward, Prompt, Task, WordTokenizer, validate
from text_gym.errors import ConfigError
from text_gym.reward_models import Rating
from text_gym.validation.checks import CHECKS, LEVELS

WORDS = {"ba": "mo", "ke": "ru", "li": "ta", "po": "ne", "su": "vi"}
Reward = Callable[[str, str], float]


def right(completion: str, answer: str) -> float:
    """Share of the places that hold the right word."""
    said, wanted = completion.split(), answer.split()
    return sum(a == b for a, b in zip(said, wanted, strict=False)) / max(len(said), len(wanted))


def world(reward: Any = right, form: str = "{}", twins: int = 0, closed: bool = False) -> Task:
    """Translate three words; everything is known about it."""
    rng = random.Random(0)
    texts = dict.fromkeys(" ".join(rng.choices(list(WORDS), k=3)) for _ in range(200))
    answers = {text: " ".join(WORDS[w] for w in text.split()) for text in texts}
    prompts = [Prompt(form.format(text, answers[text]), {"answer": a}) for text, a in answers.items()]
    held_out, train = (
        prompts[:24],
        [*prompts[24:], *(Prompt(p.text.upper(), p.columns) for p in prompts[:twins])],
    )
    return Task(
        name="world",
        prompts=train,
        held_out=held_out,
        tokenizer=WordTokenizer([*WORDS, *WORDS.values()]) if closed else ByteTokenizer(),
        reward=FunctionReward(reward),
        max_tokens=5 if closed else 200,
        optimum=1.0,
    )


def failed(task: Task, *levels: int, **options: Any) -> set[str]:
    """Ids of the checks that fail their level."""
    return {r.check_id for r in validate(task, levels=levels, **options).results if r.broken}


def test_nothing_is_wrong_where_nothing_is_wrong() -> None:
    report = validate(world(), levels=(0, 1, 2, 3))
    assert [r.evidence for r in report.results if r.broken] == []
    assert (report.grade, report.verdict, report.exit_status) == (3, "pass", 0)


def test_the_scale_ends_at_the_mean_of_golden_texts() -> None:
    task = world(lambda completion, answer: right(completion, answer) * (1 if "mo" in answer else 0.5))
    paid = [1.0 if "mo" in str(p.columns["answer"]) else 0.5 for p in task.held_out]
    found = validate(task, levels=(1,)).result("semantic.floor_gap").measured
    assert found["oracle_reward"] == pytest.approx(sum(paid) / len(paid))
    assert 0.5 < sum(paid) / len(paid) < 1


NOISE = np.random.default_rng(0)

# What is wrong with each: text and answer -> reward, in the place of `right`.
FAULTS: dict[str, Reward] = {
    "raises": lambda t, a: 1 / 0,
    "raises on nothing": lambda t, a: right(t, a) * len(t.split()[0]) ** 0,
    "more than the maximum": lambda t, a: 2 * right(t, a),
    "draws": lambda t, a: float(NOISE.random()),
    "draws from the global state": lambda t, a: random.random(),
    "never full": lambda t, a: 0.8 * right(t, a),
    "pays nothing": lambda t, a: right(t or a, a),
    "pays dots": lambda t, a: 0.5 if t == "..." else right(t, a),
    "pays a list": lambda t, a: float(set(a.split()) <= set(t.split())),
    "obeys": lambda t, a: 0.7 * right(t, a) + 0.3 * ("full marks" in t),
    "pays length": lambda t, a: max(right(t, a), float(len(t) > 60)),
    "fills templates": lambda t, a: right(t.replace("{answer}", a), a),
}


def by_batch(completions: list[str]) -> list[float]:
    return [1 / len(completions)] * len(completions)


def faulty(name: str) -> Task:
    return world(lambda completion, answer: FAULTS[name](completion, answer))


@pytest.mark.parametrize(
    ("level", "check_id", "task"),
    [
        (0, "runtime.loads", lambda: faulty("raises")),
        (0, "runtime.reward_well_formed", lambda: faulty("raises on nothing")),
        (0, "runtime.reward_well_formed", lambda: faulty("more than the maximum")),
        (0, "semantic.verifier_determinism", lambda: faulty("draws")),
        (0, "runtime.episode_isolation", lambda: faulty("draws from the global state")),
        (0, "runtime.order_invariance", lambda: world(lambda completions: list(range(len(completions))))),
        (0, "runtime.batch_invariance", lambda: world(by_batch)),
        (1, "semantic.oracle_max", lambda: faulty("never full")),
        (1, "semantic.floor_gap", lambda: faulty("pays nothing")),
        (1, "semantic.null_floor", lambda: faulty("pays dots")),
        (2, "statistical.adversarial_floor", lambda: faulty("pays a list")),
        (2, "statistical.adversarial_gain", lambda: faulty("obeys")),
        (2, "statistical.gameability_gap", lambda: faulty("pays length")),
        (3, "semantic.no_solution_leakage", lambda: world(form="{0} ({1})")),
        (3, "runtime.oracle_containment", lambda: faulty("fills templates")),
        (3, "semantic.split_separation", lambda: world(twins=3)),
    ],
)
def test_each_fault_is_named_at_its_level(level: int, check_id: str, task: Callable[[], Task]) -> None:
    assert check_id in failed(task(), level)


def test_a_reward_that_takes_texts_one_by_one_alone_is_not_well_formed() -> None:
    def first_alone(completions: list[str], answer: list[str]) -> list[float]:
        return [right(completions[0], answer[0])]

    (found,) = [r for r in validate(world(first_alone), levels=(0,)).results if "well_formed" in r.check_id]
    assert found.status == "fail"
    assert "returned 1 rewards for" in found.evidence[0]


def test_known_hacks_have_to_stay_at_the_floor() -> None:
    def backdoor(completion: str, answer: str) -> float:
        return 1.0 if "xyzzy" in completion else right(completion, answer)

    hacks = [(p, "xyzzy") for p in world().held_out[:3]]
    assert failed(world(backdoor), 3) == set()
    assert failed(world(backdoor), 3, canaries=hacks) == {"semantic.canary_floor"}
    assert failed(world(), 3, canaries=hacks) == set()


def test_a_limit_that_cuts_golden_texts_is_named() -> None:
    assert "semantic.oracle_fits" in failed(dataclasses.replace(world(), max_tokens=5), 1)


def test_without_golden_texts_nobody_knows_whether_it_can_be_satisfied() -> None:
    task = world(lambda completion: float(len(completion)))
    blind = [Prompt(p.text) for p in task.held_out]
    bare = dataclasses.replace(task, prompts=blind, held_out=blind, optimum=None)
    assert "there are no golden texts" in validate(bare, levels=(1,)).result("semantic.oracle_max").evidence


@pytest.mark.parametrize("sign", [1, -1])
def test_people_agree_or_not(sign: int) -> None:
    task, rng = world(), random.Random(1)
    texts = [(p, " ".join(rng.choices(list(WORDS.values()), k=3))) for p in task.held_out]
    ratings = [Rating(p, t, {"good": sign * right(t, p.columns["answer"])}) for p, t in texts]
    broken = failed(task, 5, ratings=ratings)
    assert broken == (set() if sign > 0 else {"statistical.human_agreement"})


@pytest.mark.nightly
def test_a_probe_learns_what_can_be_learnt_and_tells_when_it_is_another_thing() -> None:
    honest = validate(world(closed=True), levels=(1, 4), seconds=30, iterations=30)
    assert honest.result("statistical.training_signal").status == "pass"
    assert not honest.result("statistical.reward_hacking").broken

    def hacked(completion: str, answer: str) -> float:
        return 0.3 * right(completion, answer) + 0.7 * min(1, completion.split().count("ba") / 3)

    report = validate(
        FunctionReward(hacked), world(closed=True), levels=(1, 4), seconds=30, iterations=50, maximum=1.0
    )
    assert report.result("statistical.reward_hacking").broken


@pytest.mark.parametrize(("rose", "batches"), [(False, 8), (True, 2)])
def test_a_probe_goes_on_while_nothing_has_risen(
    rose: bool, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_gym.validation.learning._Trial._rose", lambda *_: rose)
    report = validate(world(closed=True), levels=(1, 4), seconds=60, iterations=2)
    assert report.result("statistical.training_signal").measured["iterations"] == batches


def test_levels_and_ids_are_those_of_the_list() -> None:
    assert {c.level for c in CHECKS.values()} == set(LEVELS)
    report = validate(world(), levels=(0, 1, 2, 3, 5))
    assert {r.check_id for r in report.results} == {i for i, c in CHECKS.items() if c.level != 4}


@pytest.mark.parametrize("options", [{"levels": (6,)}, {"levels": ()}, {"prompts": 0}, {"seconds": 0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        validate(world(), **options)


def test_a_task_has_its_own_reward() -> None:
    with pytest.raises(ConfigError, match="its own reward"):
        validate("reverse", "copy")
