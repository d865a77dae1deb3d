"""Opinions: pairs, ratings and likes, in memory and in files."""
