from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_chat import tokenizer as chat_tokenizer
from text_gym.data import Conversations, pairs_from, prompts_from, read_rows
from text_gym.errors import ConfigError, DataError, UnknownNameError
from text_gym.reward_models.preferences.files import read_pairs

ROWS = [{"q": "2+2", "a": "4"}, {"q": 'quote " and, comma', "a": "line\nbreak"}, {"q": "né 🙂", "a": ""}]
FILES = {
    "t.csv": 'q,a\n2+2,4\n"quote "" and, comma","line\nbreak"\nné 🙂,\n',
    "t.tsv": 'q\ta\n2+2\t4\n"quote "" and, comma"\t"line\nbreak"\nné 🙂\t\n',
    "t.jsonl": "\n".join(json.dumps(r) for r in ROWS) + "\n\n",
    "t.json": json.dumps(ROWS),
}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_every_kind_of_file_gives_the_same_rows(name: str, start: str, tmp_path: Path) -> None:
    assert read_rows(write(tmp_path, name, start + FILES[name])) == ROWS  # with a byte order mark, too
    upper = write(tmp_path, name.upper(), FILES[name])
    assert read_rows(str(upper)) == ROWS


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_read_as_power_shell_and_excel_write_it(name: str, order: str, tmp_path: Path) -> None:
    assert read_rows(write(tmp_path, name, ("\ufeff" + FILES[name]).encode(order))) == ROWS


def test_semicolons_separate_fields_where_the_header_has_no_comma(tmp_path: Path) -> None:
    text = 'q;a\n2+2;4\n"quote "" and, comma";"line\nbreak"\nné 🙂;\n'
    assert read_rows(write(tmp_path, "t.csv", "\ufeff" + text)) == ROWS
    assert read_rows(write(tmp_path, "t.csv", "q;r,a\n1;2,3\n")) == [{"q;r": "1;2", "a": "3"}]
    assert read_rows(write(tmp_path, "t.tsv", "q;r\ta\n1;2\t3\n")) == [{"q;r": "1;2", "a": "3"}]


def test_lines_of_json_end_at_line_feeds_alone(tmp_path: Path) -> None:
    rows = [{"q": "a\u2028b\u2029c", "a": "d\x85e\x0cf"}, {"q": "g", "a": "h"}]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    assert read_rows(write(tmp_path, "t.jsonl", text)) == rows


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", "", "no rows"),
        ("t.csv", "q,a\n", "no rows below its header, 'q, a'"),
        ("t.csv", "q,a\n1,2\n1\n", "record 3"),
        ("t.csv", "q,a\n1,2,3\n", "record 2"),
        ("t.csv", b"q,a\n\xff\xfe,2\n", "UTF-8"),
        ("t.csv", 'q,a\n"never closed,2\n', "line 2: not CSV"),
        ("t.csv", "q,q\n1,2\n", "'q' twice"),
        ("t.jsonl", "", "no rows"),
        ("t.jsonl", '{"q": 1}\n{', "line 2"),
        ("t.jsonl", '{"q": 1}\n[1]\n', "line 2: expected an object, found list"),
        ("t.jsonl", b'{"q": "\xff"}\n', "UTF-8"),
        ("t.json", "{}", "list of objects"),
        ("t.json", "[]", "no rows"),
        ("t.json", "[1]", "item 0"),
        ("t.json", "[{]", "not JSON"),
        ("t.json", b"\xff[]", "UTF-8"),
        ("t.json", b"\xff\xfe[", "UTF-8"),  # cut in the middle of a character
        ("t.txt", "hello", "unknown kind"),
        ("t.pkl", b"\x80\x04.", "unknown kind"),
    ],
)
def test_malformed_files_are_named_with_the_place(
    name: str, content: str | bytes, says: str, tmp_path: Path
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=says) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.csv: no such file"):
        read_rows(tmp_path / "none.csv")


def test_json_lines_may_be_called_json(tmp_path: Path) -> None:
    rows = [{"q": "a", "r": "1"}, {"q": "b", "r": "2"}]
    text = "\r\n".join(map(json.dumps, rows))
    assert read_rows(write(tmp_path, "t.json", text)) == rows
    with pytest.raises(DataError, match="an object in each line"):
        read_rows(write(tmp_path, "t.json", '{"data": []}'))


def test_nan_in_json_is_an_empty_cell_as_in_parquet(tmp_path: Path) -> None:
    empty = {"q": "a", "r": None, "x": [1.0]}
    line = json.dumps({**empty, "r": float("nan")})
    assert read_rows(write(tmp_path, "t.jsonl", line)) == [empty]
    assert read_rows(write(tmp_path, "t.json", f"[{line}]")) == [empty]


