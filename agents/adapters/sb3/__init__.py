"""Stable-Baselines3: environments, policies and training; only these files import it."""
