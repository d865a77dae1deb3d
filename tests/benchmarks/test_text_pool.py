from __future__ import annotations

import importlib
import random
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from text_gym import Episode, load_task
from text_gym.agents.algorithms.best_of_n import best_of_n_kl_bound
from text_gym.reward_models import NgramModel
from text_gym.reward_models.learned.configs import NgramConfig
from text_gym.reward_models.people.raters import collect_pairs
from text_gym.reward_models.people.simulated import SimulatedRater, Vices
from text_gym.tasks.products_corpus import describe_product

TASK = load_task("products")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("text_pool")


def write(prompts: int, each: int, seed: int) -> list[Episode]:
    rng = random.Random(seed)
    return [
        Episode.of(prompt, describe_product(prompt, rng), TASK.tokenizer)
        for prompt in TASK.prompts[:prompts]
        for _ in range(each)
    ]


def test_a_model_fitted_and_read_from_counts_is_the_ngram_model(script: ModuleType) -> None:
    config = NgramConfig(max_features=200, alpha=1.0)
    asked = write(30, 2, seed=0)
    pairs = script.Pairs(TASK, asked, script.count_features(asked, config))
    model = pairs.fit(range(30), pairs.ask(0.3, seed=4), config)
    rater = SimulatedRater(TASK.reward, Vices(noise=0.3), seed=4)
    expected = NgramModel.fit(collect_pairs(rater, asked[::2], asked[1::2]), config=config)
    assert list(model.places) == expected.vocabulary
    texts = write(3, 5, seed=1)
    pool = script.Pool(script.count_features(texts, config), TASK.reward(texts).totals.reshape(3, 5))
    np.testing.assert_allclose(pool.scores(model).ravel(), expected(texts).totals, atol=1e-6)


def test_the_curve_begins_with_the_mean_and_ends_with_the_proxys_best(script: ModuleType) -> None:
    texts = write(4, 8, seed=1)
    gold = TASK.reward(texts).totals.reshape(4, 8)
    pool = script.Pool(script.count_features(texts, NgramConfig()), gold)
    proxy = np.random.default_rng(0).normal(size=(4, 8))
    cell = pool.curve(proxy, seed=7)
    assert cell.row["seed"] == 7
    assert [p["step"] for p in cell.curve] == [1, 2, 3, 4, 6, 8]
    assert cell.along("gold")[0] == pytest.approx(gold.mean())
    assert cell.along("gold")[-1] == pytest.approx(np.mean(gold[np.arange(4), proxy.argmax(axis=1)]))
    assert cell.along("kl_nats")[-1] == best_of_n_kl_bound(8)
    assert cell["gold_std_start"] == pytest.approx(np.std(gold))
