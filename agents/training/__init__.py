"""What happens around an update: gradients, metrics, advice, the objective, checkpoints."""
