from __future__ import annotations

from pathlib import Path

import pytest

from tests.reward_model_tools import episodes, pairs, small_reward_model
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models import Ensemble, NgramModel, load_reward
from text_gym.reward_models.learned.loading import load_reward_model
from text_gym.reward_models.learned.settings import read_settings, write_settings


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


def test_settings_come_back(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == {}
    write_settings(tmp_path / "new", "ngrams", {"name": "x"})
    assert read_settings(tmp_path / "new") == {"kind": "ngrams", "name": "x"}
