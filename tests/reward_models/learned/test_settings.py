from __future__ import annotations

from pathlib import Path

from text_gym.reward_models.learned.settings import read_settings, write_settings


def test_settings_come_back(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == {}
    write_settings(tmp_path / "new", "ngrams", {"name": "x"})
    assert read_settings(tmp_path / "new") == {"kind": "ngrams", "name": "x"}
