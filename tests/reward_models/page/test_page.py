from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page_tools import GOOD, Browser, exchange, ratings, raw, served
from tests.test_page import BROWSER, FLAGS
from text_gym.errors import ConfigError, NotSavedError, RaterLeftError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.questions import Question
from text_gym.reward_models.page import page as page_module
from text_gym.reward_models.page.page import LabelPage
from text_gym.reward_models.page.security import NAMES
from text_gym.reward_models.page.shown import SHOWN

ROOT = Path(__file__).parents[3]


# Questions and answers


def test_a_rater_answers_until_nothing_is_left(tmp_path: Path) -> None:
    with served(tmp_path, ratings(5)) as (_, store, links):
        ada = Browser(links[-1])
        seen = []
        while question := ada.next():
            seen.append(question["texts"][1]["text"])
            status, data = ada.answer(question["id"], f"key {len(seen)}")
            assert (status, data["row"]) == (200, len(seen))
        assert seen == [f"Mug number {i}: buy it!" for i in range(5)]
        found = list(store.labels())
        assert [x.question.completions[0] for x in found] == seen
        assert all(dict(x.values) == GOOD and x.rater == "ada" and x.latency == 1.5 for x in found)
        assert ada.post("next")[1]["progress"] == {"mine": 5, "left": 0, "all": 5}


