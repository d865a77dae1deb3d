"""The CPU fast path: compiled kernels, and GPT-2's arithmetic written out with them."""
