from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from text_gym import ByteTokenizer, Prompt, TextVectorEnv
from text_gym import prompts as module
from text_gym.errors import PromptError
from text_gym.prompts import PromptSequence, as_prompts, texts_in_chunks

ITEMS: list[Any] = [Prompt("a", {"k": 1}), "b", {"prompt": "c", "answer": 4}, {"prompt": "d", "id": 7}]


class Frame:
    """A table as pandas has it, whose iterator gives the names of its columns."""

    columns = ("prompt", "answer")

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def to_dict(self, _: str) -> list[dict[str, str]]:
        """Return the rows."""
        return []


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three prompts are many, and are read two at a time."""
    monkeypatch.setattr(module, "KEPT", 2)
    monkeypatch.setattr(module, "CHUNK", 2)


def check_items(prompts: Sequence[Prompt]) -> None:
    assert prompts[0] is ITEMS[0]
    assert [p.text for p in prompts] == list("abcd")
    assert [dict(p.columns) for p in prompts] == [{"k": 1}, {}, {"answer": 4}, {}]
    assert [p.id for p in prompts] == ["a", "b", "c", "7"]
    assert prompts[-1] == prompts[3] == prompts[3:][0] == list(prompts)[3]
    assert [text for chunk in texts_in_chunks(prompts) for text in chunk] == list("abcd")


def test_prompts_of_every_form() -> None:
    check_items(as_prompts(ITEMS))
    assert [p.text for p in as_prompts(t for t in "xy")] == ["x", "y"]


@pytest.mark.parametrize("empty", [None, float("nan"), ""])
def test_an_empty_cell_is_no_id(empty: Any) -> None:
    assert [p.id for p in as_prompts([{"prompt": t, "id": empty} for t in "ab"])] == ["a", "b"]
    assert as_prompts([{"prompt": "a", "id": 0}])[0].id == "0"


@pytest.mark.usefixtures("large")
def test_many_prompts_are_made_when_they_are_asked_for() -> None:
    given = list(ITEMS)
    prompts = as_prompts(given)
    given[1] = "changed"
    check_items(prompts)
    assert isinstance(prompts, PromptSequence)
    assert as_prompts(prompts) is prompts
    assert [len(chunk) for chunk in texts_in_chunks(prompts)] == [2, 2]
    assert isinstance(as_prompts(t for t in "xyz"), PromptSequence)


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([], "no prompts"),
        ("text", "single string"),
        (b"text", "single string"),
        (["a", None], "prompt 1 is NoneType"),
        ([{"text": "a"}], "prompt 0 is dict"),
        ([{"prompt": 3}], "prompt 0 is dict"),
        (["a", "b", "c", 4], "prompt 3 is int"),
        ({"train": ["a"], "test": ["b"]}, r"a dict with the keys 'train, test'; pass one of its values"),
        ({"a", "b"}, "a set, whose order changes from run to run"),
        (frozenset("ab"), "a frozenset, whose order"),
        (Frame(), r"prompts is a Frame; pass its rows, in pandas prompts.to_dict\('records'\)"),
        (5, "prompts is int '5'; pass a list"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_what_is_no_prompt(prompts: Any, says: str, many: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if many:
        monkeypatch.setattr(module, "KEPT", 0)
    with pytest.raises(PromptError, match=says):
        TextVectorEnv(prompts, ByteTokenizer(), len, 2)


class OnDisk(Sequence[str]):
    """Texts that are read by their number alone, as from a file, and are counted."""

    def __init__(self, length: int) -> None:
        self.length, self.read = length, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(index)
        self.read += 1
        return f"prompt {index}"


@pytest.mark.usefixtures("large")
def test_a_sequence_on_the_disk_is_read_once_and_then_by_need() -> None:
    texts = OnDisk(100)
    env = TextVectorEnv(texts, ByteTokenizer(), len, 2, num_envs=3)
    assert texts.read == 100
    _, info = env.reset(seed=0)
    assert texts.read == 103
    chosen = env.batch.prompt_index.tolist()
    assert info["prompt"].tolist() == [f"prompt {i}" for i in chosen]


def test_a_data_set_is_read_by_its_column(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(module, "KEPT", 2)
    monkeypatch.setattr(module, "CHUNK", 2)
    rows = [{"prompt": f"prompt {i}", "answer": i} for i in range(5)]
    data = datasets.Dataset.from_list(rows)
    listed = TextVectorEnv(rows, ByteTokenizer(), len, 2, num_envs=4)
    for given in (data, data["prompt"]):
        env = TextVectorEnv(given, ByteTokenizer(), len, 2, num_envs=4)
        assert env.reset(seed=0)[1]["prompt"].tolist() == listed.reset(seed=0)[1]["prompt"].tolist()
    assert as_prompts(data)[3].columns == {"answer": 3}
    with pytest.raises(PromptError, match="prompt 2 is dict"):
        TextVectorEnv(datasets.Dataset.from_list([*rows[:2], {"prompt": None}]), ByteTokenizer(), len, 2)
    with pytest.raises(PromptError, match="prompt 0 is dict"):
        TextVectorEnv(data.rename_column("prompt", "text"), ByteTokenizer(), len, 2)


class Columnar:
    """Reads as a `datasets.Dataset` does, which need not be installed."""

    column_names = ("prompt", "answer")

    def __init__(self, texts: Sequence[Any]) -> None:
        self.texts, self.slices = texts, 0

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("row by row is slow")

    def select_columns(self, names: list[str]) -> Columnar:
        assert names == ["prompt"]
        return self

    def __getitem__(self, index: Any) -> dict[str, Any]:
        self.slices += isinstance(index, slice)
        return {"prompt": self.texts[index]}


@pytest.mark.usefixtures("large")
def test_a_data_set_is_read_in_slices() -> None:
    data = Columnar(list("abcde"))
    prompts = as_prompts(data)
    assert list(texts_in_chunks(prompts)) == [["a", "b"], ["c", "d"], ["e"]]
    assert data.slices == 3
    with pytest.raises(PromptError, match="prompt 3 is dict"):
        list(texts_in_chunks(as_prompts(Columnar(["a", "b", "c", None]))))
