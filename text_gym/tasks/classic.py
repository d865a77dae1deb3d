"""The classic tasks share one form: one correct answer per prompt, paid token by token.

A classic task is the CartPole of text: small enough to be learnt from scratch in a minute or two, with
a known optimum and a known return of the random policy. No task in particular is known here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice, product

import numpy as np

from text_gym.episode import Episode, FloatArray, IntArray, Prompt
from text_gym.errors import ConfigError, RewardError
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards, TokenBatch
from text_gym.tokenizer import Tokenizer, WordTokenizer

from .task import Pairs, Task

MAX_INPUTS = 4096  # a task has all its inputs up to this number, and beyond it a seeded sample of this size


class AnswerReward(RewardSource):
    """Pays for matching the prompt's column `answer`, in the episode's own tokenizer.

    The answer's `n` tokens and the EOS after them are `n + 1` places. Dense: each place is worth
    `1 / (n + 1)`, paid on the token that fills it rightly, whatever the tokens before it were. Sparse:
    1 on the last token if every place is right, otherwise 0. Returns are in `[0, 1]`.

    The term `exact` is 1 where every place is right, otherwise 0.

    Args:
        sparse: Pay for the whole answer only.

    >>> task_tokenizer = WordTokenizer("abc", separator="")
    >>> episode = Episode.of("abc", "cbb", task_tokenizer, answer="cba")
    >>> AnswerReward()([episode]).per_token
    (array([0.25, 0.25, 0.  , 0.25]),)
    """

    name = "answer"

    def __init__(self, sparse: bool = False) -> None:
        self.sparse = sparse
        self.causal = not sparse  # each position is judged by its own token, so prefixes can be paid
        self._answers: tuple[Sequence[Prompt], IntArray, FloatArray] | None = None  # of the latest prompts

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Score every position that has a token; if dense, prefixes of an episode too."""
        per_token, exact = [], np.zeros(len(episodes))
        for i, episode in enumerate(episodes):
            right, places = _places_right(episode)
            per_token.append(np.array(right) / places)
            exact[i] = sum(right) == places
        if self.sparse:
            return Rewards(exact, terms={"exact": exact})
        return Rewards(np.zeros(len(episodes)), tuple(per_token), {"exact": exact})

    def token_rewards(self, batch: TokenBatch) -> FloatArray:
        """Look up what the newest tokens earned in a table of all answers."""
        if self._answers is None or self._answers[0] is not batch.prompts:
            self._answers = (batch.prompts, *_answer_table(batch.prompts, batch.tokenizer))
        _, ids, places = self._answers
        # A running episode has no EOS, so only the answer's own positions can be correct.
        step = np.minimum(batch.steps, ids.shape[1]) - 1
        right = ids[batch.prompt_index, step] == batch.tokens
        return np.where(right, 1.0 / places[batch.prompt_index], 0.0)


def _answer_table(prompts: Sequence[Prompt], tokenizer: Tokenizer) -> tuple[IntArray, FloatArray]:
    """Tabulate every prompt's answer: ids `(N, longest + 1)`, padded with -1, and lengths `(N,)`."""
    answers = [tokenizer.encode(_answer(p)) for p in prompts]
    ids = np.full((len(answers), max(map(len, answers)) + 1), -1, dtype=np.int64)
    for i, answer in enumerate(answers):
        ids[i, : len(answer)] = answer
    return ids, np.array([len(answer) + 1.0 for answer in answers])


def _answer(prompt: Prompt) -> str:
    answer = prompt.columns.get("answer")
    if not isinstance(answer, str):
        raise RewardError(f"prompt {prompt.id!r} has no text in its column 'answer'")
    return answer


def _places_right(episode: Episode) -> tuple[list[float], int]:
    """Return 1.0 for each correct token of the completion, and the answer's length."""
    wanted = [(i,) for i in episode.tokenizer.encode(_answer(episode.prompt))] + [episode.tokenizer.eos_ids]
    given = episode.completion_ids.tolist()
    right = [float(token in ids) for token, ids in zip(given, wanted, strict=False)]
    return right + [0.0] * (len(given) - len(right)), len(wanted)


