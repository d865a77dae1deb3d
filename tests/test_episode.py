from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym import (
    ByteTokenizer,
    Episode,
    Prompt,
    TextVectorEnv,
    WordTokenizer,
    read_transcripts,
    write_transcripts,
)
from text_gym.episode import FinishReason, word_counts
from text_gym.errors import DataError, PromptError

BYTES = ByteTokenizer()
ANY_TEXT = st.text() | st.text(st.sampled_from("\x00\r\n\u2028\u202e\x1b]🙂e\u0301שa"))


def episode(ids: list[int], **fields: Any) -> Episode:
    return Episode(Prompt("p"), np.array([112]), np.array(ids, dtype=np.int64), BYTES, **fields)


def test_the_completion_leaves_eos_and_the_stop_string_out() -> None:
    assert episode([104, 105, 256], finish_reason="eos").completion == "hi"
    assert episode([104, 105], finish_reason="length").completion == "hi"
    assert episode([104, 10, 10], finish_reason="stop", stop="\n\n").completion == "h"
    assert episode([]).completion == ""


@pytest.mark.parametrize(
    ("reason", "done", "whole"),
    [(None, False, False), ("eos", True, True), ("stop", True, True), ("length", True, False)],
)
def test_an_episode_is_done_once_it_has_a_reason_and_whole_unless_it_was_cut(
    reason: FinishReason | None, done: bool, whole: bool
) -> None:
    made = episode([104], finish_reason=reason)
    assert (made.done, made.whole) == (done, whole)


def test_an_episode_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        episode([104]).finish_reason = "eos"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        episode([104]).completion = "other"  # type: ignore[misc]


def test_an_episode_made_of_texts() -> None:
    made = Episode.of("2+2=", "4", BYTES, answer=4)
    assert made.prompt.columns == {"answer": 4}
    assert made.completion_ids.tolist() == [ord("4"), 256]
    assert made.finish_reason == "eos"
    lossy = Episode.of("a", "ab", type("Lossy", (WordTokenizer,), {"encode": lambda *_: [0]})("ab"))
    assert lossy.completion == "ab"  # what was written stays, whatever the tokenizer makes of it


def test_episodes_survive_pickling() -> None:
    made = Episode.of("p", "hi", BYTES)
    assert pickle.loads(pickle.dumps(made)).completion == "hi"
    env = TextVectorEnv(["p"], BYTES, len, 2)
    env.reset(seed=0)
    env.step([104])
    (played,) = env.episodes(np.array([0]))
    again = pickle.loads(pickle.dumps(played))
    assert (again.completion, again.index, again.agent_mask) == ("h", 0, None)
    assert repr(again) == "Episode('p' -> 'h', 1 tokens, running)"


@settings(deadline=None)
@given(ANY_TEXT, ANY_TEXT, st.lists(st.integers(0, 257), max_size=9))
def test_transcripts_come_back_exactly(prompt: str, column: str, ids: list[int]) -> None:
    """Any text, any bytes (also invalid UTF-8, NUL and line separators), through a file."""
    surrogates = any(0xD800 <= ord(c) < 0xE000 for c in prompt + column)
    if surrogates:
        return  # no text of a file or a terminal: UTF-8 cannot hold it
    row = Episode(
        Prompt(prompt, {"note": column}), np.array(BYTES.encode(prompt)), np.array(ids, dtype=np.int64), BYTES
    )
    path = Path(_FOLDER) / "one.jsonl"
    write_transcripts(path, [row], [0.25])
    (again,) = read_transcripts(path, BYTES)
    assert (again.prompt, again.completion) == (row.prompt, row.completion)
    assert again.completion_ids.tolist() == ids
    assert again.completion_ids.dtype == np.int64
    assert len(path.read_bytes().splitlines()) >= 1


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    global _FOLDER
    _FOLDER = str(tmp_path_factory.mktemp("transcripts"))


_FOLDER = ""


def test_every_byte_and_every_pair_of_bytes_comes_back(tmp_path: Path) -> None:
    pairs = [[a, b] for a in range(256) for b in range(256)]
    episodes = [episode(ids) for ids in pairs]
    write_transcripts(tmp_path / "pairs.jsonl", episodes)
    again = list(read_transcripts(tmp_path / "pairs.jsonl", BYTES))
    assert [e.completion_ids.tolist() for e in again] == pairs
    assert [e.completion for e in again] == [bytes(p).decode("utf-8", "replace") for p in pairs]


