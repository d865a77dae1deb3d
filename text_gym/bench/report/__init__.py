"""The page and figures of a benchmark."""
