"""Calculator: products of numbers that are too hard to work out in one's head, and a tool that can."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from text_gym.episode import Episode, Prompt
from text_gym.errors import RewardError, ToolError
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.tasks.classic import check_range
from text_gym.tasks.task import Pairs, Task
from text_gym.tokenizer import WordTokenizer
from text_gym.tools.expression import calculate
from text_gym.tools.tool import Tool

TAG, ERROR, MOST_DIGITS = "calc", "error", 12
# A small policy learns the corpus, then goes on from there; see `benchmarks/conversations.py`.
RECOMMENDED: dict[str, dict[str, Any]] = {
    "sft": {"width": 64, "dropout": 0.0, "epochs": 16},
    "grpo": {
        "episodes": 256,
        "iterations": 120,
        "learning_rate": 2e-3,
        "kl_coef": 0.0,
        "minibatches": 2,
    },
}
MAX_TURNS = 4
_CARELESS = 0.5  # share of the corpus's writers that guess or mistype


class FinalAnswerReward(RewardSource):
    """Pays 1 if what the agent says last, after the replies, is the column `answer`, else 0.

    The text must have ended by itself; white space does not count. The term `tool` is 1 where a tool was
    called before, and `calls` counts the calls.
    """

    name = "final answer"

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Score each episode by its last turn."""
        right, calls = np.zeros(len(episodes)), np.zeros(len(episodes))
        for i, episode in enumerate(episodes):
            answer = episode.prompt.columns.get("answer")
            if not isinstance(answer, str):
                raise RewardError(f"prompt {episode.prompt.id!r} has no text in its column 'answer'")
            said = episode.turns[-1] if episode.turns else None
            text = episode.completion if said is None else said.text if said.role == "assistant" else ""
            right[i] = episode.whole and text.split() == answer.split()
            calls[i] = sum(turn.role != "assistant" for turn in episode.turns)
        return Rewards(right, terms={"tool": (calls > 0).astype(np.float64), "calls": calls})


