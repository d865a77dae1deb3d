from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import ByteTokenizer, PretrainedTokenizer, TextVectorEnv, Tokenizer, WordTokenizer
from text_gym.errors import ConfigError, PromptError, TokenError

TEXTS = ["the red mug", "the red mug, the green mug", "a mug for $24"] * 3
TRAINED = PretrainedTokenizer.train(TEXTS, vocab_size=300)


def test_merges_follow_the_pair_counts() -> None:
    tokenizer = PretrainedTokenizer.train(["xy xy xy xz"], vocab_size=259)
    # Pairs: (x, y) 3, (" ", x) 3, (x, z) 1: one merge fits, one of the two most frequent.
    merged = set(tokenizer.backend.get_vocab()) - {"<eos>", "<pad>"}
    assert len(merged) == 257
    assert next(token for token in merged if len(token) == 2) in ("xy", "Ġx")


def test_words_keep_their_leading_space_and_merges_stay_within_words() -> None:
    assert [TRAINED.decode([i]) for i in TRAINED.encode("the red mug, the mug")] == [
        "the",
        " red",
        " mug",
        ",",
        " the",
        " mug",
    ]


def test_special_tokens_have_ids_zero_and_one() -> None:
    assert TRAINED.eos_ids == (0,)
    assert TRAINED.pad_id == 1
    assert TRAINED.bos_id is None
    assert TRAINED.decode([0, 1]) == ""
    assert TRAINED.vocab_size <= 300


@given(
    st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["<eos>", "a<pad> b", "<eos><eos>"])
)
def test_any_text_comes_back(text: str) -> None:
    ids = TRAINED.encode(text)
    assert TRAINED.decode(ids) == text
    assert not {0, 1} & set(ids)
    assert all(0 <= i < TRAINED.vocab_size for i in ids)


