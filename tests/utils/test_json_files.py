from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym.utils.json_files import write_json

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_plain_data_comes_back(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    file = tmp_path_factory.mktemp("json") / "file.json"
    write_json(file, content)
    assert json.loads(file.read_text(encoding="utf-8")) == content


def test_numbers_that_json_lacks_become_null_at_any_depth(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"a": [1.5, float("nan")], "b": {"c": (float("inf"), np.nan)}})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse) == {"a": [1.5, None], "b": {"c": [None, None]}}


def test_a_write_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file.json"
    write_json(file, {"kept": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(file, {"kept": 2})
    assert json.loads(file.read_text(encoding="utf-8")) == {"kept": 1}
