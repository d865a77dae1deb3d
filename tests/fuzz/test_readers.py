"""Files of rows, damaged in any way: every reader takes them or refuses them with an error of ours.

What a writer of ours wrote reads back equal, whatever the texts hold.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import TEXTS, damaged, damaged_bytes, lines_of, read_or_refused
from tests.fuzz.effort import count, effort, tries
from text_gym import ByteTokenizer, Prompt
from text_gym.bench.analysis.results import KEY, read_leaderboard
from text_gym.cli.labels import questions_of
from text_gym.cli.options.labels import LabelOptions
from text_gym.data import Data, pairs_from, prompts_from, read_rows
from text_gym.episode import Episode
from text_gym.errors import DataError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.judge.judge import judge_from_environment
from text_gym.reward_models.labels.formats import export_labels, import_labels
from text_gym.reward_models.labels.questions import LabelCriterion, Question
from text_gym.reward_models.preferences.files import read_likes, read_pairs, read_ratings, write_opinions
from text_gym.reward_models.preferences.opinions import Like, PreferencePair, Rating
from text_gym.runs.folder import RunFolder
from text_gym.runs.saved_policy import policy_folder, read_origin
from text_gym.transcripts import read_transcripts, write_transcripts

BYTES = ByteTokenizer()


class Reader(NamedTuple):
    """A way to read a file, and rows that it takes."""

    name: str  # of the file
    rows: Callable[[], list[Any]]
    read: Callable[[Path], Any]


def labels(form: str) -> Callable[[], list[Any]]:
    """The rows of an export of some labels of all kinds."""

    @cache
    def rows() -> list[Any]:
        with LabelStore(":memory:") as store, tempfile.TemporaryDirectory() as folder:
            criteria = (LabelCriterion("wit", "Is it funny?"), LabelCriterion("style", high=7))
            ids = store.put(
                [
                    Question.rating("p", "a", criteria),
                    Question.comparison("p", "a", "b\u2028"),
                    Question.best_of_n("p", ["a", "b", "c"]),
                ],
                policy="small",
                overlap=2,
            )
            answers: list[dict[str, Any]] = [{"wit": 4, "style": 7}, {"preference": "tie"}, {"preference": 3}]
            for item, values in zip(ids, answers, strict=True):
                store.record(item, "ada", values, latency=1.5, at=1.0)
            store.record(ids[0], "bob", answers[0])
            if form == "jsonl":
                store.undo("bob")
                store.skip(ids[1], "bob")
            file = Path(folder) / "out"
            export_labels(store, file, form)
            text = file.read_text(encoding="utf-8")
            found: list[Any] = (
                [json.loads(line) for line in text.split("\n")[:-1]] if form == "jsonl" else json.loads(text)
            )
            return found

    return rows


def imported(file: Path) -> None:
    with LabelStore(":memory:") as store:
        try:
            import_labels(store, file)
        finally:
            store.verify()  # what got in before the bad row is whole


def queued(file: Path) -> None:
    with LabelStore(":memory:") as store:
        store.put(questions_of(LabelOptions(data=str(file), kind="best-of-n")))


def judged(file: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEXT_GYM_JUDGE_URL", "http://127.0.0.1:9/v1")
        patch.setenv("TEXT_GYM_JUDGE_MODEL", "none")
        patch.setenv("TEXT_GYM_JUDGE_RUBRIC", str(file))
        judge_from_environment()


def sft(file: Path) -> None:
    train, held_out = Data(str(file), "prompt", "completion").load()
    assert pairs_from([*train, *held_out])


def resumed(file: Path) -> None:
    (file.parent / "config.json").write_text("{}")
    with RunFolder(file.parent, {}, logs=(), resume=True) as run:
        assert all(isinstance(row, dict) for row in run.rows)


TRANSCRIPTS = [
    {
        "prompt": "a", "completion": "b", "id": "x", "columns": {"y": 1}, "finish_reason": "eos",
        "stop": "", "tokenizer": BYTES.fingerprint, "prompt_ids": [97], "completion_ids": [98, 256],
        "seed": 1, "index": 2,
    },
    {"prompt": "a", "completion": "b\u2028", "terminated": False, "truncated": True},
]  # fmt: skip
PAIRS = [
    {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1.5, "weight": 2, "rater": "eve", "z": [1]},
    {"prompt": "c", "chosen": "b", "rejected": "c", "tie": True, "prompt_id": "n"},
]
ROWS = [{"prompt": f"p{i}", "completion": f"t{i}"} for i in range(4)]
LEADERBOARD = [{**dict.fromkeys(KEY, "x"), "seed": i, "gold": 0.5, "kl_coefficient": None} for i in range(2)]
READERS = {
    "rows": Reader("a.jsonl", lambda: ROWS, read_rows),
    "rows of a list": Reader("a.json", lambda: ROWS, read_rows),
    "prompts": Reader("a.jsonl", lambda: ROWS, lambda f: prompts_from(read_rows(f), "prompt", "completion")),
    "texts to learn from": Reader("a.jsonl", lambda: ROWS, sft),
    "pairs": Reader("a.jsonl", lambda: PAIRS, read_pairs),
    "ratings": Reader(
        "a.jsonl",
        lambda: [{"prompt": "a", "completion": "b", "wit": 3, "style": None}] * 2,
        lambda f: read_ratings(f, ["wit", "style"]),
    ),
    "likes": Reader(
        "a.jsonl",
        lambda: [{"prompt": "a", "completion": "b", "label": x, "weight": 1} for x in (True, "0", 1.0)],
        read_likes,
    ),
    "transcripts": Reader("a.jsonl", lambda: TRANSCRIPTS, lambda f: list(read_transcripts(f, BYTES))),
    "labels": Reader("a.jsonl", labels("jsonl"), imported),
    "labels of Argilla": Reader("a.json", labels("argilla"), imported),
    "labels of Label Studio": Reader("a.json", labels("label-studio"), imported),
    "questions": Reader("a.jsonl", lambda: [{"prompt": "a", "completions": ["b", "c"]}], queued),
    "a judge's rubric": Reader(
        "a.json", lambda: [{"name": "wit", "question": "Funny?", "low": 1, "high": 5, "weight": "2"}], judged
    ),
    "metrics": Reader("metrics.jsonl", lambda: [{"iteration": i, "kl": None} for i in range(2)], resumed),
    "a leaderboard": Reader("results.json", lambda: LEADERBOARD, read_leaderboard),
    "rounds": Reader("rounds.jsonl", lambda: [{"kept": 1}], lambda f: policy_folder(f.parent)),
    "an origin": Reader(
        "text_gym.json",
        lambda: [{"task": "copy", "max_tokens": 3, "held_out": 0.2, "task_arguments": {}}],
        lambda f: read_origin(f.parent),
    ),
}


def written(reader: Reader, rows: list[Any]) -> bytes:
    """The rows in the form that the reader's file has."""
    if reader.name == "text_gym.json":
        return json.dumps(rows[0] if rows else None).encode()
    return json.dumps(rows).encode() if reader.name.endswith(".json") else lines_of(rows)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


