"""Public tests of lab 1: every function against what can be counted, listed or added up by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from course.checks import Array, close, true
from text_gym import load_task
from text_gym.tasks.enumerable import enumerable, trajectories
from text_gym.tasks.task import Task

EOS = 3


# step, every_text


def test_a_step_appends_its_token(lab: Any, seed: int) -> None:
    state, done = lab.step((0, 2), 1, EOS, 5)
    true(
        tuple(state) != (1,),
        "step forgets what was written: the state is the whole text so far, or it is not Markov",
    )
    true(tuple(state) == (0, 2, 1), f"step from (0, 2) by token 1 leads to {state!r}; it must be (0, 2, 1)")
    true(not done, "step ends the text (0, 2, 1), though it has no EOS and the limit is 5 tokens")


def test_a_text_ends_with_eos(lab: Any, seed: int) -> None:
    state, done = lab.step((0,), EOS, EOS, 5)
    true(bool(done), "step goes on after EOS: EOS is the action that ends a text")
    true(
        tuple(state) == (0, EOS), f"EOS is a token like others and belongs to the text; you return {state!r}"
    )


def test_a_text_ends_at_the_limit(lab: Any, seed: int) -> None:
    for length in range(1, 5):
        _, done = lab.step((0,) * (length - 1), 1, EOS, 4)
        when = "too late" if length == 4 else "too early"
        true(
            bool(done) == (length == 4),
            f"the limit is 4 tokens; a text of {length} tokens is {'' if done else 'not '}finished for you, "
            f"so the limit comes {when}",
        )


def test_forty_texts_can_be_written(lab: Any, seed: int, symbols: str = "abc", max_tokens: int = 3) -> None:
    task = enumerable(symbols, max_tokens, seed)
    eos = task.tokenizer.eos_ids[0]
    found = [tuple(text) for text in lab.every_text(task.tokenizer.vocab_size, eos, max_tokens)]
    right = {tuple(text.completion_ids.tolist()) for text in trajectories(task)}
    true(len(set(found)) == len(found), "every_text lists a text twice")
    true(
        all(eos not in text[:-1] for text in found),
        "every_text goes on after EOS: such a text was finished before",
    )
    cut = {text for text in right if text[-1] != eos}
    true(
        not cut or bool(cut & set(found)),
        f"every_text forgets the texts that the limit cuts: {max_tokens} tokens without EOS are finished too",
    )
    true(
        all(len(text) == max_tokens or text[-1] == eos for text in found),
        "every_text lists texts that are not finished",
    )
    true(set(found) == right, f"every_text lists {len(found)} texts; there are {len(right)}")


# log_softmax, token_log_probs


def test_log_softmax_is_normalised_over_the_last_axis(
    lab: Any, seed: int, shape: Sequence[int] = (2, 3, 4)
) -> None:
    logits = np.random.default_rng(seed).normal(size=shape)
    close(
        lab.log_softmax(logits),
        torch.log_softmax(torch.from_numpy(logits), -1),
        "your log_softmax",
        mistakes={
            "you normalise over the first axis; tokens are on the last axis": torch.log_softmax(
                torch.from_numpy(logits), 0
            ),
            "these are probabilities; take the logarithm": torch.softmax(torch.from_numpy(logits), -1),
        },
        hint="the probabilities add up to 1 over the last axis, in every row of its own",
    )


def test_log_softmax_does_not_overflow(lab: Any, seed: int) -> None:
    with np.errstate(all="ignore"):
        found = lab.log_softmax(np.array([1000.0, 0.0, -1000.0]))
    close(
        found,
        [0.0, -1000.0, -2000.0],
        "your log_softmax of 1000, 0, −1000",
        hint="exp(1000) is infinite: take the largest logit off first, or there is an overflow",
    )


def test_the_logits_at_a_token_are_about_the_next(lab: Any, seed: int) -> None:
    """Three tokens, a prompt of one; the table of logits has log-probabilities that are easy to read."""
    said = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]]]))
    tokens = np.array([[2, 1, 0]])
    close(
        lab.token_log_probs(said, tokens, np.array([1]), np.array([2])),
        np.log([[0.25, 0.1]]),
        "your log-probabilities of tokens 1, 0 after prompt 2",
        mistakes={
            "you read the logits at the token itself; they stand one place earlier":
                np.log([[0.2, 0.3]]),
            "you count the prompt's tokens among the written ones": np.log([[0.25, 0.25]]),
            "the last token is missing; EOS is an action too, and has a probability": [[np.log(0.25), 0.0]],
        },
    )  # fmt: skip


def batch(seed: int, rows: int, width: int, vocab: int) -> tuple[Array, Any, Any, Any]:
    """Draw a batch of logits and tokens with prompts and completions of all lengths."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(1, 4, rows)
    lengths = rng.integers(1, width - 3, rows)
    starts[0], lengths[0], lengths[-1] = 1, width - 4, 1
    return rng.normal(size=(rows, width, vocab)), rng.integers(0, vocab, (rows, width)), starts, lengths


