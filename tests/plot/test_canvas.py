from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from tests.plot.drawn import HOSTILE, tags, texts
from text_gym.errors import ConfigError
from text_gym.plot import curves, intervals, panels, save, scatter, to_svg, token_heat_map
from text_gym.utils.interval import Interval


def some() -> Any:
    return curves({"a": [1.0, 2.0], "b": [2.0, 1.0]}, x_label="x", y_label="y", title="a title")


@pytest.mark.parametrize("page", [False, True])
def test_equal_figures_are_equal_bytes(page: bool) -> None:
    ax = some()
    first = to_svg(ax, page=page)
    assert to_svg(ax, page=page) == first  # drawing changes nothing
    assert to_svg(some(), page=page) == first


def test_bytes_are_those_of_another_process() -> None:
    program = "from tests.plot.test_canvas import *\nprint(hash(1), to_svg(some()), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split("\n", 1)[1] == to_svg(some()) + "\n"


def test_a_png_has_equal_bytes_and_no_metadata(tmp_path: Path) -> None:
    first = save(some(), tmp_path / "a.png").read_bytes()
    assert first[:8] == b"\x89PNG\r\n\x1a\n"
    assert save(some(), tmp_path / "b.png").read_bytes() == first
    assert b"matplotlib" not in first.lower()


def test_files_are_svg_or_png(tmp_path: Path) -> None:
    assert ElementTree.fromstring(save(some(), tmp_path / "a.svg").read_text()).tag.endswith("svg")
    with pytest.raises(ConfigError, match=r"a\.pdf: figures are written as"):
        save(some(), tmp_path / "a.pdf")


def test_colours_and_fonts_are_the_pages() -> None:
    svg = to_svg(some(), page=True)
    assert re.findall(r"#[0-9a-f]{6}\b", svg) == []
    assert {"c1", "c2", "ink", "soft", "grid", "font"} <= set(re.findall(r"var\(--(\w+)\)", svg))
    assert "DejaVu" not in svg
    assert "<style" not in svg
    assert {"a title", "x", "y", "a", "b"} <= set(texts(svg))  # text stays text


def test_an_svg_of_its_own_brings_its_colours_for_light_and_dark() -> None:
    svg = to_svg(some())
    used = set(re.findall(r"var\(--(\w+)\)", svg))
    light, dark = svg.split("prefers-color-scheme: dark", 1)
    assert used <= set(re.findall(r"--(\w+):", light))
    assert used - {"font", "mono"} <= set(re.findall(r"--(\w+):", dark))
    (name,) = re.findall(r'<svg [^>]*\bid="(\w+)"', svg)
    assert svg.count(f"#{name} {{") == 3  # its rules hold for it alone


def test_two_figures_of_a_page_share_no_ids() -> None:
    def ids(svg: str) -> set[str]:
        return {e.attrib["id"] for e in ElementTree.fromstring(svg).iter() if "id" in e.attrib}

    one, two = to_svg(some(), page=True), to_svg(curves({"a": [3.0, 2.0]}), page=True)
    assert ids(one)
    assert not ids(one) & ids(two)
    links = re.findall(r'(?:url\(#|href="#)([^)"]+)', one)
    assert set(links) <= ids(one)


def hostile_axes() -> list[Any]:
    text = HOSTILE
    return [
        curves({text: [1.0, 2.0], "b": [1.0, 1.0]}, x_label=text, y_label=text, title=text),
        intervals(
            [text], {text: [Interval(0.5, 0.4, 0.6, 9)], "b": [None]}, reference=0, reference_name=text
        ),
        scatter({"": ([1.0], [2.0])}, names=[text], title=text),
        token_heat_map([text, "\n", "$x$", "\x00"], [1.0, -1.0, 0.0, 2.0], unit=text),
    ]


def test_hidden_characters_of_labels_that_others_wrote_are_written_out() -> None:
    """Such as those of a user who sets Matplotlib's own labels."""
    ax = some()
    ax.set_xlabel("steps\u202e\u200b")
    svg = to_svg(ax)
    assert not re.search("[\u202e\u200b]", svg)
    assert "steps" in " ".join(texts(svg))


@pytest.mark.parametrize("number", range(4))
def test_hostile_names_are_only_text(number: int, tmp_path: Path) -> None:
    ax = hostile_axes()[number]
    for svg in (to_svg(ax), to_svg(ax, page=True)):
        assert tags(svg) <= {"svg", "g", "path", "defs", "use", "text", "tspan", "clipPath", "rect", "style"}
        attributes = {name for e in ElementTree.fromstring(svg).iter() for name in e.attrib}
        assert not any(name.startswith("on") for name in attributes)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", svg)
        shown = " ".join(texts(svg))
        assert "$$</text><script>alert(1)</script>" in shown
    save(ax, tmp_path / "a.png")


def test_a_colour_in_a_text_stays_that_text() -> None:
    svg = to_svg(curves({"": [1.0, 2.0]}, title="fill: #1d2025 #0067ad"), page=True)
    assert "fill: #1d2025 #0067ad" in texts(svg)


def test_letters_that_the_font_lacks_warn_nobody(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = curves({"": [1.0, 2.0]}, title="日本語")
        assert "日本語" in texts(to_svg(ax))
        save(ax, tmp_path / "a.png")


def test_a_callers_axes_settings_and_formulas_stay() -> None:
    figure = Figure()
    ax = figure.subplots()
    ax.set_title("$x^2$")
    before = dict(mpl.rcParams)
    assert curves({"a$b$": [1.0, 2.0], "c": [1.0, 3.0]}, y_label="$y$", ax=ax) is ax
    assert dict(mpl.rcParams) == before
    assert ax.get_title() == "$x^2$"
    assert ax.title.get_parse_math()
    assert not ax.yaxis.label.get_parse_math()
    found = ax.get_legend()
    assert found is not None
    assert not any(t.get_parse_math() for t in found.get_texts())


def test_links_of_a_figure_lead_nowhere() -> None:
    ax = some()
    ax.set_gid("mine")
    ax.lines[0].set_url("javascript:alert(1)")
    svg = to_svg(ax)
    assert "javascript" not in svg
    assert not [h for h in re.findall(r'href="([^"]*)"', svg) if not h.startswith("#")]


def test_panels_are_filled_row_by_row() -> None:
    figure, axes = panels(5, columns=3, title="five")
    assert len(axes) == len(figure.axes) == 5
    figure.canvas.draw()
    boxes = [ax.get_position() for ax in axes]
    assert boxes[0].y0 > boxes[3].y0
    assert boxes[0].x0 < boxes[1].x0 < boxes[2].x0
    with pytest.raises(ConfigError, match="at least one panel"):
        panels(0)
