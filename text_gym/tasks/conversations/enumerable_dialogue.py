"""Enumerable dialogue: a conversation small enough to list, so that what an agent should do is exact.

Two turns, four tokens (two symbols, one that ends a turn, EOS), an arbitrary but fixed reply to every turn:
of 0 to 2 tokens, with a reward, and sometimes the end. It is an oracle, nothing to generalise from.
The closed forms are those of `text_gym.tasks.enumerable`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from text_gym.episode import Episode, FinishReason, FloatArray, Prompt, Turn
from text_gym.respondents import Reply
from text_gym.tasks.classic import check_range
from text_gym.tasks.enumerable import TableReward
from text_gym.tasks.task import Task
from text_gym.tokenizer import WordTokenizer

SYMBOLS, STOP = "ab.", "."
Said = tuple[str, ...]


class TableRespondent:
    """Looks up what it replies by all that the agent has said.

    Args:
        table: The agent's turns so far, to the reply to the last one.
    """

    def __init__(self, table: Mapping[Said, Reply]) -> None:
        self.table = dict(table)

    def respond(self, episodes: Sequence[Episode], generators: Sequence[np.random.Generator]) -> list[Reply]:
        """Implement `Respondent`."""
        return [self.table[tuple(t.text for t in e.turns if t.role == "assistant")] for e in episodes]


def enumerable_dialogue(max_tokens: int = 4, max_turns: int = 2, seed: int = 0) -> Task:
    """A task with one prompt, and replies and rewards drawn by `seed` for everything that can be said.

    State: the prompt and the conversation so far. Action: `a`, `b`, the end of a turn or EOS. A turn is paid
    by its reply, in `[0, 1)`, and the whole conversation at its end, likewise. Optimum: the largest sum of
    these. The random policy gets their mean, weighted by `4^-tokens` of the agent's tokens.

    Args:
        max_tokens: The most tokens that the agent writes, EOS included.
        max_turns: The most turns that it has.
        seed: Seed of replies and rewards.

    Raises:
        ConfigError: A parameter out of its range.

    >>> task = enumerable_dialogue()
    >>> task.tokenizer.vocab_size, len(dialogues(task))
    (4, 97)
    """
    check_range("max_tokens", max_tokens, 1, 6)
    check_range("max_turns", max_turns, 1, 4)
    tokenizer = WordTokenizer(SYMBOLS, separator="", pad=False)
    rng = random.Random(seed)
    table = {said: _reply(rng) for said in _everything_said(max_tokens, max_turns)}
    prompts = [Prompt("a")]
    task = Task(
        name="enumerable-dialogue",
        prompts=prompts,
        held_out=prompts,
        tokenizer=tokenizer,
        reward=TableReward({}),
        max_tokens=max_tokens,
        respondent=TableRespondent(table),
        turn_stop=STOP,
        max_turns=max_turns,
        max_context=1 + max_tokens + 2 * max_turns,
    )
    every = dialogues(task)
    task = replace(task, reward=TableReward({tuple(e.completion_ids.tolist()): rng.random() for e in every}))
    returns = dialogue_returns(task, every)
    shares = np.array([float(tokenizer.vocab_size) ** -len(e.agent_ids) for e in every])
    return replace(task, optimum=float(returns.max()), random_return=float(returns @ shares))


def dialogues(task: Task) -> list[Episode]:
    """List every conversation that the task can have, each once."""
    assert isinstance(task.respondent, TableRespondent)
    return [_episode(task, turns, reason) for turns, reason in _grown(task, task.respondent.table, (), 0)]


def dialogue_returns(task: Task, episodes: Sequence[Episode]) -> FloatArray:
    """Return what conversations are worth, `(N,)` float64: their turns' rewards and that of the end."""
    turns = [sum(turn.reward for turn in e.turns) for e in episodes]
    worth: FloatArray = task.reward(episodes).values + np.array(turns)
    return worth


def _reply(rng: random.Random) -> Reply:
    text = "".join(rng.choice(SYMBOLS) for _ in range(rng.randrange(3)))
    return Reply(text, reward=rng.random(), ends=rng.random() < 0.2)


def _everything_said(tokens: int, turns: int, said: Said = ()) -> Iterator[Said]:
    """List what an agent can have said in up to so many turns and tokens, turns' ends counted."""
    if not turns:
        return
    for length in range(tokens):
        for number in range(2**length):
            text = "".join("ab"[number >> i & 1] for i in range(length))
            yield (*said, text)
            yield from _everything_said(tokens - length - 1, turns - 1, (*said, text))


def _grown(
    task: Task, table: Mapping[Said, Reply], turns: tuple[Turn, ...], used: int, text: str = ""
) -> Iterator[tuple[tuple[Turn, ...], FinishReason]]:
    """List how a conversation can go on and end, whose agent has used so many tokens and begun a turn."""
    ids = task.tokenizer.encode(text)
    for token, symbol in enumerate(SYMBOLS):
        last = used + 1 == task.max_tokens
        own = np.array([*ids, token], dtype=np.int64)
        if symbol == STOP:
            said = (*(t.text for t in turns if t.role == "assistant"), text)
            reply = table[said]
            after = (*turns, Turn("assistant", text, own, reply.reward))
            if reply.text:
                after += (Turn("user", str(reply.text), np.array(task.tokenizer.encode(str(reply.text)))),)
            if reply.ends:
                yield after, "reply"
            elif last or len(said) == task.max_turns:
                yield after, "length"
            else:
                yield from _grown(task, table, after, used + 1)
        elif last:
            yield (*turns, Turn("assistant", text + symbol, own)), "length"
        else:
            yield from _grown(task, table, turns, used + 1, text + symbol)
    (eos,) = task.tokenizer.eos_ids
    yield (*turns, Turn("assistant", text, np.array([*ids, eos], dtype=np.int64))), "eos"


def _episode(task: Task, turns: tuple[Turn, ...], reason: FinishReason) -> Episode:
    prompt = task.prompts[0]
    return Episode(
        prompt=prompt,
        prompt_ids=np.array(prompt.encode(task.tokenizer), dtype=np.int64),
        completion_ids=np.concatenate([turn.ids for turn in turns]),
        tokenizer=task.tokenizer,
        finish_reason=reason,
        agent_mask=np.concatenate([np.full(len(t.ids), t.role == "assistant") for t in turns]),
        turns=turns,
    )
