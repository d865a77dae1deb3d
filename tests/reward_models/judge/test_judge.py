from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fault_server import (
    BEHAVIOURS,
    LASTING,
    PASSING,
    PATIENCE,
    REFUSING,
    SLOW,
    FaultServer,
    fault_server,
    material,
    truth,
)
from text_gym import ByteTokenizer, Episode
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models import ChatEndpoint, Criterion, Judge, load_reward
from text_gym.reward_models.audit.attacks import attacked
from text_gym.reward_models.judge.criteria import Comparisons
from text_gym.reward_models.judge.endpoint import BudgetError, EndpointRefusedError
from text_gym.reward_models.judge.judge import judge_from_environment
from text_gym.rewards.cache import Cache
from text_gym.rewards.calls import Parallel

TOKENIZER = ByteTokenizer()
QUALITY = {"quality": "Is it good?"}
KEY = "sk-test-0123456789abcdef"


def texts(n: int, **columns: object) -> list[Episode]:
    return [Episode.of(f"Describe {i}:", f"text number {i}", TOKENIZER, **columns) for i in range(n)]


def judge(server: FaultServer, criteria: Any = QUALITY, timeout: float = 20.0, **options: Any) -> Judge:
    budget = {k: options.pop(k) for k in ("max_calls", "max_tokens", "key_variable") if k in options}
    endpoint = ChatEndpoint(server.url, "tiny", attempts=2, wait=0.0, timeout=timeout, **budget)
    return Judge(endpoint, criteria, **options)


def test_scores_are_scaled_and_kept_as_terms() -> None:
    episodes = texts(8)
    with fault_server("good") as server:
        rewards = judge(server)(episodes)
    expected = np.array([truth(e.completion) for e in episodes])
    assert len(set(expected)) > 2
    assert rewards.terms["quality"].tolist() == expected.tolist()
    assert rewards.values == pytest.approx((expected - 1) / 4)
    assert not rewards.abstained.any()


def test_criteria_have_ranges_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    criteria = {
        "accuracy": Criterion("Is it true?", 0, 10, weight=3),
        "style": Criterion("Is it nice?", -1, 1),
    }
    monkeypatch.setitem(
        BEHAVIOURS,
        "two",
        lambda handler, answer: handler.chat('{"style": 0.5, "accuracy": 4, "reason": "x"}'),
    )
    with fault_server("two") as server:
        rewards = judge(server, criteria)(texts(1))
    assert rewards.values == pytest.approx([(3 * 0.4 + 0.75) / 4])
    assert {k: v.tolist() for k, v in rewards.terms.items()} == {"accuracy": [4], "style": [0.5]}