def test_what_a_page_is_shown(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\x1b[31m\u202e\n"
    questions = [
        Question.rating("Prompt.\n", hostile),
        Question.comparison("P", "one", "two"),
        Question.best_of_n("P", ["a", "b", "c"]),
    ]
    with served(tmp_path, questions) as (_, store, links):
        ada = Browser(links[-1])
        first = ada.next()
        assert first is not None
        assert [t["text"] for t in first["texts"]] == [
            "Prompt.",
            "<script>alert(1)</script>\\x1b[31m\\u202e",  # markup is the page's business, controls are ours
        ]
        assert [f["name"] for f in first["fields"]] == ["accuracy", "clarity", "persuasiveness"]
        assert [o["value"] for o in first["fields"][0]["options"]] == [1, 2, 3, 4, 5]
        ada.answer(first["id"], "1")
        second = ada.next()
        assert second is not None
        assert second["kind"] == "comparison"
        assert [o["keys"][0] for o in second["fields"][0]["options"]] == ["1", "2", "0"]
        assert ada.answer(second["id"], "2", {"preference": "tie"})[0] == 200
        third = ada.next()
        assert third is not None
        assert ada.answer(third["id"], "3", {"preference": 3})[0] == 200
        assert "policy" not in json.dumps([first, second, third])  # raters are blind
        assert [dict(x.values) for x in store.labels()] == [GOOD, {"preference": "tie"}, {"preference": 3}]
        assert next(store.labels()).question.completions == (hostile,)  # verbatim


def test_long_texts_come_in_parts(tmp_path: Path) -> None:
    long = "".join(f"{i:07d}\n" for i in range(7000))  # 56,000 characters
    with served(tmp_path, [Question.rating("P", long)]) as (_, _, links):
        ada = Browser(links[-1])
        question = ada.next()
        assert question is not None
        part = question["texts"][1]
        shown = part["text"]
        assert len(shown) == SHOWN
        while part["left"]:
            status, part = ada.post("text", {"item": question["id"], "number": 1, "start": part["end"]})
            assert status == 200
            shown += part["text"]
        assert shown == long.removesuffix("\n")
        assert ada.post("text", {"item": question["id"], "number": 2, "start": 0})[0] == 404


def test_undo_gives_the_question_back_and_is_harmless_twice(tmp_path: Path) -> None:
    with served(tmp_path, ratings(3)) as (_, store, links):
        ada = Browser(links[-1])
        first = ada.next()
        assert first is not None
        ada.answer(first["id"], "a")
        assert ada.next() != first
        for _ in range(2):  # sent again: the same key
            status, data = ada.post("undo", {"rater": "ada", "key": "u1"})
            assert (status, data["undone"]) == (200, True)
            assert data["question"]["id"] == first["id"]
        assert list(store.labels()) == []
        assert store.head[0] == 2  # the answer and one undo
        assert ada.answer(first["id"], "b")[0] == 200
        assert ada.post("undo", {"rater": "bob", "key": "u2"}) == (200, {"undone": False})


def test_a_skipped_question_goes_to_others(tmp_path: Path) -> None:
    with served(tmp_path, ratings(1)) as (_, store, links):
        ada = Browser(links[-1])
        bob = Browser(links[-1], "bob")
        question = ada.next()
        assert question is not None
        assert bob.next() is None  # leased
        data = {"rater": "ada", "item": question["id"], "key": "s", "seconds": 2, "skip": True}
        assert ada.post("answer", data)[0] == 200
        assert ada.next() is None
        assert bob.next() == question
        assert [x.kind for x in store.labels(all_rows=True)] == ["skip"]


def test_the_question_of_a_closed_page_soon_goes_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "AWAY", 0.0)  # as when it is over
    with served(tmp_path, ratings(2)) as (_, store, links):
        ada, bob = Browser(links[-1]), Browser(links[-1], "bob")
        one = {"rater": "ada", "tab": "one"}
        first = ada.post("next", one)[1]["question"]
        assert ada.post("next", {"rater": "ada", "tab": "two"})[1]["question"] == first
        assert ada.post("away", {**one, "item": first["id"]}) == (200, {})
        assert bob.next() != first  # it is open in the other tab
        store.release("bob")
        assert ada.post("away", {"rater": "ada", "tab": "two", "item": first["id"]}) == (200, {})
        assert bob.next() == first


def test_a_page_that_is_loaded_anew_keeps_its_question(tmp_path: Path) -> None:
    with served(tmp_path, ratings(2)) as (_, store, links):
        ada, bob = Browser(links[-1]), Browser(links[-1], "bob")
        first = ada.post("next", {"rater": "ada", "tab": "one"})[1]["question"]
        ada.post("away", {"rater": "ada", "tab": "one", "item": first["id"]})
        assert bob.next() != first
        assert ada.post("next", {"rater": "ada", "tab": "new"})[1]["question"] == first
        ada.answer(first["id"], "k")
        assert ada.post("away", {"rater": "ada", "tab": "new", "item": first["id"]}) == (200, {})
        assert len(list(store.labels())) == 1


def test_the_same_key_saves_once_and_another_key_is_a_second_answer(tmp_path: Path) -> None:
    with served(tmp_path, ratings(2)) as (_, store, links):
        ada = Browser(links[-1])
        question = ada.next()
        assert question is not None
        rows = [ada.answer(question["id"], "k") for _ in range(3)]
        assert rows == [(200, {"row": 1})] * 3
        assert ada.answer(question["id"], "other")[0] == 409
        assert ada.answer(question["id"], "k", {**GOOD, "clarity": 1})[0] == 409
        assert len(list(store.labels())) == 1


def test_a_held_question_stays_with_its_page(tmp_path: Path) -> None:
    with served(tmp_path, ratings(3)) as (_, store, links):
        ada = Browser(links[-1])
        ids = [item.id for item in store.items()]
        store.claim("ada", [ids[2]])
        store.release("ada")  # as when a lease ends
        status, data = ada.post("next", {"rater": "ada", "hold": ids[2]})
        assert (status, data["question"]["id"]) == (200, ids[2])
        ada.answer(ids[2], "k")
        status, data = ada.post("next", {"rater": "ada", "hold": ids[2]})  # answered in another tab
        assert data["question"]["id"] == ids[0]


BAD = [
    b"",
    b"[]",
    b"null",
    b"{",
    b"\xff",
    b"[" * 60_000,
    b'{"rater": ""}',
    b'{"rater": "a\\nb"}',
    b'{"rater": "\\ud800"}',
    json.dumps({"rater": "x" * 81}).encode(),
    b'{"rater": 5}',
]
WRONG: list[dict[str, Any]] = [
    {"seconds": None},
    {"seconds": -1},
    {"seconds": "1"},
    {"seconds": True},
    {"seconds": float("nan")},
    {"seconds": float("inf")},
    {"seconds": 10**400},
    {"skip": 1},
    {"key": ""},
    {"key": "k" * 65},
    {"values": None},
    {"values": []},
    {"values": {**GOOD, "accuracy": 6}},
    {"values": {**GOOD, "accuracy": "4"}},
    {"values": {**GOOD, "accuracy": 4.0}},
    {"values": {**GOOD, "accuracy": True}},
    {"values": {**GOOD, "accuracy": [4]}},
    {"values": {**GOOD, "extra": 4}},
    {"values": {"accuracy": 4}},
]


def test_bad_requests_are_400(tmp_path: Path) -> None:
    with served(tmp_path, ratings(1)) as (page, store, links):
        browser = Browser(links[-1])
        for call in ("next", "answer", "undo"):
            for body in BAD:
                reply = exchange(page.port, raw("POST", f"/api/{call}", browser.headers(), body))
                assert reply.startswith(b"HTTP/1.1 400"), (call, body, reply[:300])
        assert store.head[0] == 0


def test_bad_answers_are_400_and_leave_no_row(tmp_path: Path) -> None:
    with served(tmp_path, ratings(1)) as (_, store, links):
        ada = Browser(links[-1])
        item = next(iter(store.items())).id
        good = {"rater": "ada", "item": item, "key": "k", "seconds": 1, "values": GOOD}
        for change in WRONG:
            assert ada.post("answer", {**good, **change})[0] == 400, change
        assert ada.post("answer", {**good, "item": "0" * 64})[0] == 404
        assert store.head[0] == 0
        assert ada.post("answer", good)[0] == 200


def test_a_full_disk_is_told_and_the_answer_can_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(tmp_path, ratings(1)) as (_, store, links):
        ada = Browser(links[-1])
        item = next(iter(store.items())).id
        record = store.record
        monkeypatch.setattr(
            store, "record", lambda *_, **__: (_ for _ in ()).throw(NotSavedError("disk full"))
        )
        status, data = ada.answer(item, "k")
        assert status == 503
        assert "disk full" in data["error"]
        monkeypatch.setattr(store, "record", record)
        assert ada.answer(item, "k") == (200, {"row": 1})


def test_eight_raters_at_once_share_the_questions(tmp_path: Path) -> None:
    with served(tmp_path, ratings(80), overlap=2) as (_, store, links):
        browsers = []
        for i in range(8):
            browsers.append(Browser(links[-1], f"rater {i}"))
        errors: list[object] = []

        def work(browser: Browser) -> None:
            try:
                number = 0
                while question := browser.next():
                    number += 1
                    status, data = browser.answer(question["id"], f"{browser.rater} {number}")
                    assert status == 200, data
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(b,)) for b in browsers]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert errors == []
        answers = Counter(x.item for x in store.labels())
        assert len(answers) == 80
        assert set(answers.values()) == {2}
        store.verify()


