"""Training runs, from the command line or Python: their data, folder and console."""
