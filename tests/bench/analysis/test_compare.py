from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from tests.bench_folder import write_benchmark
from text_gym.bench.analysis.compare import OVERALL, SAME, UNKNOWN, compare
from text_gym.cli.bench import run_compare
from text_gym.cli.options.bench import read_compare
from text_gym.errors import DataError


def rows(values: dict[tuple[str, int], float], beta: float | None = 0.1, **more: Any) -> list[dict[str, Any]]:
    """A row for each (design, seed)."""
    return [
        {"task": "t", "design": d, "optimiser": "ppo", "kl_coefficient": beta, "seed": s, "gold": v, **more}
        for (d, s), v in values.items()
    ]


def write(file: Path, content: list[dict[str, Any]]) -> Path:
    file.write_text(json.dumps(content))
    return file


def runs(design: str, *values: float) -> dict[tuple[str, int], float]:
    return {(design, seed): value for seed, value in enumerate(values)}


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", rows(runs("x", 0.5, 0.7, 0.9)))
    b = write(tmp_path / "b.json", rows(runs("x", 0.6, 0.82, 0.99)))
    found = compare(a, b).overall
    assert found.difference.value == pytest.approx((0.1 + 0.12 + 0.09) / 3)
    assert (found.difference.low, found.difference.high) == pytest.approx((0.09, 0.12))
    low, high = scipy.stats.ttest_rel([0.6, 0.82, 0.99], [0.5, 0.7, 0.9]).confidence_interval(0.95)
    assert (found.student.low, found.student.high) == pytest.approx((low, high))
    assert found.improvement.value == pytest.approx(6 / 9)
    assert found.verdict == "B is better"
    assert compare(b, a).overall.verdict == "B is worse"
    assert found.paired


def test_a_verdict_needs_students_interval_too(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", rows(runs("x", 0.5, 0.5)))
    b = write(tmp_path / "b.json", rows(runs("x", 0.6, 0.8)))
    for one, other in ((a, b), (b, a)):
        found = compare(one, other).overall
        assert found.difference.low * found.difference.high > 0  # the range of two seeds leaves out zero
        assert found.student.low < 0 < found.student.high
        assert found.verdict == UNKNOWN


def test_other_seeds_are_not_paired(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", rows({("x", 0): 0.5, ("x", 1): 0.7, ("x", 2): 0.9}))
    b = write(tmp_path / "b.json", rows({("x", 7): 0.6, ("x", 8): 0.82, ("x", 9): 0.99}))
    found = compare(a, b).overall
    low, high = scipy.stats.ttest_ind(
        [0.6, 0.82, 0.99], [0.5, 0.7, 0.9], equal_var=False
    ).confidence_interval(0.95)
    assert (found.student.low, found.student.high) == pytest.approx((low, high))
    assert found.verdict == UNKNOWN
    assert not found.paired


def test_where_some_seeds_match_only_those_count(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", rows(runs("x", 0.5, 0.7)))
    b = write(tmp_path / "b.json", rows(runs("x", 0.6, 0.8, 0.0)))
    found = compare(a, b).overall
    assert [found.a, found.b, found.difference.value] == pytest.approx([0.6, 0.7, 0.1])
    assert found.paired


def test_designs_and_overall(tmp_path: Path) -> None:
    a = write(
        tmp_path / "a.json", rows(runs("x", 0.5, 0.5, 0.5) | runs("y", 0.8, 0.8, 0.8) | runs("only a", 1))
    )
    b = write(
        tmp_path / "b.json", rows(runs("x", 0.6, 0.61, 0.59) | runs("y", 0.7, 0.71, 0.69) | runs("only b", 1))
    )
    found = compare(a, b)
    assert [(d.name, d.verdict) for d in found.designs] == [("x", "B is better"), ("y", "B is worse")]
    assert found.overall.name == OVERALL
    assert found.overall.difference.value == pytest.approx(0)
    assert found.overall.verdict == UNKNOWN
    assert (found.overall.settings, found.only_a, found.only_b) == (2, 1, 1)
    assert [found.overall.a, found.overall.b] == pytest.approx([0.65, 0.65])
    assert found.overall.improvement.value == 0.5


def test_the_same_numbers(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, ["gold", "keywords"])
    found = compare(folder, folder / "results.json")
    assert {d.verdict for d in (*found.designs, found.overall)} == {SAME}


def test_a_single_run_shows_nothing(tmp_path: Path) -> None:
    a, b = (write(tmp_path / n, rows(runs("x", v))) for n, v in (("a.json", 0.1), ("b.json", 0.9)))
    assert compare(a, b).overall.verdict == UNKNOWN


def test_another_metric(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", rows(runs("x", 1, 1, 1), length=20.0, note="no", perfect=None))
    b = write(tmp_path / "b.json", rows(runs("x", 1, 1, 1), length=25.0, note="no", perfect=None))
    assert compare(a, b, "length").overall.verdict == "B is higher"
    with pytest.raises(DataError, match="choose another --metric"):
        compare(a, b, "note")
    with pytest.raises(DataError, match="no row has a number in 'perfect'"):
        compare(a, b, "perfect")
    with pytest.raises(DataError, match="no column 'lenght'; it has task"):
        compare(a, b, "lenght")


def test_files_without_a_common_setting(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", rows(runs("x", 1)))
    b = write(tmp_path / "b.json", rows(runs("x", 1), beta=0.2))
    with pytest.raises(DataError, match=r"nothing to compare \(A begins with t: x, PPO, β = 0\.1; B with"):
        compare(a, b)


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    a = write(tmp_path / "a.json", rows(runs("x\x1b[31m", 0.5, 0.5, 0.5)))
    b = write(tmp_path / "b.json", rows(runs("x\x1b[31m", 0.6, 0.61, 0.59)))
    assert run_compare(*read_compare([str(a), str(b), "--json", str(tmp_path / "out.json")])) == 0
    shown = capsys.readouterr().out
    assert "B is better" in shown
    assert "+0.100 [+0.090, +0.110]" in shown
    assert "\x1b[31m" not in shown
    assert "1 settings in common" not in shown
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["overall"]["verdict"] == "B is better"
    assert written["designs"][0]["difference"]["ci95"] == pytest.approx([0.09, 0.11])
