"""DPO (Rafailov et al. 2023) learns from preference pairs, without a reward model or sampling.

For pairs judged by a Bradley–Terry rater with reward r its optimum is that of RLHF, π_ref·exp(r/β).
Data in, policy out, as in supervised fine-tuning; it plays no episodes and therefore is no `Agent`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from text_gym.agents.environments import as_config
from text_gym.agents.policies.policy import FUSED, Policy
from text_gym.agents.training.metrics import Metrics
from text_gym.agents.training.progress import training_progress
from text_gym.episode import Prompt
from text_gym.models.runtime import read_numbers, upload
from text_gym.models.world import World

from .configs import DPOConfig
from .sft import encode_pairs, padded, parts_of_pair, take_step, warmup_cosine

Preference = tuple[Prompt, str, str]  # prompt, chosen, rejected


class DPO:
    """Fits a policy to preference pairs.

    Args:
        policy: The policy to train, in place.
        pairs: Prompt, chosen completion, rejected completion.
        config: Settings.
        reference: The policy to stay close to; `policy` as it is now if None.

    Attributes:
        steps: Optimizer steps taken so far.
        world: The processes that learn together, as in `SFT`.

    Raises:
        DataError: There are no pairs, or one does not fit the policy's context; its prompt is named.

    >>> from text_gym import ByteTokenizer
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> DPO(policy, [(Prompt("a"), "yes", "no")]).learn().steps
    1
    """

    def __init__(
        self,
        policy: Policy,
        pairs: Sequence[tuple[Prompt | str, str, str]],
        config: DPOConfig | None = None,
        reference: Policy | None = None,
    ) -> None:
        self.policy, self.config = policy, as_config(config, DPOConfig)
        triples = [parts_of_pair(pair, i, "prompt, chosen, rejected") for i, pair in enumerate(pairs)]
        chosen = encode_pairs(policy, [(prompt, text) for prompt, text, _ in triples])
        rejected = encode_pairs(policy, [(prompt, text) for prompt, _, text in triples])
        self.sequences, self.starts = chosen[0] + rejected[0], chosen[1] + rejected[1]
        self.steps = 0
        self.world: World | None = None
        with torch.no_grad():
            every = range(len(self.sequences))
            parts = [every[i : i + 64] for i in range(0, len(every), 64)]
            self.reference_log_probs = torch.cat([self._log_probs(reference or policy, p) for p in parts])

    def __repr__(self) -> str:
        return f"DPO({self.steps:,} steps taken)"

    def learn(
        self, callback: Callable[[Metrics], bool | None] | None = None, *, progress: bool = False
    ) -> DPO:
        """Train; the callback gets the metrics of every step and may return False to stop.

        Metrics: `step`, `steps`, `loss` (nats per pair), `accuracy` (share of pairs whose chosen text
        has the larger implicit reward β·log(policy/reference)), `margin` (by how much), `reward_chosen`,
        `reward_rejected`, `grad_norm`.

        Args:
            callback: Called after every step.
            progress: Show live curves in a notebook, a bar in a terminal, a line now and then elsewhere.

        Raises:
            NonFiniteError: The loss or its gradient became NaN or infinite; the weights are those before it.
        """
        config, policy = self.config, self.policy
        optimizer = torch.optim.AdamW(
            policy.model.parameters(),
            lr=config.learning_rate,
            weight_decay=0.0,
            fused=policy.device.type in FUSED,
        )
        batches, world = self._batches(), self.world
        if world is not None:
            world.check_alike("pairs and settings", [self.sequences, asdict(config)])
            world.broadcast([*(p.data for p in policy.parameters()), self.reference_log_probs])
        with training_progress(progress, len(batches), "step") as show:
            for step, pairs in enumerate(batches):
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * warmup_cosine(step / len(batches), config.warmup)
                mine = pairs if world is None else pairs[world.part(len(pairs))]
                chosen, rejected = self._implicit_rewards(mine)
                loss = dpo_loss(chosen, rejected, config.label_smoothing).sum() / len(pairs)
                said, norm = take_step(policy, optimizer, loss, config.max_grad_norm, step, world)
                self.steps += 1
                ahead = (chosen > rejected).to(chosen.dtype)
                sums = [x.detach().sum() for x in (ahead, chosen - rejected, chosen, rejected)]
                if world is not None:
                    sums = list(world.sum(torch.stack(sums)))
                found = [x / len(pairs) for x in read_numbers(sums)]
                metrics = {
                    "step": step + 1,
                    "steps": len(batches),
                    "loss": said,
                    **dict(
                        zip(("accuracy", "margin", "reward_chosen", "reward_rejected"), found, strict=True)
                    ),
                    "grad_norm": norm,
                }
                show(metrics)
                leave = callback is not None and callback(metrics) is False
                if leave if world is None else world.any(leave):
                    break
        return self

    def _implicit_rewards(self, pairs: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Compute β·log(policy/reference) of the chosen and the rejected texts of pairs, `(n,)` each."""
        if not pairs:
            nothing = self.reference_log_probs.new_zeros(0).requires_grad_()
            return nothing, nothing
        rows = [*pairs, *(i + len(self.sequences) // 2 for i in pairs)]
        index = upload(torch.tensor(rows), self.policy.device)
        log_ratio = self._log_probs(self.policy, rows) - self.reference_log_probs[index]
        chosen, rejected = self.config.beta * log_ratio.view(2, -1)
        return chosen, rejected

    def _log_probs(self, policy: Policy, rows: Sequence[int]) -> Tensor:
        """Compute the log-probabilities of whole completions, EOS included, `(n,)` nats."""
        sequences, starts = [self.sequences[i] for i in rows], [self.starts[i] for i in rows]
        return policy.evaluate(*padded(policy, sequences, starts)).log_probs.sum(dim=1)

    def _batches(self) -> list[list[int]]:
        """Yield the indices of each step's pairs, in random order."""
        generator = np.random.default_rng(self.config.seed)
        size, result = self.config.batch_size, []
        for _ in range(self.config.epochs):
            order = generator.permutation(len(self.sequences) // 2).tolist()
            result += [order[i : i + size] for i in range(0, len(order), size)]
        return result


def dpo_loss(chosen: Tensor, rejected: Tensor, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """Compute the negative log-likelihood of preferences, `(n,)` nats (Rafailov et al. 2023, eq. 7).

    Args:
        chosen: `(n,)`, implicit rewards β·log(policy/reference) of the chosen texts.
        rejected: `(n,)`, of the rejected ones.
        label_smoothing: Share of labels assumed to be wrong, of all pairs or of each, `(n,)`.

    >>> dpo_loss(torch.zeros(1), torch.zeros(1))
    tensor([0.6931])
    """
    margin = chosen - rejected
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
