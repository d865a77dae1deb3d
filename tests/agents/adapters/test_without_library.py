from __future__ import annotations

import importlib
import sys

import pytest

from text_gym.errors import MissingLibraryError


@pytest.mark.parametrize(("library", "line"), [("skrl", "skrl"), ("minari", r"minari\[all\]")])
def test_without_its_library_an_adapter_says_what_to_install(
    library: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"text_gym.agents.adapters.{library}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    for module in [m for m in sys.modules if m.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibraryError, match=f'pip install "{line}"'):
        importlib.import_module(name)
