from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize

from tests.reward_model_tools import TOKENIZER, WORDS, episodes, pairs, ratings
from text_gym import Prompt, Task, check_reward_source
from text_gym.errors import ConfigError, DataError, NonFiniteError
from text_gym.reward_models import NgramModel, PreferencePair, Rating, load_reward
from text_gym.reward_models.learned.configs import NgramConfig
from text_gym.reward_models.learned.ngrams import logistic, ridge
from text_gym.reward_models.preferences.opinions import split_within


@pytest.mark.parametrize("alpha", [0.01, 1.0, 100.0])
def test_ridge_solves_the_normal_equations(alpha: float) -> None:
    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(40, 60)), rng.normal(size=40) + 3, rng.uniform(0, 2, size=40)
    # As one least-squares problem, the intercept being a last column without penalty.
    root = np.sqrt(weight)[:, None]
    a = np.vstack([root * np.hstack([x, np.ones((40, 1))]), math.sqrt(alpha) * np.eye(61)[:60]])
    b = np.concatenate([root[:, 0] * y, np.zeros(60)])
    expected = np.linalg.lstsq(a, b)[0]
    v, intercept = ridge(x, y, weight, alpha)
    np.testing.assert_allclose([*v, intercept], expected, atol=1e-6)


def test_a_weight_of_two_is_the_row_twice() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 4)), rng.normal(size=9)
    weight = np.array([2.0, 0.0, *[1.0] * 7])
    rows = [0, 0, *range(2, 9)]
    one, two = ridge(x, y, weight, 0.5), ridge(x[rows], y[rows], np.ones(9), 0.5)
    np.testing.assert_allclose([*one[0], one[1]], [*two[0], two[1]], atol=1e-7)


def test_the_gradient_of_bradley_and_terry_vanishes_at_the_weights() -> None:
    rng = np.random.default_rng(2)
    x, tie = rng.normal(size=(30, 5)), (rng.random(30) < 0.3).astype(float)
    margin, weight = np.where(tie == 1, 0, rng.uniform(0, 1, 30)), rng.uniform(0, 2, 30)
    v, _ = logistic(x, tie, margin, weight, alpha=0.7)
    # d/dv of each pair: −(1 − p)·x for a win with p = σ(x·v − margin), (p − ½)·x for a tie
    p = 1 / (1 + np.exp(-(x @ v - margin)))
    slope = np.where(tie == 1, p - 0.5, p - 1)
    np.testing.assert_allclose(x.T @ (weight * slope) + 0.7 * v, 0, atol=1e-3)

    def loss(u: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        q = 1 / (1 + np.exp(-(x @ u - margin)))
        nll = np.where(tie == 1, -0.5 * np.log(q) - 0.5 * np.log(1 - q), -np.log(q))
        return float(weight @ nll + 0.35 * u @ u)

    assert loss(v) <= scipy.optimize.minimize(loss, np.zeros(5), method="Nelder-Mead").fun + 1e-4


def test_it_learns_ratings_in_their_units() -> None:
    model = NgramModel.fit(ratings(), ("style", "brevity"), NgramConfig(alpha=1e-3))
    found = model(episodes("a text text text", "a good good text", prompt="text 99:")).terms
    assert found["style"] == pytest.approx([1, 3], abs=0.1)
    assert found["brevity"] == pytest.approx([3, 1], abs=0.1)


def test_it_learns_pairs_and_says_why() -> None:
    model = NgramModel.fit(pairs())
    good, bad = model(episodes("a good text", "a bad text")).values
    assert good > bad
    assert {f for f, _ in model.strongest(6)} & {"good", "bad", "a good", "a bad"}


def test_ties_and_missing_marks() -> None:
    tied = [PreferencePair(p.prompt, p.chosen, p.rejected, tie=True) for p in pairs()]
    good, bad = NgramModel.fit(tied, config=NgramConfig(alpha=0.1))(
        episodes("a good text", "a bad text")
    ).values
    assert good == pytest.approx(bad, abs=1e-4)
    half = [Rating(r.prompt, r.completion, {"style": r.values["style"]}) for r in ratings()[::2]]
    model = NgramModel.fit([*ratings()[1::2], *half], ("style", "brevity"))
    assert np.isfinite(model(episodes("a good text")).values).all()


def test_saved_and_loaded_it_says_the_same(tmp_path: Path) -> None:
    texts = episodes("a good text", "a text", "")
    model = NgramModel.fit(ratings(), ("style", "brevity")).normalise(texts)
    assert model(texts).terms["style"].std() == pytest.approx(1)
    model.save(tmp_path)
    again = load_reward(str(tmp_path))
    assert isinstance(again, NgramModel)
    assert again(texts).values.tolist() == model(texts).values.tolist()
    assert again.config == model.config
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.safetensors",
        "reward_model.json",
        "vocabulary.json",
    ]


def test_it_keeps_the_laws_of_reward_sources() -> None:
    model = NgramModel.fit(pairs())
    prompts = [Prompt("Write about cats:"), Prompt("Write about dogs:")]
    check_reward_source(model, Task("t", prompts, prompts, TOKENIZER, model, 12))


def test_the_same_opinions_give_the_same_model() -> None:
    one, two = (NgramModel.fit(ratings(), ("style",)) for _ in range(2))
    assert one.weights.tolist() == two.weights.tolist()


def test_faults_have_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one kind"):
        NgramModel.fit([])
    with pytest.raises(DataError, match="one kind"):
        NgramModel.fit([*pairs(), *ratings()])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="2 criteria"):
        NgramModel.fit(pairs(), ("a", "b"))
    with pytest.raises(DataError, match="no rating has a mark for 'facts'"):
        NgramModel.fit(ratings(), ("facts",))
    with pytest.raises(ConfigError, match="do not fit"):
        NgramModel(["a"], np.zeros((2, 1)), np.zeros(1))
    with pytest.raises(NonFiniteError, match="NaN"):
        NgramModel(["a"], np.full((1, 1), math.nan), np.zeros(1))
    NgramModel.fit(pairs()).save(tmp_path)
    (tmp_path / "vocabulary.json").write_text("[")
    with pytest.raises(DataError, match="no n-gram reward model"):
        load_reward(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(DataError, match="no n-gram reward model"):
        load_reward(str(tmp_path))


def test_the_penalty_is_judged_on_five_parts_of_the_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    judged_prompts = []

    def spy(opinions: list[Rating], held_out: float, seed: int) -> tuple[list[Rating], list[Rating]]:
        kept, judged = split_within(opinions, held_out, seed)
        judged_prompts.append(frozenset(r.prompt.id for r in judged))
        return kept, judged

    monkeypatch.setattr("text_gym.reward_models.learned.ngrams.split_within", spy)
    NgramModel.fit(ratings(), ("style",))
    assert len(set(judged_prompts)) == 5


def test_marks_that_follow_from_nothing_get_the_largest_penalty() -> None:
    rng = np.random.default_rng(0)
    noise = [
        Rating(Prompt(f"p{i}"), " ".join(rng.choice(WORDS, 6)), {"style": float(rng.normal())})
        for i in range(60)
    ]
    chosen = NgramModel.fit(noise, ("style",))
    strictest = NgramModel.fit(noise, ("style",), NgramConfig(alpha=8.0))
    assert chosen.weights.tolist() == strictest.weights.tolist()
