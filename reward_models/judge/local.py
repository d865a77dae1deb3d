"""A causal language model on this machine as the judge of texts: how likely is it to say yes to a question?

One forward pass a question; nothing is sampled, so equal texts get equal rewards. It writes no reasons: a
model that is to think before it scores is served by an endpoint and asked by `Judge(replies="reasoning")`.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from text_gym.episode import Episode, FloatArray
from text_gym.errors import ConfigError, PromptError, TokenError, excerpt
from text_gym.models.loading import context_of, load_model, pick_device, usable
from text_gym.models.runtime import pick_dtype, upload
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.tokenizer import PretrainedTokenizer, Tokenizer
from text_gym.utils.display import harmless

from .criteria import (
    RULES,
    Comparisons,
    Criterion,
    check_same_prompt,
    given_texts,
    named_criteria,
    read_rubric,
    rubric_rewards,
    tagged,
)

_LOG = logging.getLogger(__name__)
_YES, _NO = ("Yes", "yes", "YES"), ("No", "no", "NO")
_QUESTIONS = {"quality": "Is this a good answer?"}
_MARK_DIGITS = 16


class LocalJudge(RewardSource):
    """A causal language model that answers questions about a text by yes or no; pays its probability of yes.

    P(yes) = p(yes) / (p(yes) + p(no)) for the first token of the reply, on each criterion's scale
    `low + (high - low) · P(yes)`; the reward is `Σ weight · P(yes) / Σ weight`, in [0, 1]. Terms: each
    criterion's score, NaN where there is none. It abstains where the model would hardly reply by yes or
    no, or where text and question do not fit its context, and `last_failure` says so.
    A text gets the same score alone and in any batch, up to rounding (1e-5 in float32).
    How it is hacked: by whatever the model takes for praise; small models follow length and wording more than
    content. Measure it (`attack_report`, `audit_reward`) before you optimise it.

    Args:
        model: A causal model of `transformers`; it is not trained.
        tokenizer: Its tokenizer. Where it has a chat template, the question is a user's message.
        criteria: Name -> a question answered by yes or no, or a `Criterion` with a scale and a weight.
        instructions: What the texts are for, in a sentence or two.
        columns: Prompt columns the judge may see, such as a reference.
        least_mass: Least probability of yes and no together; below, the judge abstains.
        batch_size: Questions per forward pass.
        device: `"auto"` takes CUDA where there is one.

    Raises:
        ConfigError: No criteria, a name that is not a word, an option out of range, a tokenizer that does not
            belong to the model, or one whose yes and no begin alike.
    """

    name = "judge"
    abstains = True

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        criteria: Mapping[str, Criterion | str] = _QUESTIONS,
        *,
        instructions: str = "",
        columns: Sequence[str] = (),
        least_mass: float = 0.01,
        batch_size: int = 16,
        device: str = "auto",
    ) -> None:
        self.criteria = named_criteria(criteria, 0.0, 1.0)
        rows = model.get_input_embeddings().weight.shape[0]
        if tokenizer.vocab_size > rows:
            raise ConfigError(
                f"the tokenizer has {tokenizer.vocab_size} ids but the judge's model only {rows} rows; they "
                "do not belong together"
            )
        if batch_size < 1 or not 0 <= least_mass <= 1:
            raise ConfigError(
                f"a judge needs batch_size >= 1 and least_mass in [0, 1], not {batch_size}, {least_mass}"
            )
        self.tokenizer, self.instructions, self.columns = tokenizer, instructions, tuple(columns)
        self.least_mass, self.batch_size = least_mass, batch_size
        self.model = model.to(pick_device(device)).eval().requires_grad_(False)
        self._answers = _reply_ids(tokenizer, _YES, _NO), _reply_ids(tokenizer, ("A",), ("B",))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        criteria: Mapping[str, Criterion | str] = _QUESTIONS,
        *,
        dtype: str = "auto",
        device: str = "auto",
        **options: Any,
    ) -> LocalJudge:
        """Load a folder or hub model, such as a policy that was trained here, or its starting model.

        Args:
            name: The folder, or the model's name on a hub.
            criteria: As for the class.
            dtype: `float32`, `bfloat16`, or `auto`: bfloat16 on a GPU that has it.
            device: `auto`, `cpu`, `cuda`, …
            options: Others of the class.

        Raises:
            DataError: There is no such model, it is broken, not in safetensors, or needs code from a hub.
            ConfigError: As for the class.
        """
        place = pick_device(device)
        model = load_model("AutoModelForCausalLM", name, "a judge", dtype=pick_dtype(dtype, place))
        tokenizer = PretrainedTokenizer.from_pretrained(name)
        found = cls(model, tokenizer, criteria, device=str(place), **options)
        with usable(name):
            found._last_logits([[min(4, tokenizer.vocab_size - 1)]])
        return found

    @property
    def context(self) -> int | None:
        """The largest number of tokens the model can read, or None."""
        return context_of(self.model)

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Ask every question about each text; one without an answer makes it an abstention, not a 0."""
        asked = [self.question(e, c.question) for e in episodes for c in self.criteria.values()]
        log_odds = self._log_odds(asked, *self._answers[0]).reshape(len(episodes), len(self.criteria))
        low = np.array([c.low for c in self.criteria.values()])
        high = np.array([c.high for c in self.criteria.values()])
        scores = low + (high - low) * _sigmoid(log_odds)
        scores[np.isnan(scores).any(axis=1)] = np.nan
        return rubric_rewards(scores, self.criteria)

    def compare(self, pairs: Sequence[tuple[Episode, Episode]]) -> Comparisons:
        """Ask which text of each pair is better, A or B, in both orders.

        A text wins only if it does so in both orders, else it is a tie (Zheng et al. 2023, section 3.4). A
        small model often likes a position more than any text; `log_odds` of the result has that taken out.

        Raises:
            ConfigError: The two texts of a pair answer different prompts.
        """
        check_same_prompt(pairs)
        asked = [self.comparison(*order) for a, b in pairs for order in ((a, b), (b, a))]
        said = self._log_odds(asked, *self._answers[1]).reshape(len(pairs), 2)
        log_odds = (said[:, 0] - said[:, 1]) / 2
        one, two = np.sign(said[:, 0]), -np.sign(said[:, 1])  # 1: the first text is better, -1: the second
        preference = np.where(one == two, (one + 1) / 2, 0.5)
        flipped = (one == -two) & (one != 0)
        return Comparisons(np.where(np.isnan(log_odds), np.nan, preference), flipped, log_odds)

    def question(self, episode: Episode, question: str) -> str:
        """Write what the model reads before it says yes or no about a text."""
        texts = given_texts(episode, self.columns, self.name) | {"answer": episode.completion}
        return self._written(texts, f"{question}\nReply with Yes or No.")

    def comparison(self, a: Episode, b: Episode) -> str:
        """Write what the model reads before it says which of two texts is better, A or B."""
        texts = given_texts(a, self.columns, self.name) | {"answer_A": a.completion, "answer_B": b.completion}
        criteria = " ".join(c.question for c in self.criteria.values())
        ask = f"Which answer is better? Judge by: {criteria} Order and length do not matter."
        return self._written(texts, f"{ask}\nReply with A or B.")

    def _written(self, texts: Mapping[str, str], ask: str) -> str:
        mark = delimiter(texts.values())
        rules = f"The material stands between tags that end in {mark}. {RULES}"
        return "\n\n".join(part for part in (self.instructions, rules, tagged(texts, mark), ask) if part)

    def _encode(self, text: str) -> list[int]:
        """Encode a question; special tokens written in a text are characters, and end nothing.

        Raises:
            PromptError: The chat template refuses it, or the tokenizer has no characters for a special token.
            TokenError: The tokenizer cannot encode it, or it is longer than the context.
        """
        chat = getattr(self.tokenizer, "chat", None)
        if chat is not None:
            ids: list[int] = chat.encode([{"role": "user", "content": text}])
        else:
            ids = _plain_ids(self.tokenizer, f"{text}\nReply:")
        if self.context is not None and len(ids) > self.context:
            raise TokenError(f"text and question have {len(ids)} tokens; the model reads {self.context}")
        return ids

    def _log_odds(self, asked: Sequence[str], first: list[int], second: list[int]) -> FloatArray:
        """Compute the log-odds of the first answer against the second, `(n,)` float64, NaN where unknown."""
        result = np.full(len(asked), np.nan)
        encoded: dict[int, list[int]] = {}
        for i, text in enumerate(asked):
            try:
                encoded[i] = self._encode(text)
            except (PromptError, TokenError) as error:
                self._fail(str(error))
        order = sorted(encoded, key=lambda i: len(encoded[i]))  # so that little is padded
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            log_p = torch.log_softmax(self._last_logits([encoded[i] for i in rows]).double(), dim=1)
            one, two = (log_p[:, ids].logsumexp(1) for ids in (first, second))
            odds, mass = (one - two).cpu().numpy(), torch.logaddexp(one, two).exp().cpu().numpy()
            for i, value, share in zip(rows, odds, mass, strict=True):
                if not np.isfinite(value):
                    self._fail("the model's log-probabilities are not finite")
                elif share < self.least_mass:
                    self._fail(f"the model would reply by another word (probability of the two: {share:.2g})")
                else:
                    result[i] = value
        return result

    @torch.no_grad()
    def _last_logits(self, texts: Sequence[list[int]]) -> Tensor:
        """Run the model and return the logits after each text, `(n, V)`; texts are padded on the right."""
        device = next(self.model.parameters()).device
        lengths = torch.tensor([len(ids) for ids in texts])
        width, pad = int(lengths.max()), self.tokenizer.pad_id
        ids = upload(torch.tensor([t + [pad] * (width - len(t)) for t in texts]), device)
        mask = upload((torch.arange(width) < lengths[:, None]).long(), device)
        places, where = (lengths - 1).unique(return_inverse=True)
        more: dict[str, Any] = {}
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            more["logits_to_keep"] = upload(places, device)  # those of all places would be most of the memory
        else:
            where = lengths - 1
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask, use_cache=False, **more).logits
        return logits[torch.arange(len(texts)), where.to(device)]

    def _fail(self, reason: str) -> None:
        self._last_failure = excerpt(reason, 300)
        _LOG.warning("judge: no answer: %s", harmless(reason, limit=300))


