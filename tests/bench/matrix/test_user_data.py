"""A matrix on the user's own file: made, resumed and refused by what is in the file, wherever it lies."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench_e2e import write_table
from tests.bench_world import FEW_PAIRS, TINY
from text_gym.agents import SFTConfig
from text_gym.bench.gold import start_policy as making
from text_gym.bench.gold.e2e import e2e
from text_gym.bench.gold.start_policy import POLICY, start_policy
from text_gym.bench.matrix import matrix
from text_gym.bench.matrix.cells import Cell
from text_gym.bench.matrix.designs import suite
from text_gym.bench.matrix.matrix import bench_rewards, run_matrix
from text_gym.bench.matrix.settings import Settings
from text_gym.bench.matrix.start import SamplingJob, starting_policy
from text_gym.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "write_report", lambda folder: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, and a policy that has hardly learnt from it."""
    folder = tmp_path_factory.mktemp("made")
    start_policy(e2e(write_table(folder)), folder, SFTConfig(epochs=1.0))
    return folder


def settings(folder: Path) -> Settings:
    data, policy = str(folder / "restaurants.csv"), str(folder / POLICY)
    return replace(TINY, task="e2e", data=data, made=policy)


def cells(own: Settings) -> list[Cell]:
    designs = suite("e2e")
    return [
        Cell(own, designs["keywords"], "rloo", 0.0, 0),
        Cell(own, designs["fluency"], "distillation", 0.0, 0),
        Cell(own, FEW_PAIRS, "dpo", 0.1, 0),
        Cell(own, designs["gold"], "best_of_n", None, 0),
    ]


def run(own: Settings, out: Path) -> list[tuple[str, str, float | None]]:
    rows = run_matrix(cells(own), out, "small", "local", 0, Console(file=io.StringIO()), None)
    assert all(0 <= row["gold"] <= 1 and row["gold_fluency"] is not None for row in rows)
    return [(row["design"], row["optimiser"], row["kl_coefficient"]) for row in rows]


def test_a_matrix_runs_on_it_and_goes_on_with_the_same_file_elsewhere(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expected = [
        ("keywords", "rloo", 0.0),
        ("fluency", "distillation", 0.0),
        ("pairs-48", "dpo", 0.1),
        ("gold", "best_of_n", None),
    ]
    assert run(settings(made), out) == expected
    config = (out / "config.json").read_text()
    assert str(made) not in config  # where the user keeps it is nobody's business
    assert json.loads(config)["settings"]["e2e"]["data"] == "restaurants.csv"
    assert "starting policy" in json.loads(config)["contents"]["e2e"]
    timings = (out / "timings.jsonl").read_bytes()
    shutil.copytree(made, tmp_path / "moved")
    assert run(settings(tmp_path / "moved"), out) == expected
    assert (out / "timings.jsonl").read_bytes() == timings  # nothing was done again
    other = tmp_path / "other"
    shutil.copytree(made, other)
    write_table(other, more='"name[Red Hen], food[Thai]",Red Hen serves Thai food.\n')
    with pytest.raises(ConfigError, match="prompts"):
        run(settings(other), out)


def test_the_pool_goes_round_where_prompts_are_few_and_luck_is_another(made: Path, tmp_path: Path) -> None:
    own = settings(made)
    job = SamplingJob(own, "pool")
    job.run(tmp_path)
    episodes = job.read(tmp_path).episodes
    count = len(own.load_task().prompts)
    assert count < own.pool
    assert len(episodes) == 2 * own.pool
    assert [e.prompt.text for e in episodes[: 2 * (own.pool - count)]] == [
        e.prompt.text for e in episodes[2 * count :]
    ]
    again = zip(episodes, episodes[2 * count :], strict=False)
    assert any(one.completion != two.completion for one, two in again)


def test_all_start_from_the_policy_that_was_made_or_from_the_given_one(made: Path) -> None:
    own = settings(made)
    given = replace(own, made=None, policy=own.made)
    for one in (own, given):
        policy = starting_policy(one)
        assert policy.tokenizer.fingerprint == one.load_task().tokenizer.fingerprint
    assert own.text_settings()["data"] == given.text_settings()["data"] is not None
    assert "data" not in TINY.text_settings()  # so that texts of other tasks keep their names


def test_the_policy_is_made_first_and_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "EPOCHS", 1.0)
    planned: list[Settings] = []

    def stopped(settings: Settings, *args: object, **kwargs: object) -> list[Cell]:
        planned.append(settings)
        return []

    monkeypatch.setattr(matrix, "plan_rewards", stopped)
    file, out = write_table(tmp_path), tmp_path / "out"
    told = []
    for _ in range(2):
        console = Console(file=io.StringIO(), width=200)
        with pytest.raises(ConfigError, match="no cells"):
            bench_rewards(out, task="e2e", data=file, console=console)
        assert isinstance(console.file, io.StringIO)
        told.append(console.file.getvalue())
    assert "making the policy" in told[0]
    assert told[1] == ""
    assert planned[0].made == str(out / POLICY)
    busy = tmp_path / "busy"
    busy.mkdir()
    (busy / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="other than a benchmark"):
        bench_rewards(busy, task="e2e", data=file)
    assert not (busy / POLICY).exists()


def test_a_task_with_a_file_needs_one_and_others_take_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--data FILE"):
        bench_rewards(tmp_path / "a", task="e2e")
    with pytest.raises(ConfigError, match="reads no data"):
        bench_rewards(tmp_path / "b", task="products", data=write_table(tmp_path))
