from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym import ByteTokenizer, PretrainedTokenizer, TextVectorEnv, WordTokenizer
from text_gym import tokenizer as module
from text_gym.encoding import as_tokenizer, encode_texts
from text_gym.errors import ConfigError, DataError, TokenError
from text_gym.tokenizer import Tokenizer

BPE = PretrainedTokenizer.train(["the cat sat on the mat", "a cat and a dog"], 300)
TEXTS = st.lists(st.text(st.sampled_from("ab<eos>é🙂 cat\ud800")) | st.just("ab"), max_size=6)


def check_one_by_one(tokenizer: Tokenizer, texts: list[str]) -> None:
    ids, lengths = encode_texts(tokenizer, texts)
    assert ids.dtype == np.int32
    pieces = np.split(ids, np.cumsum(lengths)[:-1]) if texts else []
    assert [piece.tolist() for piece in pieces] == [tokenizer.encode(text) for text in texts]


@settings(deadline=None)
@given(TEXTS)
def test_batches_hold_the_ids_of_each_text(texts: list[str]) -> None:
    check_one_by_one(ByteTokenizer(), texts)
    check_one_by_one(WordTokenizer("ab", separator=""), [t for t in texts if not set(t) - {"a", "b"}])
    check_one_by_one(BPE, [t.replace("\ud800", "") for t in texts])


@pytest.mark.parametrize("padded", [False, True])
def test_many_texts_have_the_same_ids(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORTH_THREADS", 2)
    texts = ["the cat", "", "<eos> sat", "a dog and a cat on the mat"]
    expected = [BPE.encode(text) for text in texts]
    if padded:
        BPE.backend.enable_padding()
    try:
        assert [list(ids) for ids in BPE.encode_batch(texts)] == expected
    finally:
        BPE.backend.no_padding()


def test_the_text_of_a_batch_that_cannot_be_encoded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORTH_THREADS", 2)
    with pytest.raises(TokenError, match=r"'cat\\ud800' \(it holds half of a character"):
        BPE.encode_batch(["the cat", "a dog", "cat\ud800"])


class Shifted(ByteTokenizer):
    """Overrides `encode` alone."""

    def encode(self, text: str) -> list[int]:
        return [i + 1 for i in super().encode(text)]


class Batched(Shifted):
    """Overrides batches too."""

    def encode_batch(self, texts: Any) -> Any:
        return [self.encode(text) for text in texts]


@pytest.mark.parametrize("kind", [Shifted, Batched])
def test_an_encode_of_ones_own_counts(kind: type[ByteTokenizer]) -> None:
    assert encode_texts(kind(), ["ab", "c"])[0].tolist() == [98, 99, 100]


def test_an_encode_set_on_the_object_counts() -> None:
    tokenizer = ByteTokenizer()
    tokenizer.encode = lambda text: [7]  # type: ignore[method-assign]
    assert encode_texts(tokenizer, ["ab", "c"])[0].tolist() == [7, 7]


# Tokenizers of the user's own


class Own:
    """Three letters, after the end and padding."""

    vocab_size: Any = 5
    eos_ids: Any = (0,)
    pad_id: Any = 1
    bos_id: Any = None
    fingerprint = "own"

    def encode(self, text: str) -> Any:
        return ["abc".index(letter) + 2 for letter in text]

    def decode(self, ids: Any) -> str:
        return "".join("abc"[i - 2] for i in ids if i > 1)


def play_with(tokenizer: Any) -> None:
    TextVectorEnv(["ab", "c"], tokenizer, lambda completion: 1.0, 3).reset(seed=0)


def test_a_tokenizer_of_the_users_own_plays() -> None:
    play_with(Own())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"vocab_size": 5.0}, r"Own.vocab_size is '5.0'"),
        ({"vocab_size": 0}, r"Own.vocab_size is '0'"),
        ({"eos_ids": 0}, r"Own.eos_ids is '0'; it must be a tuple of ids"),
        ({"eos_ids": None}, r"Own.eos_ids is 'None'; .* \(\) for none"),
        ({"eos_ids": (0, 9)}, r"Own.eos_ids has '9'; an id is a whole number from 0 to 4"),
        ({"pad_id": None}, r"Own.pad_id has 'None'"),
        ({"pad_id": 5}, r"Own.pad_id has '5'"),
        ({"bos_id": -1}, r"Own.bos_id has '-1'"),
    ],
)
def test_sizes_and_ids_out_of_order_are_named(changed: dict[str, Any], told: str) -> None:
    tokenizer = Own()
    vars(tokenizer).update(changed)
    with pytest.raises(ConfigError, match=told):
        play_with(tokenizer)


