"""Raters, simulated and real: how they are asked, and how far they agree."""
