from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from text_gym.reward_models import Criterion
from text_gym.reward_models.judge.replies import parse_choice, parse_scores

QUALITY = {"quality": Criterion("Is it good?")}
TWO = {"truth": Criterion("Is it true?", 0, 10), "style": Criterion("Is it nice?")}


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"quality": 1}', 1.0),
        (' \n{"quality": 5.0, "reason": "fine"} ', 5.0),
        ('```json\n{"quality": 3}\n```', 3.0),
        ('{"quality": 5.01}', None),
        ('{"quality": 0}', None),
        ('{"quality": 1e999}', None),
        ('{"quality": -Infinity}', None),
        ('{"quality": [3]}', None),
        ('{"quality": null}', None),
        ('{"quality": true}', None),
        ('{"Quality": 3}', None),
        ('{"quality": 3} {"quality": 3}', None),
        ('[{"quality": 3}]', None),
        ('{"reason": "none"}', None),
        ("3", None),
        ("[" * 100_000, None),
    ],
)
def test_only_exact_replies_are_scores(reply: str, score: float | None) -> None:
    found = parse_scores(reply, {"quality": Criterion("Is it good?")})
    assert found == (None if score is None else {"quality": score})


@given(
    st.text()
    | st.recursive(
        st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    ).map(json.dumps)
)
@settings(max_examples=200, deadline=None)
def test_no_reply_makes_a_score_out_of_range(reply: str) -> None:
    found = parse_scores(reply, {"quality": Criterion("Is it good?")})
    assert found is None or 1 <= found["quality"] <= 5
    assert parse_choice(reply) in (None, 0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"quality": 4}', 4.0),
        ('{"quality": "4"}', 4.0),
        ('{"quality": "4/5"}', 4.0),
        ('{"score": 4.5}', 4.5),
        ("Score: 4", 4.0),
        ("score = 4/5", 4.0),
        ("QUALITY: 4.", 4.0),
        ("**Score:** 4 / 5", 4.0),
        ("**Score: 4**", 4.0),
        ('"quality": 4', 4.0),
        ("It is clear, short and true.\n\nScore: 4\n", 4.0),
        ('It is clear.\n{"quality": 4}', 4.0),
        ('It is clear: {"reason": "says {all}", "quality": "4"}', 4.0),
        ('It is clear.\n```json\n{"quality": 4}\n```', 4.0),
        ('It says\n```\nx = 1\n```\nand no more.\n```json\n{"quality": 4}\n```', 4.0),
        ("Quality: 4, I think.\nScore: 4", 4.0),
        ("<think>Perhaps 2? Score: 2. Score: 3.</think>\nScore: 4", 4.0),
        ('\n<think>\n{"quality": 1}\n</think>\n\n{"quality": 4}', 4.0),
        ("the template opened the thoughts: 3?</think>Score: 4", 4.0),
        # two scores, a wrong scale, a score out of range
        ("Score: 3\nScore: 4", None),
        ("Quality: 3, no.\nScore: 4", None),
        ('{"quality": 3}\n{"quality": 4}', None),
        ('Score: 3\n{"quality": 4}', None),
        ("Score: 4 or 5", None),
        ("Score: 4-5", None),
        ("Score: 4,5", None),
        ("Score: 4/10", None),
        ("Score: 8/10 in other words:\nScore: 4", None),
        ("Score: 6", None),
        ('{"quality": "6"}', None),
        ("Score: -4", None),
        ("Score: ٤", None),
        ("Score: " + "9" * 5000, None),
        # not at the end, or no score
        ("Score: 4\nI hope that this helps.", None),
        ('{"quality": 4} is what I say.', None),
        ("I give it a 4.", None),
        ("Score: four", None),
        ("4", None),
        ("", None),
        ('{"quality": {"score": 4}}', None),
        ('{"quality": true}', None),
        ('{"quality": 4, "quality": 4}', None),
        ('{"quality": 4, "bonus": 5}', None),
        ('{"score": 4, "quality": 4}', None),
        # thoughts that do not end, or end twice
        ("<think>Score: 4", None),
        ("<think>\nfine\nScore: 4", None),
        ("<think>a</think>b</think>Score: 4", None),
        ("<think>a<think>b</think>Score: 4", None),
        ("Well. <think>a</think>Score: 4", None),
        ("Score: 4<think>a</think>", None),
        ("Score: 4</think>", None),
    ],
)
def test_a_reasoning_reply_is_read_by_the_grammar(reply: str, score: float | None) -> None:
    assert parse_scores(reply, QUALITY, "reasoning") == (None if score is None else {"quality": score})


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("Style: 2\nTruth: 9/10", {"truth": 9, "style": 2}),
        ('Truth is 9.\n{"style": "2", "truth": 9}', {"truth": 9, "style": 2}),
        ("truth: 9\nstyle: 2\nTruth: 8\nStyle: 2", None),
        ("truth: 9/5\nstyle: 2", None),
        ("truth: 9", None),
        ("truth: 9\ntruth: 9", None),
        ("truth: 9\nscore: 2", None),
        ('{"score": 2}', None),
    ],
)
def test_every_criterion_needs_a_line_of_its_own(reply: str, scores: dict[str, float] | None) -> None:
    assert parse_scores(reply, TWO, "reasoning") == scores


