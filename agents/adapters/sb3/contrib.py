"""Introduces classes of ours to sb3-contrib, which is an extra and may not be installed."""

from __future__ import annotations

import importlib


def pass_for(cls: type, module: str, name: str) -> None:
    """Let `isinstance` take a class for one of sb3-contrib's, of which it has all that is asked for.

    Args:
        cls: Our class.
        module: Under `sb3_contrib.common.maskable`.
        name: Of the abstract class there.
    """
    try:
        found = importlib.import_module(f"sb3_contrib.common.maskable.{module}")
    except ImportError:
        return
    getattr(found, name).register(cls)
