from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from text_gym import ByteTokenizer
from text_gym.errors import ConfigError, LabelError, StoreError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.questions import CRITERIA, Question

GOOD = {"accuracy": 4, "clarity": 5, "persuasiveness": 2}
FOLDER = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / "labels.db")


def questions(count: int) -> list[Question]:
    return [Question.rating(f"prompt {i}", f"text {i}") for i in range(count)]


def test_a_label_holds_what_was_asked_and_answered(store: LabelStore) -> None:
    (item,) = store.put([Question.rating("Sell a mug.", "A mug!")], policy="round 2")
    before = store.head[1]
    label = store.record(item, "ada", GOOD, latency=3.5, key="k", at=1e9)
    assert (label.row, label.kind, label.item, label.rater) == (1, "rating", item, "ada")
    assert (label.question.prompt, label.question.completions) == ("Sell a mug.", ("A mug!",))
    assert (label.values, label.latency, label.policy) == (GOOD, 3.5, "round 2")
    assert (label.time, label.key, label.undoes, label.previous) == (1e9, "k", None, before)
    assert store.head == (1, label.hash)
    assert list(store.labels()) == [label]


def test_equal_questions_are_asked_once(store: LabelStore) -> None:
    first, again, other = store.put([*questions(1), *questions(1), Question.rating("p", "c")])
    assert first == again != other
    assert store.progress("ada").items == 2
    store.put(questions(1), priority=5.0, overlap=3)
    assert [(i.priority, i.overlap) for i in store.items()] == [(5.0, 3), (0.0, 1)]
    store.put(questions(1))
    assert (store.item(first).overlap, store.item(first).priority) == (3, 5.0)
    store.verify()


def test_questions_come_by_priority_and_then_in_order(store: LabelStore) -> None:
    low = store.put(questions(2))
    high = store.put([Question.rating("p", "x"), Question.rating("p", "y")], priority=1.0)
    asked = []
    while (item := store.claim("ada")) is not None:
        asked.append(item.id)
        store.record(item.id, "ada", GOOD)
    assert asked == [*high, *low]


def test_raters_get_different_questions_and_come_back_to_their_own(store: LabelStore) -> None:
    first, second = store.put(questions(2))
    for _ in range(2):  # asking again does not give a second one
        ada, bob, eve = (store.claim(name) for name in ("ada", "bob", "eve"))
        assert ada is not None
        assert bob is not None
        assert (ada.id, bob.id, eve) == (first, second, None)
    store.release("ada")
    eve = store.claim("eve")
    assert eve is not None
    assert eve.id == first


def test_a_lease_ends(store: LabelStore) -> None:
    store.put(questions(1))
    assert store.claim("ada", lease=-1.0) is not None  # has ended already
    assert store.claim("bob") is not None


def test_overlap_asks_so_many_raters_and_no_more(store: LabelStore) -> None:
    (item,) = store.put(questions(1), overlap=2)
    assert store.claim("ada") is not None
    assert store.claim("bob") is not None
    assert store.claim("eve") is None
    store.record(item, "ada", GOOD)
    assert store.claim("ada") is None
    assert store.claim("eve") is None
    store.record(item, "bob", GOOD)
    assert store.progress("eve").settled == 1
    assert [x.rater for x in store.standing([item])[item]] == ["ada", "bob"]


def test_an_answer_gives_back_its_lease(store: LabelStore) -> None:
    (item,) = store.put(questions(1), overlap=2)
    assert store.claim("ada") is not None
    store.record(item, "ada", GOOD)
    assert store.claim("bob") is not None  # one answer and no lease: a second rater is wanted
    assert store.claim("eve") is None


