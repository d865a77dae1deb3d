"""The wait for what is loaded: one line, or a bar that goes away."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from text_gym.utils.waiting import Waiting


def test_without_a_terminal_it_is_one_line_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Waiting("loading PyTorch", Console(file=io.StringIO())):
        assert capsys.readouterr().out == "loading PyTorch …\n"
    assert capsys.readouterr().out == ""


def test_in_a_terminal_it_is_a_bar_that_is_erased_and_gives_the_cursor_back() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=60)
    waiting = Waiting("loading PyTorch", console)
    assert "loading PyTorch" in shown.getvalue()
    waiting.stop()
    waiting.stop()
    assert shown.getvalue().count("\x1b[?25l") == shown.getvalue().count("\x1b[?25h") == 1
    with waiting:  # as `main` does after `train` has closed it
        pass
    lines = shown.getvalue().split("\n")
    assert "loading" not in lines[-1]


def test_a_process_that_is_not_the_first_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shown = io.StringIO()
    for terminal in (False, True):
        with Waiting("loading PyTorch", Console(file=shown, force_terminal=terminal), show=False):
            pass
    assert (capsys.readouterr().out, shown.getvalue()) == ("", "")