def calculator(digits: int = 3, n_train: int = 2048, n_held_out: int = 256, seed: int = 0) -> Task:
    """Write the product of two numbers; `<calc> … </calc>` asks a calculator.

    State: the prompt (`3 7 4 * 2 9 1 =`) and what was said so far. Action: a digit, `+`, `*`, `=`, a tag, or
    EOS, `V = 19`. `</calc>` ends the turn: the reply is `<result> 1 0 8 8 3 4 </result>`, or `<result> error
    </result>` for what is no expression or has a result of more than twelve digits. Reward: 1 if what is
    written after the last reply is the product and EOS, else 0. Optimum: 1. The random policy's return is
    exact.

    A small model cannot learn such products by heart, and can learn to copy a result. The corpus, for
    `text-gym sft`, is of careful writers, who call the tool and copy its result, and of careless ones, who
    guess, call with a wrong digit, or copy a wrong one.

    Args:
        digits: Of each number, 1 to 5.
        n_train: Problems to learn on.
        n_held_out: Problems to judge on; no pair of numbers is on both sides.
        seed: Another seed gives other problems.

    Raises:
        ConfigError: A parameter out of its range, or more problems than there are.

    >>> task = calculator(digits=1, n_train=8, n_held_out=2)
    >>> len(task.prompts), task.turn_stop
    (8, '</calc>')
    """
    check_range("digits", digits, 1, 5)
    there_are = (9 * 10 ** (digits - 1)) ** 2
    check_range("n_held_out", n_held_out, 1, there_are // 2)
    check_range("n_train", n_train, 1, there_are - n_held_out)
    low, high = 10 ** (digits - 1), 10**digits
    drawn = random.Random(f"calculator {seed}").sample(range(there_are), n_held_out + n_train)
    prompts = [_problem(low + k // (high - low), low + k % (high - low)) for k in drawn]
    held_out, train = prompts[:n_held_out], prompts[n_held_out:]
    words = [*"0123456789+*=", f"<{TAG}>", f"</{TAG}>", "<result>", "</result>", ERROR]
    tokenizer = WordTokenizer(words, pad=False)
    max_tokens = 8 * digits + 12
    tool = Tool(
        calculate_digits,
        TAG,
        result="<result> {} </result>",
        error=f"<result> {ERROR} </result>",
        sandbox=False,
    )
    return Task(
        name="calculator",
        prompts=train,
        held_out=held_out,
        tokenizer=tokenizer,
        reward=FinalAnswerReward(),
        max_tokens=max_tokens,
        corpus=partial(_corpora, train, held_out, seed),
        respondent=tool,
        turn_stop=tool.turn_stop,
        max_turns=MAX_TURNS,
        max_context=2 * digits + 2 + max_tokens + MAX_TURNS * (MOST_DIGITS + 2),
        optimum=1.0,
        random_return=_random_return(train, max_tokens, MAX_TURNS, tokenizer.vocab_size),
        recommended=RECOMMENDED,
    )


def calculate_digits(expression: str) -> str:
    """Return the value of an expression written digit by digit, written in the same way.

    Raises:
        ToolError: It has no value that is a whole number of at most twelve digits.

    >>> calculate_digits(" 1 2 * 1 2 ")
    '1 4 4'
    """
    value = calculate("".join(expression.split()))
    if not (value.isdecimal() and len(value) <= MOST_DIGITS):
        raise ToolError(f"a result other than a whole number of at most {MOST_DIGITS} digits")
    return " ".join(value)


def _problem(a: int, b: int) -> Prompt:
    return Prompt(f"{' '.join(f'{a}*{b}')} =", {"answer": " ".join(str(a * b)), "a": a, "b": b})


def _corpora(train: Sequence[Prompt], held_out: Sequence[Prompt], seed: int) -> tuple[Pairs, Pairs]:
    """Write conversations by careful and careless writers, a pair for each turn of the agent's."""
    halves = []
    for name, prompts in (("train", train), ("held out", held_out)):
        rng = random.Random(f"calculator corpus {seed} {name}")
        halves.append([pair for prompt in prompts for pair in _written(prompt, rng)])
    return halves[0], halves[1]


def _written(prompt: Prompt, rng: random.Random) -> list[tuple[Prompt, str]]:
    """Write a conversation: the call after the prompt, and the answer after the prompt, call and reply."""
    columns = prompt.columns
    careless = rng.random() < _CARELESS
    if careless and rng.random() < 0.5:
        return [(prompt, " ".join(str(columns["a"] * columns["b"] + rng.randrange(1, 100))))]
    asked = " ".join(f"{columns['a']}*{columns['b']}")
    if careless and rng.random() < 0.5:
        asked = _mistyped(asked, rng)
    call = f"<{TAG}> {asked} </{TAG}>"
    result = calculate_digits(asked)
    answer = _mistyped(result, rng) if careless and rng.random() < 0.5 else result
    after = f"{prompt.text} {call} <result> {result} </result>"
    return [(prompt, call), (Prompt(after, columns, prompt.id), answer)]


def _mistyped(text: str, rng: random.Random) -> str:
    """Replace one digit by another."""
    words = text.split()
    place = rng.choice([i for i, word in enumerate(words) if word.isdecimal()])
    words[place] = rng.choice([d for d in "123456789" if d != words[place]])
    return " ".join(words)


def _random_return(prompts: Sequence[Prompt], max_tokens: int, turns: int, vocab_size: int) -> float:
    """Return the mean probability that tokens drawn uniformly end with the answer and EOS.

    A turn is the answer with probability `V^-(n + 1)`, for `n` digits and EOS; there is another turn if
    `</calc>` comes first, which is the k-th token with probability `((V - 2) / V)^(k - 1) / V`.
    """
    lengths = np.array([len(prompt.columns["answer"].split()) for prompt in prompts])
    asks = ((vocab_size - 2) / vocab_size) ** np.arange(max_tokens) / vocab_size
    found = []
    for n in np.unique(lengths):
        value = np.zeros(max_tokens + 1)  # by the number of tokens left; before the first turn, in the end
        for _ in range(turns):
            after, value = value, np.zeros(max_tokens + 1)
            for tokens in range(1, max_tokens + 1):
                own = (tokens > n) * float(vocab_size) ** -(n + 1)
                value[tokens] = own + asks[:tokens] @ after[tokens - 1 :: -1]
        found.append(value[-1] * np.mean(lengths == n))
    return float(sum(found))
