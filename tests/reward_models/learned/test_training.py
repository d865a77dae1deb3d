from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.reward_model_tools import episodes, pairs, ratings, same_bits, small_reward_model, weights_of
from text_gym.errors import ConfigError, DataError, NonFiniteError
from text_gym.reward_models import PreferencePair, Rating, RewardTrainer, RewardTrainingConfig
from text_gym.reward_models.learned.training import _schedule

QUICK = RewardTrainingConfig(epochs=8, batch_size=8, learning_rate=1e-2, patience=8)


def test_it_learns_pairs() -> None:
    model = small_reward_model()
    trainer = RewardTrainer(model, pairs(), QUICK).learn()
    good, bad = model(episodes("a good text", "a bad text")).values
    assert good > bad + 1
    assert trainer.history[-1]["validation_loss"] < 0.3 < math.log(2)


@pytest.mark.parametrize("loss", ["squared", "ordinal"])
def test_it_learns_several_criteria_in_their_units(loss: str) -> None:
    model = small_reward_model("style", "brevity", width=32)
    config = RewardTrainingConfig(epochs=15, batch_size=8, learning_rate=1e-2, patience=15, loss=loss)  # type: ignore[arg-type]
    RewardTrainer(model, ratings(), config).learn()
    found = model(episodes("a text text text", "a good text text", "a good good text", prompt="text 99:"))
    assert found.terms["style"] == pytest.approx([1, 2, 3], abs=0.4)
    assert found.terms["brevity"] == pytest.approx([3, 2, 1], abs=0.4)


def test_the_same_seed_gives_the_same_model_and_leaves_the_world_alone() -> None:
    models = [small_reward_model(dropout=0) for _ in range(3)]
    before = torch.get_rng_state()
    for model, seed in zip(models, (0, 0, 1), strict=True):
        RewardTrainer(model, pairs(), RewardTrainingConfig(epochs=2, batch_size=8, seed=seed)).learn()
        torch.rand(3) if seed else None
    assert same_bits(models[1], weights_of(models[0]))
    assert not same_bits(models[2], weights_of(models[0]))
    torch.set_rng_state(before)
    RewardTrainer(small_reward_model(), pairs(), RewardTrainingConfig(epochs=1)).learn()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_weights_of_the_best_epoch_stay() -> None:
    noise = np.random.default_rng(0).permutation([True, False] * 12)
    confused = [
        p if keep else PreferencePair(p.prompt, p.rejected, p.chosen)
        for p, keep in zip(pairs(), noise, strict=True)
    ]
    model = small_reward_model()
    config = RewardTrainingConfig(epochs=20, batch_size=4, learning_rate=2e-2, patience=3, validation=0.3)
    trainer = RewardTrainer(model, confused, config).learn()
    losses = [row["validation_loss"] for row in trainer.history]
    assert len(losses) < 20
    assert len(losses) - 1 - int(np.argmin(losses)) == 3
    assert trainer._judge() == pytest.approx(min(losses), rel=1e-5)


def test_weights_of_raters_count() -> None:
    liars = [PreferencePair(p.prompt, p.rejected, p.chosen, weight=0.01) for p in pairs()]
    model = small_reward_model()
    RewardTrainer(model, [*pairs(), *liars, *liars], QUICK).learn()
    good, bad = model(episodes("a good text", "a bad text")).values
    assert good > bad


def test_a_callback_and_a_clock_can_stop_it() -> None:
    trainer = RewardTrainer(small_reward_model(), pairs(), QUICK).learn(lambda row: row["epoch"] < 2)
    assert [row["epoch"] for row in trainer.history] == [1, 2]
    hurried = RewardTrainingConfig(epochs=9, max_seconds=0)
    assert len(RewardTrainer(small_reward_model(), pairs(), hurried).learn().history) == 1


def test_a_score_that_is_not_finite_updates_nothing() -> None:
    model = small_reward_model()
    trainer = RewardTrainer(model, pairs(), QUICK)
    before = weights_of(model)

    def spoil(module: object, inputs: object, output: Any) -> None:
        output.logits = output.logits * torch.nan

    hook = model.model.register_forward_hook(spoil)
    with pytest.raises(NonFiniteError, match=r"the loss is nan in epoch 1, step 1; nothing was updated"):
        trainer.learn()
    hook.remove()
    assert same_bits(model, before)
    assert not model.model.training


