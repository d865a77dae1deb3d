from __future__ import annotations

import numpy as np
import pytest
import torch

from text_gym import ByteTokenizer, Episode, FunctionReward, RewardSource
from text_gym.reward_models import Keywords, Length, RewardModel
from text_gym.reward_models.audit.attribution import (
    integrated_gradients,
    is_differentiable,
    leave_one_word_out,
)
from text_gym.reward_models.learned.scales import Scales

TOKENIZER = ByteTokenizer()


def test_a_words_value_is_what_the_text_loses_without_it() -> None:
    words = {"good": 2.0, "bad": -3.0, "mug": 0.5}
    source = FunctionReward(lambda completion: sum(words.get(w, 0.0) for w in completion.split()))
    (found,) = leave_one_word_out(source, [Episode.of("Say:", "a good  mug\nor bad", TOKENIZER)])
    assert found.pieces == ("a", " good", "  mug", "\nor", " bad")
    assert found.values["reward"].tolist() == [0, 2, 0.5, 0, -3]
    assert found.totals == {"reward": -0.5}


def test_terms_are_attributed_too() -> None:
    source = 2 * Keywords(["mug"]) + Length(1, 2)
    episodes = [Episode.of("Say:", text, TOKENIZER) for text in ("a mug you", "mug", "")]
    found = leave_one_word_out(source, episodes)
    assert found[0].values["keywords"].tolist() == [0, 1, 0]
    assert found[0].values["length/length"].tolist() == [1, 1, 1]
    # Length(1, 2) is worth ½ for three words and 1 for two.
    assert found[0].values["reward"].tolist() == [-0.5, 1.5, -0.5]
    assert found[1].values["reward"].tolist() == [3]
    assert found[2].pieces == ()


def test_no_opinion_is_no_value() -> None:
    def shy(completion: str) -> float | None:
        return None if completion == "b" else 1.0

    (found,) = leave_one_word_out(FunctionReward(shy, abstains=True), [Episode.of("Say:", "a b", TOKENIZER)])
    np.testing.assert_array_equal(found.values["reward"], [np.nan, 0])
    assert found.summary()["pieces"] == ["a", " b"]


@pytest.fixture(scope="module")
def model() -> RewardModel:
    made = RewardModel.new(TOKENIZER, ("a", "b"), layers=1, width=8, heads=2, context=32, seed=1)
    made.scales = Scales((2.0, 0.5), (1.0, -1.0), (3.0, 1.0))
    with torch.no_grad():
        made.model.score.weight.mul_(20)  # a new head is almost flat
    return made


def test_integrated_gradients_add_up(model: RewardModel) -> None:
    pytest.importorskip("captum")
    episode = Episode.of("Hi", "you", TOKENIZER)
    (found,) = integrated_gradients(model, [episode], steps=256)
    assert found.pieces[-4:] == ("y", "o", "u", "[end]")
    # With an empty prompt all tokens are the completion's, so that the sum is complete.
    alone = Episode.of(" ", "you", TOKENIZER)
    object.__setattr__(alone.prompt, "text", "")
    (found,) = integrated_gradients(model, [alone], steps=256)
    ids = torch.tensor([[*b"you", TOKENIZER.eos_ids[0]]])
    embed = model.model.get_input_embeddings()
    with torch.no_grad():
        start = model.model(inputs_embeds=embed(torch.full_like(ids, TOKENIZER.pad_id))).logits[0]
        end = model.model(inputs_embeds=embed(ids)).logits[0]
    factor = torch.tensor([2.0 * 3 / 4, 0.5 / 4])
    expected = float((end - start) @ factor)
    assert abs(expected) > 0.05
    assert found.values["reward"].sum() == pytest.approx(expected, abs=1e-3)
    assert found.totals["reward"] == pytest.approx(float(model([alone]).totals[0]))


def test_only_learned_models_have_gradients(model: RewardModel) -> None:
    assert is_differentiable(model)
    sources: list[RewardSource] = [Length(), FunctionReward(len)]
    assert not any(map(is_differentiable, sources))