def test_in_a_browser_a_closed_tab_frees_its_question_and_nothing_is_called_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium on this computer")
    monkeypatch.setattr(page_module, "AWAY", 0.0)
    questions = [Question.rating("P", " "), *ratings(1)]
    with served(tmp_path, questions) as (_, store, links), api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = chromium.new_context().new_page()
        page.goto(links[-1])
        page.fill("#name", "ada")
        page.keyboard.press("Enter")
        page.locator("#work").wait_for()
        assert page.locator(".text p").all_inner_texts() == ["P", "(nothing)"]
        bob = Browser(links[-1], "bob")
        first, second = (item.id for item in store.items())
        assert (bob.next() or {})["id"] == second
        store.release("bob")
        page.close()
        deadline = time.monotonic() + 10
        while (bob.next() or {})["id"] != first:
            assert time.monotonic() < deadline
            store.release("bob")
            time.sleep(0.05)
        chromium.close()


# As a live reward


def answer_all(browser: Browser, count: int, stop: threading.Event | None = None) -> None:
    done = 0
    while done < count and not (stop and stop.is_set()):
        question = browser.next()
        if question is None:
            time.sleep(0.02)
            continue
        status, _ = browser.answer(question["id"], f"{browser.rater} {question['id'][:40]}")
        done += status == 200


