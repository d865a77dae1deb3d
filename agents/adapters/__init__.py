"""Adapters for other RL libraries, a file or a folder each."""
