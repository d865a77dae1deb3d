"""Tests of reading a command's options into dataclasses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from text_gym.cli.options.parsing import COLUMN, parse, value_of
from text_gym.cli.options.sft import read_sft
from text_gym.cli.options.train import read_train
from text_gym.errors import ConfigError


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


def test_mistakes_are_one_line_each() -> None:
    for words, line in (
        (["--cuont", "7"], r"no option --cuont; did you mean --count\? See text-gym compare --help"),
        (["--count", "seven"], "--count: invalid literal for int.*'seven'; see text-gym compare --help"),
        (["--count"], "Missing value for argument '--count'"),
        (["stray"], "Unrecognized options: stray"),
    ):
        with pytest.raises(ConfigError, match=line) as caught:
            parse("compare", words, Left)
        assert "\n" not in str(caught.value)


def shown(capsys: pytest.CaptureFixture[str], *classes: type, **kwargs: Any) -> dict[str, str]:
    """What the help shows, by heading."""
    with pytest.raises(SystemExit) as exit_:
        parse("compare", ["--help"], *classes, **kwargs)
    assert exit_.value.code == 0
    headings = re.split(r"^[╭─ ]*(\w+) options[─╮ ]*$", capsys.readouterr().out, flags=re.MULTILINE)
    return dict(zip(headings[1::2], headings[2::2], strict=True))


def test_what_people_use_first_stands_first_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, Left, Right, first=("count", "rate"), settings="ppo")
    assert found["main"].index("--count") < found["main"].index("--rate")
    assert "--data" in found["more"]
    assert "--model" in found["ppo"]
    assert "How many." in found["main"]


@dataclass(frozen=True)
class Flags:
    """Flags.

    Args:
        fall: Let it fall.
        loud: Say more.
        reference: Column of texts.
    """

    fall: bool = True
    loud: bool = False
    reference: str | None = None


def test_a_flag_that_is_on_shows_both_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    box = shown(capsys, Flags)["compare"]
    assert "--fall, --no-fall" in box
    assert "--no-loud" not in box
    assert parse("compare", ["--no-fall", "--loud"], Flags) == [Flags(fall=False, loud=True)]


def test_an_option_can_have_another_word_than_its_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--completion TEXT" in shown(capsys, Flags, flags=COLUMN)["compare"]
    for word in ("completion", "reference", "reference-column"):
        assert parse("compare", [f"--{word}", "ref"], Flags, flags=COLUMN) == [Flags(reference="ref")]


@dataclass(frozen=True)
class Wide:
    """Settings.

    Args:
        count: Another count.
    """

    count: int = 9


def test_a_setting_named_like_an_option_is_refused_unless_the_option_gives_way() -> None:
    with pytest.raises(ConfigError, match="Wide has a setting 'count', which is an option of `text-gym comp"):
        parse("compare", [], Left, Wide)
    left, wide = parse("compare", ["--count", "7"], Left, Wide, give_way=("count",))
    assert (left.count, wide.count) == (3, 7)


def test_value_of_reads_both_spellings() -> None:
    assert value_of(["--a", "1", "--algorithm", "grpo"], "--algorithm", "ppo") == "grpo"
    assert value_of(["--algorithm=rloo"], "--algorithm", "ppo") == "rloo"
    assert value_of(["--algorithm"], "--algorithm", "ppo") == "ppo"


@dataclass(frozen=True)
class Both:
    """Two things.

    Args:
        model: A model.
        policy: A policy.
    """

    model: str = "none"
    policy: str = "none"


def test_an_option_comes_before_the_other_name_of_another() -> None:
    assert parse("compare", ["--policy", "p", "--model", "m"], Both) == [Both(model="m", policy="p")]


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_names_the_folder(
    rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of them makes up a folder's name by the clock, and only the first one's is written to."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    *_, waiting = read_train(["--task", "guess", "--policy", "new", "--algorithm", "grpo"])
    waiting.stop()
    read_sft(["--task", "products"])
    told = capsys.readouterr().out
    names = ["recommended for guess", "folder", "measuring the start", "loading PyTorch …"]
    assert [line.partition(":")[0] for line in told.splitlines()] == ([] if rank else names)
