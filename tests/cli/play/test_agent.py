from __future__ import annotations

import io

import pytest
from rich.console import Console

from text_gym import ByteTokenizer, TextEnv, load_task
from text_gym.cli.play.agent import play


def run(*lines: str) -> tuple[float, str]:
    env = TextEnv(["Say: "], ByteTokenizer(), lambda completion: len(completion) / 10, 4)
    out = io.StringIO()
    last = play(env, Console(file=out, width=200), iter(lines), seed=0)
    return last, out.getvalue()


def test_typed_text_is_appended_token_by_token_and_scored_at_the_end() -> None:
    last, shown = run("ab", ".")
    assert last == pytest.approx(0.2)
    assert "step   1  action    97 'a'" in shown
    assert "step   3  action   256 '<special>'" in shown
    assert "terminated" in shown


def test_the_token_limit_ends_the_episode_and_the_rest_of_the_line_is_dropped() -> None:
    last, shown = run("abcdefgh", "x", ":reset", "#65")
    assert last == pytest.approx(0.4)
    assert shown.count("terminated") == 1
    assert "the episode is over" in shown
    assert "step   1  action    65 'A'" in shown


def test_a_bad_token_is_explained_and_changes_nothing() -> None:
    last, shown = run("#999", "a", ":obs", ".")
    assert "outside [0, 258)" in shown
    assert "length 6, tokens [83, 97, 121, 58, 32, 97]" in shown
    assert last == pytest.approx(0.1)


@pytest.mark.parametrize("typed", ["#--1", "#²", "#" + "9" * 30, "#-"])
def test_what_is_no_number_is_a_text(typed: str) -> None:
    _, shown = run(f"?{typed}", typed, ".")
    assert str(list(typed.encode())) in shown
    assert "action    35 '#'" in shown


def test_replies_are_shown_and_count_as_no_steps() -> None:
    env = TextEnv(task=load_task("guess"), infos="changing")
    out = io.StringIO()
    play(env, Console(file=out, width=200), iter(["4", "5"]), seed=0)
    lines = out.getvalue().splitlines()
    first = next(i for i, line in enumerate(lines) if "step   1" in line)
    assert lines[first + 1] == "reply  <"  # the number is 3
    assert "step   2" in lines[first + 2]


def test_hostile_output_is_shown_as_escapes() -> None:
    _, shown = run("\x1b]0;x", ".")
    assert "\x1b" not in shown
    assert "\\x1b" in shown


def test_quitting_before_the_end_has_no_return() -> None:
    last, shown = run(":help", "?hi", ":quit", "never read")
    assert last != last
    assert "[104, 105]" in shown