@pytest.mark.parametrize(
    ("encoded", "told"),
    [
        ([7], "the id 7; its vocab_size is 5"),
        ([2, -1], "the id -1"),
        ("ab", "ab.*, not ids"),
        ([None], "not ids"),
        (None, "None.*, not ids"),
        ([2.0, 2.5], "not ids"),
    ],
)
def test_ids_that_are_none_are_named(encoded: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Own, "encode", lambda self, text: encoded)
    with pytest.raises(TokenError, match=f"Own.encode returned .*{told}"):
        play_with(Own())


def test_a_text_that_cannot_be_encoded_is_named() -> None:
    with pytest.raises(TokenError, match=r"Own cannot encode 'ab\?': ValueError: substring not found"):
        TextVectorEnv(["ab?"], Own(), lambda completion: 1.0, 3)
    with pytest.raises(ConfigError, match=r"the tokenizer is the class Own; make one: Own\(...\)"):
        play_with(Own)


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="int is not a tokenizer"):
        as_tokenizer(3)
    with pytest.raises(DataError, match=r"has no tokenizer.json"):
        as_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer.json"):
        as_tokenizer(tmp_path)
    BPE.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config.json: not JSON"):
        as_tokenizer(tmp_path)
    byte = ByteTokenizer()
    assert as_tokenizer(byte) is byte


def test_an_object_of_transformers_is_taken(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    BPE.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert as_tokenizer(theirs).encode("the cat") == BPE.encode("the cat")
    assert as_tokenizer(str(tmp_path)).fingerprint == BPE.fingerprint


def test_a_tokenizer_of_another_kind_is_told_what_it_lacks() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match=r"write PretrainedTokenizer\(tokenizer, eos_ids=\[...\]\)"):
        as_tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()))
    with pytest.raises(ConfigError, match="ByT5Tokenizer is not a fast tokenizer of transformers"):
        as_tokenizer(transformers.ByT5Tokenizer())

    class SentencePieceLike:
        def encode(self, text: str) -> list[int]:
            return [0]

        def decode(self, ids: list[int]) -> str:
            return "a"

        def vocab_size(self) -> int:
            return 1

    with pytest.raises(ConfigError, match=r"Like has no eos_ids, pad_id, bos_id, fingerprint$"):
        as_tokenizer(SentencePieceLike())


@pytest.mark.parametrize(
    ("decoded", "told"),
    [
        (lambda ids: None, "Own.decode returned 'None', not a string"),
        (lambda ids: b"abc", "Own.decode returned \"b'abc'\", not a string"),
        (lambda ids: "abc"[ids[0] + 3], r"Own cannot decode '\[0\]': IndexError: string index"),
    ],
)
def test_a_text_that_is_none_is_named_before_anything_is_played(decoded: Any, told: str) -> None:
    tokenizer = Own()
    vars(tokenizer)["decode"] = decoded
    with pytest.raises(TokenError, match=told):
        TextVectorEnv(["ab"], tokenizer, lambda completion: 1.0, 3)


def test_ids_that_cannot_be_decoded_are_no_fault_of_the_reward() -> None:
    tokenizer = Own()
    vars(tokenizer)["decode"] = lambda ids: "??abc"[max(ids)]
    env = TextVectorEnv(["ab"], tokenizer, lambda completion: 1.0, 3)
    env.reset(seed=0)
    with pytest.raises(TokenError, match=r"Own cannot decode '\[\]': ValueError: max\(\)"):
        env.step(np.array([0]))
