from __future__ import annotations

import re
from pathlib import Path

from tests.bench_folder import write_benchmark
from text_gym.bench.analysis.results import read_results
from text_gym.bench.analysis.summary import summary_of
from text_gym.bench.report.figures import plates


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_rewards_have_these_figures(tmp_path: Path) -> None:
    found = plates(summary_of(read_results(write_benchmark(tmp_path))))
    assert list(found) == [
        "ranking", "frontier", "ends", "best_of_n", "length", "accuracy", "null_rulers",
    ]  # fmt: skip
    assert [p.title for p in found["ends"].panels] == [
        "raters",
        "gold, credit, criteria, opinions",
        "questions, ensemble, scripts",
    ]
    assert len(found["frontier"].panels) == 9  # a panel a design
    (ranking,) = found["ranking"].svgs()
    names = [t for t in texts(ranking) if t in {"gold", "gold-per-token", "keywords", "clean-512"}]
    assert names[-2:] == ["keywords", "gold"] or names.index("clean-512") < names.index("keywords")
    assert {"β = 0", "β = 0.05", "β = 0.3", "keywords"} <= set(texts(found["length"].svgs()[0]))
    assert "ensemble-512" in texts(found["accuracy"].svgs()[0])


def test_each_panel_names_its_designs(tmp_path: Path) -> None:
    found = plates(summary_of(read_results(write_benchmark(tmp_path))))
    raters, *_ = found["ends"].svgs()
    assert {"clean-512", "length-biased-512"} <= set(texts(raters))
    assert "keywords" not in texts(raters)


def fits(svg: str) -> set[str]:
    return {t for t in texts(svg) if t.startswith("fit, ")}


def test_the_frontier_shows_fits_where_they_mean_something_and_yours_first(tmp_path: Path) -> None:
    found = summary_of(read_results(write_benchmark(tmp_path, ["clarity", "fine"])))
    plate = plates(found)["frontier"]
    assert [p.title for p in plate.panels] == ["fine", "clarity"]
    fine, _ = plate.svgs()
    assert {"proxy", "gold", "gold, larger β", "gold, best-of-n"} <= set(texts(fine))
    assert fits(fine) == {"fit, learning", "fit, best-of-n"}
    for design in found["designs"]:
        design["frontier"]["rl"]["note"] = "no"
    assert fits(plates(found)["frontier"].svgs()[0]) == {"fit, best-of-n"}
    for design in found["designs"]:
        design["frontier"] = {"rl": None, "best_of_n": None}
    assert fits(plates(found)["frontier"].svgs()[0]) == set()


def test_agents_have_others(tmp_path: Path) -> None:
    folder = write_benchmark(
        tmp_path, ["clarity"], ["ppo", "grpo"], [0.05], tasks=["copy", "sort"], what="agents"
    )
    found = plates(summary_of(read_results(folder)))
    assert list(found) == ["algorithms", "learning", "ends"]
    assert [p.title for p in found["learning"].panels] == ["copy", "sort"]
    assert {"copy: PPO", "sort: GRPO"} <= set(texts(found["algorithms"].svgs()[0]))


def test_a_part_of_the_matrix_is_enough(tmp_path: Path) -> None:
    for n, (optimisers, designs) in enumerate(
        [(["best_of_n"], ["gold"]), (["ppo"], ["keywords"]), (["ppo"], ["gold", "clarity"])]
    ):
        folder = write_benchmark(tmp_path / str(n), designs, optimisers, [0.0], [0])
        found = plates(summary_of(read_results(folder)))
        assert "ranking" in found
        assert all(plate.svgs() for plate in found.values())


def test_names_of_users_are_harmless(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, ["gold"], ["ppo"], [0.0], [0])
    summary = summary_of(read_results(folder))
    for item in (*summary["settings"], *summary["designs"]):
        item["design"] = item["name"] = "\x1b[31m<script>$\\frac{1}{2}$" + "x" * 100
    for plate in plates(summary).values():
        plate.write_png(tmp_path)
        for svg in plate.svgs():
            assert "<script>" not in svg
            assert "\x1b" not in svg
