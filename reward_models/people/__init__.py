"""Raters, simulated and real: how they are asked, and how well they agree."""
