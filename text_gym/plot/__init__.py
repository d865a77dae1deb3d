"""Figures of text-gym: arrays in, matplotlib axes out, and SVG that fits light and dark pages.

matplotlib is loaded by the first figure; importing this package loads none of it.
"""

import lazy_loader

# The names and their homes stand in __init__.pyi; each is loaded on first use.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
