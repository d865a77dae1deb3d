from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.reward_model_tools import episodes, small_reward_model
from text_gym import FunctionReward, as_reward_source
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models import Ensemble, load_reward


def test_mean_minus_k_std_by_hand() -> None:
    members = [as_reward_source(lambda completion, c=c: c * len(completion)) for c in (1.0, 2.0, 6.0)]
    found = Ensemble(members, k=0.5)(episodes("ab"))
    std = np.std([2.0, 4.0, 12.0])
    assert found.values == pytest.approx([6.0 - 0.5 * std])
    assert found.terms["std"] == pytest.approx([std])
    weighted = Ensemble(members, k=1.0, weights=(2, 1, 1))(episodes("ab"))
    mean = (2 + 2 + 4 + 12) / 4
    assert weighted.values == pytest.approx([mean - np.std([2.0, 2.0, 4.0, 12.0])])


def test_the_worst_member_and_the_variance_by_hand() -> None:
    members = [as_reward_source(lambda completion, c=c: c * len(completion)) for c in (1.0, 2.0, 6.0)]
    assert Ensemble(members, penalty="worst")(episodes("ab", "a")).values.tolist() == [2.0, 1.0]
    uncertain = Ensemble(members, k=0.5, penalty="variance")(episodes("ab"))
    assert uncertain.values == pytest.approx([6.0 - 0.5 * np.var([2.0, 4.0, 12.0])])
    with pytest.raises(ConfigError, match="has no k"):
        Ensemble(members, k=1.0, penalty="worst")
    with pytest.raises(ConfigError, match="'best' is not one of"):
        Ensemble(members, penalty="best")  # type: ignore[arg-type]


def test_the_penalty_is_saved(tmp_path: Path) -> None:
    saved = Ensemble([small_reward_model(seed=1), small_reward_model(seed=2)], penalty="worst")
    saved.save(tmp_path)
    again = load_reward(str(tmp_path))
    assert isinstance(again, Ensemble)
    assert again.penalty == "worst"
    texts = episodes("cats", "dogs and birds")
    assert again(texts).values == pytest.approx(saved(texts).values)
    settings = tmp_path / "reward_model.json"
    settings.write_text(settings.read_text().replace('"worst"', '"best"'))
    with pytest.raises(DataError, match="best"):
        load_reward(str(tmp_path))


def test_terms_of_all_members_are_averaged() -> None:
    one, two = small_reward_model("a", "b", seed=1), small_reward_model("a", "c", seed=2)
    texts = episodes("cats", "dogs and birds")
    found = Ensemble([one, two])(texts)
    assert set(found.terms) == {"a", "std"}
    assert found.terms["a"] == pytest.approx((one(texts).terms["a"] + two(texts).terms["a"]) / 2)


def test_abstention_and_chance_come_from_the_members() -> None:
    shy = FunctionReward(lambda completion: None if completion == "x" else 1.0, abstains=True)
    dice = FunctionReward(lambda completion: 2.0, deterministic=False)
    ensemble = Ensemble([shy, dice])
    assert ensemble(episodes("x", "y")).abstained.tolist() == [True, False]
    assert not ensemble.deterministic


def test_nonsense_is_refused(tmp_path: Path) -> None:
    member = as_reward_source(lambda completion: 1.0)
    for members, k, weights in (([], 0.0, None), ([member], -1.0, None), ([member], 0.0, [0.0])):
        with pytest.raises(ConfigError):
            Ensemble(members, k, weights=weights)
    with pytest.raises(ConfigError, match="no learned model"):
        Ensemble([member]).save(tmp_path / "x")
    assert not (tmp_path / "x").exists()
