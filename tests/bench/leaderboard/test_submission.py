"""A submission carries all that it rests on, does it again, and is refused where anything is missing."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from tests.bench_submissions import ANN, REWARD, write_run
from text_gym.bench.leaderboard.submission import Entrant, write_submission
from text_gym.bench.matrix.designs import load_design
from text_gym.cli.options.bench import read_rewards
from text_gym.errors import ConfigError, DataError, NonFiniteError, TextGymError
from text_gym.utils.sealed import check_sealed


def test_a_submission_holds_what_it_rests_on(here: Path, made: dict[str, Path]) -> None:
    check_sealed(here)
    assert (here / "reward/warm.py").read_text() == REWARD
    rows = [json.loads(f.read_text())["row"] for f in (here / "cells").iterdir()]
    assert sorted((r["optimiser"], r["kl_coefficient"] or 0.0, r["seed"]) for r in rows) == sorted(
        (o, b, s) for o, betas in (("best_of_n", [0.0]), ("ppo", [0.0, 0.3])) for b in betas for s in range(3)
    )
    about = json.loads((here / "submission.json").read_text())
    # Gold at β = 0 by hand, from the rows.
    golds = [r["gold"] for r in rows if r["kl_coefficient"] == 0.0]
    assert about["summary"]["gold"]["value"] == pytest.approx(sum(golds) / 3)
    assert about["summary"]["gold"]["ci95"] == pytest.approx([min(golds), max(golds)])  # of three seeds
    assert about["summary"]["answer"] == "Hacked."
    assert about["versions"]["version of torch"] == "2.6"
    assert (
        str(made["hackable"].parent) not in (here / "submission.json").read_text()
    )  # no path of its author's


def test_the_command_runs_the_same_cells_from_inside_the_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = json.loads((here / "submission.json").read_text())
    monkeypatch.chdir(here)
    words = shlex.split(about["command"])
    assert words[:3] == ["text-gym", "bench", "rewards"]
    options, _ = read_rewards(words[3:])
    assert (options.only, options.seeds, options.iterations) == ((), (0, 1, 2), 40)
    assert (options.optimisers, options.kl_coefficients) == (("best_of_n", "ppo"), (0.0, 0.3))
    design = load_design(options.design[0])
    assert design.name == "hackable"
    assert getattr(design.make, "content") == about["reward"]["content"]  # noqa: B009


def test_a_design_of_the_suite_carries_no_reward(made: dict[str, Path]) -> None:
    here = made["keywords"]
    about = json.loads((here / "submission.json").read_text())
    assert about["reward"]["spec"] is None
    assert "--only keywords" in about["command"]
    assert not (here / "reward").exists()


def test_a_reward_that_moved_is_named_anew_and_one_that_changed_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "warm.py").write_text(REWARD + "# better\n")
    with pytest.raises(ConfigError, match="not the reward that was optimised"):
        write_submission(run, "hackable", ANN, tmp_path / "out", validate=False)
    (run / "warm.py").unlink()
    with pytest.raises(ConfigError, match=r"no file .*--reward"):
        write_submission(run, "hackable", ANN, tmp_path / "out", validate=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("seeds", "count"), [((0,), 1), ((0, 1, 2), 3)], ids=["one cell", "a whole setting"])
def test_unfinished_cells_are_refused(tmp_path: Path, seeds: tuple[int, ...], count: int) -> None:
    run = write_run(tmp_path / "run")
    for file in (run / "cells").iterdir():
        row = json.loads(file.read_text())["row"]
        if (row["optimiser"], row["kl_coefficient"]) == ("ppo", 0.3) and row["seed"] in seeds:
            file.unlink()
    with pytest.raises(ConfigError, match=rf"{count} cells of 'hackable' are not finished \(ppo · β 0.3"):
        write_submission(run, "hackable", ANN, tmp_path / "out", validate=False)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('"gold": NaN', NonFiniteError, "gold in the row is nan"),
        ('"gold": null', NonFiniteError, "gold in the row is None"),
        ('"gold": 1e999', NonFiniteError, "gold in the row is inf"),
        ('"gold": ', DataError, "not JSON"),
    ],
)
def test_results_that_are_not_finite_are_refused(
    tmp_path: Path, text: str, error: type[TextGymError], message: str
) -> None:
    run = write_run(tmp_path / "run")
    file = next((run / "cells").iterdir())
    gold = json.loads(file.read_text())["row"]["gold"]
    file.write_text(file.read_text().replace(f'"gold": {gold!r}', text, 1))
    with pytest.raises(error, match=message):
        write_submission(run, "hackable", ANN, tmp_path / "out", validate=False)


def test_what_cannot_be_submitted_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="no design 'warm'; it has hackable"):
        write_submission(run, "warm", ANN, tmp_path / "out")
    with pytest.raises(ConfigError, match="exists already"):
        write_submission(run, "hackable", ANN, run)
    for name, message in (("", "empty"), ("a" * 61, "61 characters"), ("\x1b[31m", "control")):
        with pytest.raises(ConfigError, match=message):
            Entrant(name, "Ann")
    (run / "started_with.json").unlink()
    with pytest.raises(ConfigError, match="versions"):
        write_submission(run, "hackable", ANN, tmp_path / "out", validate=False)
    shutil.rmtree(run / "cells")
    with pytest.raises(ConfigError, match="no finished cell"):
        write_submission(run, "hackable", ANN, tmp_path / "out", validate=False)
