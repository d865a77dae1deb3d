"""Sampling of texts: the sampler and its KV cache, rollouts, evaluation."""
