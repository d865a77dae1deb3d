"""The label store against a model of it, alone and behind the labelling page; raters do what they like."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.fuzz.effort import count, effort, tries
from tests.page_tools import Browser, exchange, raw, status_of
from text_gym.errors import LabelError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.formats import export_labels, import_labels
from text_gym.reward_models.labels.merge import merge_labels
from text_gym.reward_models.labels.questions import Question
from text_gym.reward_models.labels.rows import Label
from text_gym.reward_models.page.page import LabelPage
from text_gym.reward_models.page.security import NAMES

QUESTIONS = [Question.comparison("p", "a", f"b{i}\0\udcff\u2028") for i in range(4)]
RATERS = ["ada", "bob", "\x1b[31meve\udcff"]
ANSWERS = ["left", "right", "tie"]


@dataclass
class Model:
    """What a store must hold, by the words of its documentation."""

    overlap: dict[int, int] = field(default_factory=dict)
    rows: list[tuple[str, int, str, str]] = field(default_factory=list)  # kind, question, rater, answer
    stands: dict[tuple[int, str], int] = field(default_factory=dict)  # question, rater -> row
    keys: dict[str, int] = field(default_factory=dict)

    def answers(self, question: int) -> int:
        return sum(q == question and self.rows[row][0] != "skip" for (q, _), row in self.stands.items())

    def open(self, rater: str) -> set[int]:
        """Questions the rater could still be asked, leases aside."""
        return {q for q, n in self.overlap.items() if self.answers(q) < n and (q, rater) not in self.stands}

    def last(self, rater: str) -> int | None:
        rows = [row for (_, who), row in self.stands.items() if who == rater]
        return max(rows, default=None)


class Store(RuleBasedStateMachine):
    """A store and its model."""

    begun = 0  # how many of them

    @initialize()
    def make(self) -> None:
        type(self).begun += 1
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "labels.db"
        self.store, self.model = LabelStore(self.path), Model()

    def teardown(self) -> None:
        self.store.verify()
        self.store.close()
        self.folder.cleanup()

    @rule(number=st.integers(0, 3), overlap=st.integers(1, 2))
    def put(self, number: int, overlap: int) -> None:
        self.store.put([QUESTIONS[number]], overlap=overlap)
        self.model.overlap[number] = max(overlap, self.model.overlap.get(number, 0))

    @rule(rater=st.sampled_from(RATERS))
    def claim(self, rater: str) -> None:
        item = self.store.claim(rater, lease=0.0)
        wanted = self.model.open(rater)
        assert (item is None) == (not wanted)
        if item is not None:
            assert QUESTIONS.index(item.question) in wanted

    @rule(
        number=st.integers(0, 3), rater=st.sampled_from(RATERS), answer=st.sampled_from([*ANSWERS, None]),
        key=st.sampled_from("xyz") | st.none(),
    )  # fmt: skip
    def answer(self, number: int, rater: str, answer: str | None, key: str | None) -> None:
        kind = "skip" if answer is None else "comparison"
        row = (kind, number, rater, answer or "")
        item, model = QUESTIONS[number].id, self.model

        def send() -> Label:
            if answer is None:
                return self.store.skip(item, rater, key=key)
            return self.store.record(item, rater, {"preference": answer}, key=key)

        known = None if key is None else model.keys.get(key)
        if number not in model.overlap or (known is not None and model.rows[known] != row):
            with pytest.raises(LabelError):
                send()
        elif known is not None:
            assert send().row == known + 1  # sent again: saved once
        elif (number, rater) in model.stands:
            with pytest.raises(LabelError):
                send()
        else:
            assert send().row == len(model.rows) + 1
            self.save(row, key)

    def save(self, row: tuple[str, int, str, str], key: str | None) -> None:
        if key is not None:
            self.model.keys[key] = len(self.model.rows)
        self.model.rows.append(row)
        if row[0] != "undo":
            self.model.stands[row[1], row[2]] = len(self.model.rows) - 1

    @rule(rater=st.sampled_from(RATERS))
    def undo(self, rater: str) -> None:
        last = self.model.last(rater)
        label = self.store.undo(rater)
        assert (label is None) == (last is None)
        if label is not None and last is not None:
            assert label.undoes == last + 1
            question = self.model.rows[last][1]
            del self.model.stands[question, rater]
            self.save(("undo", question, rater, ""), None)

    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.store = LabelStore(self.path)

    @rule()
    def another_program_reads_a_copy_of_the_labels(self) -> None:
        folder = Path(self.folder.name)
        export_labels(self.store, folder / "out.jsonl")
        with LabelStore(":memory:") as other:
            if self.model.rows:
                assert import_labels(other, folder / "out.jsonl") == (len(self.model.rows), 0)
                assert import_labels(other, folder / "out.jsonl") == (0, len(self.model.rows))
            same = [
                (x.kind, x.item, x.rater, dict(x.values), x.key) for x in self.store.labels(all_rows=True)
            ]
            assert [
                (x.kind, x.item, x.rater, dict(x.values), x.key) for x in other.labels(all_rows=True)
            ] == same
        (folder / "merged.db").unlink(missing_ok=True)
        found = merge_labels([self.path], folder / "merged.db")
        assert found.added + found.known == len(self.model.rows)
        assert merge_labels([self.path], folder / "merged.db").added == 0

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        if not hasattr(self, "store"):
            return
        model = self.model
        rows = list(self.store.labels(all_rows=True))
        found = [
            (x.kind, QUESTIONS.index(x.question), x.rater, str(x.values.get("preference", ""))) for x in rows
        ]
        assert found == model.rows
        stand = [x.row - 1 for x in self.store.labels()]
        assert stand == sorted(r for r in model.stands.values() if model.rows[r][0] != "skip")
        for rater in RATERS:
            seen = self.store.progress(rater)
            assert seen.items == len(model.overlap)
            assert seen.mine == sum(who == rater for _, who in model.stands)
            assert seen.left == len(model.open(rater))
            assert seen.settled == sum(model.answers(q) >= n for q, n in model.overlap.items())


@tries(6, 1_000)
def test_the_store_is_its_model(tries: int, tried: Callable[..., None]) -> None:
    Store.begun = 0
    run_state_machine_as_test(Store, settings=effort(tries, stateful_step_count=12))
    tried(
        "a label store holds what its documentation says after any calls",
        Store.begun,
        "histories",
    )


# The page: JSON of any kind, from several browsers

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CALLS = ["hello", "next", "answer", "undo", "text", "away", "end", "no_such_call"]
FIELDS = {
    "rater": st.sampled_from(["ada", "bob", "eve", *(f"r{i}" for i in range(9))]) | st.text(max_size=90),
    "item": st.sampled_from([q.id for q in QUESTIONS]) | st.text(max_size=70),
    "key": st.text("ab", min_size=1, max_size=2) | st.text(max_size=70),
    "seconds": st.floats() | st.integers(),
    "skip": st.booleans(),
    "values": st.fixed_dictionaries({"preference": st.sampled_from(ANSWERS)}) | JSON,
    "hold": st.sampled_from([q.id for q in QUESTIONS]) | st.text(max_size=9),
    "tab": st.text(max_size=70),
    "number": st.integers(-1, 4),
    "start": st.integers(-1, 30),
}  # fmt: skip
# A field may be missing, of another type, or what a page would send.
BODY = st.fixed_dictionaries({}, optional={k: v | JSON for k, v in FIELDS.items()})
GOOD = st.fixed_dictionaries({k: FIELDS[k] for k in ("rater", "item", "key", "seconds", "values")})
STATUSES = {
    "hello": {200}, "next": {200, 400, 403}, "answer": {200, 400, 403, 404, 409},
    "undo": {200, 400, 403, 409}, "text": {200, 400, 404}, "end": {403}, "no_such_call": {404},
    "away": {200, 400, 403},
}  # fmt: skip


def send(browser: Browser, call: str, body: bytes) -> tuple[int, Any]:
    reply = exchange(browser.port, raw("POST", f"/api/{call}", browser.headers(), body))
    _, _, content = reply.partition(b"\r\n\r\n")
    return status_of(reply), json.loads(content) if content.startswith(b"{") else content


@tries(80, 20_000)
def test_the_page_answers_anything_with_what_is_documented(
    tries: int, tmp_path: Path, tried: Callable[..., None]
) -> None:
    links: list[str] = []
    with LabelStore(tmp_path / "labels.db") as store:
        store.put(QUESTIONS, overlap=3)
        with LabelPage(store, port=0, say=links.append) as page:
            browsers = [Browser(links[-1], f"browser {i}") for i in range(3)]
            owners: dict[str, int] = {}

            @effort(tries)
            @given(st.integers(0, 2), st.sampled_from(CALLS), BODY | GOOD, st.binary(max_size=20) | st.none())
            def run(number: int, call: str, data: dict[str, Any], junk: bytes | None) -> None:
                body = json.dumps(data).encode() if junk is None else junk
                status, content = send(browsers[number], call, body)
                assert status in STATUSES[call] | ({400} if junk is not None else set()), (
                    call,
                    data,
                    content,
                )
                assert b"Traceback" not in (
                    content if isinstance(content, bytes) else json.dumps(content).encode()
                )
                rater = str(data.get("rater"))
                if status == 200 and junk is None and call in ("next", "answer", "undo"):
                    assert owners.setdefault(rater, number) == number  # a name is one browser's
                    assert sum(owner == number for owner in owners.values()) <= NAMES

            tried(
                "the labelling page answers any JSON with what is documented, and keeps names apart",
                count(run),
                "requests",
            )
            assert not page._left.is_set()
            store.verify()
            for label in store.labels(all_rows=True):
                assert label.rater in owners
                assert math.isfinite(label.latency) or label.kind == "undo"
            leases = store._database.read("SELECT rater, COUNT(*) FROM leases GROUP BY rater")
            assert all(count <= 2 for _, count in leases)  # the one shown, and one taken back
