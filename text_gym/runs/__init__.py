"""Runs of the command line and of Python: training, its data, its folder, its console."""
