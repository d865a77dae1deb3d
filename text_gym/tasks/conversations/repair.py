"""Repair: a JSON document lacks a sign; the environment quotes the parser's error until it is mended."""

from __future__ import annotations

import json
import random
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from text_gym.episode import Prompt
from text_gym.tasks.classic import check_range
from text_gym.tasks.task import Pairs, Task
from text_gym.tokenizer import WordTokenizer

from .rules import RulesRespondent, RulesReward, Verdict

SIGNS = '{}[]:,"'  # what may be missing
MENDED, OTHER = "ok", "another document"
_ESCAPE = "\\"  # it makes a quote part of a key, which can stand in for the missing one
_LONGEST_REPLY = 80  # characters
_DISCOUNT = 0.5  # of each attempt after the first
_CARELESS = 0.4  # share of the corpus's first attempts that leave the document as it is


def repair(size: int = 2, attempts: int = 3, n_train: int = 256, n_held_out: int = 64, seed: int = 0) -> Task:
    r"""Write the prompt's document again with the missing sign, and `\n`; errors are quoted back.

    State: the prompt (a JSON document on one line in which one of `{}[]:,"` is missing) and what was said so
    far. Action: a printable ASCII character, `\n` or EOS, `V = 97`. `\n` ends the turn and is an attempt. It
    is right if it is JSON and the prompt's document with one character more; the conversation then ends
    with `ok`. Otherwise the reply is the parser's error (`Expecting ',' delimiter: column 7`), or
    `another document` for JSON that is something else. Reward: `0.5^(n - 1)` if the n-th attempt is right,
    else 0. Optimum: 1. The random policy's return is exact.

    Args:
        size: Members of a document's objects and lists, 1 to 4.
        attempts: How many there are, 1 to 8.
        n_train: Documents to learn on.
        n_held_out: Documents to judge on; no document is on both sides.
        seed: Another seed gives other documents.

    Raises:
        ConfigError: A parameter out of its range.

    >>> task = repair()
    >>> task.prompts[0].columns
    {'broken': '{l":7,"j":5}', 'whole': '{"l":7,"j":5}'}
    """
    check_range("size", size, 1, 4)
    check_range("attempts", attempts, 1, 8)
    check_range("n_train", n_train, 1, 2000)
    check_range("n_held_out", n_held_out, 1, 2000)
    tokenizer = WordTokenizer([*map(chr, range(32, 127)), "\n"], separator="", pad=False)
    prompts = _documents(n_held_out + n_train, size, seed)
    held_out, train = prompts[:n_held_out], prompts[n_held_out:]
    longest = max(len(p.text) for p in prompts) + 1  # with the sign; the line's end is counted already
    rules = partial(judge_repair, attempts=attempts)
    max_tokens = attempts * longest
    return Task(
        name="repair",
        prompts=train,
        held_out=held_out,
        tokenizer=tokenizer,
        reward=RulesReward(rules, "repair", ("broken",)),
        max_tokens=max_tokens,
        corpus=partial(_corpora, train, held_out, rules, seed),
        respondent=RulesRespondent(rules),
        turn_stop="\n",
        max_turns=attempts,
        max_context=longest + max_tokens + attempts * _LONGEST_REPLY,
        optimum=1.0,
        random_return=_random_return(train, attempts, max_tokens, tokenizer.vocab_size),
    )


def judge_repair(columns: Mapping[str, Any], said: Sequence[str], attempts: int) -> Verdict:
    """Answer the last attempt.

    Args:
        columns: Has the `broken` document.
        said: The agent's turns.
        attempts: How many there are.
    """
    text = said[-1].removesuffix("\n")
    error = parser_error(text)
    if not error and is_with_one_more(columns["broken"], text):
        return Verdict(MENDED, ends=True, score=_DISCOUNT ** (len(said) - 1))
    return Verdict((error or OTHER) + "\n", ends=len(said) == attempts)


