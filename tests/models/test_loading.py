from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from logging import ERROR
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2LMHeadModel, T5Config, T5ForConditionalGeneration
from transformers.utils import logging

from text_gym import ByteTokenizer, WordTokenizer
from text_gym.errors import ConfigError, DataError
from text_gym.models.loading import (
    digest_of,
    load_into,
    load_model,
    load_tensors,
    pick_device,
    quietly,
    seeded_weights,
    small_gpt2,
)

SHAPE = {"layers": 3, "width": 16, "heads": 2, "context": 12}


def test_devices_by_name() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="unknown device 'toaster'"):
        pick_device("toaster")
    with pytest.raises(ConfigError, match="unknown device None"):
        pick_device(None)  # type: ignore[arg-type]


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


def save_small(folder: Path) -> GPT2LMHeadModel:
    model = GPT2LMHeadModel(small_gpt2(ByteTokenizer(), **SHAPE, dropout=0.0))
    model.save_pretrained(folder)
    return model


def test_a_loaded_model_has_memory_of_its_own(tmp_path: Path) -> None:
    saved = save_small(tmp_path).state_dict()
    loaded = load_model("AutoModelForCausalLM", tmp_path, "a model")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * (tmp_path / "model.safetensors").stat().st_size)
    assert all(torch.equal(weight, saved[name]) for name, weight in loaded.state_dict().items())


@pytest.mark.parametrize("kind", ["AutoModelForCausalLM", "AutoModelForSequenceClassification"])
@pytest.mark.parametrize("fault", ["missing", "no weights", "broken", "pickled", "no architecture"])
def test_what_cannot_be_loaded_is_named(tmp_path: Path, kind: str, fault: str) -> None:
    folder = tmp_path / "model"
    if fault != "missing":
        model = save_small(folder)
    weights = folder / "model.safetensors"
    if fault == "no weights":
        weights.unlink()
    elif fault == "broken":
        weights.write_bytes(weights.read_bytes()[:100])
    elif fault == "pickled":
        weights.unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    elif fault == "no architecture":
        (folder / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(DataError, match=rf"cannot load a thing from '.*{folder.name}'"):
        load_model(kind, folder, "a thing")


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_tensors(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


BIAS = "transformer.h.1.mlp.c_fc.bias"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop(BIAS), rf"lacks 1 weights: '{re.escape(BIAS)}'; save it again"),
        (
            lambda w: w.update(bias=w.pop(BIAS)),
            rf"lacks 1 weights: '{re.escape(BIAS)}', and has others .*'bias'",
        ),
        (lambda w: w.update({BIAS: w[BIAS][1:]}), r"c_fc\.bias' has shape \(63,\), not \(64,\)"),
        (lambda w: w[BIAS][0].fill_(math.nan), r"c_fc\.bias' has NaN or infinite"),
        (lambda w: w[BIAS][0].fill_(-math.inf), r"c_fc\.bias' has NaN or infinite"),
    ],
)
@pytest.mark.parametrize("new_head", [False, True])
def test_a_model_is_loaded_whole_or_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], says: str, new_head: bool
) -> None:
    save_small(tmp_path)
    change_weights(tmp_path, change)
    kind = "AutoModelForSequenceClassification" if new_head else "AutoModelForCausalLM"
    with pytest.raises(DataError, match=says):
        load_model(kind, tmp_path, "a model", new_head=new_head)


def test_a_head_may_be_new_only_where_that_is_said(tmp_path: Path) -> None:
    save_small(tmp_path)
    kind = "AutoModelForSequenceClassification"
    assert load_model(kind, tmp_path, "a model", new_head=True, num_labels=3).score.weight.shape == (3, 16)
    with pytest.raises(DataError, match=r"lacks 1 weights: 'score\.weight'"):
        load_model(kind, tmp_path, "a model")