def test_ask_waits_for_the_answers_and_shows_nothing_else(tmp_path: Path) -> None:
    with served(tmp_path, ratings(4), live=True) as (page, store, links):
        ada = Browser(links[-1])
        assert ada.next() is None  # nothing was asked
        ids = [item.id for item in store.items()][1:3]
        thread = threading.Thread(target=answer_all, args=(ada, 2))
        thread.start()
        page.ask(ids)
        thread.join()
        assert [x.item for x in store.labels()] == ids
        assert ada.next() is None
        page.ask(ids)  # answered: returns at once


def test_what_a_page_holds_or_takes_back_is_of_this_batch(tmp_path: Path) -> None:
    with served(tmp_path, ratings(3), live=True) as (page, store, links):
        ada = Browser(links[-1])
        first, second, other = (item.id for item in store.items())
        thread = threading.Thread(target=answer_all, args=(ada, 1))
        thread.start()
        page.ask([first])
        thread.join()
        asking = threading.Thread(target=page.ask, args=([second],))
        asking.start()
        while (question := ada.next()) is None:
            time.sleep(0.02)
        assert question["id"] == second
        # An open tab may hold a text of no batch; the answer before is out of reach: it was learnt from.
        assert ada.post("next", {"rater": "ada", "hold": other})[1]["question"]["id"] == second
        assert ada.post("undo", {"rater": "ada", "key": "u"}) == (200, {"undone": False})
        assert ada.answer(second, "k")[0] == 200
        asking.join(10)
        assert [x.item for x in store.labels()] == [first, second]


def test_ask_waits_for_every_rater_who_is_wanted(tmp_path: Path) -> None:
    with served(tmp_path, ratings(2), overlap=2, live=True) as (page, store, links):
        ada, bob = Browser(links[-1]), Browser(links[-1], "bob")
        ids = [item.id for item in store.items()]
        asked = threading.Thread(target=page.ask, args=(ids,))
        asked.start()
        answer_all(ada, 2)
        asked.join(0.7)
        assert asked.is_alive()
        answer_all(bob, 2)
        asked.join(5)
        assert not asked.is_alive()


def test_pages_that_wait_hear_that_a_training_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "FAREWELL", 60.0)
    with served(tmp_path, ratings(1), live=True) as (page, _, links):
        ada = Browser(links[-1])
        looking = {"rater": "ada", "tab": "one"}
        assert ada.post("next", looking)[1]["over"] is False
        closing = threading.Thread(target=page.close)
        closing.start()
        while not ada.post("next", looking)[1]["over"]:
            time.sleep(0.01)
        closing.join()


def test_only_the_host_can_end_a_training(tmp_path: Path) -> None:
    with served(tmp_path, ratings(2), live=True) as (page, store, links):
        ada = Browser(links[-1])  # the first link
        eve = Browser(links[-1], "eve")
        assert [x.post("hello")[1]["host"] for x in (ada, eve)] == [True, False]
        assert eve.post("end", {})[0] == 403
        ids = [item.id for item in store.items()]
        timer = threading.Timer(0.2, lambda: ada.post("end", {}))
        timer.start()
        with pytest.raises(RaterLeftError):
            page.ask(ids)
        timer.join()
        thread = threading.Thread(target=answer_all, args=(ada, 2))
        thread.start()
        page.ask(ids)  # another training may ask again
        thread.join()


def test_no_page_ends_what_is_no_training(tmp_path: Path) -> None:
    with served(tmp_path, ratings(2)) as (page, _, links):
        assert Browser(links[-1]).post("end", {})[0] == 403
        assert not page._left.is_set()