@pytest.mark.parametrize("name", READERS)
def test_what_is_damaged_below_is_whole(name: str, place: Path) -> None:
    reader = READERS[name]
    file = place / reader.name
    file.write_bytes(written(reader, reader.rows()))
    assert read_or_refused(reader.read, file)


@tries(120, 30_000)
def test_damaged_rows_are_read_or_refused(tries: int, place: Path, tried: Callable[..., None]) -> None:
    outcomes = [0, 0]

    @effort(tries)
    @given(st.sampled_from(sorted(READERS)), st.data())
    def run(name: str, data: st.DataObject) -> None:
        reader = READERS[name]
        rows = reader.rows()
        if data.draw(st.booleans()):
            content = written(reader, data.draw(damaged(rows)))
        else:
            content = data.draw(damaged_bytes(written(reader, rows)))
        file = place / reader.name
        file.write_bytes(content)
        outcomes[read_or_refused(reader.read, file)] += 1

    run()
    assert min(outcomes) > tries // 40  # neither half of them is tried in vain
    tried(
        "a damaged file of rows (prompts, opinions, labels, metrics) is read, or refused with a typed error",
        sum(outcomes), "damaged files", read=outcomes[1], refused=outcomes[0],
    )  # fmt: skip


HUGE = "1" + "0" * 400  # a whole number beyond every float
DEEP = "[" * 3000 + "]" * 3000
OF_ARGILLA = {
    "metadata": {"text_gym": json.dumps(
        {"kind": "rating", "criteria": [{"name": "wit"}], "policy": "", "labels": {}})},
    "fields": {"prompt": "p", "text_1": "a"},
    "responses": {"wit": [{"value": 1, "user_id": "1"}]},
}  # fmt: skip
OF_LABEL_STUDIO = {
    "data": {"prompt": "p", "text_1": "a", "text_2": "b", "meta": {"text_gym": json.dumps(
        {"kind": "comparison", "criteria": [{"name": "wit"}], "policy": "", "labels": {}})}},
    "annotations": [{"completed_by": 1, "result": [
        {"type": "choices", "from_name": "wit", "value": {"choices": []}}]}],
}  # fmt: skip
ONCE_RAISED = [
    ("a leaderboard", json.dumps([{**LEADERBOARD[0], "task": {}}])),
    ("a leaderboard", json.dumps([LEADERBOARD[0]]).replace('"seed": 0', f'"seed": {HUGE}')),
    ("pairs", '{"prompt": "a", "chosen": "b", "rejected": "c", "margin": ' + HUGE + "}"),
    ("a judge's rubric", '[{"name": "wit", "question": "Funny?", "weight": ' + HUGE + "}]"),
    ("labels", json.dumps(labels("jsonl")()[0]).replace('_seconds": 1.5', f'_seconds": {HUGE}')),
    ("labels of Argilla", json.dumps([{**OF_ARGILLA, "metadata": {"text_gym": DEEP}}])),
    ("labels of Argilla", json.dumps([{**OF_ARGILLA, "fields": {"prompt": {}, "text_1": "a"}}])),
    ("labels of Argilla", json.dumps([OF_ARGILLA]).replace('name\\":', 'guideline\\": [], \\"name\\":')),
    ("labels of Label Studio", json.dumps([OF_LABEL_STUDIO])),
    ("metrics", b'{"iteration": 1, "\xff": 2}\n'),
    ("metrics", '{"kl": 1}\n'),
    ("rounds", '{"kept": ' + DEEP + "}"),
    ("rounds", '{"kept": Infinity}'),
    ("transcripts", '{"prompt": "a", "completion": "b", "seed": {}}'),
    ("texts to learn from", '{"prompt": "a", "completion": "b", "references": "c"}'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), ONCE_RAISED, ids=range(len(ONCE_RAISED)))
