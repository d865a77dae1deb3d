"""Settings: what hashes depend on, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from text_gym.bench.matrix.settings import BEST_OF_N, OPTIMISERS, Settings, digest, digest_of_files
from text_gym.errors import ConfigError, DataError, UnknownNameError


def test_a_digest_follows_from_the_data_and_not_from_its_order() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})
    assert len(digest([])) == 16
    int(digest([]), 16)


def test_a_digest_of_files_sees_every_byte_and_every_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    first = digest_of_files(tmp_path / "a")
    assert digest_of_files(tmp_path / "a") == first
    (tmp_path / "a" / "x").write_text("2")
    second = digest_of_files(tmp_path / "a")
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert len({first, second, digest_of_files(tmp_path / "a")}) == 3
    with pytest.raises(DataError, match="no file or folder"):
        digest_of_files(tmp_path / "b")


def test_optimisers_have_settings_that_can_be_replaced() -> None:
    settings = Settings(override={"rloo": {"learning_rate": 1.0}})
    assert settings.optimiser("rloo") == {**OPTIMISERS["rloo"], "learning_rate": 1.0}
    assert settings.optimiser("ppo") == OPTIMISERS["ppo"]
    assert settings.optimiser(BEST_OF_N)["candidates"] == settings.candidates
    with pytest.raises(UnknownNameError, match="did you mean 'rloo'"):
        settings.optimiser("rlo")


@pytest.mark.parametrize("field", ["iterations", "episodes", "points", "watched", "candidates", "pool"])
def test_nothing_can_be_done_less_than_once(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} is 0"):
        Settings(**{field: 0})  # type: ignore[arg-type]


def test_texts_depend_on_the_task_and_the_policys_content(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("1")
    one = Settings(policy=str(tmp_path)).text_settings()
    (tmp_path / "weights").write_text("2")
    assert Settings(policy=str(tmp_path)).text_settings() != one
    assert Settings(iterations=3).text_settings() == Settings().text_settings()
    assert Settings(task="sort").text_settings() != Settings().text_settings()