def parser_error(text: str) -> str:
    """Return what the parser says of a text that is no JSON (RFC 8259: no `NaN`); empty if it is.

    >>> parser_error('{"a":1')
    "Expecting ',' delimiter: column 7"
    """
    try:
        # Integers are read as floats because Python is slow to read very long ones, or refuses to.
        json.loads(text, parse_int=float, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        return f"{error.msg}: column {error.pos + 1}"
    except RecursionError:
        return "Nested too deeply: column 1"
    except ValueError as error:
        return f"{error}: column 1"
    return ""


def is_with_one_more(shorter: str, longer: str) -> bool:
    """True if `longer` is `shorter` with one character put in somewhere."""
    if len(longer) != len(shorter) + 1:
        return False
    start = next((i for i, c in enumerate(shorter) if c != longer[i]), len(shorter))
    return shorter[start:] == longer[start + 1 :]


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _documents(count: int, size: int, seed: int) -> list[Prompt]:
    """Draw documents with a sign missing, all of them different and none of them JSON."""
    rng = random.Random(f"repair {seed} {size}")
    found: dict[str, str] = {}
    while len(found) < count:
        whole = json.dumps(_object(rng, size), separators=(",", ":"))
        place = rng.choice([i for i, c in enumerate(whole) if c in SIGNS])
        broken = whole[:place] + whole[place + 1 :]
        if parser_error(broken):
            found.setdefault(broken, whole)
    return [Prompt(f"{b}\n", {"broken": b, "whole": w}, b) for b, w in found.items()]


def _object(rng: random.Random, size: int) -> dict[str, Any]:
    """Draw an object of letters, digits and lists of digits."""
    keys = rng.sample(string.ascii_lowercase, size)
    kinds: tuple[Any, ...] = (
        lambda: rng.randrange(10),
        lambda: rng.choice(string.ascii_lowercase),
        lambda: [rng.randrange(10) for _ in range(size)],
    )
    return {key: rng.choice(kinds)() for key in keys}


def mends(broken: str) -> set[str]:
    """Return every text that is right for a broken document in which one of `SIGNS` is missing.

    >>> sorted(mends('{"a":1'))
    ['{"a":1}']
    """
    places = range(len(broken) + 1)
    texts = {broken[:i] + sign + broken[i:] for i in places for sign in SIGNS + _ESCAPE}
    return {text for text in texts if not parser_error(text)}


def _random_return(prompts: Sequence[Prompt], attempts: int, max_tokens: int, vocab_size: int) -> float:
    r"""Return the mean reward of tokens drawn uniformly.

    An attempt of `n` characters and `\n` is right with probability `m V^-(n + 1)`, if `m` texts are right,
    and wrong if `\n` comes without EOS before it and the text is none of them.
    """
    texts = [prompt.columns["broken"] for prompt in prompts]
    kinds = Counter(
        (len(mends(text)), len(text) + 2) for text in texts
    )  # how many are right, and their tokens
    k = np.arange(max_tokens)
    ends = ((vocab_size - 2) / vocab_size) ** k / vocab_size  # after k other tokens
    total = 0.0
    for (right, size), count in kinds.items():
        hit = right * float(vocab_size) ** -size
        after = np.zeros(max_tokens + 1)  # the value by the number of tokens left, one attempt later
        for attempt in reversed(range(attempts)):
            value = np.zeros(max_tokens + 1)
            for tokens in range(1, max_tokens + 1):
                value[tokens] = ends[:tokens] @ after[tokens - 1 :: -1]
                if tokens >= size:
                    value[tokens] += hit * (_DISCOUNT**attempt - after[tokens - size])
            after = value
        total += count * after[-1]
    return float(total / len(texts))


def _corpora(
    train: Sequence[Prompt], held_out: Sequence[Prompt], rules: Any, seed: int
) -> tuple[Pairs, Pairs]:
    """Write conversations, a pair for each attempt; a careless writer's first one leaves the sign missing."""
    halves = []
    for name, prompts in (("train", train), ("held out", held_out)):
        rng = random.Random(f"repair corpus {seed} {name}")
        pairs = []
        for prompt in prompts:
            right = f"{prompt.columns['whole']}\n"
            if rng.random() < _CARELESS:
                pairs.append((prompt, prompt.text))
                reply = rules(prompt.columns, [prompt.text]).reply
                pairs.append((Prompt(prompt.text + prompt.text + reply, prompt.columns, prompt.id), right))
            else:
                pairs.append((prompt, right))
        halves.append(pairs)
    return halves[0], halves[1]
