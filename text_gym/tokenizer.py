"""Tokenizers turn text into the ids an episode is made of, and back.

`Tokenizer` is the protocol the environment needs; `ByteTokenizer` and `WordTokenizer` need no
files; `PretrainedTokenizer` wraps any fast tokenizer of `tokenizers` or `transformers`.
A chat template is kept with it (`text_gym.chat`); encoding a text never applies it.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .chat import TEMPLATE, ChatTemplate, default_template
from .errors import ConfigError, DataError, TokenError, excerpt
from .json_text import read_object

if TYPE_CHECKING:
    import tokenizers


@runtime_checkable
class Tokenizer(Protocol):
    """The interface the environment needs from a tokenizer; ids are in `[0, vocab_size)`."""

    @property
    def vocab_size(self) -> int:
        """The vocabulary size `V`, one more than the largest id."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The ids that end an episode; empty if only the token limit does."""

    @property
    def pad_id(self) -> int:
        """The id that fills unused places; it may be an EOS id, since lengths, never ids, define padding."""

    @property
    def bos_id(self) -> int | None:
        """The id that stands for an empty prompt, or None."""

    @property
    def fingerprint(self) -> str:
        """A hash of the vocabulary; only tokenizers with equal fingerprints may exchange ids."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens are left out."""


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


_WORTH_THREADS = 1024  # texts in a batch


