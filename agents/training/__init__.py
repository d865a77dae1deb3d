"""The surroundings of an update: metrics, advice, the objective, checkpoints."""