@pytest.mark.parametrize("fault", [*PASSING, *LASTING])
def test_a_failure_is_missing_and_never_zero(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    with fault_server(lambda n, request: "good" if n == 0 else fault) as server:
        rewards = judge(server, timeout=PATIENCE if fault in SLOW else 20.0)(texts(2))
        assert len(server.log.requests) == (3 if fault in PASSING else 2)
    assert rewards.abstained.tolist() == [False, True]
    assert np.isnan(rewards.terms["quality"]).tolist() == [False, True]
    assert len(caplog.records) == 1  # a failure is told once


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("500", "status 500, 'boom'"),
        ("503", "status 503, '(empty)'"),
        ("hang up", "gave no answer in 2 attempts: remote protocol error"),
        ("400", """status 400, '{"error": "no"}'"""),
        ("echo", "bad key"),
        ("html", "answered with what is no chat completion: '<html><body>quality: 5"),
        ("prose", "replied without valid scores: 'I would give it a 5.'"),
        ("rude", r"status 418, '\x1b[31mno\u202e'"),
    ],
)
def test_the_last_failure_is_what_the_endpoint_answered(
    fault: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_KEY", KEY)
    monkeypatch.setitem(BEHAVIOURS, "rude", lambda handler, answer: handler.reply(418, "\x1b[31mno\u202e"))
    with fault_server(lambda n, request: "good" if n == 0 else fault) as server:
        source = judge(server, key_variable="TINY_KEY")
        whole = 0.5 * Cache(Parallel(judge(server, deterministic=True), workers=2)) + 1
        source(texts(1))
        assert not source.last_failure
        assert source(texts(1)).abstained.all()
        told = str(source.last_failure)
        assert said in told
        assert KEY not in told
        assert told.isprintable()
        whole(texts(1))
        assert said in str(whole.last_failure)


def test_the_last_failure_tells_of_a_spent_budget() -> None:
    with fault_server("good") as server:
        source = judge(server, max_calls=0, on_spent="abstain")
        assert source(texts(1)).abstained.all()
    assert "0 of 0 calls are spent" in str(source.last_failure)


@pytest.mark.parametrize("fault", REFUSING)
def test_a_refusal_of_everything_is_raised(fault: str) -> None:
    with fault_server(fault) as server:
        with pytest.raises(EndpointRefusedError, match=rf"{server.url}.*{fault}.*key_variable"):
            judge(server)(texts(3))
        assert len(server.log.requests) == 1


def sweep(count: int, plan: Callable[[int, dict[str, Any]], str], timeout: float = 5.0) -> None:
    """Every score is the one that the server meant for this very text; everything else is missing."""
    episodes = texts(count)
    with fault_server(plan, slowness=0.1) as server:
        source = judge(server, timeout=timeout, key_variable="TINY_KEY")
        rewards = Parallel(source, workers=4, chunk=4)(episodes)
        log = server.log
    served: set[str] = set()
    for behaviour, request in zip(log.behaviours, log.requests, strict=True):
        if behaviour == "good":
            served.add(material(request["messages"])["answer"])
    for episode, value, missing in zip(episodes, rewards.terms["quality"], rewards.abstained, strict=True):
        assert missing or value == truth(episode.completion)
        assert missing or episode.completion in served
    # Where time is short, a busy machine lets a good answer come too late.
    assert (~rewards.abstained).sum() == len(served) or timeout < 1


def test_no_score_is_invented_under_a_mixture_of_faults(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TINY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    rng = random.Random(0)
    faults = [*(f for f in PASSING if f not in ("slow", "drip")), *LASTING]
    sweep(150, lambda n, request: rng.choice([*faults, *["good"] * len(faults)]))
    assert KEY not in caplog.text


@pytest.mark.nightly
@pytest.mark.parametrize(
    "fault",
    [
        "429",
        "500",
        "slow",
        "cut",
        "hang up",
        "html",
        "malformed",
        "out of range",
        "echo",
        "nan",
        "one more",
        "prose around",
    ],
)
def test_no_score_is_invented_in_a_thousand_faults(
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tried: Callable[..., None],
) -> None:
    monkeypatch.setenv("TINY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    rng = random.Random(fault)
    sweep(1000, lambda n, request: fault if rng.random() < 0.7 else "good", 0.05 if fault == "slow" else 5.0)
    assert KEY not in caplog.text
    tried("a judge that fails, in twelve ways, never gives a score it was not told", 1000, "texts judged")


def test_replies_of_reasoning_models_are_read_where_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thinks = "<think>3 or 4? Score: 3.</think>\nIt is clear.\nScore: 4/5"
    monkeypatch.setitem(BEHAVIOURS, "thinks", lambda handler, answer: handler.chat(thinks))
    with fault_server("thinks") as server:
        assert judge(server)(texts(1)).abstained.all()
        source = judge(server, replies="reasoning")
        assert source(texts(1)).terms["quality"].tolist() == [4]
        strict, asked = (request["messages"][0]["content"] for request in server.log.requests)
    assert "one JSON object and nothing else" in strict
    assert "Think first" in asked


def test_a_reply_that_was_cut_is_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = json.dumps({"choices": [{"message": {"content": "Score: 4"}, "finish_reason": "length"}]})
    monkeypatch.setitem(BEHAVIOURS, "cut off", lambda handler, answer: handler.reply(200, cut))
    with fault_server("cut off") as server:
        source = judge(server, replies="reasoning")
        assert source(texts(1)).abstained.all()
    assert "cut at 512 tokens" in str(source.last_failure)


def test_a_spent_budget_raises_or_abstains() -> None:
    with fault_server("good") as server:
        with pytest.raises(BudgetError):
            judge(server, max_calls=2)(texts(3))
        rewards = judge(server, max_calls=2, on_spent="abstain")(texts(4))
    assert rewards.abstained.tolist() == [False, False, True, True]


def test_the_judge_sees_prompt_columns_and_answer_as_they_are() -> None:
    episode = Episode.of(
        "Say\nhi", 'a "quoted"\n\x1b[31m </answer> text', TOKENIZER, reference="ho", secret="no"
    )
    with fault_server("good") as server:
        judge(server, columns=["reference"], instructions="These are greetings.")([episode])
        (request,) = server.log.requests
    seen = material(request["messages"])
    assert seen == {"prompt": "Say\nhi", "column_0": "reference: ho", "answer": episode.completion}
    system = request["messages"][0]["content"]
    assert "These are greetings." in system
    assert '"quality": a number from 1 to 5. Is it good?' in system
    with fault_server("good") as server, pytest.raises(DataError, match="no_such"):
        judge(server, columns=["no_such"])([episode])


def test_delimiters_are_new_each_time() -> None:
    with fault_server("good") as server:
        judge(server)([*texts(1), *texts(1)])
        one, two = (r["messages"][1]["content"] for r in server.log.requests)
    assert one != two


@given(st.text(), st.text())
@settings(max_examples=50, deadline=None)
def test_no_text_breaks_the_form(prompt: str, answer: str) -> None:
    source = Judge(ChatEndpoint("http://localhost:1/v1", "tiny"), QUALITY)
    seen = material(source.messages(Episode.of(prompt + ".", answer, TOKENIZER)))
    assert seen == {"prompt": prompt + ".", "answer": answer}


def test_two_hundred_attacks_break_no_form() -> None:
    source = Judge(ChatEndpoint("http://localhost:1/v1", "tiny"), QUALITY)
    for i in range(200):
        text = attacked(f"An answer {i}.", i)
        assert material(source.messages(Episode.of("Describe:", text, TOKENIZER)))["answer"] == text


# Comparisons


def picks(choose: Callable[[str, str], str]) -> Callable[[Any, str], None]:
    """The endpoint's opinion of the two answers that it is shown."""

    def behave(handler: Any, answer: str) -> None:
        seen = material(handler.server.log.requests[-1]["messages"])
        handler.chat(json.dumps({"better": choose(seen["answer_A"], seen["answer_B"])}))

    return behave


@pytest.mark.parametrize(
    ("choose", "preference", "flipped"),
    [
        (lambda a, b: "A" if len(a) > len(b) else "B", [1, 0], [False, False]),
        (lambda a, b: "A", [0.5, 0.5], [True, True]),
        (lambda a, b: "tie", [0.5, 0.5], [False, False]),
        (lambda a, b: "A" if len(a) > len(b) else "tie", [0.5, 0.5], [False, False]),
        (lambda a, b: "both", [np.nan, np.nan], [False, False]),
    ],
)
def test_pairs_are_judged_in_both_orders(
    choose: Callable[[str, str], str],
    preference: list[float],
    flipped: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(BEHAVIOURS, "picks", picks(choose))
    short, long = (Episode.of("Describe:", text, TOKENIZER) for text in ("short", "rather long"))
    with fault_server("picks") as server:
        found = judge(server).compare([(long, short), (short, long)])
        assert len(server.log.requests) == 4
    np.testing.assert_array_equal(found.preference, preference)
    assert found.flipped.tolist() == flipped
    judged = ~np.isnan(preference)
    assert found.flip_rate == pytest.approx(np.mean(flipped) if judged.any() else np.nan, nan_ok=True)


def test_a_comparison_with_one_missing_reply_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BEHAVIOURS, "picks", picks(lambda a, b: "A"))
    pair = (Episode.of("D:", "a", TOKENIZER), Episode.of("D:", "b", TOKENIZER))
    with fault_server(["picks", "500"]) as server:
        assert np.isnan(judge(server).compare([pair]).preference).all()
        with pytest.raises(ConfigError, match="pair 0"):
            judge(server).compare([(pair[0], Episode.of("E:", "b", TOKENIZER))])


# Making one


def test_wrong_rubrics_are_refused() -> None:
    endpoint = ChatEndpoint("http://localhost:1/v1", "tiny")
    for criteria in ({}, {"two words": "?"}, {"reason": "?"}, {'a"b': "?"}):
        with pytest.raises(ConfigError, match="named by a word"):
            Judge(endpoint, criteria)
    for arguments in ((5, 1), (1, float("nan")), (1, 5, 0)):
        with pytest.raises(ConfigError, match="low < high"):
            Criterion("?", *arguments)
    with pytest.raises(ConfigError, match="strict or reasoning"):
        Judge(endpoint, QUALITY, replies="loose")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="on_spent"):
        Judge(endpoint, QUALITY, on_spent="ignore")  # type: ignore[arg-type]


def test_a_judge_is_cached_only_on_its_users_word() -> None:
    with fault_server("good") as server:
        with pytest.raises(ConfigError, match="deterministic"):
            Cache(judge(server))
        cached = Cache(judge(server, deterministic=True))
        assert (cached(texts(3)).values == cached(texts(3)).values).all()
        assert len(server.log.requests) == 3


def test_a_judge_described_by_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "MODEL", "KEY", "CALLS", "RUBRIC", "REPLIES"):
        monkeypatch.delenv(f"TEXT_GYM_JUDGE_{name}", raising=False)
    with pytest.raises(ConfigError, match="TEXT_GYM_JUDGE_URL"):
        load_reward("judge")
    with fault_server("good") as server:
        monkeypatch.setenv("TEXT_GYM_JUDGE_URL", server.url)
        monkeypatch.setenv("TEXT_GYM_JUDGE_MODEL", "tiny")
        monkeypatch.setenv("TEXT_GYM_JUDGE_KEY", KEY)
        monkeypatch.setenv("TEXT_GYM_JUDGE_CALLS", "1")
        source = load_reward("judge")
        assert source(texts(1)).terms["quality"].tolist() == [truth("text number 0")]
        assert server.log.headers[0]["Authorization"] == f"Bearer {KEY}"
        with pytest.raises(BudgetError):
            source(texts(1))
    rubric = tmp_path / "rubric.csv"
    rubric.write_text("name,question,low,high,weight\nstyle,Is it nice?,0,10,2\ntruth,Is it true?,,,\n")
    monkeypatch.setenv("TEXT_GYM_JUDGE_RUBRIC", str(rubric))
    assert judge_from_environment().criteria == {
        "style": Criterion("Is it nice?", 0, 10, 2),
        "truth": Criterion("Is it true?"),
    }
    in_json = tmp_path / "rubric.json"  # where a lowest mark of 0 is a number, not a text
    in_json.write_text('[{"name": "style", "question": "Is it nice?", "low": 0, "high": 10}]')
    monkeypatch.setenv("TEXT_GYM_JUDGE_RUBRIC", str(in_json))
    assert judge_from_environment().criteria == {"style": Criterion("Is it nice?", 0, 10)}
    monkeypatch.setenv("TEXT_GYM_JUDGE_RUBRIC", str(rubric))
    rubric.write_text("name,question,low\nstyle,Is it nice?,none\n")
    with pytest.raises(ConfigError, match="row 1"):
        judge_from_environment()
    rubric.write_text("name,question\nstyle,Is it nice?\n")
    monkeypatch.setenv("TEXT_GYM_JUDGE_REPLIES", "reasoning")
    assert judge_from_environment().replies == "reasoning"
    monkeypatch.setenv("TEXT_GYM_JUDGE_REPLIES", "loose")
    with pytest.raises(ConfigError, match="REPLIES"):
        judge_from_environment()
    monkeypatch.setenv("TEXT_GYM_JUDGE_CALLS", "many")
    with pytest.raises(ConfigError, match="CALLS"):
        judge_from_environment()


def test_pairs_without_a_verdict_count_for_no_flip() -> None:
    found = Comparisons(np.array([0.5, np.nan, 1.0, np.nan]), np.array([True, False, False, False]))
    assert found.flip_rate == 0.5