# Raters who attack each other


def test_nobody_answers_skips_or_undoes_under_the_name_of_another(tmp_path: Path) -> None:
    with served(tmp_path, ratings(4), overlap=2) as (_, store, links):
        ada = Browser(links[-1])
        eve = Browser(links[-1], "eve")
        question = ada.next()
        assert question is not None
        assert ada.answer(question["id"], "a")[0] == 200
        before = list(store.labels(all_rows=True))
        eve.rater = "ada"
        said = {"rater": "ada", "item": question["id"], "key": "e", "seconds": 1}
        for call, data in (
            ("next", {"rater": "ada"}),
            ("undo", {"rater": "ada", "key": "e"}),
            ("answer", said | {"values": GOOD}),
            ("answer", said | {"skip": True}),
            ("answer", said | {"values": GOOD, "item": next(store.items()).id}),
        ):
            status, content = eve.post(call, data)
            assert status == 403, call
            assert "another name" in content["error"]
        assert list(store.labels(all_rows=True)) == before
        eve.rater = "eve"
        assert eve.next() is not None  # under a name of her own she may
        assert eve.post("undo", {"rater": "eve", "key": "u"}) == (200, {"undone": False})


def test_nobody_hogs_the_questions(tmp_path: Path) -> None:
    """One browser under many names, and one name asking for every question there is."""
    with served(tmp_path, ratings(30)) as (_, store, links):
        eve = Browser(links[-1], "eve")
        ids = [item.id for item in store.items()]
        for item in ids:
            assert eve.post("next", {"rater": "eve", "hold": item})[0] == 200
        for number in range(30):
            eve.post("next", {"rater": f"invented {number}"})
        ada = Browser(links[-1])
        free = 0
        while (question := ada.next()) is not None and ada.answer(question["id"], f"{free}")[0] == 200:
            free += 1
        assert free >= 30 - NAMES


def test_raters_named_in_advance_are_the_only_ones(tmp_path: Path) -> None:
    with served(tmp_path, ratings(3), raters=["ada", "bob"]) as (page, _, links):
        assert [link.partition(": ")[0] for link in links] == ["ada", "bob"]
        ada, bob = (
            Browser(link.partition(": ")[2], name) for link, name in zip(links[:2], page.raters, strict=True)
        )
        assert [link.partition(": ")[0] for link in links[2:]] == ["ada", "bob"]  # the next ones
        assert ada.post("hello")[1]["rater"] == "ada"
        assert [x.next() is not None for x in (ada, bob)] == [True, True]
        for name in ("bob", "eve"):
            assert ada.post("next", {"rater": name})[0] == 403
        telephone = Browser(links[2].partition(": ")[2], "ada")
        assert telephone.next() is not None
        assert ada.post("next")[0] == 403
    with pytest.raises(ConfigError, match="printable"):
        LabelPage(LabelStore(tmp_path / "labels.db"), port=0, raters=["a\x1b"])


def test_ctrl_c_ends_the_asking_at_once_and_is_then_as_it_was(tmp_path: Path) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        with served(tmp_path, ratings(1), live=True) as (page, store, _):
            threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,)).start()
            mine = threading.Timer(0.3, lambda: None)
            mine.start()
            with pytest.raises(RaterLeftError):
                page.ask([item.id for item in store.items()])
        signal.raise_signal(signal.SIGINT)
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


# Faults on the way: a proxy that cuts connections, a server that is killed


