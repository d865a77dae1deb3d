"""The CPU fast path: compiled kernels, and the arithmetic of GPT-2 and the Llama family written out with them."""
