"""Settings of the cycle `rlhf`, and the seeds that follow from its one seed.

They say nothing of who answers: see `people`.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from text_gym.agents.algorithms.configs import PolicyGradientConfig, settings_class
from text_gym.errors import ConfigError, UnknownNameError
from text_gym.reward_models.people.acquisition import ACQUISITIONS, split_budget

Bias = Literal["none", "length", "hype", "inattention"]


@dataclass(frozen=True)
class RLHFConfig:
    """Settings of the cycle.

    Args:
        rounds: Times to ask and to improve; may be raised later to go on with a finished run.
        labels_per_round: Answers that people give in each round.
        questions: What they are asked: ratings of one text per criterion, or which of two is better.
        choose: Which texts they are asked about, a name in `text_gym.reward_models.ACQUISITIONS`.
        overlap: Share of the questions that two raters answer, so that their agreement can be measured; none
            if None (the command takes 0.1 with simulated raters).
        candidates: Texts written for each question, of which some are chosen; random choice has no more
            written than it needs.
        model: Reward model: `"ngrams"` (linear, learns in seconds) or `"transformer"` (starts from the first
            policy).
        members: Reward models in the ensemble.
        pessimism: The reward is the members' mean less this times their standard deviation.
        algorithm: What improves the policy: `"ppo"`, `"grpo"` or `"rloo"`.
        iterations: Of the algorithm, in each round.
        episodes: Per iteration; a multiple of 8 for GRPO, of 4 for RLOO.
        limit: What the token limit means to the algorithm: "end" pays a text that it cuts as it stands,
            "truncate" learns nothing from it.
        learning_rate: Falls to 0 within each round; the algorithm's own if None.
        kl_coef: Weight of the KL to the first policy, in reward units per nat; 0.02 for ratings, whose reward
            is in [0, 1], and 0.1 for pairs, whose reward has standard deviation 1 to begin with, if None.
        kl_target: KL to hold by adapting that weight, in nats per episode; None keeps it fixed.
        seed: Decides everything but what people say.

    Raises:
        ConfigError: A setting is out of range, also one that the algorithm is given.
        UnknownNameError: There is no such way to choose.
    """

    rounds: int = 3
    labels_per_round: int = 200
    questions: Literal["ratings", "pairs"] = "ratings"
    choose: str = "random"
    overlap: float | None = None
    candidates: int = 4
    model: Literal["ngrams", "transformer"] = "ngrams"
    members: int = 5
    pessimism: float = 1.0
    algorithm: Literal["ppo", "grpo", "rloo"] = "ppo"
    iterations: int = 40
    episodes: int = 64
    limit: Literal["end", "truncate"] = "end"
    learning_rate: float | None = None
    kl_coef: float | None = None
    kl_target: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "labels_per_round", "members", "iterations", "episodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.algorithm not in ("ppo", "grpo", "rloo"):
            raise ConfigError(f"algorithm is {self.algorithm!r}; choose ppo, grpo or rloo")
        if self.candidates < self.least_candidates:
            raise ConfigError(
                f"candidates is {self.candidates}; {self.questions} need {self.least_candidates}"
            )
        if self.choose not in ACQUISITIONS:
            raise UnknownNameError("way to choose", self.choose, ACQUISITIONS)
        if not 0 <= self.pessimism < math.inf:
            raise ConfigError(f"pessimism is {self.pessimism}; it must be a finite number >= 0")
        split_budget(self.labels_per_round, self.overlap or 0.0)
        group = getattr(self.agent_config(1), "group_size", 1)
        if self.episodes % group:
            raise ConfigError(f"episodes is {self.episodes}; {self.algorithm} needs a multiple of {group}")

    @property
    def least_candidates(self) -> int:
        """Return how many texts of a prompt one question is about."""
        return 2 if self.questions == "pairs" else 1

    def agent_config(self, number: int) -> PolicyGradientConfig:
        """Return the algorithm's settings for a round; learning stops if the objective declines.

        The KL is part of the reward in every algorithm, so that all of them have the objective that policies
        are compared by, reward − β·KL. (GRPO as published has it in the loss, with another fixed point.)
        """
        default = 0.02 if self.questions == "ratings" else 0.1
        settings: dict[str, Any] = {
            "iterations": self.iterations,
            "kl_coef": default if self.kl_coef is None else self.kl_coef,
            "kl_target": self.kl_target,
            "kl_in": "reward",
            "kl_estimator": "k1",
            "on_decline": "stop",
            "seed": self.stream(number, "ppo"),  # the same for every algorithm
        }
        if self.learning_rate is not None:
            settings["learning_rate"] = self.learning_rate
        made = settings_class(self.algorithm)(**settings)
        assert isinstance(made, PolicyGradientConfig)
        return made

    def stream(self, number: int, purpose: str) -> int:
        """Derive a separate seed for each round and purpose."""
        sequence = np.random.SeedSequence([self.seed, number, zlib.crc32(purpose.encode())])
        return int(sequence.generate_state(1)[0])
