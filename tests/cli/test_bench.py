"""The commands: options, the list of designs, errors with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench_e2e import write_table
from tests.bench_folder import write_benchmark
from tests.bench_submissions import write_run
from text_gym.bench import DESIGNS, summarise
from text_gym.cli import bench as commands
from text_gym.cli.main import main
from text_gym.cli.options.bench import gathered
from text_gym.utils.json_files import write_json


def test_the_list_names_every_design(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", "rewards", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in DESIGNS)


def test_the_list_of_another_task_needs_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "rewards", "--list", "--task", "e2e"]) == 0
    shown = capsys.readouterr().out
    assert "fluency" in shown
    assert "clarity" not in shown


def test_e2e_reads_a_file_and_says_which_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(commands, "bench_rewards", lambda out, **options: seen.update(out=out, **options))
    file = str(write_table(tmp_path))
    assert main(["bench", "rewards", "--task", "e2e", "--data", file, "--optimisers", "dpo"]) == 0
    assert (seen["task"], seen["data"], seen["optimisers"]) == ("e2e", file, ("dpo",))
    assert main(["bench", "rewards", "--task", "e2e"]) == 2
    assert "pass --data FILE, with columns mr and ref" in capsys.readouterr().err
    assert main(["bench", "rewards", "--task", "e2e", "--data", "absent.csv"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["bench", "rewards", "--data", file]) == 2
    assert "--task e2e alone" in " ".join(capsys.readouterr().err.split())


def test_findings_of_two_benchmarks_stand_side_by_side(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        folder = write_benchmark(tmp_path / name, ["gold", "keywords"])
        write_json(folder / "summary.json", summarise(folder))
    where = [str(tmp_path / name) for name in ("a", "b")]
    assert main(["bench", "findings", *where, "--json", str(tmp_path / "both.json")]) == 0
    shown = capsys.readouterr().out
    assert "on both" in shown
    kept = json.loads((tmp_path / "both.json").read_text())
    assert sum(kept["counts"].values()) == len(kept["findings"]) > 5
    assert kept["counts"]["opposite"] == 0


def test_options_reach_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(commands, "bench_rewards", lambda out, **options: seen.update(out=out, **options))
    words = (
        "--design a.py --only gold keywords --design b:f c --seeds 3 4 --kl-coefficients 0 0.5 --out there"
    )
    assert main(["bench", "rewards", *words.split(), "--engine", "ray", "--budget", "full"]) == 0
    assert seen["designs"] == ("a.py", "b:f", "c")
    assert seen["only"] == ("gold", "keywords")
    assert (seen["seeds"], seen["kl_coefficients"], seen["out"]) == ((3, 4), (0.0, 0.5), "there")
    assert (seen["engine"], seen["budget"], seen["workers"]) == ("ray", "full", None)
    assert seen["command"].startswith("text-gym bench rewards --design a.py --only gold")
    assert "list" not in seen


def test_agents_options_reach_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(commands, "bench_agents", lambda out, **options: seen.update(out=out, **options))
    words = "--tasks sort --optimisers rloo sb3.ppo --workers 0"
    assert main(["bench", "agents", *words.split()]) == 0
    assert (seen["tasks"], seen["optimisers"], seen["workers"]) == (("sort",), ("rloo", "sb3.ppo"), 0)
    assert seen["algorithms"] == ()
    assert main(["bench", "agents", "--algorithm", "a.py:A", "--seeds", "0", "--algorithm=b=b:B"]) == 0
    assert (seen["algorithms"], seen["seeds"]) == (("a.py:A", "b=b:B"), (0,))


def test_repeated_options_are_gathered_where_the_first_stood() -> None:
    assert gathered(["--out", "x"], "--design") == ["--out", "x"]
    assert gathered(["--design=a", "--out", "x", "--design", "b"], "--design") == [
        "--design",
        "a",
        "b",
        "--out",
        "x",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "keyword"], "did you mean 'keywords'"),
        (["--design", "nowhere.py"], "no file nowhere.py"),
        (["--optimisers", "rlo"], "did you mean 'rloo'"),
        (["--task", "product"], "did you mean 'products'"),
        (["--iterations", "0"], "iterations is 0"),
        (["--kl-coefficients", "0.1", "nan"], "--kl-coefficients has nan; each must be a number of at least"),
        (["--kl-coefficients", "-0.1"], "--kl-coefficients has -0.1"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "rewards", "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_submissions_are_made_and_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out, site = write_run(tmp_path / "run"), tmp_path / "mine", tmp_path / "site"
    words = ["--design", "hackable", "--author", "Ann", "--name", "warm", "--skip-validation"]
    assert main(["bench", "submit", str(run), *words, "--out", str(out)]) == 0
    assert main(["bench", "leaderboard", str(out), str(run), "--out", str(site)]) == 0
    shown = capsys.readouterr().out
    assert "Hacked." in shown
    assert "rejected" in shown
    assert (site / "index.html").is_file()
    assert main(["bench", "leaderboard", str(run), "--out", str(site)]) == 2
    assert "none of 1 submissions" in capsys.readouterr().err
