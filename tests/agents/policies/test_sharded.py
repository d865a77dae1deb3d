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


@pytest.mark.nightly
@pytest.mark.parametrize(("kind", "moment"), [("kill in gather", "3"), ("hang in gather", "4")])
def test_a_process_lost_while_weights_are_gathered_ends_the_others_by_name(
    tmp_path: Path, kind: str, moment: str
) -> None:
    """Process 0 waits for a slice of a block, by PPO and by GRPO; then both go on from a checkpoint."""
    run = ["-m", "tests.ranks.hurt", str(tmp_path)]
    hurt = start(2, [*run, kind, "1", moment, "--shard"], TEXT_GYM_WORLD_LIMIT="5")
    (status, said), (lost, heard) = finish(hurt, 120)
    assert status == 1
    assert "PeerError: another process is gone or silent" in said
    began, ended = (float(words.split()[1]) for words in said.splitlines() if words.startswith("@"))
    assert ended - began < 30
    if kind == "kill in gather":
        assert lost == -9
    else:
        assert lost == 1
        assert "rank 1 hangs and is ended; rank 0" in heard
    again = finish(start(2, [*run, "none", "1", moment, "--shard", "--resume"]), 120)
    assert all(status == 0 for status, _ in again), again
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["iterations"] == 8
