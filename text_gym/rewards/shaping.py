"""Potential-based shaping pays progress as it is made, without changing which policy is best.

Ng, Harada and Russell (1999). Anything that scores half a text can be a potential; nothing is learnt here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from text_gym.episode import Episode, FloatArray

from .source import Composite, Source
from .values import OnBadReward, Rewards, TokenBatch


class Shaped(Composite):
    """A reward with `γ Φ(s') − Φ(s)` paid on every token, where `Φ` is a potential of the text so far.

    The state after the end has potential 0, whatever the text says, so an episode's discounted shaping sums
    to `−Φ(prompt)`: the same for all completions of a prompt. Returns differ by a constant and best policies
    do not; with `γ < 1`, use the agent's. An end is EOS, a stop string, or a token limit that belongs to the
    task (`limit="end"`). Under `limit="truncate"` the text goes on as far as the potential is concerned, and
    the last token earns `γ Φ(s') − Φ(s)` like any other. The potential sees every prefix with `finish_reason`
    None.

    Args:
        source: The reward proper; paid at the end.
        potential: Scores prefixes (a `RewardSource`'s total, or a function of text); deterministic.
        gamma: γ, the discount of the agent.

    >>> from text_gym import ByteTokenizer, as_reward_source
    >>> source = Shaped(lambda completion: 1.0, potential=lambda completion: len(completion))
    >>> [tokens.tolist() for tokens in source([Episode.of("Say hi:", "hi", ByteTokenizer())]).per_token]
    [[1.0, 1.0, -2.0]]
    """

    def __init__(self, source: Source, potential: Source, gamma: float = 1.0) -> None:
        super().__init__({"reward": source, "potential": potential}, name="shaped")
        self.gamma = gamma
        self.causal = True  # the potential of a prefix does not depend on what follows

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Pay the reward's totals at the end, and the shaping on each token."""
        done = [e for e in episodes if e.done]
        proper = self.parts["reward"](done, on_bad_reward)
        values, abstained = np.zeros(len(episodes)), np.zeros(len(episodes), dtype=np.bool_)
        over = np.array([e.done for e in episodes])
        values[over], abstained[over] = proper.totals, proper.abstained

        prefixes = [_prefix(e, t) for e in episodes for t in range(len(e.completion_ids) + 1)]
        potentials = self.parts["potential"](prefixes, on_bad_reward).totals
        per_token: list[FloatArray] = []
        first = 0
        for e in episodes:
            phi = potentials[first : first + len(e.completion_ids) + 1].copy()
            first += len(phi)
            if e.done:
                phi[-1] = 0.0
            per_token.append(self.gamma * phi[1:] - phi[:-1])
        terms = {} if len(done) < len(episodes) else dict(proper.terms)
        return Rewards(values, tuple(per_token), terms, abstained)

    def token_rewards(self, batch: TokenBatch) -> FloatArray:
        """Compute the shaping of the newest tokens, from two prefixes each."""
        episodes = batch.episodes()  # their potential is that of a text that goes on
        lengths = [len(e.completion_ids) for e in episodes]
        before = [_prefix(e, n - 1) for e, n in zip(episodes, lengths, strict=True)]
        phi = self.parts["potential"]([*episodes, *before], batch.on_bad_reward).totals
        shaping: FloatArray = self.gamma * phi[: len(episodes)] - phi[len(episodes) :]
        return shaping


def _prefix(episode: Episode, tokens: int) -> Episode:
    return replace(episode, completion_ids=episode.completion_ids[:tokens], finish_reason=None, stop="")
