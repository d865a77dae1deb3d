from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from text_gym.bench.report.plates import Panel, Plate


def plate(*titles: str, columns: int = 3) -> Plate:
    def draw(ax: Any) -> None:
        ax.plot([0, 1], [0, 1])

    return Plate("plate", "All of them", [Panel(title, draw, (2.0, 1.5)) for title in titles], columns)


def test_each_panel_is_a_picture_of_its_own_with_its_title() -> None:
    first, second = plate("One", "").svgs()
    assert first.count("<svg") == second.count("<svg") == 1
    assert "One" in first
    assert "All of them" not in first
    assert "All of them" in second  # a panel without a title is described by that of all


def test_panels_stand_in_rows_of_the_columns_asked_for(tmp_path: Path) -> None:
    def size(*titles: str, columns: int) -> tuple[int, int]:
        with Image.open(plate(*titles, columns=columns).write_png(tmp_path)) as picture:
            return picture.size

    wide, high = size("a", "b", columns=2), size("a", "b", columns=1)
    assert wide[0] > 1.7 * high[0]
    assert high[1] > 1.5 * wide[1]
    assert size("a", "b", "c", columns=2)[1] > 1.5 * wide[1]  # the third begins a second row


def test_the_same_panels_give_the_same_bytes(tmp_path: Path) -> None:
    file = plate("a").write_png(tmp_path)
    assert file.name == "plate.png"
    first = file.read_bytes()
    assert plate("a").write_png(tmp_path).read_bytes() == first
