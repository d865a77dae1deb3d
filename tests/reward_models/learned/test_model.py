from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.reward_model_tools import TOKENIZER, WORDS, episodes, small_reward_model
from text_gym import ByteTokenizer, Episode, PretrainedTokenizer, Prompt, WordTokenizer, check_reward_source
from text_gym.errors import ConfigError, DataError, NonFiniteError, RewardError
from text_gym.reward_models import RewardModel, load_reward
from text_gym.reward_models.learned.scales import Scales
from text_gym.tasks.task import Task


def bert(folder: Path, labels: int = 1, segments: bool = False) -> Any:
    """A small BERT classifier as `transformers` and `tokenizers` save it, with BERT's joining of pairs."""
    import tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", sep_token="[SEP]", model_input_names=names
    )

    config: Any = transformers.AutoConfig.for_model(
        "bert",
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=40,
        num_labels=labels,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


TEXTS = [" ".join(WORDS[i : i + n]) for i, n in ((0, 1), (3, 9), (1, 2), (5, 4), (2, 14))]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_score_of_a_text_depends_on_no_batch(size: int) -> None:
    model = small_reward_model(layers=3, width=32)
    model.batch_size = size
    alone = [float(model(episodes(text)).values[0]) for text in TEXTS]
    assert np.std(alone) > 0.1
    np.testing.assert_allclose(model(episodes(*TEXTS)).values, alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(model(episodes(*TEXTS[::-1])).values, alone[::-1], rtol=0, atol=1e-5)


def test_the_logits_are_those_of_transformers(tmp_path: Path) -> None:
    model = small_reward_model("a", "b")
    model.save(tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    found = model(episodes(*TEXTS))
    for i, text in enumerate(TEXTS):
        ids = tokenizer("Write:").input_ids + tokenizer(text).input_ids + [tokenizer.eos_token_id]
        logits = theirs(torch.tensor([ids])).logits[0].tolist()
        assert [found.terms["a"][i], found.terms["b"][i]] == pytest.approx(logits, abs=1e-5)
        assert found.values[i] == pytest.approx(sum(logits) / 2, abs=1e-5)
    assert theirs.config.id2label == {0: "a", 1: "b"}


@pytest.mark.parametrize("segments", [False, True])
def test_a_classifier_that_was_not_made_here(tmp_path: Path, segments: bool) -> None:
    theirs, tokenizer = bert(tmp_path, segments=segments)
    model = load_reward(str(tmp_path))
    assert isinstance(model, RewardModel)
    assert model.form == "pair"
    found = model([Episode.of("please write about cats", text, ByteTokenizer()) for text in TEXTS]).values
    expected = [
        theirs(**tokenizer("please write about cats", text, return_tensors="pt")).logits[0, 0].item()
        for text in TEXTS
    ]
    assert np.std(expected) > 0.05
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert model.segments == segments
    model.save(tmp_path / "again")
    again = load_reward(str(tmp_path / "again"))
    same = again([Episode.of("please write about cats", TEXTS[0], TOKENIZER)]).values
    assert same == pytest.approx(found[:1], abs=1e-5)


def test_a_chat_template_is_used(tmp_path: Path) -> None:
    model = small_reward_model()
    model.save(tmp_path)
    (tmp_path / "reward_model.json").unlink()
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    chat = RewardModel.from_pretrained(tmp_path)
    assert chat.form == "chat"
    assert chat.encode("cats", "dogs").ids == TOKENIZER.encode("user cats assistant dogs ")
    chat.save(tmp_path / "again")
    again = RewardModel.from_pretrained(tmp_path / "again")
    assert again(episodes("dogs")).values == chat(episodes("dogs")).values


@pytest.mark.parametrize(
    "other",
    [
        ByteTokenizer(),
        PretrainedTokenizer.train(["some other words that give other merges"] * 3, 290),
        WordTokenizer([*reversed(WORDS), "Write:"]),
    ],
)
def test_it_reads_text_whatever_tokenizer_wrote_it(other: Any) -> None:
    model = small_reward_model()
    text = "write a good text about cats"
    theirs = Episode.of(Prompt("Write:"), text, other)
    assert theirs.tokenizer.fingerprint != TOKENIZER.fingerprint
    assert model([theirs]).values == model(episodes(text)).values


def test_saved_and_loaded_it_says_the_same(tmp_path: Path) -> None:
    model = small_reward_model("style", "facts").normalise(episodes(*TEXTS))
    model.save(tmp_path)
    again = load_reward(str(tmp_path))
    found, expected = again(episodes(*TEXTS)), model(episodes(*TEXTS))
    assert found.values.tolist() == expected.values.tolist()
    assert found.terms["facts"].tolist() == expected.terms["facts"].tolist()
    assert {p.suffix for p in tmp_path.iterdir()} <= {".json", ".safetensors"}


def test_normalised_on_reference_samples() -> None:
    reference = episodes(*TEXTS)
    model = small_reward_model("style", "facts")
    raw = model(reference).terms["style"]
    found = model.normalise(reference)(reference).terms
    assert found["style"] == pytest.approx((raw - raw.mean()) / raw.std())
    with pytest.raises(ConfigError, match="same for all 2"):
        model.normalise(episodes("cats", "cats"))
    with pytest.raises(ConfigError, match="too few"):
        model.normalise(episodes("cats"))


def test_it_keeps_the_laws_of_reward_sources() -> None:
    prompts = [Prompt("Write about cats:"), Prompt("Write about dogs:")]
    model = small_reward_model()
    check_reward_source(model, Task("t", prompts, prompts, TOKENIZER, model, 12))


def test_long_texts_lose_the_start_of_the_prompt_only() -> None:
    model = small_reward_model()
    completion = "good " * 20
    ids = model.encode("cats " * 100 + "dogs", completion).ids
    assert len(ids) == 64
    expected = [*TOKENIZER.encode(" dogs"), *TOKENIZER.encode(completion), *TOKENIZER.eos_ids]
    assert ids[-len(expected) :] == expected
    with pytest.raises(RewardError, match=r"'learned'.*tokens; the model reads 1 to 64"):
        model(episodes("good " * 200))


def test_a_pickled_checkpoint_is_refused_and_never_opened(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "marker",))

    model = small_reward_model()
    model.save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"score.weight": Payload()}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(DataError, match="safetensors"):
        load_reward(str(tmp_path / "model"))
    assert not (tmp_path / "marker").exists()


def test_code_from_a_folder_is_never_run(tmp_path: Path) -> None:
    model = small_reward_model()
    model.save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {
            "AutoConfig": "own.Config",
            "AutoModelForSequenceClassification": "own.Model",
        },
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "own.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    with pytest.raises(DataError, match="cannot load a reward model"):
        load_reward(str(tmp_path / "model"))
    assert not (tmp_path / "marker").exists()


def test_models_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    bert(tmp_path / "three", labels=3)
    with pytest.raises(ConfigError, match="classifier of 3 labels"):
        load_reward(str(tmp_path / "three"))
    small_reward_model().save(tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="broken"):
        load_reward(str(tmp_path / "broken"))
    model = small_reward_model()
    with pytest.raises(ConfigError, match="1 outputs"):
        RewardModel(model.model, TOKENIZER, ("a", "b"))
    with pytest.raises(ConfigError, match="do not belong together"):
        RewardModel(model.model, PretrainedTokenizer.train([" ".join(WORDS) * 9] * 9, 400))
    with pytest.raises(ConfigError, match="chat template"):
        RewardModel(model.model, TOKENIZER, form="chat")
    with pytest.raises(ConfigError, match="form 'rhyme'"):
        RewardModel(model.model, TOKENIZER, form="rhyme")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs a tokenizer of Hugging Face"):
        RewardModel(model.model, ByteTokenizer(), form="pair")
    with pytest.raises(ConfigError, match="cannot be saved"):
        RewardModel(model.model, ByteTokenizer()).save(tmp_path / "bytes")
    assert not (tmp_path / "bytes").exists()


def test_broken_weights_are_not_saved_and_broken_scores_not_paid(tmp_path: Path) -> None:
    model = small_reward_model()
    with torch.no_grad():
        model.model.score.weight[0, 3] = torch.nan
    with pytest.raises(NonFiniteError, match=r"score\.weight"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(RewardError, match=r"'learned': episode 0 is nan .*cats"):
        model(episodes("cats"))


def test_the_weights_of_criteria_count() -> None:
    model = small_reward_model("a", "b")
    plain = model(episodes(*TEXTS)).terms
    model.scales = Scales((1.0, 2.0), (0.0, 1.0), (3.0, 1.0))
    expected = (3 * plain["a"] + (2 * plain["b"] + 1)) / 4
    assert model(episodes(*TEXTS)).values == pytest.approx(expected)
