from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import PretrainedTokenizer
from text_gym.errors import ConfigError

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
