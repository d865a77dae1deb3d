"""Losses of reward models: Bradley–Terry on pairs, squared or ordinal on ratings, cross-entropy on steps.

Nothing here takes a step: see `training`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from text_gym.episode import FloatArray
from text_gym.errors import ConfigError, DataError
from text_gym.models.runtime import upload
from text_gym.reward_models.preferences.opinions import PreferencePair, Rating, StepLabels

from .model import RewardModel
from .scales import Scales
from .steps import check_causal, encode_steps, step_logits


def bradley_terry_loss(
    ahead: Tensor, tie: Tensor | None = None, margin: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Return the mean of `−log σ(ahead − margin)`, or of `−½ log σ(ahead) − ½ log σ(−ahead)` for ties; nats.

    (Bradley and Terry 1952; margins as in Touvron et al. 2023, section 3.2.2.)

    Args:
        ahead: `(B,)` reward of the chosen text minus that of the rejected one.
        tie: `(B,)` bool, both were equally good; none by default.
        margin: `(B,)` by how much the chosen text should be ahead; 0 by default.
        weight: `(B,)` how much each pair counts, >= 0; all the same by default.

    Returns:
        A number; 0 where all weights are 0.
    """
    shifted = ahead if margin is None else ahead - margin
    loss = -F.logsigmoid(shifted)
    if tie is not None:
        loss = torch.where(tie, -0.5 * (F.logsigmoid(ahead) + F.logsigmoid(-ahead)), loss)
    if weight is None:
        return loss.mean()
    return (weight * loss).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)


class Pairs:
    """Preference pairs ready for a model with one output."""

    def __init__(self, model: RewardModel, pairs: Sequence[PreferencePair]) -> None:
        if len(model.criteria) != 1:
            raise ConfigError(
                f"pairs say nothing about {len(model.criteria)} criteria ({', '.join(model.criteria)}); "
                "train a model of one, or learn from ratings"
            )
        self.model = model
        self.texts = [(model.encode(p.prompt, t)) for p in pairs for t in (p.chosen, p.rejected)]
        device = next(model.model.parameters()).device
        self.ties = torch.tensor([p.tie for p in pairs], device=device)
        self.margins = torch.tensor([p.margin for p in pairs], device=device, dtype=torch.float32)
        self.weights = torch.tensor([p.weight for p in pairs], device=device, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.ties)

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Compute the Bradley–Terry loss."""
        texts = [self.texts[2 * i + side] for i in rows for side in (0, 1)]
        rewards = self.model.outputs(texts)[:, 0]
        index = upload(torch.tensor(rows), rewards.device)
        return bradley_terry_loss(
            rewards[::2] - rewards[1::2], self.ties[index], self.margins[index], self.weights[index]
        )

    def weight(self, rows: Sequence[int]) -> float:
        """The sum of the pairs' weights."""
        return float(self.weights[list(rows)].sum())

    def parameters(self) -> list[Tensor]:
        """Bradley–Terry has no parameters of its own."""
        return []


