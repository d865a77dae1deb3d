"""`text-gym train --keep-rollouts` and `text-gym view`, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from text_gym.cli.main import main
from text_gym.viewer.store import kept_files

TRAIN = ["train", "--task", "reverse", "--policy", "new", "--width", "16", "--layers", "1"]
TRAIN += ["--episodes", "16", "--iterations", "4", "--device", "cpu"]


def test_a_run_keeps_rollouts_and_its_page_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main([*TRAIN, "--algorithm", "grpo", "--keep-rollouts", "2", "--out", str(run)]) == 0
    assert list(kept_files(run)) == [1, 4]
    page = (run / "view.html").read_bytes()
    assert b"reverse \xc2\xb7 grpo" in page
    (run / "view.html").unlink()
    assert main(["view", str(run)]) == 0
    assert (run / "view.html").read_bytes() == page
    assert main(["view", str(run), "--output", str(tmp_path / "other.html")]) == 0
    assert (tmp_path / "other.html").read_bytes() == page
    assert f"page: {tmp_path / 'other.html'}" in capsys.readouterr().out