def test_a_cell_of_csv_may_be_long(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = "x" * (before + 1)
    assert read_rows(write(tmp_path, "t.csv", f"q,r\n{long},b\n")) == [{"q": long, "r": "b"}]
    assert csv.field_size_limit() == before


def test_references_of_one_prompt_are_gathered() -> None:
    rows = [{"q": "a", "r": "1", "x": 5}, {"q": "b", "r": "2", "x": 6}, {"q": "a", "r": "3", "x": 7}]
    one, two = prompts_from(rows, "q", "r")
    assert (one.text, one.id, dict(one.columns)) == ("a\n", "a", {"x": 5, "references": ["1", "3"]})
    assert (two.text, two.id) == ("b\n", "b")
    assert [(p.id, text) for p, text in pairs_from([one, two])] == [("a", "1"), ("a", "3"), ("b", "2")]
    assert prompts_from(rows, "q", separator=" →")[0].text == "a →"
    assert pairs_from(prompts_from(rows, "q")) == []


@pytest.mark.parametrize(("prompt", "reference"), [("question", None), ("q", "ref"), ("Q", "r")])
def test_a_missing_column_is_named_with_the_nearest(prompt: str, reference: str | None) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown column \(row 2\)"):
        prompts_from(
            [{"question": "a", "q": "a", "Q": "a", "r": "", "ref": ""}, {"x": "b"}], prompt, reference
        )
    with pytest.raises(UnknownNameError, match="did you mean 'prompt'"):
        prompts_from([{"prompt": "a"}], "promt")


@pytest.mark.parametrize("value", ["", "  ", None, 3, ["a"]])
def test_a_prompt_that_is_no_text_is_named_with_its_row(value: Any) -> None:
    with pytest.raises(DataError, match="row 2: column 'q'"):
        prompts_from([{"q": "a"}, {"q": value}], "q")


@pytest.mark.parametrize("value", [None, 3, ["a"]])
def test_a_reference_that_is_no_text_is_named_with_its_row(value: Any) -> None:
    with pytest.raises(DataError, match="row 1: column 'r'"):
        prompts_from([{"q": "a", "r": value}], "q", "r")


def test_no_rows_make_no_prompts() -> None:
    with pytest.raises(DataError, match="no rows"):
        prompts_from([])


def test_parquet_and_saved_data_sets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    data.to_parquet(str(tmp_path / "t.parquet"))
    data.save_to_disk(str(tmp_path / "saved"))
    assert read_rows(tmp_path / "t.parquet") == ROWS
    assert read_rows(tmp_path / "saved") == ROWS


def test_data_sets_without_the_package_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install datasets"):
        read_rows(write(tmp_path, "t.parquet", b"PAR1"))


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), min_size=1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.fixed_dictionaries({"q": CELL, "a": CELL}), min_size=1, max_size=5))
def test_any_text_comes_through_a_csv_file(rows: list[dict[str, str]]) -> None:
    import csv
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["q", "a"])
            writer.writeheader()
            writer.writerows(rows)
        assert read_rows(path) == rows


# Conversations


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


def test_conversations_become_prompts_with_the_last_reply_as_reference() -> None:
    reader = Conversations(chat_tokenizer("chatml"), system="Be brief.")
    rows = [{"messages": talk("Hi", "Yes?", "Bye", "Ciao"), "n": 1}, {"messages": talk("Hi"), "n": 2}]
    first, second = prompts_from(rows, "messages", chat=reader)
    assert [m["content"] for m in first.messages] == ["Be brief.", "Hi", "Yes?", "Bye"]
    assert first.columns == {"n": 1, "references": ["Ciao"]}
    assert second.text.endswith("user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert second.columns == {"n": 2}


def test_every_reply_is_a_pair_and_a_conversation_stays_on_one_side() -> None:
    reader = Conversations(chat_tokenizer("chatml"), every_reply=True)
    prompts = prompts_from([{"messages": talk("Hi", "Yes?", "Bye", "Ciao"), "n": 1}], "messages", chat=reader)
    assert [p.columns for p in prompts] == [{"n": 1, "references": [r]} for r in ("Yes?", "Ciao")]
    assert [reply for _, reply in pairs_from(prompts)] == ["Yes?", "Ciao"]
    assert {p.id for p in prompts} == {"user: Hi"}


def test_trls_columns_are_read(tmp_path: Path) -> None:
    reader = Conversations(chat_tokenizer("chatml"))
    asked, good, bad = talk("Hi"), talk("", "Hello!")[1:], talk("", "No.")[1:]
    rows = [
        {"prompt": asked, "chosen": good, "rejected": bad},
        {"chosen": [*asked, *good], "rejected": [*asked, *bad]},
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one, two = read_pairs(tmp_path / "x.jsonl", chat=reader)
    assert one == two
    assert (one.chosen, one.rejected, list(one.prompt.messages)) == ("Hello!", "No.", asked)
    (found,) = prompts_from([{"prompt": asked, "completion": good}], "prompt", "completion", chat=reader)
    assert found.columns == {"references": ["Hello!"]}


def test_texts_are_what_a_user_says_if_asked_for() -> None:
    (found,) = prompts_from([{"prompt": "Hi"}], chat=Conversations(chat_tokenizer("chatml"), texts=True))
    assert list(found.messages) == talk("Hi")


def test_a_conversation_that_cannot_be_rendered_is_named_with_its_row() -> None:
    with pytest.raises(ConfigError, match="no model whose chat template"):
        prompts_from([{"prompt": talk("Hi")}])
    reader = Conversations(chat_tokenizer("gemma"), system="Be brief.")
    with pytest.raises(DataError, match=r"row 1: column 'prompt': .*System role not supported"):
        prompts_from([{"prompt": talk("Hi")}], chat=reader)
