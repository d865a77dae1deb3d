"""`benchmarks/sentiment.py`: its prompts, its frontier against closed forms, its path with a tiny model."""

from __future__ import annotations

import html
import importlib
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.small_models import small_policy
from text_gym import ByteTokenizer, load_task

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TEXTS = ("a b a b", "the c")


class Vowels:
    """In place of VADER: the share of vowels, from −1 to 1."""

    lexicon: ClassVar = {"the": 1.0}

    def polarity_scores(self, text: str) -> dict[str, float]:
        vowels = sum(c in "aeiou" for c in text)
        return {"compound": 2 * vowels / max(1, len(text)) - 1}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("sentiment")


@pytest.fixture
def report(script: Any) -> Any:
    return importlib.import_module("sentiment_report")


def test_held_out_prompts_are_about_other_things(script: Any) -> None:
    train, held_out = script.prompts()
    reviewed = importlib.import_module("sentiment_prompts").REVIEWED
    unseen = {name for names in reviewed.values() for name in names[-2:]}
    assert (len(train), len(held_out)) == (256, 64)
    assert len({p.text for p in train + held_out}) == 320
    for prompt in train + held_out:
        assert any(name[1:] in prompt.text for name in unseen) == (prompt in held_out), prompt.text


def test_no_prompt_has_a_sentiment(script: Any) -> None:
    pytest.importorskip("vaderSentiment")
    analyzer = script.vader()
    for prompt in [p for side in script.prompts() for p in side]:
        assert analyzer.polarity_scores(prompt.text)["compound"] == 0, prompt.text
        assert analyzer.polarity_scores(prompt.text + " great")["compound"] > 0.6, prompt.text


def test_the_frontier_of_two_rewards_is_the_closed_form(report: Any) -> None:
    rewards = [0.0] * 6000 + [1.0] * 2000
    points = report.reachable(rewards)
    assert len(points) == len(report.BETAS)  # 2,000 texts carry it to the end
    for point in points:
        z = 0.75 + 0.25 * math.exp(1 / point["beta"])
        assert point["sentiment"] == pytest.approx(1 - 0.75 / z)
        assert point["kl"] == pytest.approx(point["sentiment"] / point["beta"] - math.log(z), abs=1e-9)
    assert points[-1]["kl"] == pytest.approx(math.log(4))
    assert report.reachable(rewards[-2050:-1950]) == []  # a hundred texts carry no tilt


def test_a_tiny_model_goes_the_whole_way(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "vader", Vowels)
    task = load_task("products")
    small_policy("llama", task.tokenizer, max_position_embeddings=128).save(tmp_path / "model")
    short = [prompts[:: len(prompts) // 4] for prompts in script.prompts()]
    monkeypatch.setattr(script, "prompts", lambda: short)
    cells = ("start", "ppo-1", "grpo-preferences-2")
    options = script.Options(
        model=tmp_path / "model",
        out=tmp_path / "cells",
        json=tmp_path / "results.json",
        figure=tmp_path / "figure.png",
        cells=cells,
        iterations=2,
        episodes=8,
        tokens=4,
        learning_rate=1e-3,
        pairs=8,
        layers=1,
        texts=1,
    )
    script.main(options)
    results = json.loads((tmp_path / "results.json").read_text())
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert results["start"]["after"]["kl_nats"] == pytest.approx(0, abs=1e-4)
    assert [row["cell"] for row in results["rows"]] == list(cells[1:])
    for row in results["rows"]:
        assert len(row["curve"]) == 2
        assert row["after"]["kl_nats"] != 0
        assert len(row["after"]["samples"]) == 4
        assert -1 <= row["after"]["sentiment"]["mean"] <= 1
    *scored, preferred = results["rows"]
    assert all(point["reward"] == point["sentiment"] for row in scored for point in row["curve"])
    assert all(point["reward"] != point["sentiment"] for point in preferred["curve"])
    assert preferred["reward_model"]["pairs"] == 8
    report = importlib.import_module("sentiment_report")
    assert [row[0] for row in report.runs(results)[2:]] == ["the start", "PPO", "GRPO, preferences"]
    assert report.preferences(results)[2][:2] == ["2", "8"]
    shown = report.samples(results)[2:]
    assert [row[1] for row in shown[:3]] == ["the start", "PPO", "GRPO, preferences"]
    assert len({len(row) for row in shown}) == 1
    # What is there is not run again.
    monkeypatch.setattr(script, "run", lambda cell, options: pytest.fail(f"{cell} was run again"))
    script.main(options)


def test_texts_of_models_are_nothing_but_text_on_the_page(report: Any) -> None:
    wild = "<b>|*x*|`\u202e\n[a](b)"
    shown = report.plain(wild)
    assert not set(shown) & set("<>|*`\n[]()\u202e")
    assert html.unescape(shown) == wild.replace("\u202e", "\\u202e").replace("\n", "\\n")


def test_monotony_is_measured(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "vader", Vowels)
    episodes = [script.Episode.of("It is", text, ByteTokenizer()) for text in TEXTS]
    nan = script.evaluate.__globals__["Measure"](math.nan, (math.nan, math.nan))
    rewards = np.zeros(2)
    found = script.measured(script.Report(nan, {}, nan, math.nan, 1.0, 1.0, episodes, rewards, rewards))
    assert found["distinct_bigrams"] == pytest.approx(3 / 4)  # a b, b a, a b; the c
    assert found["repeated_words"] == pytest.approx(0.25)  # 2 of 4, and 0 of 2
    assert found["favourites"] == {"the": 0.5}
