"""Policies and critics: trunks, heads, log-probabilities, adapters."""
