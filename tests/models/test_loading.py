from __future__ import annotations

import pytest
import torch
from transformers import GPT2LMHeadModel

from text_gym import ByteTokenizer, WordTokenizer
from text_gym.errors import ConfigError
from text_gym.models.loading import pick_device, small_gpt2

SHAPE = {"layers": 3, "width": 16, "heads": 2, "context": 12}


def test_devices_by_name() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="unknown device 'toaster'"):
        pick_device("toaster")


def test_a_small_gpt2_has_the_size_asked_for() -> None:
    config = small_gpt2(ByteTokenizer(), **SHAPE, dropout=0.25, id2label={0: "reward"})
    assert (config.eos_token_id, config.bos_token_id, config.pad_token_id) == (256, 257, 257)
    assert (config.attn_pdrop, config.resid_pdrop, config.embd_pdrop) == (0.25, 0.25, 0.25)
    assert config.id2label == {0: "reward"}
    model = GPT2LMHeadModel(config)
    # Embeddings of tokens and places; a layer has 12 D² weights and 13 D biases and norms; a last norm.
    assert sum(p.numel() for p in model.parameters()) == 16 * (258 + 12) + 3 * (12 * 256 + 13 * 16) + 32
    assert 0.2 < float(model.transformer.wte.weight.detach().std()) < 0.3  # 16 ** -0.5


def test_a_tokenizer_may_have_neither_eos_nor_padding() -> None:
    tokenizer = WordTokenizer("ab", separator="", pad=False)
    tokenizer.eos_ids = ()
    assert small_gpt2(tokenizer, **SHAPE, dropout=0.0).eos_token_id is None
