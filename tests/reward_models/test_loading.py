from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from text_gym import ByteTokenizer, Episode, Prompt, TextGymError
from text_gym.errors import ConfigError, DataError, RewardError, UnknownNameError
from text_gym.reward_models import Length, SlotCoverage, load_reward
from text_gym.reward_models.loading import REWARDS
from text_gym.reward_models.names import REWARD_NAMES

TOKENIZER = ByteTokenizer()
EPISODE = Episode.of("Say:", "hello you", TOKENIZER)
FILE = """
from dataclasses import dataclass
from text_gym import RewardSource
from helper import FACTOR

def shout(completion):
    return FACTOR * completion.isupper()

def scaled(completion, factor):
    return factor * len(completion)

class Constant(RewardSource):
    def __init__(self, value=3.0):
        self.value = value
    def score(self, episodes):
        return [self.value] * len(episodes)

def make():
    return Constant(5.0)

def nonsense():
    return 1

source = Constant(7.0)
number = 8
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("FACTOR = 2\n")
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


def test_every_name_loads_or_says_what_it_needs() -> None:
    for name in set(REWARDS) - {"rubric", "keywords", "judge", "human_web"}:  # the last two have own tests
        assert load_reward(name).name == name
    for name in ("rubric", "keywords"):  # nothing to judge by
        with pytest.raises(ConfigError):
            load_reward(name)


def test_names_take_arguments_and_prompts() -> None:
    source = load_reward("length", low=1, high=2)
    assert isinstance(source, Length)
    assert source.high == 2
    slots = load_reward("slots", prompts=[Prompt("colour[red]"), Prompt("colour[blue]")])
    assert isinstance(slots, SlotCoverage)
    assert slots.lexicon["colour"] == {"red", "blue"}
    assert isinstance(load_reward("length", prompts=[Prompt("x")]), Length)
    with pytest.raises(ConfigError, match="it takes"):
        load_reward("length", shortest=3)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'slots'"):
        load_reward("slot")


def test_a_folder_that_is_not_there_is_named_as_such() -> None:
    for spec in ("model", "path/to/model"):
        with pytest.raises(UnknownNameError, match=f"there is no folder '{spec}' with a reward model"):
            load_reward(spec)


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("shout", {}, 0),
        ("scaled", {"factor": 10}, 90),
        ("Constant", {}, 3),
        ("Constant", {"value": 4.0}, 4),
        ("make", {}, 5),
        ("source", {}, 7),
    ],
)
def test_files(file: Path, name: str, kwargs: dict[str, Any], expected: float) -> None:
    before = list(sys.path)
    assert load_reward(f"{file}:{name}", **kwargs)([EPISODE]).values.tolist() == [expected]
    assert sys.path == before


def test_functions_of_files_keep_their_name_and_pickle(file: Path) -> None:
    source = load_reward(f"{file}:shout")
    assert source.name == "shout"
    loud = Episode.of("Say:", "HELLO", TOKENIZER)
    assert pickle.loads(pickle.dumps(source))([loud]).values.tolist() == [2]


def test_modules_of_the_working_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    try:
        assert load_reward("mine:source")([EPISODE]).values.tolist() == [7]
    finally:
        sys.modules.pop("mine", None)
        sys.modules.pop("helper", None)
    assert load_reward("text_gym.reward_models:Length", low=1, high=2)([EPISODE]).values.tolist() == [1]


def test_bad_specs_are_named_errors(file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "folder").mkdir()
    cases: list[tuple[str, type[TextGymError], str]] = [
        (f"{tmp_path}/none.py:f", DataError, "there is no file"),
        ("no_such_module_x:f", DataError, "no_such_module_x"),
        (f"{tmp_path}/broken.py:f", RewardError, "ZeroDivisionError"),
        (f"{file}:shouts", UnknownNameError, "did you mean 'shout'"),
        (f"{file}:number", ConfigError, "not a reward source or function"),
        (f"{file}:nonsense", ConfigError, "made a int"),
        (str(file), ConfigError, "which function"),
        (str(tmp_path / "folder"), ConfigError, "no learned reward model"),
    ]
    for spec, error, words in cases:
        with pytest.raises(error, match=words):
            load_reward(spec)
    with pytest.raises(ConfigError, match="takes no arguments"):
        load_reward(f"{file}:source", value=1)


def test_options_of_a_function_are_not_taken_for_texts(file: Path) -> None:
    file.write_text("def long(completion, *, least=3):\n    return len(completion) >= least\n")
    assert load_reward(f"{file}:long")([EPISODE]).values.tolist() == [1]
    assert load_reward(f"{file}:long", least=99)([EPISODE]).values.tolist() == [0]


def test_the_names_are_known_without_the_rewards() -> None:
    assert list(REWARD_NAMES) == sorted(REWARDS)