class CuttingProxy(threading.Thread):
    """Passes connections on to the page and cuts some: before the request, within it, or before the reply."""

    def __init__(self, port: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.target, self.rng = port, random.Random(seed)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.cuts = 0

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                with client:
                    self.serve(client)

    def serve(self, client: socket.socket) -> None:
        fate = self.rng.choice(
            ["pass", "pass", "refuse", "cut the request", "lose the reply", "cut the reply"]
        )
        self.cuts += fate != "pass"
        if fate == "refuse":
            return
        client.settimeout(5)
        request = client.recv(65_536)
        with socket.create_connection(("127.0.0.1", self.target), 5) as server:
            if fate == "cut the request":
                server.sendall(request[: self.rng.randrange(len(request))])
                return
            server.sendall(request)
            reply = b""
            while part := server.recv(65_536):
                reply += part
            if fate == "cut the reply":
                client.sendall(reply[: self.rng.randrange(len(reply))])
            elif fate == "pass":
                client.sendall(reply)


def label_through_faults(browser: Browser, port: int, flows: int) -> int:
    """What page.js does: the same answer with the same key until the server has decided."""
    for number in range(flows):
        question = browser.next()
        assert question is not None
        for _ in range(100):
            status, _ = browser.answer(question["id"], f"flow {number}", port=port)
            if status:
                assert status == 200
                break
        else:
            raise AssertionError("never through")
    return flows


def check_faults(folder: Path, flows: int, seed: int) -> None:
    with served(folder, ratings(flows)) as (page, store, links):
        browser = Browser(links[-1])
        proxy = CuttingProxy(page.port, seed)
        proxy.start()
        label_through_faults(browser, proxy.port, flows)
        proxy.listening.close()
        assert proxy.cuts > flows / 4
        answers = Counter(x.item for x in store.labels(all_rows=True))
        assert len(answers) == flows  # none lost
        assert set(answers.values()) == {1}  # none doubled
        store.verify()


def test_cut_connections_lose_and_double_nothing(tmp_path: Path) -> None:
    check_faults(tmp_path, 40, seed=0)


@pytest.mark.nightly
def test_cut_connections_all_night(tmp_path: Path, tried: Callable[..., None]) -> None:
    check_faults(tmp_path, 1000, seed=1)
    tried("no answer is lost or doubled when connections to the page are cut", 1000, "cut connections")


PROGRAM = """
import sys, time
from text_gym.reward_models import LabelStore
from text_gym.reward_models.page.page import LabelPage
with LabelPage(LabelStore(sys.argv[1]), port=int(sys.argv[2]), say=lambda x: print(x, flush=True)) as page:
    time.sleep(600)
"""


@contextlib.contextmanager
def running(store: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-c", PROGRAM, str(store), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def check_kills(folder: Path, kills: int, seed: int) -> None:
    path = folder / "labels.db"
    rng = random.Random(seed)
    with LabelStore(path) as store:
        store.put(ratings(20 * kills + 2000))  # more than anyone answers in that time
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    acknowledged: list[str] = []
    unsent: tuple[str, str] | None = None  # what a page keeps over a restart
    number = 0
    for _ in range(kills):
        with running(path, port) as (process, link):
            browser = Browser(link)
            timer = threading.Timer(rng.uniform(0.0, 0.6), process.kill)
            timer.start()
            try:
                while True:
                    if unsent is None:
                        status, data = browser.post("next")
                        if not status:
                            break
                        number += 1
                        unsent = data["question"]["id"], f"key {number}"
                    status, data = browser.answer(*unsent)
                    if not status:
                        break
                    assert status == 200, data
                    acknowledged.append(unsent[0])
                    unsent = None
            except OSError:
                pass
            timer.join()
    with LabelStore(path) as store:
        saved = [x.item for x in store.labels(all_rows=True)]
        store.verify()
    assert len(set(saved)) == len(saved)  # none doubled
    assert set(acknowledged) <= set(saved)  # none lost
    assert len(saved) - len(acknowledged) <= 1  # the one whose reply was killed
    assert len(acknowledged) > kills / 2  # it was at work when it was killed


def test_a_killed_server_loses_and_doubles_nothing(tmp_path: Path) -> None:
    check_kills(tmp_path, 3, seed=0)


@pytest.mark.nightly
def test_a_server_killed_all_night(tmp_path: Path, tried: Callable[..., None]) -> None:
    check_kills(tmp_path, 200, seed=1)
    tried("no answer is lost or doubled when the page's server is killed", 200, "kills")
