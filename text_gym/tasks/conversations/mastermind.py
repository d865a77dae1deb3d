"""Mastermind: find a code from the number of pegs that are right, and right but for their place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import product
from typing import Any

from text_gym.episode import Prompt
from text_gym.errors import ConfigError
from text_gym.tasks.classic import check_range
from text_gym.tasks.task import Task
from text_gym.tokenizer import WordTokenizer

from .rules import RulesRespondent, RulesReward, Verdict

COLOURS = "abcdef"
MAX_CODES = 100  # the optimum is found by walking all sets of codes that answers can leave
# An entropy bonus that falls to nothing keeps all codes in play until answers are read: a policy that has
# dropped one is paid nothing for it, and learns nothing of it. Gradients are clipped to a norm most have.
_NEW: dict[str, Any] = {
    "policy": "new",
    "episodes": 512,
    "iterations": 200,
    "kl_coef": 0.0,
    "learning_rate": 2e-3,
    "epochs": 1,
    "minibatches": 4,
    "max_grad_norm": 0.05,
    "entropy_coef": 0.08,
    "anneal_entropy": True,
}
RECOMMENDED: dict[str, dict[str, Any]] = {
    "grpo": {**_NEW, "group_size": 16},
    # Where nearly all are paid alike, whitening blows what is left of advantages up, and codes get lost.
    "ppo": {**_NEW, "entropy_coef": 0.02, "whiten_advantages": False, "target_kl": 0.1},
}


def mastermind(places: int = 2, colours: int = 3, turns: int = 4) -> Task:
    """Find the environment's code within `turns` guesses; the reward is 1 if it was found, else 0.

    State: the prompt `?`, which says nothing of the code, and what was said so far. Action: a colour, a
    digit, `?` or EOS, so that `V` is `colours + places + 3`. `places` colours in a row end the turn and are
    the guess. The reply is two digits, the colours in their right place and those in a wrong one (each peg
    counts once); the conversation ends with the code or with the last guess. EOS gives up.

    Optimum: the largest share of codes that any plan of guesses finds, by enumeration of all plans. The
    random policy's return is exact. With the default sizes every first guess is the beginning of a plan that
    finds all codes; with `turns=3` two colours that are equal are not, and a policy that has settled on them
    stays at 8/9: the harder task of the two.

    There is a prompt for each code. They are held out as well, since there is nothing to generalise to.

    Args:
        places: Pegs of a code, 1 to 4.
        colours: 2 to 6; there may be 100 codes.
        turns: Guesses, 1 to 8.

    Raises:
        ConfigError: A parameter out of its range, or more than 100 codes.

    >>> task = mastermind()
    >>> len(task.prompts), task.optimum, round(task.random_return, 4)
    (9, 1.0, 0.0676)
    """
    check_range("places", places, 1, 4)
    check_range("colours", colours, 2, len(COLOURS))
    check_range("turns", turns, 1, 8)
    if colours**places > MAX_CODES:
        raise ConfigError(f"{colours} colours in {places} places are more than {MAX_CODES} codes; take fewer")
    pegs = COLOURS[:colours]
    codes = ["".join(code) for code in product(pegs, repeat=places)]
    digits = "".join(str(i) for i in range(places + 1))
    tokenizer = WordTokenizer(pegs + digits + "?", separator="", pad=False)
    prompts = [Prompt("?", {"code": code}, code) for code in codes]
    rules = partial(judge_code, places=places, turns=turns)
    max_tokens = (places + 1) * turns
    return Task(
        name="mastermind",
        prompts=prompts,
        held_out=prompts,
        tokenizer=tokenizer,
        reward=RulesReward(rules, "mastermind", ("code",)),
        max_tokens=max_tokens,
        respondent=RulesRespondent(rules),
        turn_stop=tuple(codes),
        max_turns=turns,
        max_context=1 + max_tokens + 2 * turns,
        optimum=best_found(codes, turns) / len(codes),
        random_return=_random_return(places, colours, turns, tokenizer.vocab_size),
        recommended=RECOMMENDED,
    )


def judge_code(columns: Mapping[str, Any], said: Sequence[str], places: int, turns: int) -> Verdict:
    """Answer the last guess.

    Args:
        columns: Has the `code`.
        said: The agent's turns; the last characters of each are the guess.
        places: Pegs of a code.
        turns: How many guesses there are.
    """
    code, last = columns["code"], said[-1][-places:]
    found = last == code
    return Verdict(count_pegs(code, last), ends=found or len(said) == turns, score=float(found))


def count_pegs(code: str, guessed: str) -> str:
    """Return how many pegs are right, and how many more are right but for their place, as two digits.

    >>> count_pegs("aabc", "abad"), count_pegs("ab", "ba")
    ('12', '02')
    """
    right = sum(a == b for a, b in zip(code, guessed, strict=True))
    common = sum((Counter(code) & Counter(guessed)).values())
    return f"{right}{common - right}"


def best_found(codes: Sequence[str], turns: int) -> int:
    """Return how many of the codes the best plan finds within so many guesses."""

    @cache
    def found(left: frozenset[str], guesses: int) -> int:
        if len(left) <= 1 or guesses <= 1:
            return min(len(left), guesses)
        most = 0
        for asked in codes:
            parts: dict[str, set[str]] = {}
            for code in left - {asked}:
                parts.setdefault(count_pegs(code, asked), set()).add(code)
            rest = sum(found(frozenset(part), guesses - 1) for part in parts.values())
            most = max(most, (asked in left) + rest)
            if most == len(left):
                break
        return most

    return found(frozenset(codes), turns)


def _random_return(places: int, colours: int, turns: int, vocab_size: int) -> float:
    """Return how likely tokens drawn uniformly are to find the code: every guess is a uniform one."""
    right, others = float(colours) ** -places, vocab_size - colours - 1

    @cache
    def found(tokens: int, guesses: int, row: int) -> float:
        """How likely it is with so many tokens and guesses left and `row` colours in a row written."""
        if row == places:
            return right + (1 - right) * found(tokens, guesses - 1, 0)
        if not tokens or not guesses:
            return 0.0
        going_on = colours * found(tokens - 1, guesses, row + 1) + others * found(tokens - 1, guesses, 0)
        return going_on / vocab_size

    return found((places + 1) * turns, turns, 0)
