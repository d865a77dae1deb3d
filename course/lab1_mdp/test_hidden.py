"""Hidden tests of lab 1: the laws of the public ones with other sizes, an environment, and a transformer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from course.checks import close, true
from course.lab1_mdp import test_lab as public
from text_gym import TextVectorEnv
from text_gym.agents import Policy, trajectory_log_probs
from text_gym.tasks.enumerable import enumerable, trajectories


def test_steps_are_those_of_the_environment(lab: Any, seed: int) -> None:
    """The package's environment and yours play the same random tokens."""
    task = enumerable("abcd", 4, seed)
    env = TextVectorEnv(task=task, num_envs=1)
    eos = task.tokenizer.eos_ids[0]
    rng = np.random.default_rng(seed)
    for episode in range(8):
        env.reset(seed=seed + episode)
        state: tuple[int, ...] = ()
        ended = False
        while not ended:
            action = int(rng.integers(task.tokenizer.vocab_size))
            _, _, terminated, truncated, _ = env.step(np.array([action]))
            ended = bool(terminated[0] or truncated[0])
            before = state
            state, done = lab.step(before, action, eos, task.max_tokens)
            true(
                tuple(state) != (action,) or not before,
                "step forgets what was written: the state is the whole text so far, or it is not Markov",
            )
            true(tuple(state) == (*before, action), f"step from {before} by {action} is {state!r}: EOS and "
                 "every other token is appended")  # fmt: skip
            why = (
                "EOS ends a text"
                if action == eos
                else "the limit ends a text of max_tokens tokens, not before"
            )
            true(bool(done) == ended, f"after {state} the text is {'' if ended else 'not '}finished: {why}")


def test_steps_of_the_shortest_texts(lab: Any, seed: int) -> None:
    _, done = lab.step((), 0, 3, 1)
    true(bool(done), "with a limit of 1 token every text is finished after one")
    public.test_a_text_ends_with_eos(lab, seed)
    public.test_a_text_ends_at_the_limit(lab, seed)


def test_texts_of_other_worlds(lab: Any, seed: int) -> None:
    public.test_forty_texts_can_be_written(lab, seed, "ab", 5)
    public.test_forty_texts_can_be_written(lab, seed, "a", 1)


def test_eos_may_be_any_token(lab: Any, seed: int) -> None:
    found = {tuple(text) for text in lab.every_text(3, 0, 2)}
    right = {(0,), *((a, b) for a in (1, 2) for b in range(3))}
    true(found == right, f"with EOS = 0 every_text lists {sorted(found)[:8]}; EOS need not be the last id")


def test_log_softmax_of_other_shapes(lab: Any, seed: int) -> None:
    public.test_log_softmax_is_normalised_over_the_last_axis(lab, seed, (5, 5))
    public.test_log_softmax_is_normalised_over_the_last_axis(lab, seed, (7,))
    public.test_log_softmax_does_not_overflow(lab, seed)


def test_log_probs_of_other_batches(lab: Any, seed: int) -> None:
    public.test_log_probs_of_a_batch(lab, seed, 9, 14, 3)
    public.test_the_logits_at_a_token_are_about_the_next(lab, seed)


def test_log_probs_of_a_transformer_are_its_trajectories(lab: Any, seed: int) -> None:
    """From the logits of a network you get what the package's `trajectory_log_probs` says."""
    task = enumerable("abc", 3, seed)
    policy = Policy.new(
        task.tokenizer, width=8, layers=1, heads=2, context=8, seed=seed, device="cpu"
    ).double()
    texts = trajectories(task)
    _, tokens, starts, lengths, _ = public.written(task, seed)
    with torch.no_grad():
        logits = policy.model(input_ids=torch.from_numpy(tokens)).logits.numpy()
        right = trajectory_log_probs(policy, texts, temperature=0.8)
    close(
        np.sum(lab.token_log_probs(logits, tokens, starts, lengths, 0.8), axis=1),
        right,
        "your log-probabilities of whole texts of a transformer",
        hint="the sum over tokens is that of the whole text",
        rtol=1e-6,
    )


def test_probabilities_add_up_on_larger_worlds(lab: Any, seed: int) -> None:
    public.test_the_probabilities_of_all_texts_add_up_to_one(lab, seed + 1, "ab", 5)


def test_the_random_policy_on_shorter_strings(lab: Any, seed: int) -> None:
    public.test_the_random_policy_on_reverse_earns_what_is_known(lab, seed, 3)


def test_expected_returns(lab: Any, seed: int) -> None:
    public.test_the_expected_return_weighs_texts_with_their_probabilities(lab, seed)


def test_discounted_returns_by_their_definition(lab: Any, seed: int) -> None:
    rewards = np.random.default_rng(seed).normal(size=12)
    for gamma in (0.9, 0.0, 1.0):
        powers = gamma ** np.arange(12.0)
        right = [float(powers[: 12 - t] @ rewards[t:]) for t in range(12)]
        close(
            lab.discounted_returns(rewards, gamma),
            right,
            f"your returns with γ = {gamma}",
            mistakes={
                "you add up what came before a token; it cannot have caused that":
                    [float(powers[: t + 1] @ rewards[t::-1]) for t in range(12)],
                "you discount from the start of the text; a token's own reward counts in full":
                    [float(powers[t:] @ rewards[t:]) for t in range(12)],
                "you leave out a token's own reward": np.array(right) - rewards,
                "you ignore γ": np.cumsum(rewards[::-1])[::-1],
            },
        )  # fmt: skip


def test_values_of_another_world(lab: Any, seed: int) -> None:
    public.test_values_follow_bellmans_equation(lab, seed + 1, "ab", 4)
