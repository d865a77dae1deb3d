"""A causal language model that answers one observation after another, as other libraries ask.

Its head is the action distribution, its value head the critic. Playing is served from a cache of keys and
values, updates read every text once; no library is known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.prefix_cache import PrefixCache
from text_gym.agents.sampling.sampler import draw
from text_gym.episode import BoolArray, IntArray
from text_gym.errors import NonFiniteError


class CausalActorCritic:
    """Reads observations with a `Policy`, and computes of each only what is new.

    Args:
        policy: The language model.
        cache: False reads every observation from its beginning.

    >>> from text_gym import ByteTokenizer
    >>> actor_critic = CausalActorCritic(Policy.new(ByteTokenizer(), width=16, layers=1, context=8))
    >>> _ = torch.manual_seed(0)
    >>> tokens, lengths = np.array([[72, 105, 0]]), np.array([2])
    >>> actions, log_probs, values = actor_critic.act(tokens, lengths)
    >>> actor_critic.terminal_values(np.array([[72, 105, int(actions[0])]]), np.array([3])).shape
    torch.Size([1])
    """

    def __init__(self, policy: Policy, *, cache: bool = True) -> None:
        self.policy, self.cache = policy, cache
        self.last: Draw | None = None
        self.caches: dict[str, PrefixCache] = {}

    @torch.no_grad()
    def states(self, tokens: IntArray, lengths: IntArray, caller: str = "play") -> Tensor:
        """Return the hidden states of the observations' last tokens, `(B, D)`, without gradients.

        Args:
            tokens: `(B, S)` int64, right-padded.
            lengths: `(B,)` int64.
            caller: Each caller has a cache of its own, so that an evaluation in the middle of a rollout
                does not cost the rollout what it has read.
        """
        if not self.cache:
            return states_of(self.policy, torch.from_numpy(tokens), torch.from_numpy(lengths))
        cache = self.caches.get(caller)
        if cache is None or cache.rows != len(tokens) or cache.width != tokens.shape[1]:
            cache = self.caches[caller] = PrefixCache(self.policy, len(tokens), tokens.shape[1])
        return cache.read(tokens, lengths)

    def act(
        self,
        tokens: IntArray,
        lengths: IntArray,
        *,
        greedy: bool = False,
        allowed: BoolArray | None = None,
        caller: str = "play",
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a token for each observation; return tokens, log-probabilities (nats) and values, `(B,)` each.

        Noise comes from PyTorch's global generator.

        Args:
            tokens: `(B, S)` int64, right-padded.
            lengths: `(B,)` int64.
            greedy: Take the likeliest.
            allowed: `(B, V)` bool, the tokens that may come next; all of them if None.
            caller: As for `states`.

        Raises:
            NonFiniteError: The policy's logits are NaN or infinite.
        """
        states = self.states(tokens, lengths, caller)
        with torch.no_grad():
            logits = self.policy.logits(states)
            if allowed is not None:
                logits = allowed_logits(logits, torch.from_numpy(allowed))
            noise = torch.rand(len(logits), dtype=torch.float64, device=logits.device)
            if greedy:
                actions = logits.argmax(dim=1)
                log_probs = torch.log_softmax(logits, dim=1).gather(1, actions[:, None])[:, 0]
            else:
                actions, probs = draw(logits, noise)
                log_probs = probs[:, 0].log()
        if not torch.isfinite(log_probs).all():
            row = int((~torch.isfinite(log_probs)).int().argmax())
            raise NonFiniteError(f"the policy's logits are not finite for row {row}; lower the learning rate")
        if caller == "play":
            self.last = Draw(tokens, lengths, actions.cpu().numpy(), log_probs)
        return actions, log_probs, self.policy.values(states)

    def terminal_values(self, tokens: IntArray, lengths: IntArray) -> Tensor:
        """Return the values `(n,)` of texts that rows of the last `act` have just become.

        A library bootstraps from one terminal observation after another; here one batched step answers all
        of them. Texts that no row has become are read from their beginnings.
        """
        cache = self.caches.get("play")
        if cache is None:
            return self.policy.values(self.states(tokens, lengths))
        if self.last is not None:
            # What ended is a row and the token drawn for it. A step with all tokens drawn gives the values
            # of all that ended, and the rows that go on will find theirs done when they are next asked for.
            cache.append(self.last.actions)
            self.last = None
        rows = cache.find(tokens, lengths)
        if (rows >= 0).all():
            return self.policy.values(cache.states(rows))
        with torch.no_grad():
            states = states_of(self.policy, torch.from_numpy(tokens), torch.from_numpy(lengths))
        return self.policy.values(states)

    def clear(self) -> None:
        """Forget what was read: to be called where weights change, as fused optimizers leave no trace."""
        for cache in self.caches.values():
            cache.clear()


