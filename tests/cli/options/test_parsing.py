"""Tests of reading a command's options into dataclasses."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from text_gym.cli.options.parsing import parse, value_of


@dataclass(frozen=True)
class Left:
    """Compare things.

    Args:
        data: A file.
        count: How many.
    """

    data: str = "none"
    count: int = 3


@dataclass(frozen=True)
class Right:
    """Settings.

    Args:
        model: A model.
        rate: A rate.
    """

    model: str = "small"
    rate: float = 0.5


def test_options_fill_their_own_dataclass() -> None:
    left, right = parse("compare", ["--count", "7", "--rate", "0.25"], Left, Right)
    assert left == Left(count=7)
    assert right == Right(rate=0.25)


def test_other_names_stand_in_only_where_the_name_is_free() -> None:
    left, right = parse("compare", ["--dataset=x.csv", "--model", "big"], Left, Right)
    assert left.data == "x.csv"
    assert right.model == "big"


def test_unknown_option_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse("compare", ["--cuont", "7"], Left)
    assert exit_.value.code == 2
    assert "count" in "".join(capsys.readouterr())


def test_value_of_reads_both_spellings() -> None:
    assert value_of(["--a", "1", "--algorithm", "grpo"], "--algorithm", "ppo") == "grpo"
    assert value_of(["--algorithm=rloo"], "--algorithm", "ppo") == "rloo"
    assert value_of(["--algorithm"], "--algorithm", "ppo") == "ppo"