def local_judge(name: str, **options: Any) -> LocalJudge:
    """Make the judge that `--reward judge:MODEL` means.

    `TEXT_GYM_JUDGE_RUBRIC` is the path of a file whose rows have `name`, `question` and, if wanted, `low`,
    `high` and `weight`; the questions are answered by yes or no. By default one asks if the answer is good.

    Raises:
        ConfigError: The rubric is malformed, or an option does not exist.
        DataError: There is no such model or rubric.
    """
    rubric = os.environ.get("TEXT_GYM_JUDGE_RUBRIC")
    if rubric and "criteria" not in options:
        options["criteria"] = read_rubric(rubric, 0.0, 1.0)
    try:
        return LocalJudge.from_pretrained(name, **options)
    except TypeError as error:
        raise ConfigError(f"judge:{name}: {error}") from error


def delimiter(texts: Sequence[str] | Any) -> str:
    """Return a mark for the tags around texts that none of them contains, the same for equal texts.

    It is drawn from their hash, so that the reward is deterministic. A text cannot quote it: a mark that some
    text contains is drawn anew.
    """
    listed = list(texts)
    content = "".join(f"{len(text)}:{text}" for text in listed).encode("utf-8", errors="surrogatepass")
    for number in itertools.count():
        mark = hashlib.sha256(f"{number}:".encode() + content).hexdigest()[:_MARK_DIGITS]
        if not any(mark in text for text in listed):
            return mark
    raise AssertionError("unreachable")