class Draw(NamedTuple):
    """The last batch of actions, and the states in which they were taken."""

    tokens: IntArray
    lengths: IntArray
    actions: IntArray
    log_probs: Tensor


def states_of(policy: Policy, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Return the hidden states `(N, D)` at the last tokens of `N` texts, with gradients.

    A text that begins another one is not read: its state stands in the middle of the longer one's. In the
    order of a dictionary such a text stands just before one that continues it.

    Args:
        policy: The language model.
        tokens: `(N, S)` int64, right-padded.
        lengths: `(N,)` int64, at least 1.
    """
    ids, n = tokens.cpu().numpy().copy(), lengths.cpu().numpy()
    columns = np.arange(ids.shape[1])
    ids[columns >= n[:, None]] = -1  # padding comes before every token
    order = np.lexsort(ids.T[::-1])
    ordered, sizes = ids[order], n[order]
    begins_next = ((ordered[:-1] == ordered[1:]) | (columns >= sizes[:-1, None])).all(axis=1)
    longest = np.append(~begins_next, True)
    family = np.zeros(len(ids), dtype=np.int64)
    family[order] = longest.cumsum() - longest
    read = torch.from_numpy(np.maximum(ids[order[longest], : n.max()], 0)).to(policy.device)
    hidden: Tensor = policy.hidden(read).last_hidden_state
    return hidden[torch.from_numpy(family).to(hidden.device), torch.from_numpy(n - 1).to(hidden.device)]


def allowed_logits(logits: Tensor, action_mask: Tensor) -> Tensor:
    """Return logits `(..., V)` that are -inf where the mask `(..., V)` is 0."""
    return logits.masked_fill(action_mask.to(logits.device) <= 0, -torch.inf)


class CausalActor(nn.Module):
    """A language model as an actor's network, for libraries whose networks are modules.

    A batch of observations that is read without gradients is someone playing, and cached.

    Args:
        policy: The language model, which is trained in place.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.core = CausalActorCritic(policy)
        self.updates, self.seen = _Updates(), 0

    def forward(self, tokens: Tensor, length: Tensor) -> Tensor:
        """Compute logits `(..., V)` of tokens `(..., S)` and lengths `(..., 1)`."""
        if tokens.ndim == 2 and not torch.is_grad_enabled():
            if self.seen != self.updates.begun:
                self.core.clear()  # fused optimizers change weights without a trace
                self.seen = self.updates.begun
            return self.policy.logits(self.core.states(tokens.cpu().numpy(), length[:, 0].cpu().numpy()))
        self.updates.begun += 1
        return self.policy.logits(_states(self.policy, tokens, length))

    @torch.no_grad()
    def log_probs(self, observation: Mapping[str, npt.NDArray[Any]], actions: IntArray) -> Tensor:
        """Return the log-probabilities `(B,)` of actions, as `KLPenalty.follow` asks for them, in nats.

        Nothing is read for it if the actions were drawn from this actor's logits.
        """
        logits = self.policy.logits(self.core.states(observation["tokens"], observation["length"][:, 0]))
        if "action_mask" in observation:
            logits = allowed_logits(logits, torch.as_tensor(observation["action_mask"]))
        log_p = torch.log_softmax(logits, dim=1)
        return log_p.gather(1, torch.as_tensor(actions, device=logits.device)[:, None])[:, 0]


class _Updates:
    """Counts readings with gradients, after which weights may change; shared by the copies of a module."""

    begun = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _Updates:
        return self


class CausalCritic(nn.Module):
    """The value head of a language model, on states that its loss does not change.

    Args:
        policy: The language model; its value head is trained in place.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.head = policy.value_head
        self.lm = (policy,)  # in a tuple: the trunk's weights are none of the critic's

    def forward(self, tokens: Tensor, length: Tensor) -> Tensor:
        """Compute values `(..., 1)` of tokens `(..., S)` and lengths `(..., 1)`."""
        with torch.no_grad():
            states = _states(self.lm[0], tokens, length)
        values: Tensor = self.head(states.to(self.head.weight.dtype))
        return values


def _states(policy: Policy, tokens: Tensor, length: Tensor) -> Tensor:
    states = states_of(policy, tokens.reshape(-1, tokens.shape[-1]), length.reshape(-1))
    return states.reshape(*tokens.shape[:-1], -1)