def test_transcripts_of_another_tokenizer_keep_the_texts_and_not_the_ids(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_transcripts(path, [Episode.of("a", "ba", BYTES)], [1.0])
    (again,) = read_transcripts(path, WordTokenizer("ab", separator=""))
    assert again.completion == "ba"
    assert again.completion_ids.tolist() == [1, 0, 2]
    assert json.loads(path.read_text())["reward"] == 1.0


def test_endings_and_origin_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    stopped = episode([104, 46], finish_reason="stop", stop=".", seed=3, index=5)
    write_transcripts(path, [stopped, episode([104], finish_reason="length"), episode([104])])
    one, two, three = read_transcripts(path, BYTES)
    assert (one.finish_reason, one.stop, one.seed, one.index) == ("stop", ".", 3, 5)
    assert (two.finish_reason, three.finish_reason) == ("length", None)
    again = list(read_transcripts(path, WordTokenizer("hp", separator="")))
    assert [e.finish_reason for e in again] == ["stop", "length", None]
    assert [e.completion_ids.tolist() for e in again] == [
        [0, 2],
        [0],
        [0],
    ]  # EOS where the text ended by itself


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"terminated": True, "truncated": False}, "eos"),
        ({"terminated": True, "truncated": False, "stop": "."}, "stop"),
        ({"terminated": False, "truncated": True}, "length"),
        ({"terminated": False, "truncated": False}, None),
        ({}, "eos"),
    ],
)
def test_older_transcripts_say_terminated_and_truncated(
    said: dict[str, Any], reason: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "t.jsonl"
    ids = {"prompt_ids": [112], "completion_ids": [104], "tokenizer": BYTES.fingerprint}
    rows = [{"prompt": "p", "completion": "h", **said, **more} for more in (ids, {})]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [e.finish_reason for e in read_transcripts(path, BYTES)] == [reason, reason]


@pytest.mark.parametrize("reason", ["EOS", "", "truncated", 3, ["eos"], True])
def test_an_unknown_finish_reason_is_named_with_its_line(reason: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_transcripts(path, [Episode.of("a", "b", BYTES)])
    row = {**json.loads(path.read_text()), "finish_reason": reason}
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"t.jsonl, line 2: finish_reason is .*stop, length, reply or null"):
        list(read_transcripts(path, BYTES))


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"prompt": "a"}', '{"completion": "a"}'])
def test_a_line_that_is_no_transcript_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_transcripts(path, [Episode.of("a", "b", BYTES)])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"t.jsonl, line 2"):
        list(read_transcripts(path, BYTES))


def test_another_number_of_rewards_than_episodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 values of reward for 2 episodes"):
        write_transcripts(tmp_path / "t.jsonl", [episode([1]), episode([2])], [0.5])
    with pytest.raises(DataError, match="1 values of gold for 2 episodes"):
        write_transcripts(tmp_path / "t.jsonl", [episode([1]), episode([2])], [0.5, 1.0], [0.5])


def test_reward_and_gold_of_a_text_stand_side_by_side(tmp_path: Path) -> None:
    write_transcripts(tmp_path / "t.jsonl", [episode([1]), episode([2])], [0.5, 1.0], [2.0, float("nan")])
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [(row["reward"], row["gold"]) for row in rows] == [(0.5, 2.0), (1.0, None)]


def test_words_are_counted_at_white_space() -> None:
    texts = ["", "one", "two words", " don't\n\tsplit, well-kept "]
    assert word_counts([Episode.of("p", t, BYTES) for t in texts]).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("ends", ["", "\n", "\r\n"])
def test_rows_are_added_on_lines_of_their_own(tmp_path: Path, ends: str) -> None:
    path = tmp_path / "t.jsonl"
    for text in ("b", "c"):
        write_transcripts(path, [Episode.of("a", text, BYTES)], append=True)
        path.write_bytes(path.read_bytes().rstrip() + ends.encode())  # as some editors save it
    write_transcripts(path, [Episode.of("a", "d", BYTES)], append=True)
    assert [e.completion for e in read_transcripts(path, BYTES)] == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((3,), "text is '3'; it must be a string"),
        ((None,), "text is 'None'"),
        (("2+2=", "4"), "columns are \"'4'\"; they must be a dict"),
    ],
)
def test_what_is_no_prompt_is_named_where_it_is_made(arguments: Any, told: str) -> None:
    with pytest.raises(PromptError, match=told):
        Prompt(*arguments)
