"""Places that cannot be written are told before anything is loaded, whoever runs the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from text_gym.cli.options.checks import check_file, check_out_folder
from text_gym.cli.options.evaluate import read_view
from text_gym.errors import ConfigError


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that nobody may write to, root included."""
    folder = tmp_path / "closed"
    folder.mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and allowed(path, mode))
    return folder


def test_a_folder_that_cannot_be_made_is_refused(closed: Path) -> None:
    for out in (closed, closed / "run", closed / "runs" / "mine"):
        with pytest.raises(ConfigError, match=rf"--out {out}: you may not write to {closed}; choose another"):
            check_out_folder(str(out))
    check_out_folder(str(closed.parent / "run"))
    check_out_folder(None)


def test_a_file_that_cannot_be_made_is_refused(closed: Path) -> None:
    with pytest.raises(ConfigError, match=rf"--json {closed}/a.json: you may not write to {closed}"):
        check_file("json", f"{closed}/a.json")
    check_file("json", f"{closed.parent}/a.json")


def test_a_page_that_cannot_be_written_beside_its_run_is_refused(closed: Path) -> None:
    with pytest.raises(ConfigError, match=rf"--output {closed}/view.html: you may not write to {closed}"):
        read_view([str(closed)])
    assert read_view([str(closed), "--output", f"{closed.parent}/v.html"])[0].run == str(closed)