def classic_task(
    name: str,
    tokenizer: WordTokenizer,
    inputs: Sequence[str],
    solve: Callable[[str], str],
    *,
    sparse: bool,
    seed: int,
) -> Task:
    """Make a task from inputs and the function that answers them.

    One input in five, drawn by `seed`, is held out; with fewer than five inputs both halves are all.

    Args:
        name: Name of the task.
        tokenizer: The vocabulary, EOS included, nothing else.
        inputs: Distinct texts of prompts.
        solve: The right completion of an input.
        sparse: As in `AnswerReward`.
        seed: Seed of the split.

    Returns:
        A task with optimum 1 and the exact return of the random policy over `prompts`.
    """
    problems = [Prompt(text, {"answer": solve(text)}) for text in inputs]
    count = len(problems) // 5
    chosen = set(random.Random(seed).sample(range(len(problems)), count))
    train = [p for i, p in enumerate(problems) if i not in chosen]
    held_out = [problems[i] for i in sorted(chosen)] or train
    lengths = [len(tokenizer.encode(p.columns["answer"])) for p in problems]
    return Task(
        name=name,
        prompts=train,
        held_out=held_out,
        tokenizer=tokenizer,
        reward=AnswerReward(sparse),
        max_tokens=max(lengths) + 1,
        corpus=partial(_corpora, train, held_out),  # no lambda: environments are pickled
        optimum=1.0,
        random_return=_random_return(
            [n for i, n in enumerate(lengths) if i not in chosen], tokenizer.vocab_size, sparse
        ),
        golden=_answer,
    )


def _corpora(train: Sequence[Prompt], held_out: Sequence[Prompt]) -> tuple[Pairs, Pairs]:
    """Pair prompts with their answers, for supervised fine-tuning."""
    return _answered(train), _answered(held_out)


def _answered(prompts: Sequence[Prompt]) -> Pairs:
    return [(prompt, str(prompt.columns["answer"])) for prompt in prompts]


def _random_return(lengths: Sequence[int], vocab_size: int, sparse: bool) -> float:
    """Return the mean return of uniform draws from `V` ids, one of them EOS, over answers of `n` tokens.

    Place `i` is reached with probability `((V - 1) / V)^i` and then right with `1 / V`. The mean share
    of the places, a geometric sum, is `(1 - ((V - 1) / V)^(n + 1)) / (n + 1)`; all are right with
    probability `V^-(n + 1)`.
    """
    places = np.array(lengths) + 1.0
    if sparse:
        return float(np.mean(float(vocab_size) ** -places))
    return float(np.mean((1 - (1 - 1 / vocab_size) ** places) / places))


def choose_inputs(every: Iterable[str], draw: Callable[[random.Random], str], seed: int) -> list[str]:
    """Return all inputs if there are at most `MAX_INPUTS`, otherwise that many distinct ones drawn by `seed`.

    Args:
        every: All inputs, each once; read no further than needed, so it may be astronomically long.
        draw: Draws one input; every input must be possible.
        seed: Seed of the draws.
    """
    few = list(islice(every, MAX_INPUTS + 1))
    if len(few) <= MAX_INPUTS:
        return few
    rng = random.Random(seed)
    chosen: dict[str, None] = {}  # a set that keeps its order
    while len(chosen) < MAX_INPUTS:
        chosen[draw(rng)] = None
    return list(chosen)


def choose_strings(symbols: str, length: int, seed: int) -> list[str]:
    """Return strings of `length` characters from `symbols`: all, or a seeded sample (`choose_inputs`).

    Raises:
        ConfigError: There are no symbols, or the length is not a whole number of at least 1.
    """
    check_range("length", length, 1)
    if not symbols:
        raise ConfigError("symbols is empty; give at least one character")
    every = map("".join, product(symbols, repeat=length))
    return choose_inputs(every, lambda rng: "".join(rng.choices(symbols, k=length)), seed)


def check_range(name: str, value: int, low: int, high: int | None = None) -> None:
    """Refuse a task parameter that is not a whole number in `[low, high]`.

    Raises:
        ConfigError: Naming the parameter, its value and what it may be.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{name} is {value!r}; it must be a whole number {allowed}")
