from __future__ import annotations

import base64
import hashlib
import math
import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from text_gym.pages.page import interval, number, render_page, significant
from text_gym.utils.interval import Interval

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e {{ 7*7 }}"


def template(folder: Path, main: str) -> Path:
    file = folder / "mine.html"
    file.write_text(
        '{% extends "page.html" %}\n{% block title %}{{ x|text }}{% endblock %}\n'
        "{% block main %}\n" + main + "{% endblock %}\n"
    )
    return file


def test_a_page_may_load_and_run_nothing(tmp_path: Path) -> None:
    page = render_page(template(tmp_path, "<p>{{ x|text }}</p>"), {"x": HOSTILE})
    assert """content="default-src 'none'; style-src 'unsafe-inline'">""" in page
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\u202e {{ 7*7 }}") == 2
    assert "color-scheme: light dark" in page
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page


def test_a_page_may_run_the_script_that_its_policy_names(tmp_path: Path) -> None:
    script = 'console.log("<&>");'
    page = render_page(template(tmp_path, ""), {"x": ""}, script=script)
    (found,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert found == script
    assert f"script-src 'sha256-{digest}'\"" in page


def test_a_missing_value_is_an_error_and_filters_can_be_added(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="'y'"):
        render_page(template(tmp_path, "{{ y }}"), {"x": ""})
    page = render_page(template(tmp_path, "{{ x|loud }}"), {"x": "a"}, filters={"loud": str.upper})
    assert "\nA" in page


def test_everything_is_escaped_without_being_asked(tmp_path: Path) -> None:
    page = render_page(template(tmp_path, '<p title="{{ x }}">{{ x }}</p>'), {"x": '"><b onload=x>'})
    assert '<p title="&#34;&gt;&lt;b onload=x&gt;">&#34;&gt;&lt;b onload=x&gt;</p>' in page


def test_numbers() -> None:
    assert [number(x) for x in (0.5, -2, None, math.nan, -1e-9)] == ["0.50", "−2.00", "–", "–", "0.00"]
    assert number(3.0, 0, sign=True) == "+3"
    assert significant(1234.5) == "1.23e+03"
    assert interval(Interval(0.5, 0.4, 0.6, 9)) == "0.50 <small>[0.40, 0.60]</small>"
    assert interval({"mean": -0.25, "ci95": [-0.5, 0.0]}, 3) == "−0.250 <small>[−0.500, 0.000]</small>"
    assert interval({"value": None, "ci95": [None, None]}) == "–"
    assert interval(Interval(0.5, math.nan, math.nan, 1)) == "0.50 <small>(no interval)</small>"
    assert interval(None) == "–"