def _plain_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode a text without a template, after BOS where the model expects it; it holds no special tokens."""
    if not isinstance(tokenizer, PretrainedTokenizer):
        return tokenizer.encode(text)
    backend, bos = tokenizer.backend, tokenizer.bos_id
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        ids = tokenizer.encode(text)
        begun = list(backend.encode("a", add_special_tokens=True).ids[:1])
    finally:
        backend.encode_special_tokens = before
    return [bos, *ids] if bos is not None and begun == [bos] else ids


def _reply_ids(
    tokenizer: Tokenizer, first: Sequence[str], second: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Find the ids with which two answers begin, after a space or not; whole words if there are any.

    Raises:
        ConfigError: The answers begin alike.
    """
    found = []
    for words in (first, second):
        encoded = [tokenizer.encode(space + word) for word in words for space in ("", " ")]
        whole = [ids for ids in encoded if len(ids) == 1]
        found.append(dict.fromkeys(ids[0] for ids in whole or encoded if ids))
    one, two = ([i for i in ids if i not in other] for ids, other in (found, found[::-1]))
    if not one or not two:
        raise ConfigError(f"to this tokenizer {first[0]} and {second[0]} begin alike; take another model")
    return one, two


def _sigmoid(x: FloatArray) -> FloatArray:
    """Compute 1 / (1 + exp(-x)) without overflow; NaN stays NaN."""
    result: FloatArray = np.full(x.shape, np.nan)
    known = ~np.isnan(x)
    result[known] = np.exp(-np.logaddexp(0.0, -x[known]))
    return result
