from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from text_gym.errors import ConfigError, DataError, NotSavedError, PushError
from text_gym.runs.folder import RunFolder, default_folder, draw_curves
from text_gym.utils.json_files import write_json
from text_gym.utils.sealed import naming_full_disk

ROWS = [
    {"iteration": float(i), "reward": i / 10, "reward/clarity": 0.5, "kl": 0.1 * i, "length": 30.0}
    for i in range(1, 6)
]


def test_rows_are_on_disk_as_soon_as_they_are_logged(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", {"seed": 0}, logs=()) as run:
        run.log({"iteration": 1, "reward": 0.5, "odd": math.nan})
        first = json.loads((run.path / "metrics.jsonl").read_text())
    assert first == {"iteration": 1, "reward": 0.5, "odd": None}
    assert json.loads((run.path / "config.json").read_text()) == {"seed": 0}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux that is always full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", {}, logs=())
    (run.path / "log.txt").symlink_to("/dev/full")
    with pytest.raises(NotSavedError, match=r"cannot write to .*run: .*No space left"):
        run.note("a note")
    run._metrics.close()
    run._metrics = open("/dev/full", "a", encoding="utf-8")  # noqa: SIM115
    named = pytest.raises(NotSavedError, match=r"cannot write to .*run: .*No space left")
    with pytest.raises(OSError, match="No space left"), run, named:
        run.log(ROWS[0])
    with RunFolder(tmp_path / "run", {}, logs=(), resume=True):  # it is not locked any more
        pass


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    for error in (FileNotFoundError(2, "nothing there"), ValueError("a"), PushError("b"), DataError("c")):
        with pytest.raises(type(error)) as caught, naming_full_disk(tmp_path):
            raise error
        assert caught.value is error


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {}, logs=()):
        pass
    with pytest.raises(ConfigError, match="already holds a run"):
        RunFolder(tmp_path, {}, logs=())


def test_a_resumed_run_goes_on_after_the_iterations_that_count(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {"seed": 0}, logs=()) as run:
        for row in ROWS:
            run.log({**row, "odd": math.nan})
    file = tmp_path / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines) + lines[0][:20])  # the writer died in the middle of a row
    with RunFolder(tmp_path, {"seed": 0}, logs=(), resume=True) as run:
        assert [row["iteration"] for row in run.rows] == [1, 2, 3, 4, 5]
        assert math.isnan(run.rows[0]["odd"])
        run.rewind(3)
        assert file.read_text() == "".join(lines[:3])
        run.log({**ROWS[3], "odd": math.nan})
        run.sync()
        run.note("resumed")
    assert file.read_text() == "".join(lines[:4])
    assert (tmp_path / "log.txt").read_text().endswith(" resumed\n")
    file.write_text("nonsense\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 1: not JSON .*; take that line out"):
        RunFolder(tmp_path, {"seed": 0}, logs=(), resume=True)
    with pytest.raises(ConfigError, match="seed: 0 before, 1 now"):
        RunFolder(tmp_path, {"seed": 1}, logs=(), resume=True)
    for other in ({"seed": 0, "extra": 1}, {}):  # a setting more, and one less
        with pytest.raises(ConfigError, match="extra" if other else "seed"):
            RunFolder(tmp_path, other, logs=(), resume=True)
    with pytest.raises(ConfigError, match="holds no run"):
        RunFolder(tmp_path / "none", {}, logs=(), resume=True)


def test_rows_that_are_lost_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RunFolder(tmp_path, {}, logs=()) as run:
        for row in ROWS:
            run.log(row)
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[2:]))
    with RunFolder(tmp_path, {}, logs=(), resume=True) as run:
        run.rewind(2)
        assert "metrics.jsonl lacks 2 of the 2 iterations" in caplog.text
        caplog.clear()
        run.rewind(0)
    assert caplog.text == ""


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path, {}, logs=()),
        pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"),
    ):
        RunFolder(tmp_path, {}, logs=())
    assert not (tmp_path / "run.lock").exists()


def test_events_of_iterations_done_over_replace_the_old_ones(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for rows, resume, change in ((ROWS, False, 0.0), (ROWS[3:], True, 10.0)):
        time.sleep(1.01 - time.time() % 1)  # the files' names, which TensorBoard sorts, count seconds
        with RunFolder(tmp_path, {}, resume=resume) as run:
            run.rewind(int(rows[0]["iteration"]) - 1)
            for row in rows:
                run.log({**row, "reward": row["reward"] + change})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("reward")] == [
        (1, 0.1), (2, 0.2), (3, 0.3), (4, 10.4), (5, 10.5),
    ]  # fmt: skip


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


def test_curves_of_another_reward_have_panels_for_gold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {**row, **({"gold": 1 / row["iteration"], "gold_kl": -0.1} if i % 2 else {})}
        for i, row in enumerate(ROWS)
    ]
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: drawn.append(self))
    draw_curves(
        rows, tmp_path / "curves.png", "a run", "length", {"iteration": 0, "gold": 0.7, "gold_kl": 0.0}
    )
    draw_curves(ROWS, tmp_path / "curves.png", "a run")
    with_gold, without = (
        {t: axes for axes in figure.axes if (t := axes.get_title(loc="left"))} for figure in drawn
    )
    assert list(without) == ["Reward", "Criteria", "KL to the reference policy", "Length"]
    (gold,) = with_gold["Gold (the task's own reward)"].lines
    assert np.asarray(gold.get_xydata()).tolist() == [[0, 0.7], [2, 0.5], [4, 0.25]]
    frontier = with_gold["Reward and gold over the distance from the start"]
    (dots,) = frontier.lines
    assert dots.get_linestyle() == "None"
    assert np.asarray(dots.get_xydata()).tolist() == [[r["kl"], r["reward"]] for r in ROWS]
    places = [frontier.transData.transform((kl, 0))[0] for kl in (0, 0.1, 0.4)]
    assert places[2] - places[0] == pytest.approx(2 * (places[1] - places[0]))  # over √KL
    assert frontier.get_ylabel() == "length, optimised (batches)"
    (right,) = [axes for axes in drawn[0].axes if axes.get_ylabel() == "gold (held-out prompts)"]
    assert np.asarray(right.lines[0].get_xydata()).tolist() == [[0, 0.7], [0, 0.5], [0, 0.25]]


def test_samples_cannot_break_out_of_their_block(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {}, logs=()) as run:
        run.write_samples([("prompt", "```\n# not a heading", {"gold": 0.1, "length": 2}, "<script>", {})])
    text = (tmp_path / "samples.md").read_text()
    assert "````text\n```\n# not a heading\n````" in text
    assert "Before (gold 0.10, length 2.00):\n" in text
    assert "After:\n" in text


def test_samples_of_prompts_with_half_a_character_are_kept(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {}, logs=()) as run:
        run.write_samples([("a\ud800b", "x", {}, "y", {})])
    assert "a?b" in (tmp_path / "samples.md").read_text(encoding="utf-8")


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1.0, math.inf], "b": {"c": math.nan}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1.0, None], "b": {"c": None}}


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.strftime", lambda _: "20260101-120000")
    found = set()
    for process in (7, 8):
        monkeypatch.setattr("os.getpid", lambda process=process: process)
        found.add(str(default_folder("guess", "grpo")))
    assert found == {str(Path("runs", f"guess-grpo-20260101-120000-{process}")) for process in (7, 8)}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert default_folder("guess", "grpo").name == "guess-grpo-20260101-120000"  # one for all ranks
