"""Critics that leave the policy alone: their learning never moves the policy's trunk.

`StateCritic` reads the policy's own states, without a gradient, and costs a tenth of an iteration; `Critic`
has a trunk of its own, for twice the memory and nearly twice the time. Neither is part of the policy's
folder; both are in checkpoints.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from text_gym.models.loading import seeded_weights
from text_gym.models.runtime import on_host, upload
from text_gym.models.sizes import sizes_of

from .columns import ends_of
from .memory import Splitter
from .policy import Policy, places, states_before


class Critic(nn.Module):
    """A copy of a policy's trunk and value head, to be trained apart.

    It has as many weights, gradients and moments as the policy's trunk (16 bytes a weight in float32), and
    keeps as much of a minibatch for its backward pass.

    Args:
        policy: It stays as it is.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.trunk, self.value_head = copy.deepcopy((policy.model.base_model, policy.value_head))
        self._device, self._dtype, self._bf16 = policy.device, policy.dtype, policy.bf16
        self.train(policy.training)

    def forward(self, tokens: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
        """Compute the values `(B, T)` of the states before each completion token, 0 past the ends.

        Args:
            tokens: `(B, S)` int64, right-padded.
            starts: `(B,)` int64, prompt lengths; best on the host, as the next ones.
            lengths: `(B,)` int64, completion lengths.
        """
        starts, lengths = on_host(starts, lengths)
        states, _ = states_before(self.trunk, tokens, starts, lengths, self._hidden, bf16=self._bf16)
        values: Tensor = self.value_head(states.to(self.value_head.weight.dtype))[:, 0].to(self._dtype)
        shape, rows, steps, _ = places(starts, lengths, tokens.device)
        return values.new_zeros(shape).index_put((rows, steps), values)

    def _hidden(self, tokens: Tensor) -> Any:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            return self.trunk(input_ids=tokens, use_cache=False)

    @torch.no_grad()
    def score(self, tokens: Tensor, starts: Tensor, lengths: Tensor, *, rows: int | None = None) -> Tensor:
        """Compute what `forward` does without gradients, some rows at a time."""
        starts, lengths = on_host(starts, lengths)
        values = torch.zeros(len(tokens), int(lengths.max()), dtype=self._dtype, device=tokens.device)

        def fill(parts: list[Tensor]) -> None:
            for part in parts:
                here = upload(part, tokens.device)
                said = self(tokens[here], starts[part], lengths[part])
                values[here, : said.shape[1]] = said

        ends = starts + lengths if starts.ndim == 1 else ends_of(starts, lengths)
        Splitter(self._device, rows or sizes_of(self._device).scored_rows).run(ends, fill)
        return values


class StateCritic(nn.Module):
    """A small network that values the policy's states and learns from the latest batches.

    It predicts returns in units of their running mean and standard deviation: as a policy improves, its
    returns rise and draw together, and a network that had to follow them with its own weights would always
    be late, and far too noisy at the end. It learns from the latest `WINDOW` batches again and again, and a
    few texts of enormous KL do not drag it away (Huber's loss, and a scale without outliers; the price is
    that values of very skewed returns lean towards their median). Beside the state it is told how much of the
    token limit is used up, which is part of the state where the limit ends the episode (Pardo et al. 2018,
    "Time limits in reinforcement learning").

    Args:
        states: `D`, width of the policy's states.
        max_tokens: `T`, the token limit.
        width: Hidden units.
        seed: Of its first weights.
    """

    WINDOW = 4  # batches it learns from
    TOKENS = 2048  # of each batch, at most; tokens of one text have nearly the same return
    MINIBATCH = 1024  # tokens
    EPOCHS = 4
    DECAY = 0.5  # of the running mean and standard deviation: the share of the past, per batch

    remembered: Tensor  # (WINDOW, TOKENS, D + 2) float32, what was read
    targets: Tensor  # (WINDOW, TOKENS) float32, returns in units of their own batch
    counts: Tensor  # (WINDOW,) int64, the number of stored tokens
    scale: Tensor  # (2,) float32, mean and standard deviation of returns
    batches: Tensor  # () int64, batches seen

    def __init__(self, states: int, max_tokens: int, *, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        with seeded_weights(seed):
            last = nn.Linear(width, 1)
            self.body = nn.Sequential(nn.Linear(states + 2, width), nn.Tanh(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.register_buffer("remembered", torch.zeros(self.WINDOW, self.TOKENS, states + 2))
        self.register_buffer("targets", torch.zeros(self.WINDOW, self.TOKENS))
        self.register_buffer("counts", torch.zeros(self.WINDOW, dtype=torch.int64))
        self.register_buffer("scale", torch.tensor([0.0, 1.0]))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Compute the values `(B, T)` of the states before each token, in the reward's unit, 0 past the ends.

        Args:
            states: `(B, T, D)`.
            mask: `(B, T)` bool, the tokens there are.
        """
        values = mask.new_zeros(mask.shape, dtype=torch.float32)
        with torch.no_grad():
            values[mask] = self._predict(self._read(states, mask)) * self.scale[1] + self.scale[0]
        return values

    @torch.no_grad()
    def remember(self, states: Tensor, returns: Tensor, mask: Tensor, generator: np.random.Generator) -> None:
        """Store a batch, or as much of it as fits, in place of the oldest one.

        Args:
            states: `(B, T, D)`.
            returns: `(B, T)`.
            mask: `(B, T)` bool.
            generator: Chooses tokens where there are too many.
        """
        found = returns[mask].float()
        usual = without_outliers(found)
        now = torch.stack([usual.mean(), usual.std(unbiased=False).clamp_min(1e-6)])
        self.scale.copy_(now if self.batches == 0 else torch.lerp(now, self.scale, self.DECAY))
        chosen = upload(generator.permutation(len(found))[: self.TOKENS], found.device)
        place, n = int(self.batches) % self.WINDOW, len(chosen)
        self.remembered[place, :n] = self._read(states, mask, chosen)
        self.targets[place, :n] = (found[chosen] - now[0]) / now[1]
        self.counts[place] = n
        self.batches += 1

    def minibatches(self, generator: np.random.Generator) -> list[Tensor]:
        """Yield shuffled minibatches of indices into the stored batches, `(n,)` int64."""
        there = torch.arange(self.TOKENS, device=self.counts.device) < self.counts[:, None]
        places = there.flatten().nonzero()[:, 0]
        parts = max(1, len(places) // self.MINIBATCH)
        orders = (torch.from_numpy(generator.permutation(len(places))) for _ in range(self.EPOCHS))
        return [places[upload(part, places.device)] for order in orders for part in order.chunk(parts)]

    def loss(self, places: Tensor) -> Tensor:
        """Compute Huber's loss of a minibatch, in standard deviations of the returns."""
        said = self._predict(self.remembered.flatten(0, 1).index_select(0, places))
        return F.huber_loss(said, self.targets.flatten()[places])

    def _predict(self, read: Tensor) -> Tensor:
        values: Tensor = self.body(read)[:, 0]
        return values

    def _read(self, states: Tensor, mask: Tensor, chosen: Tensor | slice = slice(None)) -> Tensor:
        """Collect the tokens' standardised states and clock features, `(N, D + 2)` float32.

        Args:
            states: `(B, T, D)`.
            mask: `(B, T)` bool, the tokens there are.
            chosen: `(N,)` int64, which of them; all of them if left out.
        """
        rows, steps = (places[chosen] for places in mask.nonzero(as_tuple=True))
        clock = torch.stack([2 * steps / self.max_tokens - 1, torch.exp(-steps / 8)], dim=1)
        normal = F.layer_norm(states[rows, steps].float(), states.shape[-1:])
        return torch.cat([normal, clock.to(normal.dtype)], dim=1)


def without_outliers(x: Tensor) -> Tensor:
    """Winsorise returns `(N,)` from below: those far under the middle 80 % move up to its edge.

    A text that ran wild costs its KL, which has no bound; rare successes stand above, and they count in full.
    Where the middle 80 % are all equal nothing is moved.

    >>> without_outliers(torch.tensor([*torch.linspace(0, 1, 11).tolist(), -100.0])).min() > -2
    tensor(True)
    """
    low, high = torch.from_numpy(np.quantile(x.cpu().numpy(), [0.1, 0.9])).to(x)
    return x if low == high else x.clamp_min(low - (high - low))
