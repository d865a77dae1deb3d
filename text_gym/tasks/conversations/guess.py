"""Guess a number: the environment says whether it is higher or lower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

from text_gym.episode import Prompt
from text_gym.tasks.classic import check_range
from text_gym.tasks.task import Task
from text_gym.tokenizer import WordTokenizer

from .rules import RulesRespondent, RulesReward, Verdict

NUMBERS = "123456789ABCDEF"
HIGHER, LOWER, FOUND = "><="
# From nothing; see `benchmarks/conversations.py`.
_NEW: dict[str, Any] = {
    "policy": "new",
    "episodes": 256,
    "kl_coef": 0.0,
    "anneal": False,
    "learning_rate": 1e-3,
}
_NEW |= {
    "learning_rate": 1e-3,
    "iterations": 150,
    "epochs": 2,
    "minibatches": 2,
    "entropy_coef": 0.3,
    "anneal_entropy": True,
}
RECOMMENDED: dict[str, dict[str, Any]] = {
    "grpo": _NEW,
    "ppo": {**_NEW, "target_kl": 0.05},
    "sb3.ppo": {"iterations": 150, "ent_coef": 0.05},
}


def guess(largest: int = 7, turns: int = 3) -> Task:
    """Find the environment's number within `turns` guesses; the reward is 1 if it was found, else 0.

    State: the prompt `?`, which says nothing of the number, and what was said so far. Action: a number, one
    of the environment's signs, `?` or EOS, so that `V` is `largest + 5`. A number ends the turn and is the
    guess; what the agent writes before it counts for nothing but tokens. The reply is `>` (the number is
    higher than the guess), `<` or `=`; the conversation ends with `=` or with the last guess. EOS gives up.

    Optimum: with `k` guesses any way of asking finds at most `2^k - 1` numbers, since each guess finds one
    number and splits the others in two, and bisection finds as many: `min(1, (2^turns - 1) / largest)`. The
    random policy's return is exact.

    There is a prompt for each number. They are held out as well, since there is nothing to generalise to.

    Args:
        largest: Numbers go from 1 to this one, 2 to 15; those from ten on are the letters A to F.
        turns: Guesses, 1 to 8.

    Raises:
        ConfigError: A parameter out of its range.

    >>> task = guess()
    >>> task.optimum, round(task.random_return, 4)
    (1.0, 0.2802)
    """
    check_range("largest", largest, 2, len(NUMBERS))
    check_range("turns", turns, 1, 8)
    numbers = NUMBERS[:largest]
    tokenizer = WordTokenizer(numbers + HIGHER + LOWER + FOUND + "?", separator="", pad=False)
    prompts = [Prompt("?", {"number": i + 1}, f"number {i + 1}") for i in range(largest)]
    rules = partial(judge_guess, turns=turns)
    return Task(
        name="guess",
        prompts=prompts,
        held_out=prompts,
        tokenizer=tokenizer,
        reward=RulesReward(rules, "guess", ("number",)),
        max_tokens=2 * turns,
        respondent=RulesRespondent(rules),
        turn_stop=tuple(numbers),
        max_turns=turns,
        max_context=1 + 3 * turns,
        optimum=min(1.0, (2**turns - 1) / largest),
        random_return=_random_return(largest, turns, tokenizer.vocab_size),
        recommended=RECOMMENDED,
    )


def judge_guess(columns: Mapping[str, Any], said: Sequence[str], turns: int) -> Verdict:
    """Answer the last guess.

    Args:
        columns: Has the `number`.
        said: The agent's turns; the last character of each is the guess.
        turns: How many guesses there are.
    """
    number, last = columns["number"], NUMBERS.index(said[-1][-1]) + 1
    if last == number:
        return Verdict(FOUND, ends=True, score=1.0)
    return Verdict(HIGHER if number > last else LOWER, ends=len(said) == turns)


def _random_return(largest: int, turns: int, vocab_size: int) -> float:
    """Return how likely tokens drawn uniformly are to find the number."""

    @cache
    def found(tokens: int, guesses: int) -> float:
        if not tokens or not guesses:
            return 0.0
        signs = vocab_size - largest - 1
        wrong = (largest - 1) * found(tokens - 1, guesses - 1) + signs * found(tokens - 1, guesses)
        return (1 + wrong) / vocab_size

    return found(2 * turns, turns)
