"""A policy and its reference whose weights are divided among processes, and a whole copy to play with.

Gradients go through the divided policy. Whatever cannot be done in lock-step (writing, where each process has
texts of its own; scoring; saving) is done by the whole copy, which holds one of the two policies at a time.
It takes the memory of all weights once, without gradients and without the optimizer's memory of them.
"""

from __future__ import annotations

import copy

import torch

from text_gym.models.sharding import shard_blocks, whole

from .policy import Policy


class ShardedWeights:
    """Divides the blocks of a policy, and of its reference, among all processes.

    Args:
        policy: The same in all of them. Its parameters are others afterwards: make the optimizer then.
        reference: One that does not share its model with the policy has its blocks divided, too.
    """

    def __init__(self, policy: Policy, reference: Policy | None = None) -> None:
        self._sharded, self._reference = policy, reference
        self._whole = copy.deepcopy(policy)
        self._whole.requires_grad_(False)
        shard_blocks(policy.model, bf16=policy.bf16)
        if reference is not None and reference.model is not policy.model:
            shard_blocks(reference.model, bf16=policy.bf16)

    def policy(self) -> Policy:
        """Return a whole copy of the policy as it is now; all processes call this together."""
        return self._fill(self._sharded)

    def reference(self) -> Policy:
        """Return a whole copy of the reference, likewise; what `policy` returned is no longer the policy."""
        assert self._reference is not None
        if self._reference.model is self._sharded.model:  # the policy without its adapter
            return self._fill(self._sharded).frozen()
        return self._fill(self._reference)

    @torch.no_grad()
    def _fill(self, source: Policy) -> Policy:
        for to, weight in zip(self._whole.parameters(), source.parameters(), strict=True):
            to.copy_(whole(weight))
        return self._whole
