from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_chat import tokenizer
from text_gym import Prompt, TextGymError
from text_gym.data import Conversations
from text_gym.errors import ConfigError, DataError, UnknownNameError
from text_gym.reward_models import PreferencePair, Rating
from text_gym.reward_models.preferences.files import (
    as_row,
    read_likes,
    read_pairs,
    read_ratings,
    read_steps,
    write_opinions,
)
from text_gym.reward_models.preferences.opinions import (
    Like,
    likes_from_pairs,
    pairs_from_likes,
    pairs_from_ratings,
)

PROMPT = Prompt("Say hi:", {"answer": 4, "tags": ["a", "b"]}, "hi-1")
PAIRS = [
    PreferencePair(PROMPT, "hi", "ho", 0.5, weight=2.0, rater="ann"),
    PreferencePair(Prompt("Bye:", {"answer": 5, "tags": []}), "by\ne ☃", "", tie=True),
]
RATINGS = [
    Rating(Prompt("a:"), "x", {"style": 3.0, "facts": 1.5}, 0.5, "ann"),
    Rating(Prompt("b:"), "y", {"style": 2.0}),
]
LIKES = [Like(Prompt("a:"), "x", True), Like(Prompt("a:"), "y", False, rater="bob")]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("datasets")
    file = tmp_path / f"x.{suffix}"
    write_opinions(file, PAIRS)
    assert read_pairs(file) == PAIRS
    write_opinions(file, RATINGS)
    assert read_ratings(file, ["style", "facts"]) == RATINGS
    write_opinions(file, LIKES)
    assert read_likes(file) == LIKES


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(deadline=None)
@given(
    prompt=TEXT.filter(str.strip),
    texts=st.tuples(TEXT, TEXT),
    margin=st.floats(0, 1e6),
    weight=st.floats(0, 1e6),
    rater=TEXT,
)
def test_any_pair_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    prompt: str,
    texts: tuple[str, str],
    margin: float,
    weight: float,
    rater: str,
) -> None:
    pair = PreferencePair(Prompt(prompt), *texts, margin, weight=weight, rater=rater)
    file = tmp_path_factory.getbasetemp() / "pair.jsonl"
    write_opinions(file, [pair])
    assert read_pairs(file) == [pair]


def test_the_columns_are_trls(tmp_path: Path) -> None:
    write_opinions(tmp_path / "x.jsonl", PAIRS)
    row = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])
    assert {k: row[k] for k in ("prompt", "chosen", "rejected", "margin")} == {
        "prompt": "Say hi:", "chosen": "hi", "rejected": "ho", "margin": 0.5
    }  # fmt: skip
    assert row["answer"] == 4
    assert {"prompt": "a:", "completion": "x", "label": True}.items() <= as_row(LIKES[0]).items()


def test_any_table_with_any_columns(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("mr,ref,good,nice\nname[A],A is,5,\nname[B],B is,,\nname[C],C is,1,2\n")
    found = read_ratings(tmp_path / "r.csv", ["good", "nice"], prompt="mr", completion="ref")
    assert [(r.prompt.text, r.completion, r.values) for r in found] == [
        ("name[A]", "A is", {"good": 5.0}),
        ("name[C]", "C is", {"good": 1.0, "nice": 2.0}),
    ]
    (tmp_path / "p.csv").write_text("q,best,worst,tie\nA,x,y,true\nB,x,y,0\nC,x,y,\n")
    pairs = read_pairs(tmp_path / "p.csv", prompt="q", chosen="best", rejected="worst")
    assert [p.tie for p in pairs] == [True, False, False]


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        ({"prompt": "a", "chosen": "b"}, UnknownNameError, "rejected"),
        (
            {"prompt": "a", "chosen": "b", "rejected": None},
            DataError,
            "row 1: column 'rejected' holds 'None'",
        ),
        ({"prompt": " ", "chosen": "b", "rejected": "c"}, DataError, "row 1: the prompt is empty"),
        (
            {"ask": "a", **{c: [{"role": "assistant", "content": c}] for c in ("chosen", "rejected")}},
            UnknownNameError,
            "'prompt'. Known: ask, chosen, rejected",
        ),
        ({"prompt": "a", "chosen": [{"role": "user"}], "rejected": ""}, DataError, "row 1: column 'chosen'"),
        (
            {"prompt": [{"role": "user", "content": "Hi"}], "chosen": "", "rejected": ""},
            ConfigError,
            "no model whose chat",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c", "margin": "NaN"},
            DataError,
            "row 1: column 'margin'",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1}, DataError, "row 1: margin -1"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "weight": "x"}, DataError, "column 'weight'"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "tie": "maybe"}, DataError, "not true or false"),
    ],
)
def test_bad_rows_are_named(
    tmp_path: Path, row: dict[str, object], error: type[TextGymError], words: str
) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(error) as caught:
        read_pairs(tmp_path / "x.jsonl")
    assert words in str(caught.value)


