"""Masks by a reference policy: only likely tokens may come next (NLPO, Ramamurthy et al. 2023).

The reference reads each token once (key-value cached). It is frozen: it is not the policy that learns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.prefix_cache import PrefixCache
from text_gym.agents.sampling.sampler import Sampling
from text_gym.envs.masks import ActionMask, Prefixes
from text_gym.episode import BoolArray
from text_gym.errors import ConfigError
from text_gym.tokenizer import Tokenizer


class ReferenceMask(ActionMask):
    """Allows the `top_k` likeliest tokens of a reference policy, or its nucleus of probability `top_p`.

    Args:
        reference: The reference policy.
        top_k: How many tokens to allow; 0 means all.
        top_p: Allow the smallest set of tokens with at least this probability, in (0, 1].

    Raises:
        ConfigError: Neither restricts anything, or they are out of range.
    """

    def __init__(self, reference: Policy, *, top_k: int = 0, top_p: float = 1.0) -> None:
        if top_k == 0 and top_p == 1.0:
            raise ConfigError("a ReferenceMask with top_k=0 and top_p=1 allows everything; set one of them")
        self.reference = reference
        self.sampling = Sampling(top_k=top_k, top_p=top_p)
        self._cache: PrefixCache | None = None
        self._tokens = np.zeros((0, 0), dtype=np.int64)
        self._lengths = np.zeros(0, dtype=np.int64)

    def bind(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        """Check that the reference reads the environment's tokens.

        Raises:
            ConfigError: It has another tokenizer.
        """
        super().bind(tokenizer, max_tokens)
        if tokenizer.fingerprint != self.reference.tokenizer.fingerprint:
            raise ConfigError("the reference of the mask and the environment have different tokenizers")
        self._cache = None

    def allowed(self, prefixes: Prefixes) -> BoolArray:
        """Return the allowed tokens, `(n, V)` bool."""
        rows, width = int(prefixes.rows.max()) + 1, prefixes.tokens.shape[1]
        if self._cache is None or rows > len(self._lengths) or width > self._tokens.shape[1]:
            self._cache = PrefixCache(self.reference, rows, width)
            self._tokens = np.zeros((rows, width), dtype=np.int64)
            self._lengths = np.ones(rows, dtype=np.int64)
        self._tokens[prefixes.rows, :width] = prefixes.tokens
        self._lengths[prefixes.rows] = prefixes.lengths
        states = self._cache.read(self._tokens, self._lengths)
        with torch.no_grad():
            wanted = torch.from_numpy(prefixes.rows).to(states.device)
            kept = torch.isfinite(self.sampling.log_probs(self.reference.logits(states[wanted])))
        mask: BoolArray = kept.cpu().numpy()
        return mask

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}  # refilled when the mask is next asked
