from __future__ import annotations

import inspect
import io
import pickle
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
from gymnasium.error import ResetNeeded
from hypothesis import given
from hypothesis import strategies as st

from text_gym import errors
from text_gym.cli.main import main
from text_gym.errors import MissingLibraryError, TextGymError, UnknownNameError, did_you_mean, excerpt

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, TextGymError)]


@pytest.mark.parametrize("error", CLASSES)
def test_one_except_catches_all_of_them(error: type[TextGymError]) -> None:
    arguments: dict[type[TextGymError], tuple[Any, ...]] = {
        UnknownNameError: ("column", "name", ["names"]),
        MissingLibraryError: ("what happened", "library", "library"),
    }
    raised = error(*arguments.get(error, ("what happened",)))
    with pytest.raises(TextGymError, match=r"name|what happened"):
        raise raised


def test_each_is_what_python_and_gymnasium_would_raise() -> None:
    builtin = {c.__name__: c.__mro__[2:] for c in CLASSES}
    assert ValueError in builtin["TokenError"]
    assert ValueError in builtin["RewardError"]
    assert KeyError in builtin["UnknownNameError"]
    assert ArithmeticError in builtin["NonFiniteError"]
    assert ResetNeeded in builtin["EpisodeError"]


def test_the_nearest_place_is_suggested_for_a_mistyped_one(tmp_path: Path) -> None:
    for name in ("guess", "shop", ".guesx"):
        (tmp_path / name).mkdir()
    assert did_you_mean(tmp_path / "gues") == f"; did you mean {str(tmp_path / 'guess')!r}?"
    assert did_you_mean(tmp_path / "nothing like it") == ""
    assert did_you_mean(tmp_path / "gone" / "gues") == ""


def test_a_mistyped_run_is_told_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "guess").mkdir()
    monkeypatch.chdir(tmp_path)
    for line in (
        "view gues",
        "train --resume gues",
        "push gues me/it",
        "sample --policy gues",
        "evaluate gues",
    ):
        said = io.StringIO()
        with redirect_stderr(said):
            assert main(line.split()) == 2
        assert "; did you mean 'guess'?" in said.getvalue(), line
        assert "save it again" not in said.getvalue()


def test_unknown_names_suggest_the_nearest() -> None:
    error = UnknownNameError("task", "prodcts", ["sort", "products"])
    assert str(error) == "unknown task 'prodcts'; did you mean 'products'? Known: products, sort"
    assert str(UnknownNameError("task", "zzz", ["sort"])) == "unknown task 'zzz'. Known: sort"
    assert str(UnknownNameError("reward", "zzz", ["slots", "slots"])) == "unknown reward 'zzz'. Known: slots"
    assert str(UnknownNameError("task", "zzz", [])) == "unknown task 'zzz'. Known: none"


def test_errors_survive_pickling_between_processes() -> None:
    error = UnknownNameError("task", "prodcts", ["products"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@given(st.text(), st.integers(2, 80))
def test_an_excerpt_is_short_printable_and_on_one_line(text: str, width: int) -> None:
    shown = excerpt(text, width)
    assert shown.isprintable()
    assert "\n" not in shown
    # An escape such as \U0001f642 is ten characters; quotes stand around.
    assert len(shown) <= 10 * width + 2
    if text.isascii() and text.isalnum() and len(text) <= width:
        assert shown == f"'{text}'"


def test_an_excerpt_of_a_long_text_is_cut() -> None:
    assert excerpt("x" * 100, 5) == "'xxxx…'"
    assert excerpt("x" * 5, 5) == "'xxxxx'"