class ByteTokenizer:
    """UTF-8 bytes as tokens, with EOS 256 and BOS or padding 257; it needs no files and no training.

    Bytes that are not valid UTF-8 decode to U+FFFD, so any id sequence has a text.

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode("né")
    [110, 195, 169]
    >>> tokenizer.decode([110, 195, 169, 256])
    'né'
    """

    vocab_size = 258
    eos_ids = (256,)
    pad_id = 257
    bos_id = 257
    fingerprint = _digest("byte-256")

    def encode(self, text: str) -> list[int]:
        """Return the text's bytes."""
        return list(text.encode("utf-8", errors="surrogatepass"))

    def encode_batch(self, texts: Sequence[str]) -> list[bytes]:
        """Return the bytes of each text, which are its ids."""
        return [text.encode("utf-8", errors="surrogatepass") for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode the ids below 256."""
        try:
            text = bytes(ids)
        except ValueError:  # special tokens included
            text = bytes(i for i in ids if i < 256)
        return text.decode("utf-8", errors="replace")


class WordTokenizer:
    """A closed vocabulary of symbols, then EOS and a padding id, for the tiny worlds of the classic tasks.

    Args:
        words: The symbols, ids in this order. They must be distinct and not empty.
        separator: What stands between symbols in text; `""` when every symbol is one character.
        pad: False leaves the padding id out, so that every id is a symbol or EOS: unused places hold
            the EOS id, and there is no BOS, hence no empty prompt.

    >>> tokenizer = WordTokenizer("abc", separator="")
    >>> tokenizer.encode("cab"), tokenizer.eos_ids, tokenizer.vocab_size
    ([2, 0, 1], (3,), 5)
    >>> tokenizer = WordTokenizer("abc", separator="", pad=False)
    >>> tokenizer.eos_ids, tokenizer.pad_id, tokenizer.vocab_size
    ((3,), 3, 4)
    """

    def __init__(self, words: Sequence[str], separator: str = " ", pad: bool = True) -> None:
        self.words = tuple(words)
        self.separator = separator
        self._ids = {word: i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words) or "" in self._ids:
            raise ConfigError("WordTokenizer needs distinct, non-empty words")
        self.eos_ids: tuple[int, ...] = (len(self.words),)
        self.pad_id = len(self.words) + pad
        self.bos_id: int | None = self.pad_id if pad else None
        self.vocab_size = self.pad_id + 1
        self.fingerprint = _digest([self.words, separator, pad])

    def encode(self, text: str) -> list[int]:
        """Return the ids of the symbols; raise `TokenError` for one outside the vocabulary."""
        symbols = text.split(self.separator) if self.separator else list(text)
        try:
            return [self._ids[s] for s in symbols if s]
        except KeyError as error:
            raise TokenError(
                f"{error.args[0]!r} is not in the vocabulary of {len(self.words)} words; "
                f"it knows {', '.join(self.words[:12])}{' …' if len(self.words) > 12 else ''}"
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        """Join the symbols by the separator."""
        words, count = self.words, len(self.words)
        return self.separator.join([words[i] for i in ids if i < count])


class PretrainedTokenizer:
    """A fast Hugging Face tokenizer, loaded from a folder, a hub name or an object.

    Only `tokenizers` is imported, never `transformers`, unless the name has to be looked up on a hub.

    Args:
        backend: The `tokenizers.Tokenizer`.
        eos_ids: Ids that end an episode; the one that the chat template ends a turn with is added.
        pad_id: Padding id; the first EOS id, or 0, when the tokenizer has none.
        bos_id: Id for an empty prompt.
        chat_template: The model's chat template, in Jinja.
        special_tokens: Special tokens by the names that the template may use, such as `unk_token`; those of
            the ids above are known.

    Attributes:
        chat: The `ChatTemplate`, or None for base models, which have none.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_ids: Sequence[int] = (),
        pad_id: int | None = None,
        bos_id: int | None = None,
        chat_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        if hasattr(backend, "backend_tokenizer"):
            raise ConfigError("for a tokenizer of transformers it is PretrainedTokenizer.from_transformers")
        self.backend = backend
        self.eos_ids = tuple(dict.fromkeys(int(i) for i in eos_ids))
        self.pad_id = int(pad_id) if pad_id is not None else (self.eos_ids[0] if self.eos_ids else 0)
        self.bos_id = bos_id
        vocabulary = backend.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise DataError("the tokenizer has no tokens; save it again with save_pretrained")
        self.vocab_size = max(vocabulary.values()) + 1
        for what, i in [("eos", e) for e in self.eos_ids] + [("pad", self.pad_id)]:
            if not 0 <= i < self.vocab_size:
                raise TokenError(f"{what} id {i} is outside the tokenizer's vocabulary of {self.vocab_size}")
        ids = {"eos": self.eos_ids[0] if self.eos_ids else None, "pad": self.pad_id, "bos": self.bos_id}
        found = {f"{k}_token": None if i is None else backend.id_to_token(i) for k, i in ids.items()}
        names = {k: token for k, token in found.items() if token is not None}
        self.special_tokens: dict[str, str] = {**names, **(special_tokens or {})}
        self.chat = None
        if chat_template is not None:
            self.chat = ChatTemplate(chat_template, backend, self.special_tokens)
            end = self.chat.end_of_turn
            self.eos_ids += () if end is None or end in self.eos_ids else (end,)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> PretrainedTokenizer:
        """Load from a folder with `tokenizer.json`, or from a hub by name (through `transformers`).

        Raises:
            DataError: The folder holds no `tokenizer.json` or a broken one, or the hub has no such model.
        """
        folder = Path(name)
        if not folder.is_dir():
            from transformers import AutoTokenizer, GenerationConfig

            try:
                found = AutoTokenizer.from_pretrained(str(name))
            except (OSError, ValueError) as error:
                said = " ".join(str(error).split())
                raise DataError(
                    f"{str(name)!r} is neither a folder here nor a model of the hub ({said})"
                ) from error
            with suppress(OSError):  # it has no such file
                return cls.from_transformers(found, GenerationConfig.from_pretrained(str(name)).eos_token_id)
            return cls.from_transformers(found)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise DataError(f"{folder} has no tokenizer.json; pass the tokenizer, or save it there too")
        import tokenizers

        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises no more specific error
            raise DataError(
                f"{file} is no tokenizer ({error}); save it again with save_pretrained"
            ) from error
        config = _read_json(folder / "tokenizer_config.json")
        backend.encode_special_tokens = bool(config.get("split_special_tokens", False))
        generation = _read_json(folder / "generation_config.json")
        try:
            special = {k: _token_id(backend, config.get(f"{k}_token")) for k in ("eos", "pad", "bos")}
            eos = generation.get("eos_token_id")
            eos_ids = [*(eos if isinstance(eos, list) else [eos]), special["eos"]]
            ids = [operator.index(i) for i in eos_ids if i is not None]
            return cls(
                backend,
                eos_ids=ids,
                pad_id=special["pad"],
                bos_id=special["bos"],
                chat_template=_read_template(folder, config),
                special_tokens=_names(config),
            )
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{folder}: the special tokens in tokenizer_config.json or generation_config.json are broken "
                f"({error}); save the tokenizer again with save_pretrained, and the model with the "
                "tokenizer's ids in its configuration"
            ) from error

    @classmethod
    def from_transformers(cls, tokenizer: Any, ends: Any = None) -> PretrainedTokenizer:
        """Wrap a fast tokenizer object of `transformers`.

        Args:
            tokenizer: The tokenizer.
            ends: The id, or the list of ids, with which its model ends a text beside the tokenizer's own.

        Raises:
            ConfigError: The tokenizer is a slow one (it has no `tokenizers` backend).
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ConfigError(
                f"{type(tokenizer).__name__} is not a fast tokenizer; load it with use_fast=True"
            )
        eos_ids = [*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id]
        return cls(
            backend,
            eos_ids=[i for i in eos_ids if i is not None],
            pad_id=tokenizer.pad_token_id,
            bos_id=tokenizer.bos_token_id,
            chat_template=default_template(tokenizer.chat_template),
            special_tokens=_names(tokenizer.special_tokens_map),
        )

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 1024) -> PretrainedTokenizer:
        """Train byte-level BPE from scratch (Sennrich et al. 2016, on bytes as in GPT-2).

        Words keep their leading space, merges never cross words, `<eos>` is id 0 and `<pad>` id 1. Any
        text of valid Unicode comes back from its ids unchanged, `"<eos>"` written out included: that is
        five characters here and never ends an episode. The same texts give the same tokenizer.

        Args:
            texts: What to learn merges from.
            vocab_size: Largest `V`: 256 bytes, 2 special tokens and the merges. Few texts may give less.

        Raises:
            ConfigError: `vocab_size` has no room for the bytes and special tokens.
        """
        if vocab_size < 258:
            raise ConfigError(f"vocab_size {vocab_size} is below 258: 256 bytes, <eos> and <pad>")
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, pre_tokenizers, trainers

        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=["<eos>", "<pad>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        backend.encode_special_tokens = True
        return cls(backend, eos_ids=[0], pad_id=1)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the vocabulary."""
        return _digest(sorted(self.backend.get_vocab(with_added_tokens=True).items()))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens added.

        Raises:
            TokenError: The vocabulary has no id for some of it, and none for what is unknown.
        """
        try:
            return list(self.backend.encode(text, add_special_tokens=False).ids)
        except Exception as error:  # the library raises no more specific error
            why = f"({error}); save it again, with an unknown token"
            if any("\ud800" <= char <= "\udfff" for char in text):
                why = "(it holds half of a character, a lone surrogate); remove it"
            raise TokenError(f"the tokenizer cannot encode {excerpt(text)} {why}") from error

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, as `encode` would; many texts are shared among the processors.

        Raises:
            TokenError: As `encode` does, for the first text that cannot be encoded.
        """
        # A batch would be padded to its longest text; and few texts are not worth a pool of threads.
        if self.backend.padding is not None or len(texts) < _WORTH_THREADS:
            return [self.encode(text) for text in texts]
        try:
            found = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception:  # it does not say which text it is
            return [self.encode(text) for text in texts]
        return [encoding.ids for encoding in found]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens are left out."""
        return str(self.backend.decode([int(i) for i in ids], skip_special_tokens=True))

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer, its settings and its chat template as `AutoTokenizer` reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": self.backend.encode_special_tokens,
            **self.special_tokens,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if self.chat is not None:
            (folder / TEMPLATE).write_text(self.chat.source, encoding="utf-8")

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles of the backend forget whether "<eos>" written out is text or the special token.
        return {**self.__dict__, "splits": self.backend.encode_special_tokens}

    def __setstate__(self, state: dict[str, Any]) -> None:
        splits = state.pop("splits")
        self.__dict__.update(state)
        self.backend.encode_special_tokens = splits


def _read_json(file: Path) -> dict[str, Any]:
    return read_object(file, DataError, "save the tokenizer again") if file.is_file() else {}


def _read_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Read the chat template of a tokenizer's folder: a file of its own, or an entry of the configuration."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    return default_template(config.get("chat_template"))


def _names(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a configuration's special tokens, such as `bos_token`; an AddedToken is written as a dict."""
    tokens = {k: v.get("content") if isinstance(v, dict) else v for k, v in config.items()}
    return {k: v for k, v in tokens.items() if k.endswith("_token") and isinstance(v, str)}


def _token_id(backend: tokenizers.Tokenizer, token: Any) -> int | None:
    if isinstance(token, dict):  # transformers writes an AddedToken as a dict
        token = token.get("content")
    return None if token is None else backend.token_to_id(token)
