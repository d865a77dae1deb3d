from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace, TracebackType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.rater_terminal import RaterTerminal, screen
from text_gym.errors import NotSavedError, RaterLeftError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.questions import LabelCriterion, Question
from text_gym.reward_models.people.console import RaterConsole

FOLDER = Path(__file__).parents[2]
HOSTILE = st.text(
    st.characters() | st.sampled_from("\x1b\x07\r\n\0\x7f\x9b\u202e\u2066\u200b\u2028\ud800[]/"), max_size=200
)


class Typed:
    """Keys from a list, one line an entry."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = iter(lines)

    def __enter__(self) -> Typed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def read(self) -> list[str]:
        try:
            return next(self.lines).split()
        except StopIteration:
            raise EOFError from None

    def discard(self) -> None:
        return


class Pressed(Typed):
    """Single keys, as a terminal gives them."""

    def read(self) -> list[str]:
        return [next(self.lines)]


def console(store: LabelStore, *lines: str, rater: str = "ada") -> tuple[RaterConsole, io.StringIO]:
    out = io.StringIO()
    return RaterConsole(store, rater, Typed(lines), Console(file=out, width=100, color_system=None)), out


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / "labels.db")


def rated(store: LabelStore) -> list[list[int | str]]:
    return [list(label.values.values()) for label in store.labels()]


def test_ratings_key_by_key_and_all_at_once(store: LabelStore) -> None:
    store.put([Question.rating("p", "a"), Question.rating("p", "b")])
    asker, out = console(store, "5", "4", "3", "1 2 3")
    asker.ask()
    assert rated(store) == [[5, 4, 3], [1, 2, 3]]
    assert asker.saved == 2
    assert out.getvalue().count("saved\n") == 2
    assert "question 1 · 2 left" in out.getvalue()
    assert "question 2 · 1 left" in out.getvalue()


def test_comparisons_and_best_of_n(store: LabelStore) -> None:
    store.put([Question.comparison("p", "a", str(i)) for i in range(4)] + [Question.best_of_n("p", "abc")])
    asker, _ = console(store, "left", "2", "t", "s", "3")
    asker.ask()
    assert rated(store) == [["left"], ["right"], ["tie"], [3]]
    assert [x.kind for x in store.labels(all_rows=True)][3] == "skip"


def test_a_scale_of_seven(store: LabelStore) -> None:
    store.put([Question.rating("p", "a", (LabelCriterion("charm", high=7),))])
    console(store, "7")[0].ask()
    assert rated(store) == [[7]]


@pytest.mark.parametrize("nonsense", ["6", "0", "x", "", "1 2 3 4", "5 x", "5 u", "\x1b[31m", "yes please"])
def test_nonsense_is_asked_again_and_changes_nothing(store: LabelStore, nonsense: str) -> None:
    store.put([Question.rating("p", "a")])
    asker, out = console(store, nonsense, "1", "1", "1")
    asker.ask()
    assert rated(store) == [[1, 1, 1]]
    assert "is no answer here" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_a_key_that_cannot_be_shown_is_named_and_enter_is_not_needed(store: LabelStore) -> None:
    store.put([Question.rating("p", "a")])
    asker, out = console(store)
    asker.keys = Pressed("4\n \t4\r4")
    asker.ask()
    assert rated(store) == [[4, 4, 4]]
    said = out.getvalue()
    assert said.count("no Enter needed: a key answers at once") == 2
    assert "the space bar is no answer here; ? shows the keys" in said
    assert "Tab is no answer here; ? shows the keys" in said


def test_undo_goes_back_one_criterion_and_then_one_question(store: LabelStore) -> None:
    store.put([Question.rating("p", "a"), Question.rating("p", "b")])
    asker, out = console(store, "u", "5", "u", "1", "1", "1", "u", "2 2 2", "3 3 3")
    asker.ask()
    assert rated(store) == [[2, 2, 2], [3, 3, 3]]
    assert [x.kind for x in store.labels(all_rows=True)] == ["rating", "undo", "rating", "rating"]
    assert "there is nothing to take back" in out.getvalue()


def test_help_shows_guidelines_and_keys(store: LabelStore) -> None:
    store.put([Question.rating("p", "a", (LabelCriterion("charm", "Is it charming?"),))])
    asker, out = console(store, "1")
    asker.ask()
    assert out.getvalue().count("Is it charming? Keys: 1, 2, 3, 4, 5") == 1
    store.put([Question.rating("p", "b", (LabelCriterion("charm", "Is it charming?"),))])
    asker, out = console(store, "?", "1")
    asker.ask()
    assert out.getvalue().count("Is it charming? Keys: 1, 2, 3, 4, 5") == 2


@pytest.mark.parametrize("leave", [["q"], ["\x03"], ["\x04"], []])
def test_leaving_keeps_what_was_saved_and_comes_back_to_the_same_question(
    store: LabelStore, leave: list[str]
) -> None:
    store.put([Question.rating("p", text) for text in "abc"])
    asker, _ = console(store, "5 5 5", "4", *leave)
    with pytest.raises(RaterLeftError, match="answers saved: 1, questions left: 2"):
        asker.ask()
    assert rated(store) == [[5, 5, 5]]
    assert store.claim("bob") is not None  # it was given back to the others
    store.release("bob")
    asker, out = console(store, "1 1 1", "2 2 2")
    asker.ask()
    assert "│ b " in out.getvalue().partition("accuracy  1")[0]
    assert rated(store) == [[5, 5, 5], [1, 1, 1], [2, 2, 2]]


def test_only_the_questions_given_are_asked_and_taken_back(store: LabelStore) -> None:
    first, second = store.put([Question.rating("p", "a"), Question.rating("p", "b")])
    store.record(first, "ada", {"accuracy": 1, "clarity": 1, "persuasiveness": 1})
    asker, out = console(store, "u", "2 2 2")
    asker.ask([second])
    assert rated(store) == [[1, 1, 1], [2, 2, 2]]
    assert "nothing to take back" in out.getvalue()


def test_time_per_answer_is_measured(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5])
    fake = SimpleNamespace(monotonic=lambda: next(clock))  # of the console alone: the store has its own
    monkeypatch.setattr("text_gym.reward_models.people.console.time", fake)
    store.put([Question.rating("p", "a")])
    console(store, "1 1 1")[0].ask()
    assert next(store.labels()).latency == 2.5


def test_what_cannot_be_saved_is_told_and_asked_again(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put([Question.rating("p", "a"), Question.rating("p", "b")])
    real, failures = store.record, [NotSavedError("not saved: the disk is full"), None, None]
    keys = []

    def record(*arguments: object, **named: object) -> object:
        keys.append(named["key"])
        failure = failures.pop(0)
        if failure is not None:
            raise failure
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "record", record)
    asker, out = console(store, "5", "4", "3", "2", "1 1 1")
    asker.ask()
    assert "NOT SAVED. not saved: the disk is full" in out.getvalue()
    assert rated(store) == [[5, 4, 2], [1, 1, 1]]
    assert keys[0] == keys[1] != keys[2]
    assert asker.saved == 2


def test_an_answer_given_elsewhere_under_the_same_name(store: LabelStore) -> None:
    (item,) = store.put([Question.rating("p", "a")])

    class Slow(Typed):
        def read(self) -> list[str]:
            if not store.progress("ada").mine:
                store.record(item, "ada", {"accuracy": 1, "clarity": 1, "persuasiveness": 1})
            return super().read()

    out = io.StringIO()
    RaterConsole(store, "ada", Slow(["5 5 5"]), Console(file=out, width=100)).ask()
    assert rated(store) == [[1, 1, 1]]
    assert "undo that first" in out.getvalue()


def check_hostile(store: LabelStore, prompt: str, text: str, rater: str) -> None:
    (item,) = store.put([Question.comparison(prompt, text, text[::-1])])
    asker, out = console(store, "m", "x" + text.replace("\n", " "), "q", rater=rater)
    with pytest.raises(RaterLeftError) as error:
        asker.ask([item])
    for shown in (out.getvalue(), str(error.value)):
        rest = shown.replace("\n", "")
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in rest)
        assert not set(rest) & set("\u2028\u202e\u2066\u200b")
        shown.encode()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HOSTILE, HOSTILE, HOSTILE.filter(bool))
def test_nothing_in_texts_names_or_typing_reaches_the_terminal_raw(
    store: LabelStore, prompt: str, text: str, rater: str
) -> None:
    check_hostile(store, prompt, text, rater)


@pytest.mark.nightly
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HOSTILE, HOSTILE, HOSTILE.filter(bool))
def test_ten_thousand_hostile_texts(
    store: LabelStore, tried: Callable[..., None], prompt: str, text: str, rater: str
) -> None:
    check_hostile(store, prompt, text, rater)
    tried(
        "hostile texts reach the label store as they are and the terminal without control bytes",
        10_000,
        "texts",
    )


@pytest.mark.parametrize("markup", ["[/x]", "[bold red]", "[link=file:///etc/passwd]x[/link]", ":smile:"])
def test_markup_is_literal(store: LabelStore, markup: str) -> None:
    store.put([Question.rating(markup, markup)])
    asker, out = console(store, "1 1 1")
    asker.ask()
    assert out.getvalue().count(f"│ {markup} ") == 2


@pytest.mark.parametrize("text", ["", " \n "])
def test_a_text_of_nothing_is_shown_as_nothing(store: LabelStore, text: str) -> None:
    store.put([Question.rating("P", text)])
    asker, out = console(store, "1 1 1")
    asker.ask()
    assert "(nothing)" in out.getvalue()


def test_ten_megabytes_are_shown_in_parts_and_kept_whole(store: LabelStore) -> None:
    text = "abcdefghi\n" * 1_000_000
    (item,) = store.put([Question.rating("p", text)])
    asker, out = console(store, "m", "1 1 1")
    tracemalloc.start()
    asker.ask()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "9,995,999 more characters" in out.getvalue()
    assert "from character 4,001" in out.getvalue()
    assert len(out.getvalue()) < 200_000
    assert peak < 8 * len(text)  # the copies that SQLite and the text itself need
    assert store.item(item).question.completions == (text,)


# On a real terminal


def write_texts(folder: Path, texts: Iterable[str]) -> None:
    rows = [json.dumps({"prompt": "Sell a mug.\n", "completion": text}) + "\n" for text in texts]
    (folder / "texts.jsonl").write_text("".join(rows))


def test_one_key_an_answer_on_a_terminal(tmp_path: Path) -> None:
    write_texts(tmp_path, ["A \x1b[31mred\u202e mug!", "Mug."])
    with RaterTerminal("label", "--data", "texts.jsonl", "--rater", "ada", cwd=tmp_path) as terminal:
        shown = screen(terminal.wait_for("accuracy  1  2  3  4  5  > "))
        assert "│ A \\x1b[31mred\\u202e mug! " in shown
        assert "\x1b[31m" not in shown
        for key, then in (("5", "clarity "), ("4", "persuasiveness "), ("3", "│ Mug."), ("u", "red")):
            terminal.type(key)
            terminal.wait_for(then)
            terminal.wait_for("> ")
        terminal.type("\x03")
        terminal.wait_for("ada left; answers saved: 0, questions left: 2")
        assert terminal.wait() == 0
    with LabelStore(tmp_path / "labels.db", create=False) as store:
        assert [x.kind for x in store.labels(all_rows=True)] == ["rating", "undo"]
        assert list(store.labels()) == []


def test_a_pasted_novel_answers_nothing(tmp_path: Path) -> None:
    write_texts(tmp_path, "abcd")
    with RaterTerminal("label", "--data", "texts.jsonl", cwd=tmp_path) as terminal:
        terminal.wait_for("accuracy  1  2  3  4  5  > ")
        os.set_blocking(terminal.fd, False)
        sent = b"5 5 5 u s 1\r\n" * 80_000  # 1 MB
        while sent:
            try:
                sent = sent[os.write(terminal.fd, sent) :]
            except BlockingIOError:
                terminal.read(0.01)
        terminal.wait_for("a pasted text is no answer here; ? shows the keys")
        time.sleep(0.3)
        terminal.type("q")
        assert terminal.wait() == 0
    with LabelStore(tmp_path / "labels.db", create=False) as store:
        assert store.head[0] == 0


def test_a_terminal_that_goes_away_loses_nothing(tmp_path: Path) -> None:
    write_texts(tmp_path, "ab")
    with RaterTerminal("label", "--data", "texts.jsonl", cwd=tmp_path) as terminal:
        terminal.wait_for("accuracy  1  2  3  4  5  > ")
        for key in "543":
            terminal.type(key)
            terminal.wait_for("> ")
    with LabelStore(tmp_path / "labels.db", create=False) as store:
        assert rated(store) == [[5, 4, 3]]
        store.verify()


@pytest.mark.parametrize("streams", [8, pytest.param(1_000, marks=pytest.mark.nightly)])
def test_random_keys_lose_nothing_and_raise_nothing(
    tmp_path: Path, streams: int, tried: Callable[..., None]
) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "label_keys.py"), str(tmp_path), str(streams), "0"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent)},
        check=True,
    )
    found = json.loads(done.stdout)
    wanted = {"streams": streams, "tracebacks": 0, "status": 0, "controls": 0}
    assert {k: found[k] for k in wanted} == wanted, done.stderr
    assert found["told"] == found["rows"] > 0, done.stderr
    tried("random keys at the labelling console raise nothing and lose nothing", streams, "streams of keys")


def test_turns_stand_beside_their_speakers_and_no_text_can_pretend_to_be_one(store: LabelStore) -> None:
    asked, said = (
        (("user", "Sell\nme a mug."),),
        (("assistant", "No.\nuser  I love it\x1b[2J"), ("user", "Oh.")),
    )
    store.put([Question("rating", "p", ("c",), (LabelCriterion("clarity"),), (asked, said))])
    asker, out = console(store, "1")
    asker.ask()
    lines = [line[2:] for line in out.getvalue().splitlines() if line.startswith("│")]
    assert [line.split()[0] for line in lines if line[0] != " "] == ["user", "assistant", "user"]
    assert "user  I love it\\x1b[2J" in [line.strip("│ ") for line in lines if line[0] == " "]


def test_a_long_conversation_goes_on_where_it_was_cut(store: LabelStore) -> None:
    said = (("assistant", "a" * 3_000), ("user", "b" * 3_000), ("assistant", "c" * 10))
    store.put([Question("rating", "p", ("c",), (LabelCriterion("clarity"),), ((("user", "p"),), said))])
    asker, out = console(store, "m", "m", "1")
    asker.ask()
    shown = out.getvalue()
    assert [shown.count(letter * 10) for letter in "c"] == [1]
    assert "(2,010 more characters)" in shown
    assert "text, from character 4,001" in shown
    assert "prompt, from" not in shown
    assert "all is shown" in shown
