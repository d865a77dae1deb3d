from __future__ import annotations

from pathlib import Path

import pytest

from tests.reward_model_tools import episodes, pairs, small_reward_model
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models import Ensemble, NgramModel, load_reward
from text_gym.reward_models.learned.loading import load_reward_model


def test_every_kind_is_loaded_by_its_folder(tmp_path: Path) -> None:
    neural, linear = small_reward_model(), NgramModel.fit(pairs())
    sources = (neural, linear, Ensemble([neural, linear], 0.5))
    texts = episodes("a good text", "a bad text", "")
    for source in sources:
        folder = tmp_path / source.name
        source.save(folder)
        again = load_reward(str(folder))
        assert type(again) is type(source)
        assert again(texts).values.tolist() == source(texts).values.tolist()


def test_folders_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no learned reward model"):
        load_reward_model(tmp_path)
    (tmp_path / "reward_model.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        load_reward_model(tmp_path)
    (tmp_path / "reward_model.json").write_text('{"kind": "oracle"}')
    with pytest.raises(DataError, match="which kind"):
        load_reward_model(tmp_path)


def test_a_member_that_is_missing_is_named(tmp_path: Path) -> None:
    model = NgramModel.fit(pairs())
    Ensemble([model, model]).save(tmp_path)
    for file in (tmp_path / "member-1").iterdir():
        file.unlink()
    (tmp_path / "member-1").rmdir()
    with pytest.raises(DataError, match="member-1"):
        load_reward_model(tmp_path)


@pytest.mark.parametrize(
    "settings", ['{"kind": "ensemble"}', '{"kind": "ensemble", "k": "x", "weights": [1]}']
)
def test_a_broken_ensemble_is_named(tmp_path: Path, settings: str) -> None:
    (tmp_path / "reward_model.json").write_text(settings)
    with pytest.raises(DataError, match="no saved ensemble"):
        load_reward_model(tmp_path)
