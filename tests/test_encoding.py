from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym import ByteTokenizer, PretrainedTokenizer, WordTokenizer
from text_gym import tokenizer as module
from text_gym.encoding import encode_texts
from text_gym.errors import TokenError
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
