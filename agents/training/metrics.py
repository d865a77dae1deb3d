"""Metrics of an iteration, from the batch, the update and the clock."""

from __future__ import annotations

import numpy as np

from text_gym.agents.sampling.rollout import Rollout
from text_gym.episode import FloatArray, share_cut

Metrics = dict[str, float]
# Metrics that depend on the machine; all others repeat exactly when a run is repeated.
TIMES = frozenset({"seconds", "rollout_seconds", "tokens_per_second", "memory_mib"})


def rollout_metrics(batch: Rollout) -> Metrics:
    """Summarise a batch for the logs: reward, its terms, lengths, and how episodes ended.

    Rewards are of the episodes that were paid; `truncated` is the share of texts that the limit cut, paid or
    not.
    """
    scores = batch.scores
    judged = batch.scored.cpu().numpy()
    metrics = {
        "reward": float(scores.totals[judged].mean()) if judged.any() else float("nan"),
        "reward_std": float(scores.totals[judged].std()) if judged.any() else float("nan"),
        "abstained": int(scores.abstained.sum()),
        "length": float(batch.lengths.float().mean()),
        "length_max": int(batch.lengths.max()),
        "truncated": share_cut(batch.episodes),
        "eos": sum(e.finish_reason == "eos" for e in batch.episodes) / len(batch.episodes),
    }
    return metrics | {f"reward/{name}": _mean_of_numbers(term) for name, term in scores.terms.items()}


def _mean_of_numbers(term: FloatArray) -> float:
    """Average a reward term, leaving out NaN, which marks episodes on which a part abstained."""
    known = term[~np.isnan(term)]
    return float(known.mean()) if len(known) else float("nan")
