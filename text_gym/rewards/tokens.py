"""Rewards that are paid token by token, checked as they come."""

from __future__ import annotations

import numpy as np

from text_gym.episode import FloatArray
from text_gym.errors import RewardError, TextGymError
from text_gym.utils.user_code import where_raised

from .source import RewardSource
from .values import _LARGEST, Rewards, TokenBatch, _all_finite, _bad


def checked_tokens(source: RewardSource, batch: TokenBatch) -> FloatArray:
    """Call `source.token_rewards(batch)` and check it; a bad reward that is dropped pays 0.

    Raises:
        RewardError: Another number of rewards than tokens, or one that is not finite.
    """
    try:
        rewards = np.asarray(source.token_rewards(batch), dtype=np.float64)
    except TextGymError:
        raise
    except (Exception, SystemExit) as error:
        raise RewardError(
            f"reward {source.name!r} raised {type(error).__name__}: {error}{where_raised(error)} "
            f"(token rewards of {len(batch.tokens)} running episodes)"
        ) from error
    if rewards.shape != batch.tokens.shape:
        raise RewardError(
            f"reward {source.name!r} returned token rewards of shape {rewards.shape} for "
            f"{len(batch.tokens)} running episodes"
        )
    if not _all_finite(rewards):
        bad = ~(np.abs(rewards) <= _LARGEST)
        if batch.on_bad_reward == "raise":
            i = int(np.flatnonzero(bad)[0])
            raise _bad(source, batch.episodes()[i], i, f"has the token reward {rewards[i]}")
        rewards = np.where(bad, 0.0, rewards)
    return rewards


def still_owed(scores: Rewards, paid: FloatArray) -> FloatArray:
    """Return what is owed on last tokens, `(n,)`, after so much was paid on those before them."""
    if scores.per_token is None:
        return scores.values - paid
    last = np.array([tokens[-1] for tokens in scores.per_token])
    # Summed in the order of the steps, so that equal payments have equal sums.
    earlier = np.array([np.cumsum(np.append(0.0, tokens[:-1]))[-1] for tokens in scores.per_token])
    left: FloatArray = scores.values + last - (paid - earlier)
    return left
