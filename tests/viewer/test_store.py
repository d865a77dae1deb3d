"""The store of kept rollouts: which iterations, how large, complete or not at all, and damage is named."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from text_gym import ByteTokenizer, Episode
from text_gym.agents.training.recorder import IterationRecord
from text_gym.errors import ConfigError, DataError
from text_gym.viewer import store as module
from text_gym.viewer.store import RolloutStore, kept_files, read_iteration

TEXTS = ["é €", "</script>\u2028\x00", "b" * 5, ""]


def record(iteration: int = 3, texts: list[str] = TEXTS, group_size: int = 2) -> IterationRecord:
    episodes = [Episode.of(f"prompt {i // group_size}", t, ByteTokenizer()) for i, t in enumerate(texts)]
    width = max(len(e.completion_ids) for e in episodes)
    rng = np.random.default_rng(iteration)
    columns = {name: rng.normal(size=(len(texts), width)).astype(np.float32) for name in ("kl", "advantage")}
    columns["advantage"][1] = np.nan
    rewards = np.array([0.5, np.nan, *[1 / 3] * (len(texts) - 2)])
    return IterationRecord(iteration, group_size, episodes, rewards, {"clarity": rewards}, columns)


@pytest.mark.parametrize(
    ("keep", "iterations", "wanted"),
    [(1, 40, [40]), (2, 40, [1, 40]), (4, 10, [1, 4, 7, 10]), (5, 3, [1, 2, 3]), (3, 1, [1])],
)
def test_kept_iterations_are_spread_over_the_run(keep: int, iterations: int, wanted: list[int]) -> None:
    store = RolloutStore("run", keep, iterations)
    assert [i for i in range(iterations + 2) if store.wants(i)] == wanted


def test_nothing_to_keep_is_refused() -> None:
    with pytest.raises(ConfigError, match="keep_rollouts is 0"):
        RolloutStore("run", 0, 10)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = record()
    RolloutStore(tmp_path, 3, 5).write(written)
    (file,) = kept_files(tmp_path).values()
    found = read_iteration(file)
    assert (found.iteration, found.group_size, found.played, len(found.episodes)) == (3, 2, 4, 4)
    for i, (row, episode) in enumerate(zip(found.episodes, written.episodes, strict=True)):
        count = len(episode.completion_ids)
        assert row["completion_ids"] == episode.completion_ids.tolist()
        assert "".join(row["tokens"]) == TEXTS[i] + "■"  # that of EOS
        assert row["prompt"] == f"prompt {i // 2}"
        for name, column in written.columns.items():
            told = [np.nan if x is None else x for x in row["numbers"][name]]
            np.testing.assert_array_equal(np.array(told, dtype=np.float32), column[i, :count])
    assert [row["reward"] for row in found.episodes] == [0.5, None, *[pytest.approx(1 / 3)] * 2]
    again = file.read_bytes()
    RolloutStore(tmp_path, 3, 5).write(written)
    assert file.read_bytes() == again  # there is no time in it


def test_a_resumed_run_has_no_iteration_twice_and_none_too_many(tmp_path: Path) -> None:
    first = RolloutStore(tmp_path, 3, 5)
    for number in (1, 3, 5):
        first.write(record(number))
    (tmp_path / "rollouts" / "notes.jsonl.gz").write_bytes(b"mine")
    first.rewind(4)
    assert list(kept_files(tmp_path)) == [1, 3]
    RolloutStore(tmp_path, 2, 9).rewind(4)  # resumed with other settings
    assert list(kept_files(tmp_path)) == [1]
    assert (tmp_path / "rollouts" / "notes.jsonl.gz").exists()


def test_an_iteration_of_very_many_tokens_keeps_whole_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_TOKENS", 50)
    RolloutStore(tmp_path, 1, 1).write(record(1, ["abcdefghi"] * 8))  # ten tokens each
    found = read_iteration(kept_files(tmp_path)[1])
    assert (found.played, len(found.episodes)) == (8, 4)


def test_a_full_disk_costs_the_rollouts_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_atomic", full)
    with caplog.at_level(logging.WARNING, "text_gym"):
        RolloutStore(tmp_path, 1, 1).write(record(1))
    assert "iteration 1 could not be kept" in caplog.text
    assert kept_files(tmp_path) == {}


def damaged(file: Path, how: str) -> None:
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")[:-1]
    rows = [json.loads(line) for line in lines]
    if how == "torn":
        file.write_bytes(file.read_bytes()[:-40])
        return
    if how == "plain":
        file.write_text("no gzip")
        return
    if how == "later":
        rows[0]["format"] = 2
    elif how == "short":
        rows.pop()
    elif how == "numbers":
        rows[2]["numbers"]["kl"].pop()
    elif how == "tokens":
        rows[2]["tokens"][0] = {"text": "a"}
    elif how == "huge":
        rows[2]["numbers"]["kl"][0] = 10**400
    elif how == "list":
        rows[1] = []
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.mark.parametrize("how", ["torn", "plain", "later", "short", "numbers", "tokens", "huge", "list"])
def test_damage_is_named(tmp_path: Path, how: str) -> None:
    RolloutStore(tmp_path, 1, 1).write(record(1))
    file = kept_files(tmp_path)[1]
    damaged(file, how)
    with pytest.raises(DataError, match=r"00000001\.jsonl\.gz"):
        read_iteration(file)