class Marks:
    """Ratings ready for a model with one output per criterion; missing marks do not count.

    Args:
        model: The model.
        ratings: The ratings.
        like: Marks that standardisation and levels are taken from; these by default.
    """

    def __init__(
        self, model: RewardModel, ratings: Sequence[Rating], loss: str, like: Marks | None = None
    ) -> None:
        self.model, self.kind = model, loss
        self.texts = [model.encode(r.prompt, r.completion) for r in ratings]
        self.values = marks_of(ratings, model.criteria)
        device = next(model.model.parameters()).device
        weights = np.array([[r.weight] for r in ratings]) * ~np.isnan(self.values)
        self.weights = torch.tensor(weights, device=device, dtype=torch.float32)
        if like is None:
            self.mean, self.std = np.nanmean(self.values, axis=0), np.nanstd(self.values, axis=0)
            self.std = np.where(self.std > 0, self.std, 1.0)
            levels = [np.unique(column[~np.isnan(column)]) for column in self.values.T]
            self.levels = [torch.tensor(x, device=device) for x in levels]
            self.thresholds = [self._start(c).to(device).requires_grad_() for c in range(len(levels))]
        else:
            self.mean, self.std = like.mean, like.std
            self.levels, self.thresholds = like.levels, like.thresholds
        self.marks = torch.tensor(np.nan_to_num(self.values), device=device)
        targets = (np.nan_to_num(self.values) - self.mean) / self.std
        self.targets = torch.tensor(targets, device=device, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.texts)

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Compute the weighted mean loss over the marks that were given."""
        outputs = self.model.outputs([self.texts[i] for i in rows])
        index = upload(torch.tensor(rows), outputs.device)
        weights = self.weights[index]
        losses = (outputs - self.targets[index]) ** 2 if self.kind == "squared" else self._nll(outputs, index)
        return (weights * losses).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)

    def weight(self, rows: Sequence[int]) -> float:
        """The sum of the marks' weights."""
        return float(self.weights[list(rows)].sum())

    def parameters(self) -> list[Tensor]:
        """The thresholds between levels, for the ordinal loss."""
        return [t for t in self.thresholds if len(t)] if self.kind == "ordinal" else []

    def scales(self) -> Scales:
        """Return the scales that map outputs to marks, exactly (squared loss) or best (ordinal loss)."""
        if self.kind == "squared":
            factor, offset = self.std, self.mean
        else:
            with torch.no_grad():
                size = self.model.batch_size
                parts = [self.texts[i : i + size] for i in range(0, len(self), size)]
                raw = torch.cat([self.model.outputs(part) for part in parts]).double().cpu().numpy()
            fits = [_line(raw[:, c], self.values[:, c]) for c in range(raw.shape[1])]
            factor, offset = np.array([f for f, _ in fits]), np.array([o for _, o in fits])
        return Scales(tuple(factor.tolist()), tuple(offset.tolist()), self.model.scales.weight)

    def _start(self, c: int) -> Tensor:
        """Start the thresholds at the logits of the shares of lower marks."""
        column = self.values[:, c][~np.isnan(self.values[:, c])]
        shares = [np.clip((column <= level).mean(), 1e-3, 1 - 1e-3) for level in np.unique(column)[:-1]]
        return torch.tensor([math.log(s / (1 - s)) for s in shares], dtype=torch.float32)

    def _nll(self, outputs: Tensor, index: Tensor) -> Tensor:
        """Compute the negative log-likelihood of the marks `(B, criteria)`, summed over the thresholds."""
        columns = []
        for c, (levels, thresholds) in enumerate(zip(self.levels, self.thresholds, strict=True)):
            above = (self.marks[index, c, None] > levels[:-1]).to(outputs.dtype)  # (B, levels - 1)
            logits = outputs[:, c, None] - thresholds
            columns.append(F.binary_cross_entropy_with_logits(logits, above, reduction="none").sum(dim=1))
        return torch.stack(columns, dim=1)


class LabelledSteps:
    """Solutions with a label for each step, ready for a causal model with one output.

    Args:
        model: The model.
        solutions: The solutions.
        delimiter: What a step ends with.
    """

    def __init__(self, model: RewardModel, solutions: Sequence[StepLabels], delimiter: str) -> None:
        check_causal(model)
        if len(model.criteria) != 1:
            raise ConfigError(f"labels of steps need one output, and the model has {len(model.criteria)}")
        self.model = model
        self.texts = [encode_steps(model, s.prompt, s.steps, delimiter) for s in solutions]
        self.labels = [list(s.labels) for s in solutions]
        self.weights = [[s.weight] * len(s.labels) for s in solutions]

    def __len__(self) -> int:
        return len(self.texts)

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Compute the weighted mean cross-entropy of the solutions' steps, in nats."""
        logits = step_logits(self.model, [self.texts[i] for i in rows])
        labels, weights = (
            upload(torch.tensor([x for i in rows for x in column[i]], dtype=logits.dtype), logits.device)
            for column in (self.labels, self.weights)
        )
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return (weights * losses).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)

    def weight(self, rows: Sequence[int]) -> float:
        """The sum of the steps' weights."""
        return float(sum(sum(self.weights[i]) for i in rows))

    def parameters(self) -> list[Tensor]:
        """Cross-entropy has no parameters of its own."""
        return []


def marks_of(ratings: Sequence[Rating], criteria: Sequence[str]) -> FloatArray:
    """Tabulate the marks as `(n, criteria)` float64, NaN where there is none.

    Raises:
        DataError: A criterion has no mark at all.
    """
    values = np.array([[r.values.get(c, math.nan) for c in criteria] for r in ratings], dtype=np.float64)
    for name, column in zip(criteria, values.reshape(len(ratings), len(criteria)).T, strict=True):
        if np.isnan(column).all():
            raise DataError(f"no rating has a mark for {name!r}")
    return values


def _line(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Fit a least-squares line with positive slope through the marked points; return slope and offset."""
    there = ~np.isnan(y)
    x, y = x[there], y[there]
    spread = float(x.var())
    slope = float(((x - x.mean()) * (y - y.mean())).mean()) / spread if spread > 0 else 1.0
    slope = slope if slope > 0 else 1.0
    return slope, float(y.mean() - slope * x.mean())
