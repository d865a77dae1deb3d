"""Python that users name: it runs once as a module of its own, and what goes wrong is said."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from text_gym.errors import ConfigError, DataError, RewardError, TextGymError, UnknownNameError
from text_gym.utils.user_code import load_from, run_file, split_place


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("FACTOR = 2\n")
    (tmp_path / "mine.py").write_text(
        "from beside import FACTOR\n\nclass Outer:\n    class Inner:\n        value = 3 * FACTOR\n"
    )
    return tmp_path / "mine.py"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("a/b.py:f", ("a/b.py", "f")),
        ("pkg.mod:Cls.method", ("pkg.mod", "Cls.method")),
        ("C:/x/mine.py:f", ("C:/x/mine.py", "f")),
        ("ppo", None),
        ("folder/", None),
        (":f", None),
        ("C:\\models", ("C", "\\models")),  # told apart by whoever knows folders
    ],
)
def test_place_and_name(spec: str, expected: tuple[str, str] | None) -> None:
    assert split_place(spec) == expected


def test_files_find_what_stands_beside_them_and_leave_the_path_alone(file: Path) -> None:
    before = list(sys.path)
    assert load_from(str(file), "Outer.Inner").value == 6
    assert sys.path == before
    sys.modules.pop("beside", None)


def test_modules_of_the_working_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    try:
        assert load_from("mine", "Outer").Inner.value == 6
    finally:
        sys.modules.pop("mine", None)
        sys.modules.pop("beside", None)


def test_what_goes_wrong_is_said(file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    cases: list[tuple[str, str, type[TextGymError], str]] = [
        (f"{tmp_path}/none.py", "f", DataError, "there is no file"),
        ("no_such_module_x", "f", DataError, "no_such_module_x"),
        (
            f"{tmp_path}/broken.py",
            "f",
            ConfigError,
            r"by zero at .*broken.py, line 1",
        ),
        (str(file), "Outr", UnknownNameError, "did you mean 'Outer'"),
    ]
    for place, name, error, words in cases:
        with pytest.raises(error, match=words):
            load_from(place, name)
    with pytest.raises(RewardError, match="ZeroDivisionError"):
        load_from(f"{tmp_path}/broken.py", "f", RewardError)
    assert not [name for name in sys.modules if name.startswith("text_gym_user_broken")]


def test_a_file_that_changes_within_a_second_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    file = tmp_path / "quick.py"
    for number in (1, 2, 3):
        file.write_text(f"NUMBER = {number}\n")
        os.utime(file, (1e9, 1e9))
        found = run_file(file).NUMBER
        assert found == number