def test_training_is_deterministic_and_files_bring_it_back(tmp_path: Path) -> None:
    again = PretrainedTokenizer.train(iter(TEXTS), vocab_size=300)
    for folder, tokenizer in (("a", TRAINED), ("b", again)):
        tokenizer.save(tmp_path / folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    loaded = PretrainedTokenizer.from_pretrained(tmp_path / "a")
    assert loaded.fingerprint == TRAINED.fingerprint
    assert (loaded.eos_ids, loaded.pad_id, loaded.bos_id) == ((0,), 1, None)
    assert loaded.encode("the <eos> mug") == TRAINED.encode("the <eos> mug")
    assert PretrainedTokenizer.train(["other words"] * 3, vocab_size=300).fingerprint != TRAINED.fingerprint


def test_transformers_reads_the_folder_alike(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    TRAINED.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert (theirs.eos_token_id, theirs.pad_token_id) == (0, 1)
    for text in ("the red mug", "a <eos> b", "né\n $24"):
        assert theirs.encode(text, add_special_tokens=False) == TRAINED.encode(text)
        assert PretrainedTokenizer.from_transformers(theirs).encode(text) == TRAINED.encode(text)


def test_too_small_a_vocabulary_is_refused() -> None:
    assert PretrainedTokenizer.train(TEXTS, vocab_size=258).vocab_size == 258
    with pytest.raises(ConfigError, match="below 258"):
        PretrainedTokenizer.train(TEXTS, vocab_size=257)


# Tokenizers without files


@given(st.text())
def test_bytes_of_any_text_come_back(text: str) -> None:
    ids = ByteTokenizer().encode(text)
    assert bytes(ids) == text.encode("utf-8", errors="surrogatepass")
    if not any(0xD800 <= ord(c) < 0xE000 for c in text):
        assert ByteTokenizer().decode([*ids, 256]) == text


@given(st.lists(st.integers(0, 257)))
def test_any_bytes_have_a_text_and_special_ids_have_none(ids: list[int]) -> None:
    expected = bytes([i for i in ids if i < 256]).decode("utf-8", errors="replace")
    assert ByteTokenizer().decode(ids) == expected
    assert ByteTokenizer().decode(np.array(ids, dtype=np.int64).tolist()) == expected


@given(st.lists(st.sampled_from(["a", "bb", "c"])))
def test_words_come_back(words: list[str]) -> None:
    tokenizer = WordTokenizer(["a", "bb", "c"])
    text = " ".join(words)
    assert tokenizer.decode([*tokenizer.encode(text), 3, 4]) == text
    assert tokenizer.vocab_size == 5


def test_words_that_cannot_be_a_vocabulary_and_words_that_are_not_in_it() -> None:
    for words in (["a", "a"], ["a", ""]):
        with pytest.raises(ConfigError, match="distinct, non-empty"):
            WordTokenizer(words)
    with pytest.raises(TokenError, match="'x' is not in the vocabulary of 2 words; it knows a, b"):
        WordTokenizer("ab", separator="").encode("axb")


def test_fingerprints_tell_vocabularies_apart() -> None:
    tokenizers: list[Tokenizer] = [
        ByteTokenizer(),
        WordTokenizer("ab"),
        WordTokenizer("ba"),  # permuted
        WordTokenizer("abc"),  # larger
        WordTokenizer("ab", separator=""),
        WordTokenizer("ab", pad=False),
        TRAINED,
    ]
    assert len({t.fingerprint for t in tokenizers}) == len(tokenizers)
    for tokenizer in tokenizers:
        assert isinstance(tokenizer, Tokenizer)
        for clone in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
            assert clone.fingerprint == tokenizer.fingerprint
            assert (clone.eos_ids, clone.pad_id) == (tokenizer.eos_ids, tokenizer.pad_id)
            if tokenizer is TRAINED:
                assert clone.encode("<eos>") == tokenizer.encode("<eos>") != [0]  # text, not the end


def of_words(ids: dict[str, int], **special: Any) -> PretrainedTokenizer:
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<pad>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return PretrainedTokenizer(backend, **special)


def test_fingerprints_tell_the_ids_of_the_same_tokens_apart() -> None:
    words = {"a": 0, "b": 1, "<pad>": 2}
    assert of_words(words).fingerprint == of_words(dict(reversed(words.items()))).fingerprint
    assert of_words(words).fingerprint != of_words({"a": 1, "b": 0, "<pad>": 2}).fingerprint


def test_a_gap_in_the_ids_belongs_to_the_vocabulary() -> None:
    """Actions are ids: with two words and the ids 0, 3 and 7 they reach to 7."""
    tokenizer = of_words({"a": 0, "b": 3, "<pad>": 7}, eos_ids=[7])
    assert tokenizer.vocab_size == 8
    assert tokenizer.encode("b a") == [3, 0]
    env = TextVectorEnv(["a"], tokenizer, len, 2)
    env.reset(seed=0)
    assert env.step([7])[2].tolist() == [True]


@pytest.mark.parametrize(
    ("generation", "eos_ids"),
    [
        ({"eos_token_id": [2, 3]}, (2, 3)),
        ({"eos_token_id": 3}, (3, 2)),
        ({"top_k": 5}, (2,)),
        (None, (2,)),
    ],
)
def test_every_end_of_text_that_a_model_names_ends_an_episode(
    generation: dict[str, Any] | None, eos_ids: tuple[int, ...], tmp_path: Path
) -> None:
    """Those of `generation_config.json` come first, it may name several; then the tokenizer's own."""
    odd((2,), 4, None).save(tmp_path)
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    tokenizer = PretrainedTokenizer.from_pretrained(tmp_path)
    assert tokenizer.eos_ids == eos_ids
    env = TextVectorEnv(["a"], tokenizer, len, 3, num_envs=2)
    env.reset(seed=0)
    assert env.step([2, 3])[2].tolist() == [2 in eos_ids, 3 in eos_ids]


def test_a_hub_model_ends_texts_with_the_same_ids_as_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama 3's tokenizer knows one end of three; a model without a generation_config.json has that alone."""
    transformers = pytest.importorskip("transformers")
    odd((2,), 4, None).save(tmp_path)
    for kind in ("AutoTokenizer", "GenerationConfig"):
        load = getattr(transformers, kind).from_pretrained
        monkeypatch.setattr(getattr(transformers, kind), "from_pretrained", partial(_from, load, tmp_path))
    assert PretrainedTokenizer.from_pretrained("OWNER/NAME").eos_ids == (2,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 2]}')
    of_hub = PretrainedTokenizer.from_pretrained("OWNER/NAME")
    assert of_hub.eos_ids == PretrainedTokenizer.from_pretrained(tmp_path).eos_ids == (3, 2)


def _from(load: Callable[[str], Any], folder: Path, name: str) -> Any:
    assert name == "OWNER/NAME"
    return load(str(folder))


def test_special_tokens_that_a_tokenizer_would_add_are_left_out() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = odd((2,), 4, None)
    tokenizer.backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<pad> $A <eos>", special_tokens=[("<pad>", 4), ("<eos>", 2)]
    )
    assert tokenizer.backend.encode("a b").ids == [4, 0, 1, 2]
    assert tokenizer.encode("a b") == [0, 1]