def test_progress_is_each_raters_own(store: LabelStore) -> None:
    first, second, third = store.put(questions(3), overlap=2)
    store.record(first, "ada", GOOD)
    store.record(first, "bob", GOOD)
    store.record(second, "bob", GOOD)
    store.skip(third, "bob")
    found = {name: store.progress(name) for name in ("ada", "bob", "eve")}
    assert {(p.items, p.settled) for p in found.values()} == {(3, 1)}
    assert {name: (p.mine, p.left) for name, p in found.items()} == {
        "ada": (1, 2),
        "bob": (3, 0),
        "eve": (0, 2),
    }
    assert store.progress("ada", [first]).left == 0


def test_an_undo_takes_back_the_raters_own_answer_alone(store: LabelStore) -> None:
    (item,) = store.put(questions(1), overlap=2)
    store.record(item, "ada", GOOD)
    store.record(item, "bob", {**GOOD, "clarity": 1})
    assert store.undo("ada") is not None
    assert [(x.rater, x.values["clarity"]) for x in store.standing([item])[item]] == [("bob", 1)]
    assert store.item(item).answers == 1
    store.verify()


def test_a_skipped_question_is_left_to_others(store: LabelStore) -> None:
    (item,) = store.put(questions(1))
    store.skip(item, "ada")
    assert store.claim("ada") is None
    assert store.claim("bob") is not None
    assert list(store.labels()) == []
    assert [x.kind for x in store.labels(all_rows=True)] == ["skip"]


def test_undo_is_a_row_and_the_question_comes_back(store: LabelStore) -> None:
    first, second = store.put(questions(2))
    store.record(first, "ada", GOOD)
    store.record(second, "ada", GOOD)
    store.put([Question.rating("p", "later")], priority=9.0)
    undone = store.undo("ada")
    assert undone is not None
    assert (undone.kind, undone.item, undone.undoes, undone.row) == ("undo", second, 2, 3)
    assert [x.item for x in store.labels()] == [first]
    assert store.claim("bob", [second]) is None  # it is hers
    again = store.record(second, "ada", {**GOOD, "clarity": 1})
    assert again.values["clarity"] == 1
    assert len(list(store.labels(all_rows=True))) == 4
    assert store.undo("bob") is None
    assert store.undo("ada", [first]) is not None
    assert store.undo("ada", [first]) is None
    store.verify()


def test_the_same_key_is_saved_once(store: LabelStore) -> None:
    first, second = store.put(questions(2))
    label = store.record(first, "ada", GOOD, key="k")
    # By parts, whose latency is the same NaN; dataclasses compare it by value from Python 3.13 on.
    assert astuple(store.record(first, "ada", GOOD, key="k")) == astuple(label)
    for other in ({**GOOD, "clarity": 1}, GOOD):
        with pytest.raises(LabelError, match="another answer"):
            store.record(second, "ada", other, key="k")
    with pytest.raises(LabelError, match="another answer"):
        store.record(first, "ada", {**GOOD, "clarity": 1}, key="k")
    with pytest.raises(LabelError, match="another answer"):
        store.record(first, "bob", GOOD, key="k")
    undone = store.undo("ada", key="u")
    assert store.undo("ada", key="u") == undone
    assert store.head[0] == 2


def test_a_second_answer_needs_an_undo(store: LabelStore) -> None:
    (item,) = store.put(questions(1))
    store.record(item, "ada", GOOD)
    with pytest.raises(LabelError, match="undo that first"):
        store.record(item, "ada", GOOD)
    with pytest.raises(LabelError, match="undo that first"):
        store.skip(item, "ada")
    assert store.head[0] == 1


@pytest.mark.parametrize("seconds", [math.inf, -math.inf])
def test_times_must_be_finite(store: LabelStore, seconds: float) -> None:
    (item,) = store.put(questions(1))
    with pytest.raises(LabelError, match="finite"):
        store.record(item, "ada", GOOD, latency=seconds)
    assert store.head[0] == 0
    label = store.record(item, "ada", GOOD)  # not known
    assert math.isnan(label.latency)


