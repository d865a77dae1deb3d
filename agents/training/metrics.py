"""Metrics of an iteration: numbers by name, as `Rollout.metrics`, an update and the clock give them."""

Metrics = dict[str, float]
# Metrics that depend on the machine; all others repeat exactly when a run is repeated.
TIMES = frozenset({"seconds", "rollout_seconds", "tokens_per_second", "memory_mib"})
