"""Walks every conversation that can be had in a tiny task, by asking its respondent.

An oracle for optima and random returns: the transition is written anew here, not taken from `EpisodeBatch`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from text_gym import Episode, Prompt, Task, Turn

NO_IDS = np.zeros(0, dtype=np.int64)
Talk = dict[str, tuple[Prompt, Episode]]


def begin(task: Task, prompt: Prompt) -> Episode:
    """An episode in which nothing was said."""
    return Episode(prompt, np.array(task.tokenizer.encode(prompt.text)), NO_IDS, task.tokenizer)


def say(task: Task, episode: Episode, ids: Sequence[int]) -> Episode:
    """The episode after one more turn of the agent's, which `ids` end, and the reply to it.

    Args:
        task: A task that is a conversation.
        episode: One that runs, at the start of a turn.
        ids: The turn: with a stop string of turns at its end, with EOS, or cut.
    """
    listed, eos = list(ids), task.tokenizer.eos_ids[0]
    text = task.tokenizer.decode(listed)
    stops = (task.turn_stop,) if isinstance(task.turn_stop, str) else task.turn_stop
    ends = [text.find(stop) for stop in stops if stop in text]
    own = Turn("assistant", text[: min(ends)] if ends else text, np.array(listed, dtype=np.int64))
    written = np.concatenate([episode.completion_ids, own.ids])
    episode = replace(episode, completion_ids=written, turns=(*episode.turns, own))
    if not ends:
        return replace(episode, finish_reason="eos" if listed[-1:] == [eos] else "length")
    assert task.respondent is not None
    (reply,) = task.respondent.respond([episode], [np.random.default_rng(0)])
    assert isinstance(reply.text, str)
    episode = replace(episode, turns=(*episode.turns, Turn(reply.role, reply.text, NO_IDS)))
    turns = sum(turn.role == "assistant" for turn in episode.turns)
    if reply.ends:
        return replace(episode, finish_reason="reply")
    return replace(episode, finish_reason="length" if turns == task.max_turns else None)


def random_return(task: Task) -> float:
    """The expected reward of tokens drawn uniformly, by going through all of them."""
    return float(np.mean([_walk(task, begin(task, p), (), task.max_tokens) for p in task.prompts]))


def _walk(task: Task, episode: Episode, ids: tuple[int, ...], left: int) -> float:
    if episode.finish_reason is not None:
        return float(task.reward([episode]).totals[0])
    total, v = 0.0, task.tokenizer.vocab_size
    stops = (task.turn_stop,) if isinstance(task.turn_stop, str) else task.turn_stop
    for token in range(v):
        grown = (*ids, token)
        ended = any(stop in task.tokenizer.decode(grown) for stop in stops)
        if ended or token in task.tokenizer.eos_ids or left == 1:
            after = say(task, episode, grown)
            if left == 1 and after.finish_reason is None:
                after = replace(after, finish_reason="length")
            total += _walk(task, after, (), left - 1)
        else:
            total += _walk(task, episode, grown, left - 1)
    return total / v


def best_return(task: Task, prompts: Iterable[Prompt], turns: Sequence[str]) -> float:
    """The most that any policy can earn on average which sees the text alone, by going through all policies.

    Args:
        task: A task that is a conversation.
        prompts: Of one text each with the others; each is as likely as any other.
        turns: The texts that a policy may say, stop strings included.
    """
    episodes = [begin(task, p) for p in prompts]
    assert len({e.prompt.text for e in episodes}) == 1
    return _best(task, episodes, [task.tokenizer.encode(t) for t in turns]) / len(episodes)


def _best(task: Task, episodes: Sequence[Episode], turns: Sequence[Sequence[int]]) -> float:
    """The sum of rewards over episodes that look alike so far."""
    over = [e for e in episodes if e.finish_reason is not None]
    running = [e for e in episodes if e.finish_reason is None]
    total = float(task.reward(over).totals.sum()) if over else 0.0
    if not running:
        return total
    values = []
    for ids in turns:
        alike: Mapping[tuple[str, bool], list[Episode]] = defaultdict(list)
        for episode in running:
            after = say(task, episode, ids)
            alike[after.turns[-1].text, after.done].append(after)
        values.append(sum(_best(task, group, turns) for group in alike.values()))
    return total + max(values)


def play(task: Task, prompt: Prompt, turns: Sequence[str], end: bool = False) -> Episode:
    """The episode in which the agent says these turns, and EOS behind the last if `end`."""
    episode = begin(task, prompt)
    for i, text in enumerate(turns):
        ids = task.tokenizer.encode(text)
        last = end and i == len(turns) - 1
        episode = say(task, episode, [*ids, task.tokenizer.eos_ids[0]] if last else ids)
    return episode


def check_conversation(task: Task) -> None:
    """Every reply to random turns can be encoded, room is left for it, and rewards are in [0, 1]."""
    rng = np.random.default_rng(0)
    v = task.tokenizer.vocab_size
    assert task.max_context is not None
    for prompt in list(task.prompts)[:4]:
        episode, left, length = begin(task, prompt), task.max_tokens, len(task.tokenizer.encode(prompt.text))
        stops = (task.turn_stop,) if isinstance(task.turn_stop, str) else task.turn_stop
        while episode.finish_reason is None and left:
            ids: list[int] = []
            while left and not any(stop in task.tokenizer.decode(ids) for stop in stops):
                stop = task.tokenizer.encode(stops[int(rng.integers(len(stops)))])
                ids += stop if rng.random() < 0.2 and len(stop) <= left else [int(rng.integers(v - 1))]
                left = task.max_tokens - sum(map(len, (t.ids for t in episode.turns))) - len(ids)
            episode = say(task, episode, ids)
            if episode.turns[-1].role != "assistant":
                length += len(task.tokenizer.encode(episode.turns[-1].text))
        assert length + task.max_tokens <= task.max_context
        assert 0 <= task.reward([episode]).totals[0] <= 1
