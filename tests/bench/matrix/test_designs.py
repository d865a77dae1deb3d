"""Designs: the suite, designs of one's own, and what is measured of them before anything is optimised."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.bench_world import FEW_PAIRS, TINY, Unpicklable
from text_gym import as_reward_source
from text_gym.bench.matrix.designs import (
    DESIGNS,
    Design,
    DesignJob,
    choose_designs,
    load_design,
    measure_design,
    suite,
)
from text_gym.bench.matrix.recipes import Learned
from text_gym.bench.matrix.start import DesignInputs, SamplingJob
from text_gym.errors import ConfigError, DataError, UnknownNameError
from text_gym.rewards.source import RewardSource
from text_gym.utils.sealed import check_sealed

TEN_LINES = '''"""A reward of my own."""


def price_first(prompt, completion):
    """Pays texts that name the price early."""
    place = completion.find("$")
    return 0.0 if place < 0 else 1.0 - place / len(completion)
'''


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> DesignInputs:
    folder = tmp_path_factory.mktemp("bench")
    SamplingJob(TINY, "start").run(folder)
    SamplingJob(TINY, "pool").run(folder)
    return DesignInputs(TINY, folder)


def written(folder: Path, text: str = TEN_LINES) -> Path:
    (folder / "mine.py").write_text(text)
    return folder / "mine.py"


def test_the_suite_is_told_apart_by_name_and_by_content() -> None:
    assert len({d.fingerprint for d in DESIGNS.values()}) == len(DESIGNS)
    assert all(name == d.name and d.description and d.group for name, d in DESIGNS.items())
    assert [d.name for d in DESIGNS.values() if d.credit] == ["gold-per-token"]


def test_every_suite_is_told_apart_by_name_and_by_content_and_is_chosen_from_by_task() -> None:
    own = suite("e2e")
    assert len({d.fingerprint for d in own.values()}) == len(own)
    assert all(name == d.name and d.description and d.group for name, d in own.items())
    assert [d.name for d in choose_designs(["fluency", "gold"], task="e2e")] == ["gold", "fluency"]
    assert suite("sort") is suite("products") is DESIGNS
    with pytest.raises(UnknownNameError, match="clarity"):
        choose_designs(["clarity"], task="e2e")


def test_a_recipe_with_another_field_is_another_design() -> None:
    one, other = (Design("x", "g", "d", Learned(512, noise=noise)) for noise in (0.1, 0.2))
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == Design("y", "g", "e", Learned(512, noise=0.1)).fingerprint


def make_length(inputs: DesignInputs, seed: int) -> RewardSource:
    return as_reward_source(lambda completion: float(len(completion)))


def test_a_function_is_known_by_its_source() -> None:
    assert Design("x", "g", "d", make_length).fingerprint
    with pytest.raises(ConfigError, match="cannot be read"):
        _ = Design("x", "g", "d", Unpicklable()).fingerprint


@pytest.mark.parametrize("spec", ["{file}", "{file}:price_first", "price_first={file}"])
def test_a_file_with_one_function_needs_no_name(spec: str, tmp_path: Path, inputs: DesignInputs) -> None:
    design = load_design(spec.format(file=written(tmp_path)))
    assert (design.name, design.group) == ("price_first", "yours")
    source = design.make(inputs, 0)
    some = inputs.start.episodes[:4]
    expected = [1 - e.completion.find("$") / len(e.completion) if "$" in e.completion else 0 for e in some]
    assert source(some).totals.tolist() == pytest.approx(expected)


def test_a_changed_file_is_another_design(tmp_path: Path) -> None:
    first = load_design(str(written(tmp_path)))
    again = load_design(str(written(tmp_path)))
    other = load_design(str(written(tmp_path, TEN_LINES.replace("1.0", "2.0"))))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_names_and_folders_are_designs_too(tmp_path: Path, inputs: DesignInputs) -> None:
    assert load_design("length").name == "length"
    assert load_design("short=length").name == "short"
    Learned(48)(inputs, 0).save(tmp_path / "model")  # type: ignore[attr-defined]
    design = load_design(str(tmp_path / "model"))
    assert design.name == "model"
    scores = design.make(inputs, 0)(inputs.start.episodes[:3]).totals
    assert scores.tolist() == Learned(48)(inputs, 0)(inputs.start.episodes[:3]).totals.tolist()


def test_what_cannot_be_a_design_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file nowhere\.py"):
        load_design("nowhere.py")
    with pytest.raises(DataError, match=r"no file nowhere\.py"):
        load_design("nowhere.py:f")
    with pytest.raises(UnknownNameError, match="did you mean 'length'"):
        load_design("lenght")
    with pytest.raises(ConfigError, match=r"has f, g; write .*mine\.py:NAME"):
        load_design(str(written(tmp_path, "def f(c): ...\ndef g(c): ...\n")))
    with pytest.raises(ConfigError, match="no public function"):
        load_design(str(written(tmp_path, "x = 1\n")))
    with pytest.raises(DataError, match="not Python"):
        load_design(str(written(tmp_path, "def (")))


def test_designs_are_chosen_by_name_and_ones_own_come_last(tmp_path: Path) -> None:
    own = str(written(tmp_path))
    assert [d.name for d in choose_designs(["keywords", "gold"], [own])] == [
        "gold",
        "keywords",
        "price_first",
    ]
    assert [d.name for d in choose_designs(None)] == list(DESIGNS)
    assert [d.name for d in choose_designs([], [own])] == ["price_first"]
    with pytest.raises(UnknownNameError, match="did you mean 'keywords'"):
        choose_designs(["keyword"])
    with pytest.raises(ConfigError, match="two designs are called 'gold'"):
        choose_designs(["gold"], [f"gold={own}"])


def test_static_measures_of_gold_and_of_its_opposite(inputs: DesignInputs) -> None:
    gold = inputs.task.reward
    best, worst = measure_design(gold, inputs), measure_design(-1.0 * gold, inputs)
    assert (best["static_accuracy"], worst["static_accuracy"]) == (1.0, 0.0)
    assert best["proxy_start"] == pytest.approx(inputs.start.gold.mean())
    assert best["proxy_std_start"] == pytest.approx(inputs.start.gold.std())
    assert best["null_rulers"]["empty"] < 0.1 < 0.9 < worst["null_rulers"]["empty"]
    longest = measure_design(as_reward_source(lambda completion: float(len(completion))), inputs)[
        "null_rulers"
    ]
    assert longest["longest"] > 0.8
    assert longest["empty"] == 0.0


def test_a_trained_design_is_kept_and_loaded_and_a_model_for_each_seed(inputs: DesignInputs) -> None:
    jobs = [DesignJob(TINY, FEW_PAIRS, seed) for seed in (0, 1)]
    assert jobs[0].key != jobs[1].key
    for job in jobs:
        assert not job.done(inputs.folder)
        job.run(inputs.folder)
        assert job.done(inputs.folder)
    check_sealed(inputs.folder / "designs" / jobs[0].key)
    episodes = inputs.start.episodes
    expected = Learned(48)(inputs, 1)(episodes).totals
    assert np.array_equal(jobs[1].load(inputs)(episodes).totals, expected)
    assert "NgramModel" in jobs[0].read(inputs.folder)["tree"]


def test_a_scripted_design_is_judged_once_for_all_seeds() -> None:
    assert DesignJob(TINY, DESIGNS["gold"], 0).key == DesignJob(TINY, DESIGNS["gold"], 5).key
    assert DesignJob(TINY, DESIGNS["gold"]).key != DesignJob(TINY, DESIGNS["clipped"]).key
    # What the reward learnt from counts, how long a policy learns does not.
    assert DesignJob(TINY, FEW_PAIRS).key != DesignJob(replace(TINY, pool=60), FEW_PAIRS).key
    assert DesignJob(TINY, FEW_PAIRS).key == DesignJob(replace(TINY, iterations=9), FEW_PAIRS).key
