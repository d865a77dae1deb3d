"""The algorithms: one file each, and their settings together in `configs`."""
