"""The fast path of GPT-2 on a CPU: compiled kernels and the pass that uses them."""
