"""Golden texts, which are to earn the most there is: does the reward pay other texts more?"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.sampling.together import remembers
from text_gym.episode import Episode, FloatArray, Prompt
from text_gym.errors import TextGymError
from text_gym.rewards.source import RewardSource
from text_gym.utils.display import harmless

from .gauges import WINDOW
from .metrics import Metrics

LOG = logging.getLogger("text_gym")
# By how much texts have to be paid more than golden ones: a share of what these were ahead of the policy's at
# first, since a learned reward is never exact, and standard errors of the reward's own noise, which are many,
# since it is known from few texts.
LEAD, NOISE = 0.5, 6.0
ENOUGH = 2  # prompts with such a text, in the last batches
MOST = 64  # golden texts of a batch that are scored, so that a slow reward is not asked for long

Key = tuple[str, str]


class GoldenTexts:
    """The golden texts of prompts, each written once.

    Args:
        write: Writes a completion, as `Task.golden`; prompts for which it raises a `TextGymError` have none.
    """

    def __init__(self, write: Callable[[Prompt], str]) -> None:
        self._write, self._written = write, dict[Key, Episode | None]()

    def of(self, episode: Episode) -> Episode | None:
        """Return the golden text of an episode's prompt, None if there is none."""
        key = key_of(episode)
        if key not in self._written:
            try:
                text = Episode.of(episode.prompt, self._write(episode.prompt), episode.tokenizer)
            except TextGymError:
                text = None
            self._written[key] = text
        return self._written[key]


class Overpayment:
    """Tells when a reward pays texts more than golden ones: what pays them is not what was meant.

    Args:
        reward: What is optimised. It scores each golden text once, at most 64 anew a batch, and those of the
            first batch twice, which tells its noise.
        golden: The golden texts.

    Attributes:
        lead: What golden texts were ahead of the policy's in the first batch; None until some are known.
        noise: Standard deviation of the difference of two scores of a text.
        recent: Prompts of the last batches with a text paid so.
        excess: By how much the best paid text of the last batch exceeds its golden one.
    """

    def __init__(self, reward: RewardSource, golden: GoldenTexts) -> None:
        self._reward, self._golden = reward, golden
        self._rewards = dict[Key, float]()  # NaN where there is no golden text
        self.lead: float | None = None
        self.noise = 0.0
        self.recent: list[int] = []
        self.excess = 0.0

    def look(self, batch: Rollout) -> Metrics:
        """Compare a batch with golden texts.

        Args:
            batch: What was played; the first one by the policy as it was before training.

        Returns:
            `overpaid`, the share of texts, unless there is nothing to compare with.
        """
        keys = [key_of(e) for e in batch.episodes]
        self._score(dict(zip(keys, batch.episodes, strict=True)))
        golden = np.array([self._rewards.get(key, math.nan) for key in keys])
        ahead = batch.scores.totals_or_nan - golden
        known = batch.scored.numpy() & ~np.isnan(ahead)
        if not known.any():
            return {}
        self.excess = float(ahead[known].max())
        if self.lead is None:
            self.lead = max(-float(ahead[known].mean()), 0.0)
        ahead -= LEAD * self.lead + 1e-9 * (1 + np.abs(golden))
        count = len({key for key, k in zip(keys, known, strict=True) if k})
        # Noise that hides how a text is paid cancels out in the mean.
        many = ahead[known].mean() > NOISE * self.noise / math.sqrt(count)
        over = known & (ahead > (0 if many else NOISE * self.noise))
        prompts = {key for key, o in zip(keys, over, strict=True) if o}
        self.recent = [*self.recent, len(prompts)][-WINDOW:]
        return {"overpaid": float(over.sum() / known.sum())}

    def _score(self, prompts: Mapping[Key, Episode]) -> None:
        """Score golden texts of prompts that have not been seen; at first twice, which tells the noise."""
        fresh = [key for key in prompts if key not in self._rewards][:MOST]
        self._rewards.update(dict.fromkeys(fresh, math.nan))
        texts = {key: text for key in fresh if (text := self._golden.of(prompts[key])) is not None}
        totals = self._totals(list(texts.values()))
        self._rewards.update(zip(texts, totals.tolist(), strict=True))
        if self.lead is None:
            off = totals - self._totals(list(texts.values()))
            off = off[~np.isnan(off)]
            self.noise = math.sqrt(float(off @ off) / max(1, len(off)))

    def _totals(self, texts: Sequence[Episode]) -> FloatArray:
        """Return the rewards of texts, `(n,)`, NaN for those that it does not judge or fails on."""
        if not texts:
            return np.zeros(0)
        try:
            return self._reward(texts).totals_or_nan
        except TextGymError as error:  # nobody has to train on golden texts
            LOG.warning("golden texts could not be scored: %s", harmless(str(error)))
            return np.full(len(texts), math.nan)

    @property
    def found(self) -> bool:
        """True while texts of several prompts are overpaid."""
        return sum(self.recent) >= ENOUGH

    def state_dict(self) -> dict[str, Any]:
        """Return what was learnt from batches, as plain JSON data; golden texts are scored again."""
        return {"lead": self.lead, "noise": self.noise, "recent": self.recent, "excess": self.excess}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.lead, self.noise = state["lead"], state["noise"]
        self.recent, self.excess = list(state["recent"]), state["excess"]

    def __str__(self) -> str:
        batches = "this batch" if len(self.recent) == 1 else f"the last {len(self.recent)} batches"
        return (
            f"texts of {sum(self.recent)} prompts earned more than golden ones in {batches}, "
            f"by up to {self.excess:.3g}"
        )


def may_score_golden_texts(reward: RewardSource) -> bool:
    """Return True if asking about texts that nobody learns from costs nothing and leaves no trace."""
    alone = reward.batch_invariant is not False and not remembers(reward)
    return alone and not reward.interactive and not reward.costly


def key_of(episode: Episode) -> Key:
    """Return what tells an episode's prompt from others: its text, and what else it says."""
    return episode.prompt.text, repr(dict(episode.prompt.columns))
