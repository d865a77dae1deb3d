"""Learned reward models: transformers, n-grams, ensembles, and their training."""
