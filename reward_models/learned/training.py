"""Trains reward models on pairs, ratings or labels of steps, with early stopping; the losses are in `losses`.

A part of the prompts is kept to judge by; the weights of the best epoch on it stay. It never sees rewards:
what it learns is people's opinions, weighted by how much each counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np
import torch

from text_gym.errors import DataError, NonFiniteError
from text_gym.models.gradients import GradientSums
from text_gym.models.runtime import read_numbers
from text_gym.models.world import World
from text_gym.reward_models.preferences.opinions import PreferencePair, Rating, StepLabels, split_within

from .configs import RewardTrainingConfig
from .losses import LabelledSteps, Marks, Pairs
from .model import RewardModel

Metrics = dict[str, float]


class RewardTrainer:
    """Trains a reward model to predict what raters prefer.

    Args:
        model: The model to train, in place.
        opinions: Pairs, ratings of the model's criteria, or labels of steps; one kind only.
        config: The settings.
        delimiter: What a step ends with, where steps are labelled.

    Attributes:
        history: One row an epoch: `epoch`, `loss`, `validation_loss` (nats for pairs and steps), `seconds`.
        world: The processes that learn together, each from its share of every batch; None where it is one.
            Set it before `learn`, in all of them alike; they begin with the weights of rank 0.

    Raises:
        DataError: There are opinions on fewer than two prompts, or of mixed kinds.
        ConfigError: The opinions do not fit the model.
        RewardError: A text does not fit the model's context.
    """

    def __init__(
        self,
        model: RewardModel,
        opinions: Sequence[PreferencePair] | Sequence[Rating] | Sequence[StepLabels],
        config: RewardTrainingConfig | None = None,
        *,
        delimiter: str = "\n",
    ) -> None:
        self.model, self.config = model, config or RewardTrainingConfig()
        self.delimiter = delimiter
        self.history: list[Metrics] = []
        self.world: World | None = None
        self.train: Pairs | Marks | LabelledSteps
        self.validation: Pairs | Marks | LabelledSteps
        self.train, self.validation = self._prepare(opinions)

    def learn(self, callback: Callable[[Metrics], bool | None] | None = None) -> RewardTrainer:
        """Train until the epochs are done or the validation loss stops falling, and keep the best weights.

        Args:
            callback: Gets each epoch's row of the history; returning False ends the training.

        Raises:
            NonFiniteError: A weight, loss or gradient was NaN or infinite; the weights are those before it.
        """
        config, model = self.config, self.model.model
        self.model.check_finite()
        optimizer = self._optimizer()
        rng = np.random.default_rng(config.seed)
        per_epoch = math.ceil(len(self.train) / config.batch_size)
        started, step, best = time.perf_counter(), 0, (math.inf, 0)
        world = self.world
        if world is not None:
            world.check_alike("opinions and settings", [self.train.texts, asdict(config)])
            world.broadcast(p.data for p in model.parameters())
        kept = {k: v.detach().clone() for k, v in model.state_dict().items()}
        with _training(model, config.seed if world is None else config.seed + world.rank):
            for epoch in range(1, config.epochs + 1):
                order = rng.permutation(len(self.train)).tolist()
                total = 0.0
                for i in range(0, len(order), config.batch_size):
                    rows = order[i : i + config.batch_size]
                    for group in optimizer.param_groups:
                        done = (step + 0.5) / (config.epochs * per_epoch)
                        group["lr"] = config.learning_rate * _schedule(done, config.warmup)
                    total += self._step(optimizer, rows, f"epoch {epoch}, step {step + 1}") * len(rows)
                    step += 1
                seconds = time.perf_counter() - started
                seconds = seconds if world is None else world.largest(seconds)
                row = {"epoch": epoch, "loss": total / len(order), "validation_loss": self._judge()}
                self.history.append({**row, "seconds": seconds})
                if row["validation_loss"] < best[0]:
                    best = (row["validation_loss"], epoch)
                    kept = {k: v.detach().clone() for k, v in model.state_dict().items()}
                late = config.max_seconds is not None and seconds >= config.max_seconds
                stopped = callback is not None and callback(self.history[-1]) is False
                stopped = stopped if world is None else world.any(stopped)
                if late or stopped or epoch - best[1] >= config.patience:
                    break
        model.load_state_dict(kept)
        if isinstance(self.train, Marks):
            self.model.scales = self.train.scales()
        return self

    def _prepare(
        self, opinions: Sequence[PreferencePair] | Sequence[Rating] | Sequence[StepLabels]
    ) -> tuple[Pairs, Pairs] | tuple[Marks, Marks] | tuple[LabelledSteps, LabelledSteps]:
        steps = [o for o in opinions if isinstance(o, StepLabels)]
        if steps:
            if len(steps) < len(opinions):
                raise DataError("learn from labels of steps or from other opinions, not from both at once")
            kept_steps, judged_steps = split_within(steps, self.config.validation, self.config.seed)
            train_steps = LabelledSteps(self.model, kept_steps, self.delimiter)
            return train_steps, LabelledSteps(self.model, judged_steps, self.delimiter)
        pairs = [o for o in opinions if isinstance(o, PreferencePair)]
        ratings = [o for o in opinions if isinstance(o, Rating)]
        if pairs and ratings:
            raise DataError("learn from pairs or from ratings, not from both at once")
        if pairs:
            kept, judged = split_within(pairs, self.config.validation, self.config.seed)
            return Pairs(self.model, kept), Pairs(self.model, judged)
        marked = [r for r in ratings if any(c in r.values for c in self.model.criteria)]
        learnt, judging = split_within(marked, self.config.validation, self.config.seed)
        train = Marks(self.model, learnt, self.config.loss)
        return train, Marks(self.model, judging, self.config.loss, like=train)

    def _optimizer(self) -> torch.optim.Optimizer:
        parameters = [p for p in self.model.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": self.config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            {"params": self.train.parameters(), "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=self.config.learning_rate)

    def _step(self, optimizer: torch.optim.Optimizer, rows: Sequence[int], where: str) -> float:
        optimizer.zero_grad(set_to_none=True)
        if self.world is None:
            loss = self.train.loss(rows)
            loss.backward()
        else:
            loss = self._loss_of_all(self.world, optimizer, rows)
        learnt = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradient = torch.nn.utils.get_total_norm([p.grad for p in learnt])
        said, norm = read_numbers([loss, gradient])
        if not math.isfinite(said) or not math.isfinite(norm):
            optimizer.zero_grad(set_to_none=True)
            what = f"the gradient's norm is {norm}" if math.isfinite(said) else f"the loss is {said}"
            raise NonFiniteError(f"{what} in {where}; nothing was updated")
        torch.nn.utils.clip_grads_with_norm_(learnt, self.config.max_grad_norm, gradient)
        optimizer.step()
        return said

    def _loss_of_all(
        self, world: World, optimizer: torch.optim.Optimizer, rows: Sequence[int]
    ) -> torch.Tensor:
        """Compute the loss of a batch and its gradient, each process those of its share, which add up."""
        mine, whole = rows[world.part(len(rows))], self.train.weight(rows)
        loss = next(self.model.model.parameters()).new_zeros(())
        if mine:
            part = self.train.loss(mine) * (self.train.weight(mine) / whole if whole > 0 else 1.0)
            part.backward()
            loss = part.detach()
        GradientSums(world, (p for group in optimizer.param_groups for p in group["params"])).add()
        return world.sum(loss.clone())

    @torch.no_grad()
    def _judge(self) -> float:
        """Compute the weighted mean loss on the validation prompts."""
        model, size = self.model.model, 2 * self.config.batch_size
        parts = [range(i, min(i + size, len(self.validation))) for i in range(0, len(self.validation), size)]
        model.eval()
        losses = [float(self.validation.loss(part)) * self.validation.weight(part) for part in parts]
        model.train()
        return sum(losses) / max(sum(self.validation.weight(part) for part in parts), 1e-30)


def _schedule(done: float, warmup: float) -> float:
    """Return the share of the peak learning rate after this share of the steps."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


@contextmanager
def _training(model: torch.nn.Module, seed: int) -> Iterator[None]:
    """Turn dropout on; its noise depends on the seed alone and spares the global generator."""
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model.train()
        try:
            yield
        finally:
            model.eval()