def test_what_once_left_as_another_error_is_refused(name: str, content: str | bytes, tmp_path: Path) -> None:
    file = tmp_path / READERS[name].name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert not read_or_refused(READERS[name].read, file)


def test_transcripts_that_are_not_there_are_named(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(DataError, match="no such file"):
            list(read_transcripts(place, BYTES))


@tries(40, 5_000)
def test_damaged_tables_are_read_or_refused(tries: int, place: Path) -> None:
    table = b'prompt,chosen,rejected,margin\na,b,c,1\n"d ""e""\n",f,g,\n'

    @effort(tries)
    @given(damaged_bytes(table), st.sampled_from(["csv", "tsv"]))
    def run(content: bytes, ending: str) -> None:
        file = place / f"a.{ending}"
        file.write_bytes(content if ending == "csv" else content.replace(b",", b"\t"))
        for read in (read_rows, read_pairs):
            read_or_refused(read, file)

    run()


# What was written reads back equal

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)
WORDY = TEXTS.filter(lambda t: bool(t.strip()))
FREE = st.sampled_from(["a", "b", "source", "\u2028"])
PROMPTS = st.builds(Prompt, WORDY, st.dictionaries(FREE, PLAIN, max_size=2), TEXTS)
POSITIVE = st.floats(0, 1e300)
OPINIONS: dict[type, st.SearchStrategy[Any]] = {
    PreferencePair: st.builds(
        lambda prompt, a, b, margin, tie, weight, rater: PreferencePair(
            prompt, a, b, 0.0 if tie else margin, tie, weight, rater
        ),
        PROMPTS, TEXTS, TEXTS, POSITIVE, st.booleans(), POSITIVE, TEXTS,
    ),
    Rating: st.builds(
        Rating, PROMPTS, TEXTS,
        st.dictionaries(st.sampled_from(["wit", "style"]), st.floats(-1e300, 1e300), min_size=1),
        POSITIVE, TEXTS,
    ),
    Like: st.builds(Like, PROMPTS, TEXTS, st.booleans(), POSITIVE, TEXTS),
}  # fmt: skip


