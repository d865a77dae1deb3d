"""The reward protocol: values, sources and their sums, transforms, and how sources are called."""