def test_a_model_of_another_kind_is_told_apart_from_a_broken_one(tmp_path: Path) -> None:
    other = T5Config(vocab_size=9, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(other).save_pretrained(tmp_path / "t5")
    with pytest.raises(DataError, match=r"models of type 't5' have no such form; take another$"):
        load_model("AutoModelForCausalLM", tmp_path / "t5", "a causal language model")
    save_small(tmp_path / "gpt2").transformer.save_pretrained(tmp_path / "trunk")
    with pytest.raises(DataError, match=r"lacks 1 weights: .*; it was saved as a GPT2Model: take another"):
        load_model("AutoModelForSequenceClassification", tmp_path / "trunk", "a reward model")
    load_model("AutoModelForSequenceClassification", tmp_path / "trunk", "a reward model", new_head=True)


def test_weights_that_nothing_uses_are_refused(tmp_path: Path) -> None:
    save_small(tmp_path)
    change_weights(tmp_path, lambda w: w.update({"v_head\x1b[2J": torch.zeros(2)}))
    with pytest.raises(DataError) as found:
        load_model("AutoModelForCausalLM", tmp_path, "a model")
    assert r"weights that nothing uses: 'v_head\x1b[2J'" in str(found.value)


def test_a_head_of_another_size_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    save_file({"weight": torch.ones(1, 3), "bias": torch.ones(1)}, file)
    head = torch.nn.Linear(3, 1)
    load_into(head, file)
    assert head(torch.ones(3)).item() == 4
    with pytest.raises(DataError, match=r"head\.safetensors belongs to another network"):
        load_into(torch.nn.Linear(4, 1), file)


def test_tensors_are_read_from_safetensors_alone(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"x": torch.arange(3)}, file)
    assert load_tensors(file)["x"].tolist() == [0, 1, 2]
    torch.save({"x": torch.arange(3)}, file)
    for broken in (file, tmp_path / "none.safetensors"):
        with pytest.raises(DataError, match=broken.name):
            load_tensors(broken)


def test_a_digest_sees_names_shapes_and_dtypes() -> None:
    """All of these have the same bytes."""
    tensor = torch.arange(6, dtype=torch.float32)
    forms = {
        "weight": (tensor, tensor.view(2, 3), tensor.view(3, 2), tensor.view(torch.int32)),
        "weights": (tensor,),
    }
    digests = []
    for name, tensors in forms.items():
        for form in tensors:
            network = torch.nn.Module()
            network.register_buffer(name, form)
            digests.append(digest_of(network))
    assert len(set(digests)) == 5
    network = torch.nn.Module()
    network.register_buffer("weights", tensor.clone())
    assert digest_of(network) == digests[-1]


@pytest.mark.parametrize("bars", [True, False])
@pytest.mark.parametrize("warnings", [True, False])
def test_transformers_is_as_loud_afterwards_as_before(bars: bool, warnings: bool) -> None:
    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    with suppress(KeyError), quietly(bars=bars, warnings=warnings):
        assert logging.is_progress_bar_enabled() == (bars and before[0])
        assert logging.get_verbosity() == (before[1] if warnings else ERROR)
        raise KeyError
    assert before == (logging.is_progress_bar_enabled(), logging.get_verbosity())


def test_threads_draw_weights_one_after_the_other() -> None:
    inside, go_on, drawn = threading.Event(), threading.Event(), []

    def slow() -> None:
        with seeded_weights(0):
            inside.set()
            go_on.wait()
            drawn.append(torch.rand(()).item())

    def quick() -> None:
        with seeded_weights(1):
            drawn.append(torch.rand(()).item())

    before = torch.get_rng_state()
    threads = [threading.Thread(target=slow), threading.Thread(target=quick)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    threads[1].join(0.2)  # it waits for the other; without a lock it would be done
    go_on.set()
    for thread in threads:
        thread.join()
    expected = [torch.rand((), generator=torch.Generator().manual_seed(seed)).item() for seed in (0, 1)]
    assert drawn == expected
    assert torch.equal(torch.get_rng_state(), before)
