from __future__ import annotations

import logging
import pickle
import threading
import traceback
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from tests.fault_server import PASSING, PATIENCE, REFUSING, SLOW, FaultServer, fault_server, truth
from text_gym.errors import ConfigError, TextGymError
from text_gym.reward_models import ChatEndpoint
from text_gym.reward_models.judge.endpoint import (
    BudgetError,
    EndpointError,
    EndpointRefusedError,
    Spent,
    _seconds,
)

KEY = "sk-test/0123456789+abcdef"
MESSAGES = [
    {"role": "system", "content": "The material stands between tags that end in ab. Score it."},
    {"role": "user", "content": "<answer-ab>\nhello\n</answer-ab>"},
]


def endpoint(server: FaultServer, **options: object) -> ChatEndpoint:
    given: dict[str, object] = {"attempts": 3, "wait": 0.0, "timeout": 20.0} | options
    return ChatEndpoint(server.url, "tiny", **given)  # type: ignore[arg-type]


def test_an_answer_and_what_it_cost() -> None:
    with fault_server("good") as server:
        asked = endpoint(server, extra={"top_p": 0.5})
        assert f'"quality": {truth("hello")}' in asked.ask(MESSAGES)
        assert asked.spent == Spent(calls=1, tokens=100, failures=0)
        (request,) = server.log.requests
    assert request["messages"] == MESSAGES
    assert (request["model"], request["temperature"], request["top_p"]) == ("tiny", 0.0, 0.5)


@pytest.mark.parametrize("fault", PASSING)
def test_passing_faults_are_asked_again(fault: str) -> None:
    timeout = PATIENCE if fault in SLOW else 20.0
    with fault_server([fault, fault, "good"]) as server:
        asked = endpoint(server, timeout=timeout)
        assert "quality" in asked.ask(MESSAGES)
        assert asked.spent == Spent(calls=3, tokens=100, failures=0)
    with fault_server(fault) as server:
        asked = endpoint(server, timeout=timeout)
        with pytest.raises(EndpointError, match=r"127\.0\.0\.1.*no answer in 3 attempts") as raised:
            asked.ask(MESSAGES)
        assert isinstance(raised.value.__cause__, ConnectionError)  # what `Retry` looks for
        assert len(server.log.requests) == 3
        assert asked.spent.failures == 1


@pytest.mark.parametrize(
    "fault", [*REFUSING, "400", "redirect", "html", "malformed", "no choices", "null", "list"]
)
def test_lasting_faults_are_not_asked_again(fault: str) -> None:
    with fault_server(fault) as server:
        with pytest.raises(EndpointError) as raised:
            endpoint(server).ask(MESSAGES)
        assert len(server.log.requests) == 1
    assert isinstance(raised.value, EndpointRefusedError) == (fault in REFUSING)


def test_retry_after_is_honoured_up_to_a_limit() -> None:
    with fault_server(["429 wait", "good"]) as server:
        endpoint(server).ask(MESSAGES)
        first, second = server.log.times
        assert second - first >= 0.3
    with fault_server("429 long") as server:
        with pytest.raises(EndpointError, match="asks to wait 3600 s"):
            endpoint(server).ask(MESSAGES)
        assert len(server.log.requests) == 1


def test_waits_double_from_attempt_to_attempt() -> None:
    with fault_server(["500", "500", "good"]) as server:
        endpoint(server, wait=0.1).ask(MESSAGES)
        one, two, three = server.log.times
    assert 0.1 <= two - one < 0.35
    assert 0.2 <= three - two < 0.6


def test_forms_of_retry_after() -> None:
    assert _seconds("7") == 7
    assert _seconds(" 1.5 ") == 1.5
    for nonsense in ("", "soon", "-3", "nan", "inf", "１"):
        assert _seconds(nonsense) == 0
    later = datetime.now(timezone.utc) + timedelta(seconds=90)
    assert _seconds(format_datetime(later, usegmt=True)) == pytest.approx(90, abs=2)
    assert _seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_budgets_stop_before_the_request() -> None:
    with fault_server("good") as server:
        for options, what, calls in (
            ({"max_calls": 2}, "2 of 2 calls", 2),
            ({"max_tokens": 150}, "200 of 150 tokens", 2),
        ):
            asked = endpoint(server, **options)
            server.log.requests.clear()
            for _ in range(calls):
                asked.ask(MESSAGES)
            with pytest.raises(BudgetError, match=what):
                asked.ask(MESSAGES)
            assert len(server.log.requests) == calls
    with fault_server("500") as server:  # repeated requests cost too
        asked = endpoint(server, max_calls=2)
        with pytest.raises(BudgetError):
            asked.ask(MESSAGES)
        assert len(server.log.requests) == 2


