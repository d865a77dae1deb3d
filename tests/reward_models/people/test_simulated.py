from __future__ import annotations

from pathlib import Path

import pytest

from text_gym import ByteTokenizer, Episode, as_reward_source
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.questions import LabelCriterion
from text_gym.reward_models.people.human import HumanRater
from text_gym.reward_models.people.raters import collect_pairs, collect_ratings
from text_gym.reward_models.people.simulated import SimulatedPeople, SimulatedRater, Vices

GOLD = as_reward_source(lambda completion: len(completion) / 10)
SCALE = (LabelCriterion("score"),)


def episode(text: str, prompt: str = "p") -> Episode:
    return Episode.of(prompt, text, ByteTokenizer())


def rater(name: str = "ann", noise: float = 0.0, seed: int = 0) -> SimulatedRater:
    return SimulatedRater(GOLD, Vices(noise=noise), scale=(1, 5), name=name, seed=seed)


def people(store: LabelStore, *raters: SimulatedRater) -> SimulatedPeople:
    group = SimulatedPeople(store, raters)
    group.show(episode("x" * n) for n in range(12))
    return group


def test_ratings_follow_gold_on_the_scale() -> None:
    with LabelStore(":memory:") as store:
        human = HumanRater(store, people(store, rater()).ask, criteria=SCALE)
        found = collect_ratings(human, [episode("x" * n) for n in (0, 5, 10)])
        assert [dict(r.values) for r in found] == [{"score": 1.0}, {"score": 3.0}, {"score": 5.0}]
        assert [label.rater for label in store.labels()] == ["ann"] * 3


def test_comparisons() -> None:
    with LabelStore(":memory:") as store:
        human = HumanRater(store, people(store, rater()).ask)
        pairs = collect_pairs(human, [episode("x"), episode("xxx")], [episode("xx"), episode("xxx" * 2)])
        assert [(p.chosen, p.rejected) for p in pairs] == [("xx", "x"), ("xxxxxx", "xxx")]


def test_shared_questions_get_two_raters_and_the_others_one() -> None:
    with LabelStore(":memory:") as store:
        group = people(store, rater("ann"), rater("bob", seed=1))
        texts = [episode("x" * n) for n in range(12)]
        HumanRater(store, group.ask, criteria=SCALE, overlap=2).rate(texts[:4])
        HumanRater(store, group.ask, criteria=SCALE).rate(texts[4:])
        by_text: dict[str, set[str]] = {}
        for label in store.labels():
            by_text.setdefault(label.question.completions[0], set()).add(label.rater)
        assert [len(by_text[e.completion]) for e in texts] == [2] * 4 + [1] * 8
        assert set.union(*by_text.values()) == {"ann", "bob"}


def test_answers_do_not_depend_on_when_they_are_asked(tmp_path: Path) -> None:
    texts = [episode("x" * n) for n in range(12)]
    found = []
    for batches in ([texts], [texts[7:], texts[2:9], texts[::-1]]):
        with LabelStore(tmp_path / f"{len(batches)}.db") as store:
            raters = (rater("ann", 0.5), rater("bob", 0.5, seed=1))
            for batch in batches:
                human = HumanRater(store, people(store, *raters).ask, criteria=SCALE)
                collect_ratings(human, batch)
            found.append({(x.item, x.rater, x.values["score"]) for x in store.labels()})
    assert found[0] == found[1]
    assert len(found[0]) == 12


def test_refusals() -> None:
    with LabelStore(":memory:") as store:
        with pytest.raises(ConfigError):
            SimulatedPeople(store, [])
        with pytest.raises(ConfigError):
            SimulatedPeople(store, [rater(), rater()])
        with pytest.raises(ConfigError, match="2 raters are wanted"):
            HumanRater(store, people(store, rater()).ask, criteria=SCALE, overlap=2).rate([episode("x")])
        with pytest.raises(DataError, match="not shown"):
            HumanRater(store, people(store, rater()).ask, criteria=SCALE).rate([episode("unseen")])
