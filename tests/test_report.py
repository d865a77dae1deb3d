from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from text_gym.errors import ConfigError
from text_gym.report import RunFolder, draw_curves, write_json

ROWS = [
    {"iteration": float(i), "reward": i / 10, "reward/clarity": 0.5, "kl": 0.1 * i, "length": 30.0}
    for i in range(1, 6)
]


def test_rows_are_on_disk_as_soon_as_they_are_logged(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", {"seed": 0}, tensorboard=False) as run:
        run.log({"iteration": 1, "reward": 0.5, "odd": math.nan})
        first = json.loads((run.path / "metrics.jsonl").read_text())
    assert first == {"iteration": 1, "reward": 0.5, "odd": None}
    assert json.loads((run.path / "config.json").read_text()) == {"seed": 0}


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {}, tensorboard=False):
        pass
    with pytest.raises(ConfigError, match="already holds a run"):
        RunFolder(tmp_path, {}, tensorboard=False)


def test_tensorboard_events_hold_the_logged_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunFolder(tmp_path, {}) as run:
        for row in ROWS:
            run.log(row)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    scalars = [(e.step, e.value) for e in events.Scalars("reward")]
    assert scalars == [(i, pytest.approx(i / 10)) for i in range(1, 6)]


def test_curves_are_a_png_of_readable_size(tmp_path: Path) -> None:
    draw_curves(ROWS, tmp_path / "curves.png", "a run")
    content = (tmp_path / "curves.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    assert width >= 1200
    assert height >= 800


def test_samples_cannot_break_out_of_their_block(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {}, tensorboard=False) as run:
        run.write_samples([("prompt", "```\n# not a heading", 0.1, "<script>", 0.9)])
    text = (tmp_path / "samples.md").read_text()
    assert "````text\n```\n# not a heading\n````" in text


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1.0, math.inf], "b": {"c": math.nan}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1.0, None], "b": {"c": None}}