def test_log_probs_of_a_batch(lab: Any, seed: int, rows: int = 4, width: int = 9, vocab: int = 5) -> None:
    logits, tokens, starts, lengths = batch(seed, rows, width, vocab)
    widest = int(lengths.max())

    def table(
        said: torch.Tensor, shift: int = 1, *, all_tokens: bool = False, less: int = 0, prompt: bool = False
    ) -> Array:
        found = np.zeros((rows, widest))
        for i in range(rows):
            for t in range(widest if all_tokens else lengths[i] - less):
                at = min((1 if prompt else starts[i]) + t, width - 1)
                found[i, t] = float(said[i, at - shift, tokens[i, at]])
        return found

    scores = torch.from_numpy(logits)
    for temperature in (1.0, 0.5):
        right = torch.log_softmax(scores / temperature, -1)
        warm = f"your log-probabilities at temperature {temperature}"
        close(
            lab.token_log_probs(logits, tokens, starts, lengths, temperature),
            table(right),
            warm,
            mistakes={
                "you read padding: after a completion's end the log-probability is 0": table(
                    right, all_tokens=True
                ),
                "you read the logits at the token itself; they stand one place earlier": table(right, 0),
                "the last token is missing; EOS is an action too, and has a probability": table(
                    right, less=1
                ),
                "you count the prompt's tokens among the written ones": table(right, prompt=True),
                "you ignore the temperature": table(torch.log_softmax(scores, -1)),
                "you multiply by the temperature; logits are divided by it": table(
                    torch.log_softmax(scores * temperature, -1)
                ),
                "the temperature belongs to the logits; you divide log-probabilities by the temperature, and "
                "the probabilities no longer add up to 1": table(torch.log_softmax(scores, -1) / temperature),
            },
        )


def written(task: Task, seed: int) -> tuple[Array, Any, Any, Any, Array]:
    """Everything that can be written after the task's prompt, with random logits: a state's are its own."""
    texts = trajectories(task)
    rng = np.random.default_rng(seed)
    table: dict[tuple[int, ...], Array] = {}
    starts = np.array([len(text.prompt_ids) for text in texts])
    lengths = np.array([len(text.completion_ids) for text in texts])
    width = int((starts + lengths).max())
    tokens = np.zeros((len(texts), width), dtype=np.int64)
    logits = rng.normal(size=(len(texts), width, task.tokenizer.vocab_size))
    for row, text in enumerate(texts):
        ids = [*text.prompt_ids.tolist(), *text.completion_ids.tolist()]
        tokens[row, : len(ids)] = ids
        for place in range(starts[row] - 1, len(ids) - 1):
            drawn: Array = rng.normal(size=logits.shape[-1:])
            logits[row, place] = table.setdefault(tuple(ids[: place + 1]), drawn)
    return logits, tokens, starts, lengths, task.reward(texts).values


def test_the_probabilities_of_all_texts_add_up_to_one(
    lab: Any, seed: int, symbols: str = "abc", max_tokens: int = 3
) -> None:
    logits, tokens, starts, lengths, _ = written(enumerable(symbols, max_tokens, seed), seed)
    for temperature in (1.0, 0.7):
        by_token = lab.token_log_probs(logits, tokens, starts, lengths, temperature)
        close(
            np.exp(np.sum(by_token, axis=1)).sum(),
            1.0,
            f"the sum of the probabilities of all {len(tokens)} texts at temperature {temperature}",
            hint="is every token of a text counted, once, and nothing else?",
        )