def test_what_is_not_there_is_named(store: LabelStore) -> None:
    with pytest.raises(LabelError, match="there is no question 'nonsense'"):
        store.record("nonsense", "ada", {})
    with pytest.raises(LabelError, match="needs a name"):
        store.claim("")
    with pytest.raises(ConfigError):
        store.put(questions(1), priority=math.nan)
    with pytest.raises(ConfigError):
        store.put(questions(1), overlap=0)


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters() | st.sampled_from("\0\x1b\ud800\udcff\u202e"), min_size=1),
    st.text(st.characters()),
    st.text(st.characters()),
)
def test_any_text_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, rater: str, prompt: str, text: str
) -> None:
    path = tmp_path_factory.mktemp("labels") / "labels.db"
    with LabelStore(path) as store:
        (item,) = store.put([Question.rating(prompt, text)], policy=text)
        store.record(item, rater, GOOD, key="k" + prompt)
    with LabelStore(path) as store:
        (label,) = store.labels()
        assert (label.rater, label.policy, label.key) == (rater, text, "k" + prompt)
        assert (label.question.prompt, label.question.completions) == (prompt, (text,))
        store.verify()


def test_every_pair_of_bytes_of_a_byte_tokenizer_is_kept(store: LabelStore) -> None:
    """All 65,536 pairs, as the texts that they decode to."""
    tokenizer = ByteTokenizer()
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    decoded = "|".join(tokenizer.decode([*pair]) for pair in pairs)
    raw = "".join(pair.decode("utf-8", "surrogateescape") for pair in pairs)
    (item,) = store.put([Question.rating(raw, decoded)])
    kept = store.item(item).question
    assert kept.completions == (decoded,)
    assert kept.prompt.encode("utf-8", "surrogateescape") == b"".join(pairs)


class RatersModel(RuleBasedStateMachine):
    """The store against the plainest model of it: lists and dictionaries."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        RatersModel.count += 1
        self.store = LabelStore(self.folder / f"{RatersModel.count}.db")
        self.ids = self.store.put(questions(4), overlap=2)
        self.standing: dict[tuple[str, str], str] = {}
        self.order: list[tuple[str, str]] = []
        self.rows = 0

    count = 0

    @rule(rater=st.sampled_from("abc"), skip=st.booleans())
    def answer_next(self, rater: str, skip: bool) -> None:
        item = self.store.claim(rater)
        counts = Counter(i for (i, _), kind in self.standing.items() if kind == "rating")
        if item is None:
            return
        assert (item.id, rater) not in self.standing
        assert counts[item.id] < 2
        if skip:
            self.store.skip(item.id, rater)
        else:
            self.store.record(item.id, rater, GOOD)
        self.standing[item.id, rater] = "skip" if skip else "rating"
        self.order.append((item.id, rater))
        self.rows += 1

    @precondition(lambda self: self.order)
    @rule(rater=st.sampled_from("abc"))
    def undo(self, rater: str) -> None:
        mine = [place for place in self.order if place[1] == rater]
        label = self.store.undo(rater)
        assert (label is None) == (not mine)
        if label is not None:
            assert label.item == mine[-1][0]
            self.order.remove(mine[-1])
            del self.standing[mine[-1]]
            self.rows += 1

    @invariant()
    def the_store_says_the_same(self) -> None:
        found = {(x.item, x.rater): x.kind for xs in self.store.standing(self.ids).values() for x in xs}
        assert found == self.standing
        assert self.store.head[0] == self.rows

    def teardown(self) -> None:
        assert self.store.verify().rows == self.rows
        self.store.close()


def test_any_order_of_answers_skips_and_undos(tmp_path: Path) -> None:
    RatersModel.folder = tmp_path
    case = RatersModel.TestCase
    case.settings = settings(max_examples=10, stateful_step_count=15, deadline=None)
    case().runTest()


def test_threads_share_one_store(store: LabelStore) -> None:
    store.put(questions(40))

    def label(rater: str) -> None:
        while (item := store.claim(rater)) is not None:
            store.record(item.id, rater, GOOD)

    threads = [threading.Thread(target=label, args=(f"rater {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(store.labels())) == 40
    store.verify()


RATER = """
import sys
from text_gym.reward_models import LabelStore
path, rater = sys.argv[1:]
with LabelStore(path) as store:
    count = 0
    while (item := store.claim(rater)) is not None:
        store.record(item.id, rater, {f.name: 3 for f in item.question.fields}, latency=1.0)
        count += 1
