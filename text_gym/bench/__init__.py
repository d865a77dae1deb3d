"""The benchmark of reward designs and of agents: it runs a matrix, summarises it and writes a report."""

import lazy_loader

# The names and their homes stand in __init__.pyi; each is loaded on first use, so that importing this package
# loads no PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