def test_a_nan_label_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("prompt,completion,score\na,b,4\nc,d,nan\n")
    with pytest.raises(
        DataError, match=r"x\.csv, row 2: column 'score' holds \"'nan'\", not a finite number"
    ):
        read_ratings(tmp_path / "x.csv", ["score"])


def test_other_faults_have_names(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("prompt,completion,score\na,b,\n")
    with pytest.raises(DataError, match="no opinion"):
        read_ratings(tmp_path / "x.csv", ["score"])
    with pytest.raises(ConfigError, match="each once"):
        read_ratings(tmp_path / "x.csv", ["score", "score"])
    with pytest.raises(ConfigError, match="each once"):
        read_ratings(tmp_path / "x.csv", [])
    with pytest.raises(UnknownNameError, match="did you mean 'score'"):
        read_ratings(tmp_path / "x.csv", ["scores"])
    with pytest.raises(ConfigError, match=r"\.jsonl or \.parquet"):
        write_opinions(tmp_path / "x.txt", PAIRS)
    with pytest.raises(DataError, match="files of their own"):
        write_opinions(tmp_path / "y.jsonl", [PAIRS[0], LIKES[0]])
    clash = Rating(Prompt("a", {"style": 1}), "x", {"style": 3.0})
    with pytest.raises(DataError, match="criterion 'style' has the name of another column"):
        write_opinions(tmp_path / "y.jsonl", [clash])
    assert not (tmp_path / "y.jsonl").exists()


MESSAGES = [{"role": "user", "content": "Hi"}]
REPLIES = [{"role": "assistant", "content": "Ho"}, {"role": "user", "content": "So?"}]
REPLIES.append({"role": "assistant", "content": "Bye"})


def test_replies_of_several_turns_are_rendered_as_the_policy_would_have_written_them(tmp_path: Path) -> None:
    row = {"prompt": MESSAGES, "chosen": REPLIES, "rejected": REPLIES[:1]}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    (pair,) = read_pairs(tmp_path / "x.jsonl", chat=Conversations(tokenizer("chatml")))
    assert pair.prompt.text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert (
        pair.chosen == "Ho\nuser\nSo?\nassistant\nBye"
    )  # as an episode's completion, without special tokens
    assert pair.rejected == "Ho"
    assert [len(talk) for talk in pair.turns] == [1, 3, 1]
    with pytest.raises(ConfigError, match="no model whose chat template"):
        read_pairs(tmp_path / "x.jsonl")


def test_turns_survive_every_conversion(tmp_path: Path) -> None:
    talks = [(("user", "p"),), (("assistant", "a"),), (("assistant", "b"),)]
    pair = PreferencePair(Prompt("p"), "a", "b", rater="ann", turns=tuple(talks))
    likes = likes_from_pairs([pair])
    assert [like.turns for like in likes] == [(talks[0], talks[1]), (talks[0], talks[2])]
    assert pairs_from_likes(likes) == [pair]
    marks = [Rating(o.prompt, o.completion, {"x": float(o.label)}, rater="ann", turns=o.turns) for o in likes]
    assert [p.turns for p in pairs_from_ratings(marks, "x")] == [pair.turns]
    for opinions, read in (([pair], read_pairs), (likes, read_likes)):
        write_opinions(tmp_path / "x.jsonl", opinions)
        assert read(tmp_path / "x.jsonl") == opinions
    row = as_row(pair) | {"texts": {"prompt": "p", "chosen": "a"}}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"row 1: texts is .*a text for each of prompt, chosen, rejected"):
        read_pairs(tmp_path / "x.jsonl")


def test_labels_of_steps_are_read_under_both_names(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    rows: list[dict[str, object]] = [
        {"prompt": "ask:", "steps": ["a", "b"], "labels": [1, 0.5], "weight": 2, "source": "mine"},
        {"prompt": "ask:", "completions": ["a"], "labels": [False]},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read_steps(file)
    assert (first.steps, first.labels, first.weight) == (("a", "b"), (1.0, 0.5), 2.0)
    assert first.prompt.columns == {"source": "mine"}
    assert (second.steps, second.labels) == (("a",), (0.0,))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": "a"}, "column 'steps' holds .*not a list"),
        ({"labels": None}, "column 'labels' holds .*not a list"),
        ({"labels": [1, None]}, "a label is empty"),
        ({"labels": [1, "x"]}, "not a finite number"),
        ({"labels": [1, 2]}, "label 2"),
        ({"labels": [1]}, "2 steps and 1 labels"),
        ({"steps": ["a", 3]}, "holds the step"),
    ],
)
def test_bad_labels_of_steps_are_refused(change: dict[str, object], said: str, tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    row = {"prompt": "ask:", "steps": ["a", "b"], "labels": [1, 0]} | change
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=f"row 1.*{said}"):
        read_steps(file)
