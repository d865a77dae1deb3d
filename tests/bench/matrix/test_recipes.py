"""Recipes: what each of them pays, on texts whose worth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench_world import TINY
from text_gym import ByteTokenizer, Episode, as_reward_source
from text_gym.bench.matrix.recipes import (
    Clipped,
    Gated,
    Given,
    Gold,
    Learned,
    PerToken,
    SingleCriterion,
    TokenByToken,
    Weighted,
    Words,
    content_of,
)
from text_gym.bench.matrix.start import DesignInputs, SamplingJob
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models.people.simulated import SimulatedRater


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> DesignInputs:
    folder = tmp_path_factory.mktemp("bench")
    SamplingJob(TINY, "start").run(folder)
    SamplingJob(TINY, "pool").run(folder)
    return DesignInputs(TINY, folder)


def test_scripted_recipes_are_functions_of_golds_terms(inputs: DesignInputs) -> None:
    episodes, start = inputs.start.episodes, inputs.start
    accuracy, clarity = start.terms["accuracy"].ravel(), start.terms["clarity"].ravel()
    gold = start.gold.ravel()
    assert np.allclose(Gold()(inputs, 0)(episodes).totals, gold)
    assert np.allclose(SingleCriterion("clarity")(inputs, 0)(episodes).totals, clarity)
    weighted = Weighted((("accuracy", 2.0), ("clarity", -1.0)))
    assert np.allclose(weighted(inputs, 0)(episodes).totals, 2 * accuracy - clarity)
    apart = Weighted((("accuracy", 1.0), ("clarity", 1.0)), standardised=True)
    expected = (accuracy - accuracy.mean()) / accuracy.std() + (clarity - clarity.mean()) / clarity.std()
    assert np.allclose(apart(inputs, 0)(episodes).totals, expected)
    assert np.allclose(Clipped(0.6)(inputs, 0)(episodes).totals, np.minimum(gold, 0.6))
    gated = Gated("clarity", "accuracy", 0.8)(inputs, 0)(episodes).totals
    assert np.allclose(gated, np.where(accuracy >= 0.8, clarity, 0))
    assert 0 < (accuracy >= 0.8).mean() < 1  # the gate is open for some and shut for others


def test_words_are_counted_as_often_as_they_come() -> None:
    assert Words(("buy", "try it")).count("Buy! Try it, buy it.") == 3.0


def test_per_token_pays_the_same_total_and_each_change_where_it_happens(inputs: DesignInputs) -> None:
    length = as_reward_source(lambda completion: float(len(completion)) ** 2)
    episode = Episode.of("Say:", "abc", ByteTokenizer())
    rewards = PerToken(length)([episode])
    assert rewards.per_token is not None
    assert rewards.per_token[0].tolist() == [1.0, 3.0, 5.0, 0.0]  # EOS adds nothing
    episodes = inputs.start.episodes[:8]
    dense = TokenByToken(Gold())(inputs, 0)(episodes)
    assert dense.per_token is not None
    assert np.allclose(dense.totals, inputs.start.gold.ravel()[:8])
    assert any(np.count_nonzero(tokens) > 1 for tokens in dense.per_token)


@pytest.mark.parametrize(
    "recipe",
    [Learned(64), Learned(64, kind="ratings"), Learned(64, members=3)],
    ids=["pairs", "ratings", "bag"],
)
def test_learned_models_follow_from_the_seed(inputs: DesignInputs, recipe: Learned) -> None:
    episodes = inputs.start.episodes
    scores = recipe(inputs, 0)(episodes).totals
    assert np.array_equal(recipe(inputs, 0)(episodes).totals, scores)
    assert not np.array_equal(recipe(inputs, 1)(episodes).totals, scores)
    if recipe.members == 1:
        assert abs(scores.mean()) < 1e-9
        assert scores.std() == pytest.approx(1)


def test_each_seed_has_a_rater_of_its_own(inputs: DesignInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    class Watched(SimulatedRater):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            seeds.append(self.seed)

    monkeypatch.setattr("text_gym.bench.matrix.recipes.SimulatedRater", Watched)
    for seed in (0, 5):
        Learned(64)(inputs, seed)
    assert seeds == [0, 5]


def test_a_clean_rater_teaches_more_than_one_who_guesses(inputs: DesignInputs) -> None:
    gold = inputs.start.gold.ravel()
    clean = Learned(64, noise=0.0)(inputs, 0)(inputs.start.episodes).totals
    guess = Learned(64, noise=1000.0)(inputs, 0)(inputs.start.episodes).totals
    assert np.corrcoef(clean, gold)[0, 1] > 0.4
    assert np.corrcoef(clean, gold)[0, 1] > np.corrcoef(guess, gold)[0, 1] + 0.2


def test_the_length_biased_rater_teaches_length(inputs: DesignInputs) -> None:
    words = inputs.start.words.ravel()
    biased = Learned(64, noise=0.0, length=3.0)(inputs, 0)(inputs.start.episodes).totals
    clean = Learned(64, noise=0.0)(inputs, 0)(inputs.start.episodes).totals
    assert np.corrcoef(biased, words)[0, 1] > np.corrcoef(clean, words)[0, 1] + 0.2


def test_more_opinions_than_prompts_are_refused(inputs: DesignInputs) -> None:
    with pytest.raises(ConfigError, match="65 opinions"):
        Learned(65)(inputs, 0)


def test_a_given_reward_is_that_of_the_file_as_it_was(inputs: DesignInputs, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def score(completion):\n    return float(len(completion))\n")
    recipe = Given(f"{file}:score", content_of(f"{file}:score"))
    some = inputs.start.episodes[:3]
    assert recipe(inputs, 0)(some).totals.tolist() == [len(e.completion) for e in some]
    file.write_text("def score(completion):\n    return 0.0\n")
    with pytest.raises(ConfigError, match="was changed"):
        recipe(inputs, 0)


def test_content_is_that_of_file_folder_or_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_rewards.py").write_text("def f(completion): return 1.0\n")
    monkeypatch.chdir(tmp_path)
    by_module = content_of("some_rewards:f")
    assert by_module == content_of("some_rewards.py:f") != ""
    assert content_of("length") == ""
    with pytest.raises(DataError, match="no module 'no_such_module'"):
        content_of("no_such_module:f")
