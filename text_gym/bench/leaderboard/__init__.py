"""Submissions of rewards: one sealed folder each, checked and ranked as a static site."""
