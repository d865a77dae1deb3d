from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5Model

from tests.reward_model_tools import TOKENIZER, episodes
from tests.small_models import small_policy
from text_gym.errors import DataError
from text_gym.reward_models import RewardModel
from text_gym.reward_models.learned.backbones import (
    has_segments,
    input_form,
    load_classifier,
    read_template,
)


def test_a_reward_model_starts_from_a_policys_trunk(tmp_path: Path) -> None:
    policy = small_policy(tokenizer=TOKENIZER)
    policy.save(tmp_path)
    one, two, other = (
        RewardModel.from_backbone(tmp_path, ("a", "b"), seed=seed, device="cpu") for seed in (0, 0, 1)
    )
    for name, weight in policy.model.base_model.named_parameters():
        assert torch.equal(dict(one.model.base_model.named_parameters())[name], weight), name
    assert one.model.score.out_features == 2
    assert torch.equal(one.model.score.weight, two.model.score.weight)
    assert not torch.equal(one.model.score.weight, other.model.score.weight)
    assert one.form == "plain"
    assert set(one(episodes("cats")).terms) == {"a", "b"}


def test_the_global_random_state_stays(tmp_path: Path) -> None:
    small_policy(tokenizer=TOKENIZER).save(tmp_path)
    before = torch.get_rng_state()
    RewardModel.from_backbone(tmp_path, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    for load in (load_classifier, has_segments):
        with pytest.raises(DataError, match="nowhere"):
            load(tmp_path / "nowhere")


def test_a_model_with_encoder_and_decoder_is_refused_by_name(tmp_path: Path) -> None:
    config = T5Config(vocab_size=TOKENIZER.vocab_size, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    with pytest.raises(DataError, match="'t5' have an encoder and a decoder; take one that has either"):
        RewardModel.from_backbone(tmp_path)


def test_templates_and_forms(tmp_path: Path) -> None:
    assert read_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert read_template(tmp_path) == "{{ messages }}"
    (tmp_path / "chat_template.jinja").write_text("other")
    assert read_template(tmp_path) == "other"
    assert input_form(TOKENIZER, None) == "plain"
    assert input_form(TOKENIZER, "x") == "chat"
