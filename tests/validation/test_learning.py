"""The learning probe: why there is none is told; a fault of the program's own is no reason."""

from __future__ import annotations

from typing import Any

import pytest

from text_gym.errors import NonFiniteError
from text_gym.validation.learning import _Trial


def test_only_our_own_errors_say_why_there_is_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = None
    for error in (NonFiniteError("too small"), RuntimeError("a slip")):

        def fail(_: _Trial, error: Exception = error) -> str:
            raise error

        monkeypatch.setattr(_Trial, "_probe", fail)
        if isinstance(error, NonFiniteError):
            assert _Trial(nothing, 1.0, 1).probe == "NonFiniteError: too small"
        else:
            with pytest.raises(RuntimeError, match="a slip"):
                _Trial(nothing, 1.0, 1).probe  # noqa: B018
