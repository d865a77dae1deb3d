"""vLLM as a generator, really run, in an environment of its own: `python -m tests.vllm`."""