print(count)
"""


def several_raters(path: Path, raters: int, each: int) -> list[int]:
    """Labels of raters in processes of their own, who open the store at the same moment."""
    with LabelStore(path) as store:
        store.put(questions(raters * each))
    command = [sys.executable, "-c", RATER, str(path)]
    running = [
        subprocess.Popen([*command, f"rater {i}"], stdout=subprocess.PIPE, cwd=FOLDER.parent)
        for i in range(raters)
    ]
    counts = [int(process.communicate()[0]) for process in running]
    assert all(process.returncode == 0 for process in running)
    return counts


def check_raters(path: Path, raters: int, each: int) -> None:
    counts = several_raters(path, raters, each)
    with LabelStore(path) as store:
        labels = list(store.labels(all_rows=True))
        assert sum(counts) == len(labels) == raters * each
        assert len({label.item for label in labels}) == raters * each  # nobody did another's work again
        assert Counter(label.rater for label in labels) == {
            f"rater {i}": count for i, count in enumerate(counts) if count
        }
        store.verify()


def test_three_raters_at_once(tmp_path: Path) -> None:
    check_raters(tmp_path / "labels.db", 3, 20)


@pytest.mark.nightly
def test_eight_raters_of_five_hundred_each(tmp_path: Path) -> None:
    check_raters(tmp_path / "labels.db", 8, 500)


def kills(path: Path, count: int, seed: int) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "label_kills.py"), str(path), str(count), str(seed)],
        capture_output=True,
        text=True,
        check=True,
        env={**__import__("os").environ, "PYTHONPATH": str(FOLDER.parent)},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "count",
    [25, pytest.param(10_000, marks=pytest.mark.nightly)],
)
def test_no_acknowledged_label_is_lost_to_kills(
    tmp_path: Path, count: int, tried: Callable[..., None]
) -> None:
    found = kills(tmp_path / "labels.db", count, seed=count)
    tried(
        "no label that a rater was told is saved is lost or doubled when the program is killed",
        count,
        "kills",
        **{name: found[name] for name in ("acknowledged", "lost", "doubled")},
    )
    assert found["acknowledged"] > count // 2
    assert (found["lost"], found["doubled"], found["failed"]) == (0, 0, 0)
    # A row may be on the disk without the rater having been told: at most the one in hand.
    assert 0 <= found["untold"] <= count


def test_a_closed_store_can_be_opened_for_reading_only_if_it_is_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no label store"):
        LabelStore(tmp_path / "none.db", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_of_the_older_version_until_a_conversation_comes(tmp_path: Path) -> None:
    def version() -> int:
        connection = sqlite3.connect(tmp_path / "labels.db")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        connection.close()
        return int(found)

    talk = Question("rating", "p", ("a",), CRITERIA, ((("user", "p"),), (("assistant", "a"),)))
    with LabelStore(tmp_path / "labels.db") as store:
        (item,) = store.put(questions(1))
        store.record(item, "ada", GOOD)
        assert version() == 1
        (item,) = store.put([talk])
        store.record(item, "ada", GOOD)
    assert version() == 2
    with LabelStore(tmp_path / "labels.db", create=False) as store:
        assert [x.question for x in store.labels()] == [*questions(1), talk]
        assert store.verify().rows == 2
        connection = sqlite3.connect(tmp_path / "labels.db")
        connection.execute("UPDATE items SET criteria = replace(criteria, 'assistant', 'tool')")
        connection.commit()
        connection.close()
        with pytest.raises(StoreError, match=r"row 2: question 2 was altered"):
            store.verify()
