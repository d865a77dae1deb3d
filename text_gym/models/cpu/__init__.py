"""The CPU fast path: compiled kernels, and two families of models written out with them."""