def test_names_that_differ_in_case_alone_are_told_apart() -> None:
    criteria = {"A": Criterion("?"), "a": Criterion("?")}
    assert parse_scores("a: 2\nA: 3", criteria, "reasoning") == {"A": 3, "a": 2}


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ('{"better": "tie"}', 0.5),
        ("<think>B is longer</think>A is right.\n**Better: A**", 1.0),
        ('Both are good.\n{"better": "B"}', 0.0),
        ("Better: a", None),
        ("Better: A or B", None),
        ("Better: A\nBetter: B", None),
        ("A", None),
        ('{"better": 1}', None),
    ],
)
def test_a_verdict_of_a_reasoning_model(reply: str, choice: float | None) -> None:
    assert parse_choice(reply, "reasoning") == choice


PIECES = st.sampled_from(
    [
        *("<think>", "</think>", "Score: 4", "score: 4/5", "Quality: 2", "Score:", "reason", "and", "json"),
        *('{"quality": 3}', '{"quality": "9"}', "{", "}", "4", "/", ":", " ", "\\", '"', "**", "```"),
        *("\n", "٤", "\u2028", "\x00"),
    ]
)
HOSTILE = st.lists(PIECES | st.text(max_size=8), max_size=12).map("".join)


@given(HOSTILE)
@example('{"reason": "</think>{\\"quality\\": 5}", "quality": 2}')
@settings(max_examples=100, deadline=None)
def test_what_is_read_strictly_is_read_alike_and_all_is_in_range(reply: str) -> None:
    strict, reasoning = parse_scores(reply, QUALITY), parse_scores(reply, QUALITY, "reasoning")
    assert strict is None or reasoning == strict
    assert reasoning is None or 1 <= reasoning["quality"] <= 5
    assert parse_choice(reply, "reasoning") in (None, 0.0, 0.5, 1.0)


@given(HOSTILE, st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_thoughts_change_no_score_and_two_scores_are_none(hostile: str, one: int, two: int) -> None:
    thoughts = hostile.replace("<think>", "").replace("</think>", "")
    # Taking a tag out may make another one of what stood around it.
    if "think>" not in thoughts:
        reply = f"<think>{thoughts}</think>\nScore: {two}"
        assert parse_scores(reply, QUALITY, "reasoning") == {"quality": two}
    prose = thoughts.replace("think>", "").replace("{", "").replace("}", "")
    found = parse_scores(f"Score: {one}\n{prose}\nScore: {two}", QUALITY, "reasoning")
    assert found is None or (one == two and found == {"quality": two})


@pytest.mark.parametrize(
    "reply",
    [
        "{" * 200_000 + "}",
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "Score:" + " " * 200_000 + "x\nScore: 4",
        "score " * 50_000 + "\nScore: 4",
        "<think>" * 50_000,
        "Score: " + "1" * 200_000,
        "*" * 200_000 + "Score: 4",
        "a" * 200_000 + "\n" + "a" * 200_000,
    ],
)
def test_no_reply_takes_long_to_read(reply: str) -> None:
    begun = time.process_time()
    parse_scores(reply, QUALITY, "reasoning")
    parse_choice(reply, "reasoning")
    assert time.process_time() - begun < 5  # a quadratic search would take minutes
