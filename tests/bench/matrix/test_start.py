"""The texts that designs learn from: written once, read back as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.bench_world import TINY
from text_gym import load_task
from text_gym.bench.matrix.settings import Settings
from text_gym.bench.matrix.start import START_TEXTS, DesignInputs, SamplingJob, starting_policy


def test_texts_are_read_as_they_were_written(tmp_path: Path) -> None:
    job = SamplingJob(TINY, "candidates", seed=3)
    assert not job.done(tmp_path)
    job.run(tmp_path)
    assert job.done(tmp_path)
    texts = job.read(tmp_path)
    assert texts.gold.shape == texts.words.shape == (TINY.prompts, TINY.candidates)
    task = load_task("products")
    gold = task.reward(texts.episodes)
    assert np.allclose(gold.totals, texts.gold.ravel())
    assert np.allclose(gold.terms["clarity"], texts.terms["clarity"].ravel())
    assert texts.terminated.ravel().tolist() == [float(e.finish_reason != "length") for e in texts.episodes]
    first = [e.prompt.text for e in texts.episodes[: TINY.candidates]]
    assert first == [task.held_out[0].text] * TINY.candidates


def test_the_same_job_gives_the_same_bytes_and_another_seed_other_texts(tmp_path: Path) -> None:
    jobs = [SamplingJob(TINY, "candidates", seed=0), SamplingJob(TINY, "candidates", seed=1)]
    for folder in (tmp_path / "a", tmp_path / "b"):
        for job in jobs:
            job.run(folder)
    files = [(tmp_path / f / jobs[0].place / "texts.jsonl").read_bytes() for f in "ab"]
    assert files[0] == files[1]
    assert (tmp_path / "a" / jobs[1].place / "texts.jsonl").read_bytes() != files[0]


def test_raters_see_training_prompts_and_designs_are_judged_on_others(tmp_path: Path) -> None:
    task, shown = load_task("products"), {}
    for use in ("start", "candidates", "pool"):
        job = SamplingJob(TINY, use)
        job.run(tmp_path)
        shown[use] = {e.prompt.text for e in job.read(tmp_path).episodes}
    held_out = {p.text for p in task.held_out}
    assert shown["start"] | shown["candidates"] <= held_out
    assert shown["pool"] <= {p.text for p in task.prompts}
    assert not shown["pool"] & held_out


def test_keys_follow_from_what_texts_depend_on_and_from_nothing_else() -> None:
    start = SamplingJob(TINY, "start")
    assert start.key == SamplingJob(replace(TINY, iterations=9, prompts=2), "start").key
    assert start.key != SamplingJob(replace(TINY, held_out=8), "start").key
    assert len({SamplingJob(TINY, use).key for use in ("start", "candidates", "pool")}) == 3


def test_design_inputs_read_what_designs_ask_for(tmp_path: Path) -> None:
    SamplingJob(TINY, "start").run(tmp_path)
    inputs = DesignInputs(TINY, tmp_path)
    assert inputs.start.gold.shape == (TINY.held_out, START_TEXTS)
    assert inputs.start is inputs.start
    assert inputs.policy == inputs.task.policy


def test_a_task_without_a_policy_starts_from_one_policy_for_all_seeds() -> None:
    settings = Settings(what="agents", task="sort")
    one, two = (starting_policy(settings) for _ in range(2))
    assert all((a == b).all() for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    task = load_task("sort")
    assert (one.context or 0) >= task.max_tokens + len(task.tokenizer.encode(task.prompts[0].text))
