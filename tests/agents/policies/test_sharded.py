from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ranks.sharded import CASES
from tests.ranks.start import finish, start


@pytest.mark.nightly
def test_two_processes_with_half_the_weights_each_learn_what_one_does(tmp_path: Path) -> None:
    cases = ("sft", *CASES)
    ended = finish(start(2, ["-m", "tests.ranks.sharded", str(tmp_path), *cases]), 600)
    assert all(status == 0 for status, _ in ended), ended
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert set(found) == set(cases)
    for case, row in found.items():
        assert 0.45 < row["share"] < 0.55, case
        near = 1e-2 if "bf16" in case else 1e-5
        assert row["loss"] < near, case
        assert row["weights"] < near, case
        assert row["moved"] > 5e-4, case
        assert row["loaded"] == 0, case
