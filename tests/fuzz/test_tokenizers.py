"""Tokenizers from folders, damaged in any way, and closed vocabularies of any words."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import TEXTS, damaged, damaged_bytes, read_or_refused
from tests.fuzz.effort import count, effort, tries
from text_gym import ByteTokenizer, WordTokenizer
from text_gym.errors import TokenError
from text_gym.tokenizer import PretrainedTokenizer, Tokenizer

SAMPLES = ["", "low lower", "<eos>né\u2028\0", "🙂 a\tb\nc", "Ünknown 12.5"]
SOURCE = ["low lower lowest", "new newer newest", "a b c d e"] * 3
KINDS = ["BPE of bytes", "words", "pieces", "unigrams"]
FILES = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]


def trained(kind: str) -> PretrainedTokenizer:
    """A tokenizer of each model that `tokenizers` has, learnt from a few words."""
    if kind == "BPE of bytes":
        return PretrainedTokenizer.train(SOURCE, 264)
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    special = ["[UNK]", "</s>", "[PAD]"]
    if kind == "words":
        backend = Backend(models.WordLevel(unk_token="[UNK]"))
        trainer: Any = trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
    elif kind == "pieces":
        backend = Backend(models.WordPiece(unk_token="[UNK]"))
        trainer = trainers.WordPieceTrainer(vocab_size=40, special_tokens=special, show_progress=False)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.normalizer = normalizers.BertNormalizer()
        backend.decoder = decoders.WordPiece()
    else:
        backend = Backend(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=40, special_tokens=special, unk_token="[UNK]", show_progress=False
        )
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(SOURCE, trainer)
    return PretrainedTokenizer(backend, eos_ids=[1], pad_id=2)


@cache
def files_of(kind: str, folder: Path) -> dict[str, Any]:
    """What such a folder holds, as JSON values."""
    trained(kind).save(folder / kind)
    found = {f: json.loads((folder / kind / f).read_text(encoding="utf-8")) for f in FILES[:2]}
    return found | {FILES[2]: {"eos_token_id": [1], "pad_token_id": 2}}


def use(folder: Path) -> None:
    """Load a tokenizer and do with it what environments do."""
    tokenizer = PretrainedTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, Tokenizer)
    assert 0 <= tokenizer.pad_id < tokenizer.vocab_size
    assert all(0 <= i < tokenizer.vocab_size for i in tokenizer.eos_ids)
    assert tokenizer.bos_id is None or 0 <= tokenizer.bos_id < tokenizer.vocab_size
    assert len(tokenizer.fingerprint) == 16
    for text in SAMPLES:
        ids = tokenizer.encode(text)
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
        assert isinstance(tokenizer.decode(ids), str)
    assert isinstance(tokenizer.decode([0, tokenizer.vocab_size - 1, tokenizer.pad_id]), str)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_below_is_whole(kind: str, place: Path, tmp_path: Path) -> None:
    for name, content in files_of(kind, place).items():
        (tmp_path / name).write_text(json.dumps(content))
    use(tmp_path)


@tries(120, 20_000)
def test_damaged_folders_are_loaded_or_refused(
    tries: int, place: Path, tried: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = place / "damaged"
    folder.mkdir(exist_ok=True)
    outcomes = [0, 0]

    @effort(tries)
    @given(st.sampled_from(KINDS), st.sampled_from(FILES), st.booleans(), st.data())
    def run(kind: str, name: str, by_bytes: bool, data: st.DataObject) -> None:
        for file, content in files_of(kind, place).items():
            if file != name:
                (folder / file).write_text(json.dumps(content))
            elif by_bytes:
                (folder / file).write_bytes(data.draw(damaged_bytes(json.dumps(content).encode())))
            else:
                (folder / file).write_text(json.dumps(data.draw(damaged(content))))
        outcomes[read_or_refused(use, folder)] += 1

    logging.disable(logging.WARNING)
    try:
        run()
    finally:
        logging.disable(logging.NOTSET)
    said = capfd.readouterr()
    assert "panicked" not in said.err
    assert min(outcomes) > tries // 10
    tried(
        "a damaged tokenizer is loaded whole, or refused with a typed error",
        sum(outcomes), "damaged folders", loaded=outcomes[1], refused=outcomes[0],
    )  # fmt: skip


@tries(30, 3_000)
def test_a_saved_tokenizer_loads_the_same(tries: int, place: Path, tried: Callable[..., None]) -> None:
    @effort(tries)
    @given(st.sampled_from(KINDS), st.lists(TEXTS, max_size=4))
    def run(kind: str, texts: list[str]) -> None:
        files_of(kind, place)
        first = PretrainedTokenizer.from_pretrained(place / kind)
        first.save(place / "again")
        second = PretrainedTokenizer.from_pretrained(place / "again")
        for name in ("vocab_size", "eos_ids", "pad_id", "bos_id", "fingerprint"):
            assert getattr(first, name) == getattr(second, name)
        for text in [*SAMPLES, *texts]:
            ids = first.encode(text)
            assert ids == second.encode(text)
            assert first.decode(ids) == second.decode(ids)
            if kind == "BPE of bytes":
                assert first.decode(ids) == text

    tried(
        "a saved tokenizer loads as the same",
        count(run),
        "texts",
    )


# Without files


@tries(30, 10_000)
def test_a_closed_vocabulary_reads_what_it_writes(tries: int) -> None:
    @effort(tries)
    @given(st.sampled_from(["", " ", "|", "\n"]), st.booleans(), st.data())
    def run(separator: str, pad: bool, data: st.DataObject) -> None:
        word = st.characters() if not separator else TEXTS.filter(lambda w: bool(w) and separator not in w)
        words = data.draw(st.lists(word, min_size=1, max_size=5, unique=True))
        tokenizer = WordTokenizer(words, separator, pad)
        ids = data.draw(st.lists(st.integers(0, len(words) - 1), max_size=5))
        assert tokenizer.encode(tokenizer.decode(ids)) == ids
        assert tokenizer.decode([*ids, *tokenizer.eos_ids]) == tokenizer.decode(ids)
        assert tokenizer.vocab_size == len(words) + 1 + pad
        with contextlib.suppress(TokenError):
            assert set(tokenizer.encode(data.draw(TEXTS))) <= set(range(len(words)))

    run()


@tries(30, 10_000)
def test_bytes_are_texts(tries: int) -> None:
    tokenizer = ByteTokenizer()

    @effort(tries)
    @given(st.text(), st.lists(st.integers(0, 257)))
    def run(text: str, ids: list[int]) -> None:
        assert tokenizer.encode(text) == list(text.encode("utf-8", "surrogatepass"))
        assert tokenizer.decode(tokenizer.encode(text)) == text.encode("utf-8", "surrogatepass").decode(
            "utf-8", "replace"
        )
        tokenizer.decode(ids).encode()  # any ids have a text, of whole characters

    run()