@tries(40, 5_000)
def test_rows_read_back_equal(tries: int, place: Path, tried: Callable[..., None]) -> None:
    @effort(tries)
    @given(
        st.lists(st.dictionaries(TEXTS, PLAIN, max_size=3), min_size=1, max_size=4),
        st.booleans(),
        st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n"]),
        st.booleans(),
    )
    def run(rows: list[dict[str, Any]], as_ascii: bool, between: str, mark: bool) -> None:
        lines = [json.dumps(row, ensure_ascii=as_ascii) for row in rows]
        start = "\ufeff" if mark else ""
        (place / "same.jsonl").write_bytes((start + between.join(lines)).encode())
        (place / "same.json").write_bytes((start + f"[{','.join(lines)}]").encode())
        assert read_rows(place / "same.jsonl") == read_rows(place / "same.json") == rows

    tried(
        "rows read back as they were written, whatever ends lines elsewhere",
        count(run),
        "files",
    )


@tries(30, 5_000)
def test_tables_read_back_equal(tries: int, place: Path) -> None:
    names = st.lists(
        TEXTS.filter(lambda t: bool(t) and "\0" not in t and t[0] != "\ufeff"), min_size=2, max_size=3
    )

    @effort(tries)
    @given(names.filter(lambda n: len(set(n)) == len(n)), st.data())
    def run(names: list[str], data: st.DataObject) -> None:
        cell = TEXTS.filter(lambda t: "\0" not in t)
        rows = data.draw(st.lists(st.tuples(*[cell] * len(names)), min_size=1, max_size=3))
        for ending, delimiter in (("csv", ","), ("tsv", "\t")):
            out = io.StringIO(newline="")
            csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([names, *rows])
            file = place / f"same.{ending}"
            file.write_text(out.getvalue(), encoding="utf-8", newline="")
            assert read_rows(file) == [dict(zip(names, row, strict=True)) for row in rows]

    run()


@tries(60, 8_000)
def test_opinions_read_back_equal(tries: int, place: Path, tried: Callable[..., None]) -> None:
    @effort(tries)
    @given(st.sampled_from(list(OPINIONS)), st.data())
    def run(kind: type, data: st.DataObject) -> None:
        opinions = data.draw(st.lists(OPINIONS[kind], min_size=1, max_size=4))
        file = place / "opinions.jsonl"
        write_opinions(file, opinions)
        if kind is Rating:
            criteria = sorted({name for o in opinions for name in o.values})
            found: list[Any] = list(read_ratings(file, criteria))
        else:
            found = list((read_pairs if kind is PreferencePair else read_likes)(file))
        assert found == opinions

    tried(
        "pairs, ratings and likes read back as they were written",
        count(run),
        "files",
    )


@pytest.mark.parametrize("name", ["weight", "rater", "prompt", "prompt_id", "completion"])
def test_a_criterion_named_like_a_column_is_not_written_over(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"criterion '{name}'"):
        write_opinions(tmp_path / "ratings.jsonl", [Rating(Prompt("a"), "b", {name: 3.0})])


def episode(prompt: Prompt, ids: list[int], reason: Any, seed: int | None, index: int | None) -> Episode:
    own = np.array([*ids, *([256] if reason == "eos" else [])], dtype=np.int64)
    asked = np.array(BYTES.encode(prompt.text), dtype=np.int64)
    return Episode(prompt, asked, own, BYTES, reason, seed=seed, index=index)


NUMBERS = st.none() | st.integers(0, 2**40)
REASONS = st.sampled_from(["eos", "stop", "length", None])
EPISODES = st.builds(episode, PROMPTS, st.lists(st.integers(0, 257), max_size=6), REASONS, NUMBERS, NUMBERS)


@tries(40, 5_000)
def test_transcripts_read_back_equal(tries: int, place: Path, tried: Callable[..., None]) -> None:
    @effort(tries)
    @given(st.lists(EPISODES, min_size=1, max_size=3))
    def run(episodes: list[Episode]) -> None:
        file = place / "texts.jsonl"
        write_transcripts(file, episodes, np.arange(float(len(episodes))).tolist())
        again = list(read_transcripts(file, BYTES))
        for old, new in zip(episodes, again, strict=True):
            assert new.prompt == old.prompt
            assert new.completion == old.completion
            assert new.completion_ids.tolist() == old.completion_ids.tolist()
            assert (new.finish_reason, new.seed, new.index) == (old.finish_reason, old.seed, old.index)

    tried(
        "transcripts read back as they were written",
        count(run),
        "files",
    )