def test_a_budget_holds_over_threads() -> None:
    refused: list[BaseException] = []
    with fault_server("good") as server:
        asked = endpoint(server, max_calls=10, timeout=10)

        def work() -> None:
            for _ in range(5):
                try:
                    asked.ask(MESSAGES)
                except BudgetError as error:
                    refused.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.log.requests) == 10
    assert len(refused) == 10
    assert asked.spent == Spent(calls=10, tokens=1000, failures=10)


def test_tokens_are_estimated_where_none_are_reported() -> None:
    with fault_server("prose") as server:
        asked = endpoint(server)
        asked.ask(MESSAGES)
    assert 50 < asked.spent.tokens < 150  # about 300 bytes there, 75 back


@pytest.mark.parametrize(
    "fault", ["401", "400", "echo", "echo escaped", "echo in answer", "500", "cut", "html", "good", "slow"]
)
def test_the_key_is_sent_and_nowhere_else(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TINY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    shown = ""
    with fault_server(fault) as server:
        asked = endpoint(server, key_variable="TINY_KEY", attempts=2, timeout=PATIENCE)
        try:
            shown += asked.ask(MESSAGES)
        except TextGymError as error:
            shown += "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)
            shown += pickle.dumps(error).decode("latin-1")
        assert server.log.headers[0]["Authorization"] == f"Bearer {KEY}"
    shown += caplog.text + repr(asked) + str(asked) + str(vars(asked))
    assert caplog.text  # httpx logs its requests: it is looked at
    assert KEY not in shown
    assert "[key]" in shown or not fault.startswith("echo")
    assert shown.count("[key]") >= 4 or fault != "echo escaped"
    assert KEY.encode() not in pickle.dumps(asked)


def test_a_missing_or_impossible_key_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with fault_server("good") as server:
        asked = endpoint(server, key_variable="TINY_KEY")
        monkeypatch.delenv("TINY_KEY", raising=False)
        with pytest.raises(ConfigError, match="TINY_KEY is empty"):
            asked.ask(MESSAGES)
        monkeypatch.setenv("TINY_KEY", f"{KEY}\r\nX: y")
        with pytest.raises(ConfigError, match="TINY_KEY") as raised:
            asked.ask(MESSAGES)
        assert KEY not in str(raised.value)
        assert not server.log.requests
        monkeypatch.setenv("TINY_KEY", f" {KEY}\r\n")  # as `$(cat key.txt)` has it on some systems
        asked.ask(MESSAGES)
        assert server.log.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("localhost:8000", {}),
        ("file:///etc/passwd", {}),
        (f"http://me:{KEY}@localhost/v1", {}),
        (f"http://localhost/v1?key={KEY}", {}),
        ("http://localhost/v1", {"key_variable": KEY}),
        ("http://localhost/v1", {"attempts": 0}),
        ("http://localhost/v1", {"timeout": 0}),
        ("http://localhost/v1", {"wait": -1}),
        ("http://localhost/v1", {"max_calls": -1}),
    ],
)
def test_wrong_options_are_refused_without_showing_a_key(url: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as raised:
        ChatEndpoint(url, "tiny", **options)  # type: ignore[arg-type]
    assert KEY not in str(raised.value)


def test_it_pickles_and_closes() -> None:
    with fault_server("good") as server:
        asked = endpoint(server)
        asked.ask(MESSAGES)
        again = pickle.loads(pickle.dumps(asked))
        asked.close()
        assert again.ask(MESSAGES) == asked.ask(MESSAGES)


def test_lone_surrogates_are_replaced() -> None:
    with fault_server("good") as server:
        endpoint(server).ask([MESSAGES[0], {"role": "user", "content": "<answer-ab>\n\ud800\n</answer-ab>"}])
        assert server.log.requests[0]["messages"][1]["content"] == "<answer-ab>\n?\n</answer-ab>"
