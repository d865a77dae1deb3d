"""Rollouts in parts, for accelerators whose memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch

from text_gym.agents.policies.memory import smaller
from text_gym.agents.policies.policy import Policy
from text_gym.episode import IntArray

# Rows that a policy plays at once, where more of them did not fit into an accelerator's memory.
_FITTING: WeakKeyDictionary[Policy, int] = WeakKeyDictionary()


def in_parts(
    policy: Policy,
    rows: IntArray,
    tokens: int,
    play: Callable[[IntArray], None],
    *,
    again: Callable[[IntArray], None],
) -> None:
    """Play rows all at once; where memory runs out, in halves, and in parts of that size from then on.

    An episode does not depend on which others are played beside it, so every part may be played again.

    Args:
        policy: Who plays.
        rows: `(n,)` int64.
        tokens: Most of a row, for the error.
        play: Plays some of the rows, which have begun.
        again: Begins some of the rows again, of which a part may have been played.

    Raises:
        ConfigError: There is not enough memory for a single row.
    """
    waiting = [rows]
    while waiting:
        part, most = waiting.pop(), _FITTING.get(policy, len(rows))
        if len(part) > most:
            waiting += [part[i : i + most] for i in range(0, len(part), most)][::-1]
            continue
        try:
            play(part)
            continue
        except torch.OutOfMemoryError as error:
            _FITTING[policy] = smaller(len(part), tokens, error)
        again(part)
        waiting.append(part)
        if policy.device.type == "cuda":  # only after the error and everything its frames hold are gone
            torch.cuda.empty_cache()
