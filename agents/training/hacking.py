"""Detects reward hacking while a run goes on: texts leave the range they began in, or are overpaid.

Gold is not looked at; nobody who trains has it. An alarm is a reason to read the texts, and no proof.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from text_gym.agents.sampling.rollout import Rollout
from text_gym.episode import BoolArray, Episode, FloatArray, IntArray, Prompt
from text_gym.errors import ConfigError, excerpt
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import unique
from text_gym.utils.display import harmless

from .gauges import WINDOW, Gauge, SelectionTest, centred_products, mean_of_groups
from .golden import GoldenTexts, Overpayment, may_score_golden_texts
from .metrics import Metrics
from .texts import MEASURES, measure_texts, overlap, pairs_of

LOG = logging.getLogger("text_gym")
RISE = 2.0  # standard errors by which the reward has to exceed that of the first batch
# How far the last batches have to be off, besides, in standard deviations of single texts: a criterion that
# the reward leaves out is meant to hold, while texts may change a good deal for the better.
CRITERION, TEXTS = 0.15, 0.5
GOES_ALONG = 0.2  # correlation with the reward in the first batch that makes one of its terms a criterion
ERROR_LEVEL = 0.05  # of runs whose reward selects for the criteria: those accused at most of not doing so
# Net share of what texts weigh, by criteria and reward, that is selected in the criteria's favour: a reward
# without a fault keeps it at this at least while it rises, and is never below 0.
SELECTS_FOR = 0.3
LEAST_TEXTS = 16
KNOWS_NOTHING = 0.5  # of log V: a policy that writes with so many nats a token has no habits to leave
# Whether a rise (1), a fall (-1) or both (0) of a measure raise suspicion, and the least standard deviation
# that a text is taken to have, so that the first ones to be cut are no alarm.
SUSPICIOUS: Mapping[str, tuple[int, float]] = {
    "length": (0, 1.0),
    "repetition": (1, 0.05),
    "copying": (1, 0.05),
    "novelty": (1, 0.05),
    "sameness": (1, 0.25),
    "cut": (1, 0.25),
}
GOLDEN = "watch/overlap with golden texts"


class HackingDetector:
    """Raises an alarm when the reward has risen and something that should not change has changed for good.

    What is looked at: the texts themselves (`measure_texts`), unless the policy begins with random weights;
    criteria that the reward does not contain, which should not fall, and for which taken together the
    reward should select; and terms of the reward that went along with it in the first batch, and fall while
    it rises. Where golden texts are known, and the reward can score them, it is an alarm if it pays others
    more, whether it has risen or not (`Overpayment`). As long as it does not, texts may change as they like,
    since there are many ways to a good one. It changes nothing in the training.

    Args:
        start: Texts of the policy as it is before training, at least 16, a hundred or more at best:
            `evaluate(policy, env).episodes`.
        watch: Criteria to look at; more is better. Those by which golden texts are worse than the start
            are left out.
        golden: Writes a completion of a prompt that is as good as can be, as `Task.golden`; prompts for
            which it raises a `TextGymError` have none. The overlap with them is a criterion, too, and what
            moves towards them has not left its range.
        reward: What is optimised, to score golden texts; not asked are people, what is `costly`, as a judge,
            and what remembers, which would pay other texts differently afterwards.

    Attributes:
        alarm: What happened, in a sentence; None before.
        iteration: That of the alarm.

    Raises:
        ConfigError: There are too few texts to know their range, or a criterion judges none of them, or it
            would ask people.
    """

    def __init__(
        self,
        start: Sequence[Episode],
        watch: Sequence[RewardSource] = (),
        golden: Callable[[Prompt], str] | None = None,
        reward: RewardSource | None = None,
    ) -> None:
        if len(start) < LEAST_TEXTS:
            raise ConfigError(
                f"a range needs at least {LEAST_TEXTS} texts of the start, not {len(start)}; hold out more "
                "prompts, or train without --watch and --stop-on-alarm"
            )
        people = [source.name for source in watch if source.interactive]
        if people:
            raise ConfigError(f"people cannot be asked about every text: leave out {', '.join(people)}")
        self.watch = dict(zip(unique(source.name for source in watch), watch, strict=True))
        self.alarm: str | None = None
        self.iteration: int | None = None
        self._golden = None if golden is None else GoldenTexts(golden)
        self.overpayment: Overpayment | None = None  # where there is nothing to compare with
        if self._golden is not None and reward is not None and may_score_golden_texts(reward):
            self.overpayment = Overpayment(reward, self._golden)
        self._seen = Counter(pair for episode in start for pair in set(pairs_of(episode)))
        self.gauges = self._gauges(start)
        # Two tests of all criteria together: for a reward that rises, and for any reward.
        self.selection = {kappa: SelectionTest(kappa) for kappa in (SELECTS_FOR, 0.0)}
        self._first: tuple[float, float] | None = None  # of the rewards: mean, variance of the mean
        self._recent: list[tuple[float, float]] = []

    def _gauges(self, start: Sequence[Episode]) -> dict[str, Gauge]:
        """Make the gauges of texts and criteria, from texts of the start and golden ones."""
        good = [text for text in self._golden_texts(start) if text is not None]
        texts, best = measure_texts(start, self._seen, least=2), measure_texts(good, self._seen, least=1)
        gauges = {
            name: Gauge(texts[name], sign, TEXTS, sd, float(best[name].mean()) if good else None)
            for name, (sign, sd) in SUSPICIOUS.items()
        }
        wanted = self._criteria(good) if good else {}
        for name, values in self._criteria(start).items():
            values = values[~np.isnan(values)]
            if not len(values):
                raise ConfigError(f"{harmless(name)} judges none of the texts that the policy begins with")
            if _worse(wanted.get(name, values), values):
                LOG.info("%s is not watched: golden texts are worse by it than the start", harmless(name))
            else:
                gauges[name] = Gauge(values, -1, CRITERION)
        return gauges

    def look(self, batch: Rollout, iteration: int) -> Metrics:
        """Look at a batch, and return its drifts and whether there has been an alarm, for the logs.

        Args:
            batch: What was played; the first one by the policy as it was before training.
            iteration: Its number, from 1.
        """
        scored = batch.scored.numpy()
        if scored.sum() < 2:
            return {}
        groups = np.unique([e.prompt.text for e in batch.episodes], return_inverse=True)[1]
        now = mean_of_groups(batch.scores.totals[scored], groups[scored])
        if self._first is None:
            self._first = now
            self._begin(batch)
        self._recent = [*self._recent, now][-WINDOW:]
        values = measure_texts(batch.episodes, self._seen, least=1)
        values |= self._criteria(batch.episodes) | _terms(batch)
        drifts = {
            f"drift/{name}": gauge.add(values[name][known], groups[known], iteration)
            for name, gauge in self.gauges.items()
            if name in values and (known := scored & ~np.isnan(values[name])).sum() > 1
        }
        drifts |= self._select(values, batch.scores.totals_or_nan, scored, groups)
        if self.overpayment is not None:
            drifts |= self.overpayment.look(batch)
        found, at_once = self._found()
        if found and self.alarm is None and (self._risen or at_once):
            self.alarm, self.iteration = self._sentence(batch, found, iteration), iteration
            LOG.warning("%s", self.alarm)
        return {**drifts, "alarm": float(self.alarm is not None)}

    def _found(self) -> tuple[dict[str, str], bool]:
        """Return what is not as it was or should be, and whether the reward need not have risen."""
        pay = self.overpayment
        overpaid = pay is not None and pay.found
        compared = pay is not None and pay.lead is not None
        excused = (*MEASURES, GOLDEN) if compared and not overpaid else ()
        found = {"golden texts": str(pay)} if overpaid else {}
        found |= {n: f"{harmless(n)} {g}" for n, g in self.gauges.items() if g.out and n not in excused}
        against, for_them = (self.selection[k].winnings >= 1 / ERROR_LEVEL for k in (0.0, SELECTS_FOR))
        if against or for_them:
            names = ", ".join(harmless(name) for name in self.gauges if name.startswith("watch/"))
            how = "selects against" if against else "hardly selects for"
            found["selection"] = f"it {how} {names}" + (", all taken together" if ", " in names else "")
        return found, overpaid or against

    def _begin(self, batch: Rollout) -> None:
        """Learn from the first batch which terms go along with the reward, and whether texts can tell."""
        nats = -float(batch.log_probs.sum()) / max(1, batch.num_tokens)
        if nats > KNOWS_NOTHING * math.log(batch.episodes[0].tokenizer.vocab_size):
            for name in MEASURES:
                del self.gauges[name]
        totals = batch.scores.totals_or_nan
        for name, values in _terms(batch).items():
            known = ~np.isnan(values) & ~np.isnan(totals)
            spread = values[known].std() * totals[known].std()
            along = float(np.cov(values[known], totals[known], ddof=0)[0, 1]) if spread > 0 else 0.0
            if along > GOES_ALONG * spread:
                self.gauges[name] = Gauge(values[known], -1, CRITERION)

    def _select(
        self, values: Mapping[str, FloatArray], rewards: FloatArray, scored: BoolArray, groups: IntArray
    ) -> Metrics:
        """Test whether the reward selects for the mean of all criteria, each in standard deviations.

        Returns:
            `selection`, the net share of the products in the criteria's favour, from -1 to 1.
        """
        names = [name for name in self.gauges if name.startswith("watch/")]
        known = scored & ~np.isnan(rewards)
        for name in names:
            known &= ~np.isnan(values[name])
        if not names or known.sum() < 2:
            return {}
        scaled = [values[n][known] / self.gauges[n].spread_of(values[n][known]) for n in names]
        products = centred_products(np.mean(scaled, axis=0), rewards[known], groups[known])
        for test in self.selection.values():
            test.add(products)
        size = float(np.abs(products).sum())
        return {"selection": float(products.sum()) / size if size > 0 else 0.0}

    def _criteria(self, episodes: Sequence[Episode]) -> dict[str, FloatArray]:
        """Score texts by the criteria, `(n,)` each, NaN where one abstains or there is no golden text."""
        found = {f"watch/{name}": source(episodes).totals_or_nan for name, source in self.watch.items()}
        wanted = self._golden_texts(episodes)
        if any(text is not None for text in wanted):
            shares = [
                math.nan if text is None else overlap(e.agent_ids.tolist(), text.agent_ids.tolist())
                for e, text in zip(episodes, wanted, strict=True)
            ]
            found[GOLDEN] = np.array(shares)
        return found

    def _golden_texts(self, episodes: Sequence[Episode]) -> list[Episode | None]:
        return [None if self._golden is None else self._golden.of(e) for e in episodes]

    @property
    def _risen(self) -> bool:
        """True if the mean reward of the last batches exceeds that of the first by more than noise."""
        assert self._first is not None
        mean, variance = self._first
        means, variances = zip(*self._recent, strict=True)
        error = math.sqrt(variance + sum(variances) / len(variances) ** 2)
        return bool(np.mean(means) - mean > RISE * error)

    def _sentence(self, batch: Rollout, found: Mapping[str, str], iteration: int) -> str:
        assert self._first is not None
        now = float(np.mean([mean for mean, _ in self._recent]))
        best = batch.episodes[int(np.nanargmax(batch.scores.totals_or_nan))]
        rise = [f"it has risen from {self._first[0]:.3g} to {now:.3g}"] if self._risen else []
        return (
            f"iteration {iteration}: the reward may be hacked: {'; '.join([*rise, *found.values()])}. "
            f"Read some texts; the best paid of this batch is {excerpt(best.completion, 160)}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what was learnt from batches, as plain JSON data; the texts of the start are not in it."""
        return {
            "alarm": self.alarm,
            "iteration": self.iteration,
            "first": self._first,
            "recent": self._recent,
            "gauges": {name: gauge.state_dict() for name, gauge in self.gauges.items()},
            "selection": [test.state_dict() for test in self.selection.values()],
            "overpayment": None if self.overpayment is None else self.overpayment.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, in a detector that was made with the same texts."""
        self.alarm, self.iteration = state["alarm"], state["iteration"]
        self._first = None if state["first"] is None else tuple(state["first"])
        self._recent = [tuple(pair) for pair in state["recent"]]
        self.gauges = {name: Gauge.of(gauge) for name, gauge in state["gauges"].items()}
        for test, saved in zip(self.selection.values(), state["selection"], strict=True):
            test.load_state_dict(saved)
        if self.overpayment is not None and state.get("overpayment") is not None:
            self.overpayment.load_state_dict(state["overpayment"])


def _worse(golden: FloatArray, start: FloatArray) -> bool:
    """True if golden texts are worse by a criterion than those of the start, by two standard errors."""
    golden = golden[~np.isnan(golden)]
    if not len(golden):
        return False
    error = math.sqrt(golden.var() / len(golden) + start.var() / len(start))
    return bool(golden.mean() < start.mean() - 2 * error)


def _terms(batch: Rollout) -> dict[str, FloatArray]:
    """Return the terms of a batch's rewards, `(n,)` each, NaN where there is none."""
    return {
        f"reward/{name}": np.asarray(values, dtype=np.float64) for name, values in batch.scores.terms.items()
    }
