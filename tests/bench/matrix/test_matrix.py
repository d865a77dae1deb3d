"""The matrix as a whole: resumed after any end with the same bytes, extended, and honest about failures."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tests.bench_world import FEW_PAIRS, TINY, tiny_cell
from tests.own_algorithm import write_algorithm
from text_gym.bench.matrix import matrix
from text_gym.bench.matrix.cells import Cell
from text_gym.bench.matrix.designs import Design
from text_gym.bench.matrix.matrix import BenchError, bench_agents, bench_rewards, make_engine, run_matrix
from text_gym.bench.matrix.settings import Settings
from text_gym.bench.matrix.start import DesignInputs
from text_gym.errors import ConfigError, TextGymError
from text_gym.rewards.source import RewardSource
from text_gym.tasks.task import load_task

ROOT = Path(__file__).parents[3]
CELLS = [
    tiny_cell(FEW_PAIRS, "rloo", 0.0),
    tiny_cell(FEW_PAIRS, "best_of_n", None),
    tiny_cell("keywords", "rloo", 0.0),
    tiny_cell("keywords", "best_of_n", None),
]


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is tested elsewhere, and takes longer than all that is tested here."""
    monkeypatch.setattr("text_gym.bench.matrix.matrix.write_report", lambda folder: None)


def run(cells: list[Cell], out: Path, workers: int = 0, engine: Any = "local") -> list[dict[str, Any]]:
    return run_matrix(cells, out, "small", engine, workers, quiet(), None)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def results(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("results.json", "results.csv")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished matrix."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("text_gym.bench.matrix.matrix.write_report", lambda folder: None)
        run(CELLS, out)
    return out


def test_a_finished_matrix_has_rows_settings_and_trees(whole: Path) -> None:
    rows = json.loads((whole / "results.json").read_text())
    assert [(r["design"], r["optimiser"]) for r in rows] == [
        ("pairs-48", "rloo"),
        ("pairs-48", "best_of_n"),
        ("keywords", "rloo"),
        ("keywords", "best_of_n"),
    ]
    config = json.loads((whole / "config.json").read_text())
    assert config["what"] == "rewards"
    assert "NgramModel" in config["designs"][0]["tree"]
    assert config["settings"]["products"]["iterations"] == TINY.iterations
    timings = [json.loads(line) for line in (whole / "timings.jsonl").read_text().splitlines()]
    assert len(timings) == 3 + 2 + 4  # texts, designs, cells


def test_a_second_call_does_nothing_and_changes_nothing(whole: Path) -> None:
    before, timings = results(whole), (whole / "timings.jsonl").read_bytes()
    run(CELLS, whole)
    assert results(whole) == before
    assert (whole / "timings.jsonl").read_bytes() == timings


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("name", ["SIGKILL", pytest.param("SIGTERM", marks=pytest.mark.nightly)])
def test_whatever_ended_it_the_same_call_goes_on_to_the_same_bytes(
    name: str, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    program = (
        "from tests.bench.matrix.test_matrix import CELLS, run\n"
        "from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        f"    run(CELLS, Path({str(out)!r}), 0 if {name == 'SIGKILL'} else 1)\n"
    )
    file = tmp_path / "program.py"
    file.write_text(program)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    child = subprocess.Popen([sys.executable, str(file)], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(out.glob("cells/*.json")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.Signals[name])
    child.communicate(timeout=60)
    assert child.returncode != 0
    assert not (out / "results.json").exists()
    assert len(list(out.glob("cells/*.json"))) < len(CELLS)
    run(CELLS, out)
    assert results(out) == results(whole)


def test_seeds_and_designs_extend_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(CELLS[2:3], out)
    made = {file.name: file.stat().st_mtime_ns for file in out.glob("cells/*.json")}
    rows = run([replace(CELLS[2], seed=1), tiny_cell("gold", "rloo", 0.0)], out)
    assert [(r["design"], r["seed"]) for r in rows] == [("keywords", 0), ("keywords", 1), ("gold", 0)]
    assert made.items() <= {f.name: f.stat().st_mtime_ns for f in out.glob("cells/*.json")}.items()
    with pytest.raises(ConfigError, match="iterations = 2, not 3"):
        run([replace(CELLS[2], settings=replace(TINY, iterations=3))], out)


_BROKEN = {"now": True}


def broken(inputs: DesignInputs, seed: int) -> RewardSource:
    if _BROKEN["now"]:
        raise ValueError("on purpose")
    return inputs.task.reward


def test_a_failing_design_is_named_and_tried_again(tmp_path: Path) -> None:
    cells = [tiny_cell(Design("broken", "yours", "fails", broken), "rloo", 0.0), CELLS[3]]
    console = quiet()
    with pytest.raises(
        BenchError, match=r"1 of 2 cells.*broken · rloo · β 0 · seed 0 \(ValueError: on purpose\)"
    ):
        run_matrix(cells, tmp_path, "small", "local", 0, console, None)
    assert "ValueError: on purpose" in shown(console)
    assert [r["design"] for r in json.loads((tmp_path / "results.json").read_text())] == ["keywords"]
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    _BROKEN["now"] = False
    try:
        assert [r["design"] for r in run(cells, tmp_path)] == ["broken", "keywords"]
    finally:
        _BROKEN["now"] = True


def test_workers_give_what_one_process_gives(whole: Path, tmp_path: Path) -> None:
    run(CELLS, tmp_path / "out", workers=2)
    assert results(tmp_path / "out") == results(whole)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_gives_what_one_process_gives(whole: Path, tmp_path: Path) -> None:
    run(CELLS, tmp_path / "out", workers=2, engine="ray")
    assert results(tmp_path / "out") == results(whole)


def test_rewards_of_ones_own_are_benchmarked_from_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "Settings", lambda **fields: replace(TINY, **fields))
    file = tmp_path / "mine.py"
    file.write_text("def shortest(completion):\n    return -float(len(completion))\n")
    console = quiet()
    rows = bench_rewards(
        tmp_path / "out",
        only=[],
        designs=[str(file)],
        optimisers=["best_of_n"],
        seeds=[0],
        workers=0,
        console=console,
    )
    assert [(r["design"], r["group"], r["optimiser"]) for r in rows] == [("shortest", "yours", "best_of_n")]
    assert rows[0]["length"] < rows[0]["length_start"]
    assert isinstance(console.file, io.StringIO)
    assert "Does “shortest” hold when the best of" in console.file.getvalue()


def test_agents_are_compared_on_several_tasks(tmp_path: Path) -> None:
    console = quiet()
    rows = bench_agents(
        tmp_path,
        tasks=["sort", "slots"],
        optimisers=["rloo"],
        seeds=[0],
        iterations=1,
        workers=0,
        console=console,
    )
    assert [(r["task"], r["optimiser"], r["null_rulers"]) for r in rows] == [
        ("sort", "rloo", {}),
        ("slots", "rloo", {}),
    ]
    assert "sort" in shown(console)


def test_an_algorithm_of_ones_own_is_compared_and_run_again_when_it_changes(tmp_path: Path) -> None:
    def bench(spec: str) -> tuple[list[dict[str, Any]], str]:
        console = quiet()
        rows = bench_agents(
            tmp_path / "out",
            tasks=["reverse"],
            algorithms=[spec],
            optimisers=["rloo"],
            seeds=[0, 1],
            iterations=1,
            workers=0,
            console=console,
        )
        return rows, shown(console)

    spec = write_algorithm(tmp_path)
    rows, said = bench(f"mine={spec}")
    assert [(r["optimiser"], r["seed"]) for r in rows] == [(o, s) for o in ("mine", "rloo") for s in (0, 1)]
    assert all(r["tokens"] > r["episodes"] for r in rows)
    assert "reverse: is mine better than RLOO at" in said
    assert ": difference " in said
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["algorithms"]["mine"]["spec"] == spec

    write_algorithm(tmp_path, ("learning_rate: float = 3e-3", "learning_rate: float = 3e-2"))
    again, said = bench(f"mine={spec}")
    assert "2 done before" in said  # those of RLOO
    assert [r["gold"] for r in again[2:]] == [r["gold"] for r in rows[2:]]
    assert [r["kl_nats"] for r in again[:2]] != [r["kl_nats"] for r in rows[:2]]
    assert len(list((tmp_path / "out" / "cells").glob("*.json"))) == 6  # the older two count no more


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["{}", "{}"], "two algorithms are called 'Moving'"),
        (["rloo={}"], "two algorithms are called 'rloo'"),
        (["nowhere.py:A"], "there is no file"),
        (["text_gym.agents:Policy"], "an algorithm is a class derived from"),
    ],
)
def test_algorithms_that_make_no_sense_are_told_before_anything_is_done(
    given: list[str], said: str, tmp_path: Path
) -> None:
    spec = write_algorithm(tmp_path)
    with pytest.raises(TextGymError, match=said):
        bench_agents(tmp_path / "out", tasks=["sort"], algorithms=[g.format(spec) for g in given])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("guess", "'guess' is a conversation.*bench agents --tasks guess"),
        ("reverse", "'reverse' has tokens for its own symbols alone"),
    ],
)
def test_tasks_on_which_no_design_can_be_measured_are_refused_at_the_start(
    task: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        bench_rewards(tmp_path / "out", task=task)
    assert not (tmp_path / "out").exists()


def test_a_task_without_a_policy_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "load_task", lambda _: replace(load_task("keywords"), policy=None))
    with pytest.raises(ConfigError, match="'keywords' comes with no policy to start from; pass --policy"):
        bench_rewards(tmp_path / "out", task="keywords")


def test_engines_and_empty_matrices_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose local or ray"):
        make_engine("cloud", 1)
    with pytest.raises(ConfigError, match="no cells"):
        run([], tmp_path)


def test_a_job_whose_needs_failed_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even to fail again with an error of its own, which would hide the first."""
    given: list[str] = []

    def job(key: str, *needs: str) -> Any:
        return SimpleNamespace(key=key, needs=needs, done=lambda _: False)

    def play(jobs: Any, _: Path) -> list[Any]:
        given.extend(j.key for j in jobs)
        return []

    monkeypatch.setattr(
        matrix, "_rounds", lambda _: [[job("first")], [job("without", "nowhere"), job("last")]]
    )
    folder: Any = SimpleNamespace(path=tmp_path)
    engine: Any = SimpleNamespace(run=play, close=lambda: None)
    assert matrix._run_rounds([], folder, engine, Console(file=io.StringIO())) == []
    assert given == ["first", "last"]
