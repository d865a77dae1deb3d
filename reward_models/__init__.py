"""Everything that turns an episode into a number. It never imports agents."""

if __name__ == "reward_models":
    raise ImportError("import text_gym.reward_models; this folder is its source")

import lazy_loader

# The names and their homes stand in __init__.pyi; each is loaded on first use, so that importing this package
# loads no PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
