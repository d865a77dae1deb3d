"""People as raters and as a live reward: texts become questions, and answers become numbers.

What was answered before is not asked again. How questions are shown is the asker's business: the console
here by default, or a page.
"""

from __future__ import annotations

import getpass
import math
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np

from text_gym.episode import Episode
from text_gym.errors import ConfigError
from text_gym.reward_models.labels.questions import CRITERIA, PREFERENCE, LabelCriterion, Question
from text_gym.reward_models.labels.rows import Label
from text_gym.reward_models.labels.store import LabelStore
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards

from .console import RaterConsole
from .raters import Choice, Rater

STORE = "labels.db"  # the default label store

# Called with the ids of waiting questions; returns when its people can answer no more of them, and
# raises RaterLeftError when they leave.
Asker: TypeAlias = "Callable[[Sequence[str]], None]"


class HumanRater(Rater):
    """The people behind a label store, who are asked when a text comes up.

    Args:
        store: The store, or the file it is in; made with the first question, if need be.
        ask: Brings the questions to people; the console on standard input and output if None.
        criteria: What texts are rated for.
        overlap: Raters per question; their marks are averaged, their choices put to the vote.
        policy: Version of the policy that writes the texts; it may be set anew between batches.
        poll: Seconds between two looks at the store while other raters hold the last questions.
    """

    name = "human"

    def __init__(
        self,
        store: LabelStore | str | Path = STORE,
        ask: Asker | None = None,
        *,
        criteria: Sequence[LabelCriterion] = CRITERIA,
        overlap: int = 1,
        policy: str = "",
        poll: float = 0.5,
    ) -> None:
        self._place, self._ask = store, ask
        self.scales = tuple(criteria)
        self.criteria = tuple(c.name for c in criteria)
        self.overlap, self.policy, self.poll = overlap, policy, poll

    @cached_property
    def store(self) -> LabelStore:
        """The label store, opened on first use."""
        return self._place if isinstance(self._place, LabelStore) else LabelStore(self._place)

    @cached_property
    def ask(self) -> Asker:
        """Bring questions to the people who answer them."""
        return RaterConsole(self.store, default_rater()).ask if self._ask is None else self._ask

    def rate(self, episodes: Sequence[Episode]) -> list[dict[str, float]]:
        """Return marks on the criteria's scales, averaged over raters; `{}` where everybody skipped.

        Raises:
            RaterLeftError: The raters left before all was answered; what they answered is saved.
        """
        questions = [Question.about("rating", [e], self.scales) for e in episodes]
        found = self._answers(questions)
        return [
            {c: float(np.mean([float(a.values[c]) for a in found[q.id]])) for c in self.criteria}
            if found[q.id]
            else {}
            for q in questions
        ]

    def compare(self, left: Sequence[Episode], right: Sequence[Episode]) -> list[Choice]:
        """Return the majority's choice, a draw being a tie; equal texts are a tie without asking.

        Raises:
            RaterLeftError: The raters left before all was answered; what they answered is saved.
        """
        questions = [
            Question.about("comparison", [a, b], (PREFERENCE,)) for a, b in zip(left, right, strict=True)
        ]
        found = self._answers([q for q in questions if q.completions[0] != q.completions[1]])
        return ["tie" if q.completions[0] == q.completions[1] else _vote(found[q.id]) for q in questions]

    def _answers(self, questions: Sequence[Question]) -> dict[str, list[Label]]:
        """Wait until every question has the answers or skips it needs; return the answers by question."""
        # The newest batch goes before whatever earlier batches left over.
        ids = self.store.put(questions, policy=self.policy, priority=time.time(), overlap=self.overlap)
        ids = list(dict.fromkeys(ids))
        while True:
            found = self.store.standing(ids)
            waiting = [i for i in ids if len(found.get(i, ())) < self.overlap]
            if not waiting:
                return {i: [a for a in found[i] if a.answered] for i in ids}
            self.ask(waiting)
            if self.store.standing(waiting) == {i: found[i] for i in waiting if i in found}:
                time.sleep(self.poll)


def _vote(answers: Sequence[Label]) -> Choice:
    if not answers:
        return "skip"
    votes = [a.values["preference"] for a in answers]
    ahead = votes.count("left") - votes.count("right")
    return "left" if ahead > 0 else "right" if ahead < 0 else "tie"


class HumanReward(RewardSource):
    """A live reward in [0, 1]: people rate each text, and the terms are the criteria on the same scale.

    Equal texts of equal prompts are asked once. A text that everybody skipped is abstained from: it teaches
    nothing. All questions of a batch are put together, so the rest of a batch is not lost when raters leave.

    Args:
        store: The label store, or the file it is in.
        ask: As for `HumanRater`.
        criteria: What texts are rated for.
        weights: How much each criterion counts; all the same if None.
        overlap: Raters per text.

    Attributes:
        rater: Asks the people; set its `policy` to have the version of the policy in the labels.

    Raises:
        ConfigError: Another number of weights than criteria, or weights that cannot be normed.
    """

    name = "human"
    deterministic = True  # an equal text is not asked about again: its answer is reused
    interactive = True

    def __init__(
        self,
        store: LabelStore | str | Path = STORE,
        ask: Asker | None = None,
        *,
        criteria: Sequence[LabelCriterion] = CRITERIA,
        weights: Sequence[float] | None = None,
        overlap: int = 1,
    ) -> None:
        self.rater = HumanRater(store, ask, criteria=criteria, overlap=overlap)
        w = np.ones(len(self.rater.scales)) if weights is None else np.asarray(weights, dtype=np.float64)
        if w.shape != (len(self.rater.scales),) or not np.isfinite(w).all() or (w < 0).any() or not w.any():
            raise ConfigError(f"weights {weights}: give one number >= 0 for each of {self.rater.criteria}")
        self.weights = w / w.sum()

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Ask for the missing answers and block until they are given.

        Raises:
            RaterLeftError: The raters left before all was answered; what they answered is saved.
        """
        marks = self.rater.rate(episodes)
        scaled = np.array(
            [[c.scaled(m[c.name]) if m else math.nan for c in self.rater.scales] for m in marks]
        )
        values = scaled @ self.weights
        return Rewards.from_scores(values, {c: scaled[:, i] for i, c in enumerate(self.rater.criteria)})


def default_rater() -> str:
    """Return the user name of the person at this computer."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # the user has no name, as in some containers
        return "rater"
