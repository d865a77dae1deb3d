from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.reward_model_tools import episodes, small_reward_model
from text_gym import FunctionReward, as_reward_source
from text_gym.errors import ConfigError
from text_gym.reward_models import Ensemble


def test_mean_minus_k_std_by_hand() -> None:
    members = [as_reward_source(lambda completion, c=c: c * len(completion)) for c in (1.0, 2.0, 6.0)]
    found = Ensemble(members, k=0.5)(episodes("ab"))
    std = np.std([2.0, 4.0, 12.0])
    assert found.values == pytest.approx([6.0 - 0.5 * std])
    assert found.terms["std"] == pytest.approx([std])
    weighted = Ensemble(members, k=1.0, weights=(2, 1, 1))(episodes("ab"))
    mean = (2 + 2 + 4 + 12) / 4
    assert weighted.values == pytest.approx([mean - np.std([2.0, 2.0, 4.0, 12.0])])


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
