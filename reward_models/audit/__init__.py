"""The audit of a reward: probes, edits, attributions, verdict and page."""
