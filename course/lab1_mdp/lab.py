"""Lab 1: text as a Markov decision process. Fill in the functions; `README.md` says what each has to be.

`B` texts, `S` tokens of prompt and completion, `T` of the completion, `V` token ids, `N` all texts there are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Text = tuple[int, ...]  # token ids, EOS included


def step(completion: Text, action: int, eos: int, max_tokens: int) -> tuple[Text, bool]:
    """Take one step of the decision process of text.

    Args:
        completion: The tokens so far, of a text that is not finished.
        action: The next token.
        eos: The token that ends a text.
        max_tokens: A text of so many tokens is finished, EOS counted.

    Returns:
        The tokens after the action, and whether the text is finished.
    """
    # BEGIN SOLUTION
    grown = (*completion, action)
    return grown, action == eos or len(grown) == max_tokens
    # END SOLUTION


def every_text(vocab_size: int, eos: int, max_tokens: int) -> list[Text]:
    """List every finished text, each once, in any order.

    Args:
        vocab_size: `V`; the tokens are 0, 1, …, V − 1.
        eos: The token that ends a text.
        max_tokens: A text of so many tokens is finished, EOS counted.
    """
    # BEGIN SOLUTION
    finished: list[Text] = []
    running: list[Text] = [()]
    for _ in range(max_tokens):
        longer: list[Text] = []
        for text in running:
            for action in range(vocab_size):
                grown, done = step(text, action, eos, max_tokens)
                (finished if done else longer).append(grown)
        running = longer
    return finished
    # END SOLUTION


def log_softmax(logits: Floats) -> Floats:
    """Turn logits into log-probabilities, in nats, without overflow.

    Args:
        logits: `(..., V)`.

    Returns:
        `(..., V)`; over the last axis the probabilities add up to 1.
    """
    # BEGIN SOLUTION
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
    # END SOLUTION


def token_log_probs(
    logits: Floats, tokens: Ints, starts: Ints, lengths: Ints, temperature: float = 1.0
) -> Floats:
    """Look up the log-probability of every token that was written.

    Args:
        logits: `(B, S, V)`, what a language model says at every token: at token i, about token i + 1.
        tokens: `(B, S)`, prompt and completion without a gap, then padding.
        starts: `(B,)`, lengths of the prompts, at least 1.
        lengths: `(B,)`, lengths of the completions, EOS included.
        temperature: Tokens are drawn from softmax(logits / temperature).

    Returns:
        `(B, T)`, nats, `T` the longest completion; 0 after a completion's end.
    """
    # BEGIN SOLUTION
    said = log_softmax(logits / temperature)
    found = np.zeros((len(tokens), int(lengths.max())))
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        for t in range(length):
            place = start + t
            found[row, t] = said[row, place - 1, tokens[row, place]]
    return found
    # END SOLUTION


def expected_return(log_probs: Floats, returns: Floats) -> float:
    """Compute what a policy earns on average.

    Args:
        log_probs: `(N,)`, nats, of every text that it can write.
        returns: `(N,)`, of these texts.
    """
    # BEGIN SOLUTION
    return float(np.exp(log_probs) @ returns)
    # END SOLUTION


def discounted_returns(rewards: Floats, gamma: float) -> Floats:
    """Compute, for every token, its reward and the later ones, each discounted by how much later it is.

    Args:
        rewards: `(T,)`.
        gamma: γ in [0, 1].

    Returns:
        `(T,)`.
    """
    # BEGIN SOLUTION
    found = np.zeros(len(rewards))
    following = 0.0
    for t in reversed(range(len(rewards))):
        following = rewards[t] + gamma * following
        found[t] = following
    return found
    # END SOLUTION


def state_values(texts: list[Text], log_probs: Floats, returns: Floats) -> dict[Text, float]:
    """Compute the value of every state: what the policy earns on average from there on.

    All reward is paid at the end of a text here, so that is the mean return of the texts that go through it.

    Args:
        texts: All `N` finished texts.
        log_probs: `(N,)`, nats, of whole texts.
        returns: `(N,)`.

    Returns:
        Tokens so far -> value, for every beginning of a text that is not finished, from the empty one on.
    """
    # BEGIN SOLUTION
    mass: dict[Text, float] = {}
    paid: dict[Text, float] = {}
    for text, probability, reward in zip(texts, np.exp(log_probs), returns, strict=True):
        for t in range(len(text)):
            state = text[:t]
            mass[state] = mass.get(state, 0.0) + float(probability)
            paid[state] = paid.get(state, 0.0) + float(probability * reward)
    return {state: paid[state] / mass[state] for state in mass}
    # END SOLUTION