def test_a_gradient_that_is_not_finite_updates_nothing() -> None:
    model = small_reward_model()
    trainer = RewardTrainer(model, pairs(), QUICK)
    before = weights_of(model)
    hook = model.model.score.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteError, match=r"the gradient's norm is (nan|inf) in epoch 1, step 1"):
        trainer.learn()
    hook.remove()
    assert same_bits(model, before)


def test_a_weight_that_is_not_finite_is_refused_before_anything() -> None:
    model = small_reward_model()
    with torch.no_grad():
        model.model.transformer.wte.weight[3, 3] = torch.inf
    before = weights_of(model)
    with pytest.raises(NonFiniteError, match=r"transformer\.wte\.weight"):
        RewardTrainer(model, pairs(), QUICK).learn()
    assert same_bits(model, before)


def test_a_nan_label_never_reaches_the_model() -> None:
    model = small_reward_model("style")
    before = weights_of(model)
    with pytest.raises(DataError, match="not a finite number"):
        RewardTrainer(model, [Rating(r.prompt, r.completion, {"style": math.nan}) for r in ratings()])
    assert same_bits(model, before)


def test_faults_have_names() -> None:
    with pytest.raises(DataError, match="not from both"):
        RewardTrainer(small_reward_model(), [*pairs(), *ratings()])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="fewer than two prompts"):
        RewardTrainer(small_reward_model(), pairs(1))
    with pytest.raises(DataError, match="fewer than two prompts"):
        RewardTrainer(small_reward_model("facts"), ratings())
    for wrong in ({"epochs": 0}, {"learning_rate": 0.0}, {"warmup": 1.0}, {"loss": "cubic"}):
        with pytest.raises(ConfigError):
            RewardTrainingConfig(**wrong)


@pytest.mark.parametrize("opinions", [pairs(), ratings()])
def test_nothing_is_learnt_from_the_prompts_that_epochs_are_judged_by(opinions: Any) -> None:
    criteria = ("style",) if isinstance(opinions[0], Rating) else ()
    trainer = RewardTrainer(small_reward_model(*criteria), opinions, QUICK)
    learnt, judged = ({tuple(t.ids) for t in part.texts} for part in (trainer.train, trainer.validation))
    assert len(trainer.train) + len(trainer.validation) == len(opinions)
    assert judged
    assert not learnt & judged


def test_epochs_are_learnt_with_dropout_and_judged_without() -> None:
    model = small_reward_model(dropout=0.5)
    config = RewardTrainingConfig(epochs=3, batch_size=64, learning_rate=1e-2, patience=3)
    trainer, found = RewardTrainer(model, pairs(), config), []

    def look(row: object) -> None:
        assert model.model.training
        model.model.eval()
        with torch.no_grad():
            found.append(float(trainer.validation.loss(range(len(trainer.validation)))))
        model.model.train()

    trainer.learn(look)
    assert [row["validation_loss"] for row in trainer.history] == pytest.approx(found)
    assert not model.model.training


def test_pairs_weigh_the_same_in_a_validation_of_many_batches_and_of_one() -> None:
    some = [dataclasses.replace(p, weight=10.0 if i % 3 else 0.5) for i, p in enumerate(pairs())]
    config = RewardTrainingConfig(epochs=1, batch_size=1, validation=0.4)
    trainer = RewardTrainer(small_reward_model(), some, config)
    assert len(trainer.validation) > 4  # two a batch
    with torch.no_grad():
        whole = float(trainer.validation.loss(range(len(trainer.validation))))
    assert trainer._judge() == pytest.approx(whole)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    rates = [_schedule(done, 0.25) for done in np.linspace(0, 1, 41)]
    assert rates[:11] == pytest.approx(np.linspace(0, 1, 11))
    assert (rates[25], rates[40]) == pytest.approx((0.5, 0.0))  # half of the way down, and the end
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_matrices_decay_and_nothing_else() -> None:
    trainer = RewardTrainer(small_reward_model(), pairs(), RewardTrainingConfig(weight_decay=0.3))
    groups = trainer._optimizer().param_groups
    assert {(p.ndim >= 2, g["weight_decay"]) for g in groups for p in g["params"]} == {
        (True, 0.3),
        (False, 0.0),
    }
