"""Laws that every classic task obeys, checked by walking all episodes of a tiny one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from text_gym import Episode, Prompt, Task


def episode(task: Task, prompt: Prompt, ids: list[int]) -> Episode:
    return Episode(
        prompt, np.array(task.tokenizer.encode(prompt.text)), np.array(ids, np.int64), task.tokenizer
    )


def every_completion(task: Task, ids: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """All that can be written until EOS or the token limit."""
    if len(ids) == task.max_tokens or (ids and ids[-1] == task.tokenizer.eos_ids[0]):
        yield ids
        return
    for token in range(task.tokenizer.vocab_size):
        yield from every_completion(task, (*ids, token))


def check_laws(task: Task, solver: Callable[[str], str]) -> None:
    """The solver reaches the optimum, nothing else does, returns are in [0, 1], prefixes are paid alike.

    Args:
        task: A task with few, short prompts.
        solver: Answers a prompt's text, written in the test and not taken from the task.
    """
    v, eos = task.tokenizer.vocab_size, task.tokenizer.eos_ids[0]
    expected = []
    for prompt in task.prompts:
        completions = list(every_completion(task))
        rewards = task.reward([episode(task, prompt, list(ids)) for ids in completions])
        returns = rewards.totals
        assert returns.min() >= 0
        assert returns.max() == pytest.approx(task.optimum)
        best = completions[int(returns.argmax())]
        assert best == (*task.tokenizer.encode(solver(prompt.text)), eos)
        assert (returns > 1 - 1e-9).sum() == 1
        np.testing.assert_array_equal(rewards.terms["exact"], returns > 1 - 1e-9)
        expected.append(sum(float(v) ** -len(ids) * r for ids, r in zip(completions, returns, strict=True)))
    assert task.random_return == pytest.approx(np.mean(expected), rel=1e-12)


def check_causal(task: Task, seed: int = 0) -> None:
    """What a token earns does not depend on the tokens after it; the tokens' rewards make the return."""
    rng = np.random.default_rng(seed)
    assert task.reward.causal
    for prompt in list(task.prompts)[:20]:
        answer = task.tokenizer.encode(prompt.columns["answer"])
        noise = rng.integers(task.tokenizer.vocab_size, size=len(answer))
        ids = np.where(rng.random(len(answer)) < 0.5, answer, noise).tolist() + list(task.tokenizer.eos_ids)
        whole = task.reward([episode(task, prompt, ids)])
        assert whole.per_token is not None
        assert whole.values[0] == 0
        assert whole.totals[0] == pytest.approx(whole.per_token[0].sum())
        for length in range(1, len(ids)):
            part = task.reward([episode(task, prompt, ids[:length])])
            assert part.per_token is not None
            np.testing.assert_array_equal(part.per_token[0], whole.per_token[0][:length])


def check_split(task: Task) -> None:
    """Prompts are distinct, halves disjoint, and every prompt is within the vocabulary."""
    train, held_out = {p.text for p in task.prompts}, {p.text for p in task.held_out}
    assert len(train) == len(task.prompts)
    assert not train & held_out
    assert len(held_out) == (len(train) + len(held_out)) // 5
    for prompt in [*task.prompts, *task.held_out]:
        answer = task.tokenizer.encode(prompt.columns["answer"])
        assert task.tokenizer.encode(prompt.text)
        assert len(answer) < task.max_tokens
        assert task.tokenizer.vocab_size - 1 not in answer