# expected_return, discounted_returns, state_values


def test_the_expected_return_weighs_texts_with_their_probabilities(lab: Any, seed: int) -> None:
    log_probs, returns = np.log([0.5, 0.25, 0.25]), np.array([1.0, 0.0, 3.0])
    close(
        lab.expected_return(log_probs, returns),
        1.25,
        "your expected return of 1, 0, 3 with probabilities ½, ¼, ¼",
        mistakes={
            "it is the plain mean: texts count by their probabilities": 4 / 3,
            "it weighs with log-probabilities: take the exponential": float(log_probs @ returns),
        },
    )


def test_the_random_policy_on_reverse_earns_what_is_known(lab: Any, seed: int, length: int = 4) -> None:
    """Every token with equal probability: (1 − (1 − 1/V)^(length + 1)) / (length + 1), 0.1525 for 4."""
    task = load_task("reverse", length=length)
    texts = trajectories(task)
    log_probs = -np.array([len(text.completion_ids) for text in texts]) * np.log(task.tokenizer.vocab_size)
    returns = task.reward(texts).totals
    close(
        lab.expected_return(log_probs, returns),
        (1 - 0.75 ** (length + 1)) / (length + 1),
        "your expected return of the random policy on reverse",
        mistakes={"it is the plain mean: texts count by their probabilities": returns.mean()},
    )


def test_later_rewards_are_discounted_by_how_much_later_they_are(lab: Any, seed: int) -> None:
    rewards = np.array([1.0, 0.0, 4.0])
    close(
        lab.discounted_returns(rewards, 0.5),
        [2.0, 2.0, 4.0],
        "your returns of rewards 1, 0, 4 with γ = ½",
        mistakes={
            "you add up what came before a token; it cannot have caused that": [1.0, 0.5, 4.25],
            "you discount from the start of the text; a token's own reward counts in full": [2.0, 1.0, 1.0],
            "you leave out a token's own reward": [1.0, 2.0, 0.0],
            "you ignore γ": [5.0, 4.0, 4.0],
        },
    )


def test_values_follow_bellmans_equation(
    lab: Any, seed: int, symbols: str = "abc", max_tokens: int = 3
) -> None:
    """V(s) = Σ_a π(a|s) V(s, a), from the longest states to the empty one."""
    task = enumerable(symbols, max_tokens, seed)
    texts = [tuple(text.completion_ids.tolist()) for text in trajectories(task)]
    returns = task.reward(trajectories(task)).values
    rng = np.random.default_rng(seed)
    value = dict(zip(texts, returns.tolist(), strict=True))
    states = sorted({text[:t] for text in texts for t in range(len(text))}, key=lambda s: (-len(s), s))
    chances = {state: rng.dirichlet(np.ones(task.tokenizer.vocab_size)) for state in states}
    for state in states:
        value[state] = float(sum(p * value[(*state, a)] for a, p in enumerate(chances[state])))
    log_probs = np.array([sum(np.log(chances[y[:t]][y[t]]) for t in range(len(y))) for y in texts])
    found = lab.state_values(texts, log_probs, returns)
    true(isinstance(found, dict), "state_values must return a mapping from states to values")
    found = {tuple(state): v for state, v in found.items()}
    true(
        not set(found) & set(texts),
        "a finished text is no state of which a value is asked: nothing comes after it",
    )
    missing = [state for state in states if state not in found]
    true(not missing, f"the value of {len(missing)} states is missing, among them that of {missing[:1]}")
    paid = np.exp(log_probs) * returns
    joint = {s: sum(r for y, r in zip(texts, paid, strict=True) if y[: len(s)] == s)
             for s in states}  # fmt: skip
    plain = {s: np.mean([r for y, r in zip(texts, returns, strict=True) if y[: len(s)] == s]) for s in states}
    close(
        [found[state] for state in states],
        [value[state] for state in states],
        "your values",
        mistakes={
            "you do not divide by the probability of getting into the state: a value is conditional on it":
                [joint[state] for state in states],
            "they are plain means: texts count by their probabilities": [plain[state] for state in states],
        },
    )  # fmt: skip