# Tokenizers as people have them: no EOS, no padding, padding that is EOS, several EOS ids

WORDS = {"a": 0, "b": 1, "<eos>": 2, "<end>": 3, "<pad>": 4}
ODD_SETTINGS = [
    (eos, pad, bos)
    for eos in ((), (2,), (2, 3))
    for pad, bos in ((None, None), (2, None), (4, 2), (0, 4))  # none, EOS, its own, a word
]


def odd(eos: Sequence[int], pad: int | None, bos: int | None, special: bool = True) -> PretrainedTokenizer:
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="<pad>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    if special:
        backend.add_special_tokens(["<eos>", "<end>", "<pad>"])
    return PretrainedTokenizer(backend, eos_ids=eos, pad_id=pad, bos_id=bos)


@pytest.mark.parametrize(("eos", "pad", "bos"), ODD_SETTINGS)
@pytest.mark.parametrize("special", [True, False])
def test_an_environment_masks_by_length_and_trains_on_the_real_eos(
    eos: tuple[int, ...], pad: int | None, bos: int | None, special: bool
) -> None:
    tokenizer = odd(eos, pad, bos, special)
    assert tokenizer.pad_id == (pad if pad is not None else (eos or (0,))[0])
    env = TextVectorEnv(["a b", "a"], tokenizer, len, 3, num_envs=2, shuffle=False)
    env.reset(seed=0, options={"episode_index": [0, 1]})
    env.step([0, 0])
    last = eos[-1] if eos else 1
    observation, *_, info = env.step([last, 1])
    starts = [2, 1]
    for i, token in enumerate((last, 1)):
        length = int(observation["length"][i, 0])
        assert length == starts[i] + 2
        assert observation["tokens"][i, length - 1] == token
        assert (observation["tokens"][i, length:] == tokenizer.pad_id).all()
        assert observation["attention_mask"][i].tolist() == [1] * length + [0] * (5 - length)
    if eos:
        assert info["completion"][0] == "a"  # no EOS in the text, even where the tokenizer would show it
        assert env.episodes(np.array([0]))[0].completion_ids.tolist() == [0, last]
    else:
        *_, terminated, truncated, info = env.step([0, 0])
        assert terminated.tolist() == [True, True]  # the limit ends an episode
        assert truncated.tolist() == [False, False]
        assert info["completion"].tolist() == ["a b a", "a b a"]


@pytest.mark.parametrize("make", [ByteTokenizer, lambda: WordTokenizer("ab"), lambda: odd((2,), 4, 2)])
def test_an_empty_prompt_is_bos(make: Any) -> None:
    tokenizer = make()
    env = TextVectorEnv([""], tokenizer, len, 1)
    observation, _ = env.reset(seed=0)
    assert observation["tokens"][0, :1].tolist() == [tokenizer.bos_id]
    assert env.batch.starts.tolist() == [1]


@pytest.mark.parametrize(
    "make", [lambda: WordTokenizer("ab", pad=False), lambda: odd((2,), 4, None), lambda: TRAINED]
)
def test_an_empty_prompt_without_bos_is_refused_by_name(make: Any) -> None:
    with pytest.raises(PromptError, match=r"prompt 1 \('second'\) has no tokens"):
        TextVectorEnv(["a", {"prompt": "", "id": "second"}], make(), len, 1)


def test_special_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(TokenError, match="eos id 9 is outside"):
        odd((9,), 0, None)
    with pytest.raises(TokenError, match="pad id -1 is outside"):
        odd((2,), -1, None)
