"""Everything that chooses tokens: policies, sampling, algorithms, adapters."""

if __name__ == "agents":
    raise ImportError("import text_gym.agents; the folder agents/ is its source, not a package of its own")

import lazy_loader

# The names and their homes stand in __init__.pyi; each is loaded on first use, so that importing this package
# loads no PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
