"""Coloured texts: whose colour a token has, which numbers stand behind it, and what tokens add to a text."""

from __future__ import annotations

import re
from html import unescape

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym import ByteTokenizer, Episode, WordTokenizer
from text_gym.errors import ConfigError, DataError
from text_gym.plot import coloured_text
from text_gym.plot.texts import token_texts

SPAN = re.compile(r'<span title="([^"]*)"(?: style="background:(#[0-9a-f]{6})([0-9a-f]{2})")?>([^<]*)</span>')


def spans(html: str) -> list[tuple[str, str, int, str]]:
    """Title, colour, depth in 255ths and text of each token."""
    return [(unescape(t), c, int(d or "0", 16), unescape(x)) for t, c, d, x in SPAN.findall(html)]


def test_colours_have_the_sign_and_the_size_of_their_values() -> None:
    shown = coloured_text(["a", " b", " c", " d", " e"], {"reward": [1.0, -0.5, 0.0, np.nan, -1.0]})
    a, b, c, d, e = spans(shown._repr_html_())
    assert a[1] != b[1] == e[1]
    assert a[2] == e[2] == pytest.approx(2 * b[2], abs=1)
    assert (c[1:3], d[1:3]) == (("", 0), ("", 0))
    assert [x[3] for x in (a, b, c, d, e)] == ["a", " b", " c", " d", " e"]


def test_the_mouse_shows_all_numbers_of_a_token() -> None:
    shown = coloured_text(["a", "b"], {"reward": [0.25, 1], "KL, nats": [-2, np.nan]})
    first, second, *rest = spans(shown._repr_html_())
    assert first[0] == "token 1: 'a'\nreward +0.25\nKL, nats −2"
    assert second[0] == "token 2: 'b'\nreward +1\nKL, nats –"
    assert [x[0] for x in rest] == [first[0], second[0]]  # the second time, coloured by KL


def test_the_legend_has_the_name_and_the_limit() -> None:
    html = coloured_text(["a"], {"advantage": [0.125]})._repr_html_()
    plain = re.sub(r"<[^>]*>", "|", html)
    assert "|advantage|&ensp;−0.125||||0.125|" in plain
    limited = coloured_text(["a"], {"x": [0.1], "y": [0.1]}, limit={"x": 0.2})._repr_html_()
    assert "−0.2<" in limited
    assert "−0.1<" in limited
    (a, b) = spans(limited)
    assert b[2] == pytest.approx(2 * a[2], abs=1)


def test_a_row_of_a_rollout_may_be_longer_than_its_episode() -> None:
    episode = Episode.of("P", "ab", ByteTokenizer())
    shown = coloured_text(episode, {"reward": [0, 0, 1, 7, 7]})
    assert repr(shown) == "ColouredText(3 tokens by reward)"
    assert [x[3] for x in spans(shown._repr_html_())] == ["a", "b", "■"]
    assert shown.limits["reward"] == 1  # what lies past the end does not count


@pytest.mark.parametrize("values", [{}, {"reward": [1.0]}, {"reward": [[1.0, 2.0]]}, {"reward": "ab"}])
def test_values_that_do_not_fit_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(DataError):
        coloured_text(["a", "b"], values)  # type: ignore[arg-type]


def test_a_limit_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ConfigError, match="limit of 'reward'"):
        coloured_text(["a"], {"reward": [1.0]}, limit=0)


def test_long_texts_are_cut_and_the_rest_is_counted() -> None:
    html = coloured_text(["x"] * 2500, {"reward": np.ones(2500)})._repr_html_()
    assert len(spans(html)) == 2000
    assert "500 more tokens" in html


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
def test_what_tokens_add_is_the_text(text: str) -> None:
    episode = Episode.of("P", text, ByteTokenizer())
    pieces = token_texts(episode)
    assert len(pieces) == len(episode.completion_ids)
    assert "".join(pieces) == text + "■"


def test_what_words_add_has_its_spaces() -> None:
    episode = Episode.of("one", "two one two", WordTokenizer(["one", "two"], separator=" "))
    assert "".join(token_texts(episode)) == "two one two■"


def test_bytes_that_are_no_letters_are_shown() -> None:
    episode = Episode("", np.zeros(0), np.array([255, 97, 255]), ByteTokenizer())  # type: ignore[arg-type]
    assert "".join(token_texts(episode)) == "\ufffda\ufffd"
