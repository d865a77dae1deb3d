"""Settings of learned reward models, which can be read and checked without PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from text_gym.errors import ConfigError

Group = Literal["words", "template", "fields"]


@dataclass(frozen=True)
class NgramConfig:
    """Settings of the n-gram model: its features and its regularisation.

    Args:
        groups: `words`: word n-grams of the completion; `template`: the same with every run of words of the
            prompt as one word; `fields`: which values of the prompt (`slot[value]`, `slot=value`,
            `slot: value`) the completion says, which not, and how many are missing.
        order: Longest n-gram of words; those of templates are one longer.
        min_count: Opinions' texts that a feature must be in.
        max_features: The most frequent ones are kept.
        alpha: α of the penalty `α · |weights|²`, in units of opinions; chosen by cross-validation over
            prompts if None.
        seed: Decides the folds.
    """

    groups: tuple[Group, ...] = ("words", "template", "fields")
    order: int = 3
    min_count: int = 2
    max_features: int = 50_000
    alpha: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [g for g in self.groups if g not in get_args(Group)]
        if unknown or not self.groups:
            raise ConfigError(f"groups {self.groups}: give some of {', '.join(get_args(Group))}")
        if min(self.order, self.min_count, self.max_features) < 1:
            raise ConfigError("order, min_count and max_features must be at least 1")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ConfigError(f"alpha is {self.alpha}; it must be a positive number")


@dataclass(frozen=True)
class RewardTrainingConfig:
    """Settings of reward-model training.

    Args:
        epochs: Most passes over the opinions.
        batch_size: Opinions per step.
        learning_rate: Largest step size of AdamW; linear warm-up, then cosine decay to 0.
        warmup: Share of the steps that warm up.
        weight_decay: Of weight matrices.
        max_grad_norm: Gradients are scaled down to this norm.
        loss: For ratings: `"squared"` on standardised marks, or `"ordinal"`: cumulative logits (McCullagh
            1980).
        validation: Share of the prompts kept to judge the epochs by, in (0, 1).
        patience: Epochs without improvement after which training stops.
        max_seconds: Time after which the running epoch is the last.
        seed: Decides the validation prompts, the order of the opinions and dropout.
    """

    epochs: int = 6
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    loss: Literal["squared", "ordinal"] = "squared"
    validation: float = 0.1
    patience: int = 2
    max_seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.patience) < 1:
            raise ConfigError("epochs, batch_size and patience must be at least 1")
        if not (self.learning_rate > 0 and self.max_grad_norm > 0 and 0 <= self.warmup < 1):
            raise ConfigError("learning_rate and max_grad_norm must be positive, warmup in [0, 1)")
        if self.loss not in ("squared", "ordinal"):
            raise ConfigError(f"loss {self.loss!r} is neither 'squared' nor 'ordinal'")
