"""The page on which people rate and compare texts."""
