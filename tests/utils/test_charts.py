from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from text_gym.utils.charts import COLOURS, Panel, Plate, place_names, root_scale


def line(axes: Any) -> None:
    axes.plot([0, 4, 16], [0, 1, 2], color=COLOURS[1], label="<b>&$x$")
    root_scale(axes, 16)
    axes.set(xlabel="KL")


PLATE = Plate("a", "A", [Panel("<one>", line), Panel("two", line, legend="none")])


def test_colours_and_fonts_are_the_pages() -> None:
    for svg in PLATE.svgs():
        assert "#" not in re.sub(r'(href="|url\()#', "", svg)
        assert "var(--c2)" in svg
        assert set(re.findall(r"var\(--(\w+)\)", svg)) <= {"c2", "ink", "soft", "grid", "font"}
        assert "DejaVu" not in svg


def test_svgs_are_xml_with_escaped_names_and_their_own_ids() -> None:
    svgs = PLATE.svgs()
    roots = [ElementTree.fromstring(svg) for svg in svgs]
    assert roots[0].attrib["aria-label"] == "<one>"
    texts = ["".join(t.itertext()) for t in roots[0].iter() if t.tag.endswith("text")]
    assert "<b>&$x$" in texts  # neither a tag nor a formula
    ids = [{e.attrib["id"] for e in root.iter() if "id" in e.attrib} for root in roots]
    assert ids[0]
    assert not ids[0] & ids[1]  # they stand in one page
    assert "<metadata" not in "".join(svgs)
    assert len([t for t in roots[1].iter() if "<b>" in "".join(t.itertext())]) == 0  # it has no legend


def test_the_same_figure_is_the_same_bytes(tmp_path: Path) -> None:
    assert PLATE.svgs() == PLATE.svgs()
    first = PLATE.write_png(tmp_path).read_bytes()
    assert first[:8] == b"\x89PNG\r\n\x1a\n"
    assert PLATE.write_png(tmp_path).read_bytes() == first


def test_more_panels_than_columns_fit(tmp_path: Path) -> None:
    from matplotlib.image import imread

    one = imread(str(Plate("one", "", PLATE.panels[:1], 2).write_png(tmp_path)))
    three = imread(str(Plate("three", "", [*PLATE.panels, PLATE.panels[0]], 2).write_png(tmp_path)))
    assert three.shape[1] == pytest.approx(2 * one.shape[1], abs=2)
    assert three.shape[0] > 1.8 * one.shape[0]


def drawn(draw: Any) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw(axes)
    figure.canvas.draw()
    return axes


@pytest.mark.parametrize("highest", [0.1, 3.2, 16.0, 54.0, 220.0, 900.0])
def test_ticks_of_kl_do_not_touch(highest: float) -> None:
    axes = drawn(lambda a: root_scale(a, highest))
    boxes = [t.get_window_extent() for t in axes.get_xticklabels()]
    assert len(boxes) >= 2
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    x = [axes.transData.transform((v, 0))[0] for v in (0, 0.25, 1)]
    assert x[1] - x[0] == pytest.approx((x[2] - x[0]) / 2)  # the square root


def test_names_hide_neither_each_other_nor_points() -> None:
    points = [(0.5 + 0.02 * i, 0.5 + 0.01 * (i % 3), f"a long name {i}") for i in range(8)]
    points += [(0.0, 0.0, "corner"), (1.0, 1.0, "other corner")]

    def draw(axes: Any) -> None:
        axes.plot([p[0] for p in points], [p[1] for p in points], "o")
        place_names(axes, points)

    axes = drawn(draw)
    boxes = [t.get_window_extent() for t in axes.texts if t.get_text()]
    assert len(boxes) == len(points)
    for i, a in enumerate(boxes):
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])
        assert not any(a.contains(*axes.transData.transform(p[:2])) for p in points)
