"""Logs of a run beside metrics.jsonl: fakes of the packages, and the packages themselves, offline."""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from text_gym.cli.main import main
from text_gym.cli.options.train import read_train
from text_gym.errors import ConfigError
from text_gym.runs.folder import RunFolder
from text_gym.runs.loggers import MetricsLogs

pytestmark = pytest.mark.usefixtures("undrawn")

ROWS: list[dict[str, Any]] = [
    {"iteration": i, "reward": i / 10, "kl": float("nan"), "note": "a text"} for i in (1, 2, 3)
]


class Fake:
    """Stands for the run that `init` of wandb or trackio returns; remembers what it is told, in order."""

    url = "https://example.org/run"
    dir = "wandb/run/files"

    def __init__(self, fail_at: int = 0) -> None:
        self.told: list[Any] = []
        self.fail_at = fail_at

    def init(self, **settings: Any) -> Fake:
        self.told.append(settings)
        return self

    def log(self, metrics: dict[str, float], step: int) -> None:
        if step == self.fail_at:
            raise OSError("no space\x1b[31m")
        self.told.append((step, metrics))

    def finish(self, exit_code: int = 0) -> None:
        self.told.append(("finish", exit_code))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    run = Fake()
    for name in ("wandb", "trackio"):
        module = types.ModuleType(name)
        module.__spec__ = types.SimpleNamespace(name=name)  # type: ignore[assignment]
        module.init = run.init  # type: ignore[attr-defined]
        module.Settings = dict  # type: ignore[attr-defined]
        module.login = lambda prompt: True  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return run


def test_each_row_is_told_as_it_is_made_and_a_resumed_run_keeps_its_name(fake: Fake, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    with RunFolder(folder, {"seed": 3}, logs=("wandb",)) as run:
        for row in ROWS:
            run.log(row)
            assert fake.told[-1] == (
                row["iteration"],
                {"iteration": row["iteration"], "reward": row["reward"]},
            )
        assert run.logs.notes == ["wandb: https://example.org/run"]
    begun, last = fake.told[0], fake.told[-1]
    assert (begun["project"], begun["name"], begun["config"]) == ("text-gym", "mine", {"seed": 3})
    assert last == ("finish", 0)
    with pytest.raises(KeyError), RunFolder(folder, {"seed": 3}, logs=("wandb",), resume=True):
        raise KeyError("a fault of the run")
    assert fake.told[-2]["id"] == begun["id"]
    assert begun["resume"] == "allow"
    assert fake.told[-1] == ("finish", 1)


def test_a_log_that_fails_is_left_behind_and_said_once(
    fake: Fake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.fail_at = 2
    with caplog.at_level(logging.WARNING, "text_gym"), RunFolder(tmp_path, {}, logs=("trackio",)) as run:
        for row in ROWS:
            run.log(row)
    assert [entry for entry in fake.told if isinstance(entry, tuple)] == [
        (1, {"iteration": 1, "reward": 0.1})
    ]
    (record,) = caplog.records
    assert record.getMessage() == "trackio failed (OSError: no space\\x1b[31m); the run goes on without it"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_log_that_cannot_start_leaves_the_folder_free(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["wandb"], "login", lambda prompt: False)
    with pytest.raises(ConfigError, match=r"--log wandb cannot start: .*no API key.*WANDB_MODE=offline"):
        RunFolder(tmp_path, {}, logs=("trackio", "wandb"))
    assert fake.told[-1][0] == "finish"  # what had started is closed
    with RunFolder(tmp_path, {}, logs=()) as run:
        assert run.rows == []


def test_a_package_that_is_missing_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--log trackio needs the package trackio; pip install trackio"):
        MetricsLogs(["trackio"], tmp_path, {})
    assert main(["train", "--log", "wandb", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.endswith("--log wandb needs the package wandb; pip install wandb\n")
    assert list(tmp_path.iterdir()) == []


def test_events_are_on_the_disk_while_the_run_goes_on(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunFolder(tmp_path, {}) as run:
        for row in ROWS:
            run.log(row)
            events = EventAccumulator(str(tmp_path))
            events.Reload()
            assert events.Scalars("reward")[-1].step == row["iteration"]


def test_nothing_after_the_option_is_no_log_at_all(tmp_path: Path) -> None:
    for words, logs in (
        ([], ("tensorboard",)),
        (["--log"], ()),
        (["--log", "tensorboard"], ("tensorboard",)),
    ):
        assert read_train([*words, "--out", str(tmp_path / "run")])[0].log == logs
    with RunFolder(tmp_path / "run", {}, logs=()) as run:
        run.log(ROWS[0])
    assert not list((tmp_path / "run").glob("events*"))


def test_the_real_trackio_keeps_the_rows_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trackio")
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_PROJECT", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    with RunFolder(tmp_path / "mine", {"seed": 3}, logs=("trackio",)) as run:
        for row in ROWS:
            run.log(row)
    (file,) = (tmp_path / "trackio").glob("text-gym*.db")
    with sqlite3.connect(file) as database:
        found = database.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert [(name, step, json.loads(text)["reward"]) for name, step, text in found] == [
        ("mine", 1, 0.1), ("mine", 2, 0.2), ("mine", 3, 0.3),
    ]  # fmt: skip


def test_the_real_wandb_keeps_the_rows_in_the_folder_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with RunFolder(tmp_path / "mine", {"seed": 3}, logs=("wandb",)) as run:
        for row in ROWS:
            run.log(row)
        (note,) = run.logs.notes
    assert note.startswith("wandb: offline; to send it later: wandb sync ")
    (file,) = (tmp_path / "mine" / "wandb").glob("offline-run-*/*.wandb")
    assert str(file.parent) in note
    kept = file.read_bytes()  # records of protobuf: the name, field 16 and its length, the value as JSON
    assert all(b"reward\x82\x01\x03" + str(row["reward"]).encode() in kept for row in ROWS)
