"""`text-gym tune`, and a run that uses what it found and goes on with it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from text_gym.agents.verification.workload import Workload
from text_gym.cli import tune
from text_gym.cli.main import main
from text_gym.models.sizes import Sizes
from text_gym.models.tuning import Work

pytestmark = pytest.mark.usefixtures("undrawn")
SHORT = ["--episodes", "8", "--max-tokens", "8"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "text-gym"


def faster_with(**values: Any) -> Any:
    """Timings in which some values halve every time."""

    def seconds(_: Workload, sizes: Sizes, work: Work) -> float:
        return math.pow(0.5, sum(getattr(sizes, name) == value for name, value in values.items()))

    return seconds


def test_what_is_faster_is_shown_kept_and_used_and_the_run_says_so(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Workload, "seconds", faster_with(tile_rows=2048, tell_every=2))
    assert main(["tune", *SHORT]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "2,048 │ 0.50 [0.50, 0.50] │ yes" in shown
    assert "an iteration with what was kept takes 0.25 [0.25, 0.25] of the time" in shown
    assert "text-gym train --sizes tuned" in shown
    (file,) = cache.glob("sizes-cpu-*.json")
    assert "8 episodes of at most 8 tokens" in json.loads(file.read_text())["measured"]
    out = tmp_path / "run"
    assert main(["train", *SHORT, "--iterations", "1", "--sizes", "tuned", "--out", str(out)]) == 0
    wanted = "sizes: tile_rows 2048 in place of 1024, tell_every 2 in place of 1"
    assert wanted in " ".join(capsys.readouterr().out.split())
    assert wanted in (out / "log.txt").read_text()
    recorded = json.loads((out / "config.json").read_text())["sizes"]
    assert recorded == asdict(Sizes(tile_rows=2048, tell_every=2))


def test_that_nothing_is_faster_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Workload, "seconds", faster_with())
    out = tmp_path / "sizes.json"
    assert main(["tune", *SHORT, "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "no value is faster than the default by more than noise and by 3%: the defaults stay" in shown
    assert "--sizes" not in shown
    assert json.loads(out.read_text())["sizes"] == asdict(Sizes())


def test_a_new_policy_is_measured_for_real(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "--task", "reverse", "--policy", "new", "--layers", "1", "--width", "16"]
    assert main([*words, *SHORT, "--seconds", "0.01"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "gpt2, 1 layers of width 16" in shown
    assert "no time was left for" in shown


def test_one_process_measures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tune, "started_by_torchrun", lambda: True)
    assert main(["tune"]) == 2
    assert "start text-gym tune without torchrun" in capsys.readouterr().err


def test_tuning_pays_for_texts_itself() -> None:
    assert tune.paid_by_length("abc") == 3.0


def test_a_run_goes_on_with_the_sizes_that_it_began_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit, although the file has other sizes by then; and they do change bits."""
    file = tmp_path / "sizes.json"
    assert main(["tune", *SHORT, "--seconds", "0.01", "--out", str(file)]) == 0
    content = json.loads(file.read_text())
    content["sizes"] |= {"whole_bytes": 0, "tile_rows": 16, "tile_ids": 100}
    file.write_text(json.dumps(content))
    words = ["train", *SHORT, "--iterations", "2", "--checkpoint-every", "1"]
    assert main([*words, "--out", str(tmp_path / "plain")]) == 0
    assert main([*words, "--out", str(tmp_path / "whole"), "--sizes", str(file)]) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(tmp_path / "part/checkpoints/00000002")
    (tmp_path / "part/summary.json").unlink()
    file.write_text("{}")
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "part")]) == 0
    assert "tile_rows 16 in place of 1024" in " ".join(capsys.readouterr().out.split())
    policies = {
        run: (tmp_path / run / "policy/model.safetensors").read_bytes() for run in ("plain", "whole", "part")
    }
    assert policies["part"] == policies["whole"] != policies["plain"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["train", "--sizes", "none.json"],
            "--sizes none.json: there is no such file; `text-gym tune` makes one",
        ),
        (["train", "--sizes", "tuned"], "no sizes were measured on this machine"),
        (["tune", "--seconds", "0"], "--seconds is 0.0; it must be above 0"),
        (["tune", "--episodes", "0"], "--episodes is 0"),
        (["tune", "--policy", "new", "--width", "7"], "--width is 7; it must be a multiple of 4"),
        (["tune", "--out", "no/such/folder.json"], "there is no folder no/such"),
    ],
)
def test_mistakes_are_told_by_name(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*/metrics.jsonl"))


def test_a_memory_plan_is_that_of_the_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sizes.json"
    assert main(["tune", *SHORT, "--seconds", "0.01", "--out", str(file)]) == 0
    content = json.loads(file.read_text())
    content["sizes"]["pass_bytes"] = 2**20
    file.write_text(json.dumps(content))
    capsys.readouterr()
    plans = []
    for more in ([], ["--sizes", str(file)]):
        assert main(["train", "--plan", *more]) == 0
        plans.append([line.split() for line in capsys.readouterr().out.splitlines() if "activations" in line])
    assert plans[0] != plans[1]
