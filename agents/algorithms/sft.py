"""Supervised fine-tuning: the warm start, maximum likelihood on written completions.

Only completion tokens (EOS included) are trained on; prompts are read, not learnt. A conversation is a pair
for each reply of the assistant (`text_gym.data.pairs_from`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.environments import as_config
from text_gym.agents.policies.policy import FUSED, Policy
from text_gym.agents.policies.sharded import ShardedWeights
from text_gym.agents.training.progress import training_progress
from text_gym.episode import Prompt
from text_gym.errors import ConfigError, DataError, NonFiniteError, PromptError, excerpt
from text_gym.models.gradients import GradientSums
from text_gym.models.runtime import read_numbers, scale_gradients, upload
from text_gym.models.sharding import total_norm
from text_gym.models.world import World
from text_gym.prompts import as_prompt

from .configs import SFTConfig

MIN_STEPS = 2500  # what a small model needs to learn to copy from its prompt, however few texts there are


class SFT:
    """Fit a policy to written completions.

    Args:
        policy: The policy to train, in place.
        pairs: Prompts and completions.
        config: Settings.

    Attributes:
        steps: Optimizer steps taken so far.
        world: The processes that learn together, each from its share of every batch; None where it is one.
            Set it before `learn`, in all of them alike; they begin with the weights of rank 0.
        shard: Set it beside `world` to have the weights divided among the processes (FSDP2). The policy that
            was given is then in slices, and `policy` is a whole copy once `learn` has ended.

    Raises:
        DataError: There are no pairs, or one does not fit the policy's context; its prompt is named.
    """

    def __init__(
        self, policy: Policy, pairs: Sequence[tuple[Prompt | str, str]], config: SFTConfig | None = None
    ) -> None:
        self.policy, self.config = policy, as_config(config, SFTConfig)
        self.sequences, self.starts = encode_pairs(policy, pairs)
        self.steps = 0
        self.world: World | None = None
        self.shard = False

    def __repr__(self) -> str:
        return f"SFT({self.steps:,} steps taken)"

    def learn(
        self, callback: Callable[[dict[str, float]], bool | None] | None = None, *, progress: bool = False
    ) -> SFT:
        """Train; the callback gets `step`, `steps`, `loss` (nats per token), and may return False to stop.

        Args:
            callback: Called after every step.
            progress: Show a live curve in a notebook, a bar in a terminal, a line now and then elsewhere.

        Raises:
            NonFiniteError: The loss or its gradient became NaN or infinite; the weights are those before it.
        """
        config, policy, world = self.config, self.policy, self.world
        policy.check_finite()
        if world is not None:
            world.check_alike("texts and settings", [self.sequences, asdict(config)])
            world.broadcast(p.data for p in policy.parameters())
        shards = ShardedWeights(policy) if self.shard else None
        how: Any = {"fused": policy.device.type in FUSED} if shards is None else {"foreach": False}
        decayed = [p for p in policy.model.parameters() if p.ndim >= 2]
        plain = [p for p in policy.model.parameters() if p.ndim < 2]
        optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            **how,
        )
        batches = self._batches()
        started = time.perf_counter()
        noise = config.seed if world is None else config.seed + world.rank  # each drops out units of its own
        with training_progress(progress, len(batches), "step") as show, _training(policy, noise):
            for step, rows in enumerate(batches):
                done = step / len(batches)
                if config.max_seconds is not None:
                    seconds = time.perf_counter() - started
                    seconds = seconds if world is None else world.largest(seconds)
                    done = max(done, seconds / config.max_seconds)
                    if done >= 1:
                        break
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * warmup_cosine(done, config.warmup)
                tokens = sum(len(self.sequences[i]) - self.starts[i] for i in rows)
                mine = rows if world is None else rows[world.part(len(rows))]
                loss = self._loss(mine) / tokens
                if shards is not None and not mine:  # all go through the blocks equally often
                    loss = 0 * self._loss(rows[:1])
                said, _ = take_step(policy, optimizer, loss, config.max_grad_norm, step, world)
                self.steps += 1
                metrics = {"step": step + 1, "steps": len(batches), "loss": said}
                show(metrics)
                leave = callback is not None and callback(metrics) is False
                if leave if world is None else world.any(leave):
                    break
        if shards is not None:
            self.policy = shards.policy().requires_grad_(True)
        return self

    def _loss(self, rows: Sequence[int]) -> Tensor:
        """Compute the negative log-likelihood of some sequences, of which there may be none."""
        if not rows:
            return torch.zeros((), dtype=self.policy.dtype, device=self.policy.device, requires_grad=True)
        return _nll(self.policy, [self.sequences[i] for i in rows], [self.starts[i] for i in rows])

    def _batches(self) -> list[list[int]]:
        """Batches of sequences of similar length (little padding), in random order."""
        generator = np.random.default_rng(self.config.seed)
        size = self.config.batch_size
        lengths = np.array([len(s) for s in self.sequences])
        passes = len(lengths) / size  # steps per epoch
        epochs = self.config.epochs
        wanted = math.ceil(max(3 * passes, MIN_STEPS) if epochs is None else epochs * passes)
        batches: list[list[int]] = []
        while len(batches) < wanted:
            order = generator.permutation(len(lengths))
            pools = [order[i : i + 16 * size] for i in range(0, len(order), 16 * size)]
            ordered = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
            epoch = [pool[i : i + size].tolist() for pool in ordered for i in range(0, len(pool), size)]
            batches += [epoch[i] for i in generator.permutation(len(epoch))]
        return batches[:wanted]


def take_step(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    max_grad_norm: float,
    step: int,
    world: World | None = None,
) -> tuple[float, float]:
    """Take one optimizer step of the policy's model down the gradient of a loss.

    Args:
        policy: The policy that learns.
        optimizer: Has the weights of its model.
        loss: A number.
        max_grad_norm: The gradient is scaled down to this norm.
        step: The number of the step, for the error.
        world: The processes whose losses add up to that of the step.

    Returns:
        The loss, and the norm of the gradient before it was scaled.

    Raises:
        NonFiniteError: The loss or its gradient is NaN or infinite; the weights are untouched.
    """
    optimizer.zero_grad(set_to_none=True)
    if world is None:
        loss.backward()
    else:
        sums = GradientSums(world, policy.model.parameters())
        with sums.overlapped():
            loss.backward()
        sums.add()
        loss = world.sum(loss.detach().clone())
    weights = list(policy.model.parameters())
    gradient = total_norm([p.grad for p in weights if p.grad is not None])
    scale_gradients(weights, max_grad_norm, gradient)
    said, norm = read_numbers([loss, gradient])
    if not math.isfinite(said):
        raise NonFiniteError(f"the loss is {said} at step {step}; lower learning_rate")
    if not math.isfinite(norm):
        raise NonFiniteError(f"the gradient's norm is {norm} at step {step}; lower learning_rate")
    optimizer.step()
    return said, norm


@torch.no_grad()
def completion_loss(policy: Policy, pairs: Sequence[tuple[Prompt | str, str]], *, rows: int = 64) -> float:
    """Mean negative log-likelihood of written completions, EOS included, in nats per completion token.

    Args:
        policy: Whose likelihood.
        pairs: Prompts and completions.
        rows: Sequences per forward pass.

    Raises:
        DataError: There are no pairs, or one does not fit the policy's context; its prompt is named.
    """
    sequences, starts = encode_pairs(policy, pairs)
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))  # little padding
    parts = [order[i : i + rows] for i in range(0, len(order), rows)]
    nll = sum(float(_nll(policy, [sequences[i] for i in part], [starts[i] for i in part])) for part in parts)
    return nll / (sum(map(len, sequences)) - sum(starts))


def parts_of_pair(pair: Any, position: int, names: str) -> tuple[Any, ...]:
    """Return a pair of that many parts; a text of two letters or a row of a table would unpack as well.

    Raises:
        DataError: It is something else; its position is named.
    """
    parts = pair if isinstance(pair, (tuple, list)) else ()
    if len(parts) == len(names.split(", ")) and all(isinstance(text, str) for text in parts[1:]):
        return tuple(parts)
    raise DataError(
        f"pair {position} is {type(pair).__name__} {excerpt(repr(pair))}; write "
        f"({names}), where all but the prompt are texts"
    )


def encode_pairs(
    policy: Policy, pairs: Sequence[tuple[Prompt | str, str]]
) -> tuple[list[list[int]], list[int]]:
    """Token ids of prompt, completion and EOS, and where each completion starts."""
    if not pairs:
        raise DataError("there are no (prompt, completion) pairs to learn from or evaluate on")
    tokenizer = policy.tokenizer
    if not tokenizer.eos_ids:
        raise ConfigError("the tokenizer has no EOS id, so completions could never be taught to end")
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    sequences: list[list[int]] = []
    starts: list[int] = []
    for position, pair in enumerate(pairs):
        item, completion = parts_of_pair(pair, position, "prompt, completion")
        prompt = as_prompt(item, position, tokenizer)
        ids = prompt.encode(tokenizer) or bos
        if not ids:
            raise PromptError(
                f"prompt {excerpt(prompt.id)} has no tokens and the tokenizer no BOS id to stand for it"
            )
        sequence = ids + prompt.encode_completion(completion, tokenizer)
        if policy.context is not None and len(sequence) > policy.context:
            raise DataError(
                f"prompt {excerpt(prompt.id)} with its completion has {len(sequence)} tokens, "
                f"the policy's context is {policy.context}"
            )
        sequences.append(sequence)
        starts.append(len(ids))
    return sequences, starts


def _nll(policy: Policy, sequences: list[list[int]], starts: list[int]) -> Tensor:
    """Sum of the negative log-likelihoods of the completions' tokens, in nats."""
    return -policy.evaluate(*padded(policy, sequences, starts)).log_probs.sum()


def padded(
    policy: Policy, sequences: Sequence[list[int]], starts: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences as `Policy.evaluate` takes them: tokens `(n, S)`, prompt and completion lengths `(n,)`.

    The tokens are on the policy's device, the lengths on the host.
    """
    width = max(map(len, sequences))
    pad = policy.tokenizer.pad_id
    tokens = torch.tensor([s + [pad] * (width - len(s)) for s in sequences])
    begins = torch.tensor(starts)
    return upload(tokens, policy.device), begins, torch.tensor([len(s) for s in sequences]) - begins


@contextmanager
def _training(policy: Policy, seed: int) -> Iterator[None]:
    """Dropout on, with noise that depends on the seed alone and leaves the global generator as it was."""
    devices = [policy.device] if policy.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        policy.train()
        try:
            yield
        finally:
            policy.eval()


def warmup_cosine(done: float, warmup: float) -> float:
    """Share of the learning rate after this share of the training."""
    if done < warmup:
        return (done + 1e-3) / (warmup + 1e-3)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
