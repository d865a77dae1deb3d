"""The folder: what may be added to it, what may not, and results that follow from its cells alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from text_gym.bench.matrix.folder import BenchFolder, extended, machine
from text_gym.errors import ConfigError


def config(**changes: Any) -> dict[str, Any]:
    return {
        "what": "rewards",
        "task": "products",
        "tasks": ["products"],
        "budget": "small",
        "designs": [{"name": "gold", "fingerprint": "1", "tree": None}],
        "optimisers": ["rloo"],
        "kl_coefficients": [0.0],
        "seeds": [0],
        "settings": {"products": {"iterations": 40, "episodes": 64}},
        "optimiser_settings": {"rloo": {"epochs": 1}},
        "command": "text-gym bench rewards",
        **changes,
    }


def put(folder: Path, name: str, fingerprint: str, seed: int, **row: Any) -> None:
    content = {
        "row": {
            "task": "products",
            "design": name,
            "optimiser": "rloo",
            "kl_coefficient": 0.0,
            "seed": seed,
            **row,
        },
        "curve": [],
        "samples": [],
        "fingerprint": fingerprint,
    }
    (folder / "cells").mkdir(exist_ok=True)
    (folder / "cells" / f"{name}{fingerprint}{seed}.json").write_text(json.dumps(content))


def test_lists_grow_and_the_rest_is_kept(tmp_path: Path) -> None:
    with BenchFolder(tmp_path, config()) as folder:
        assert folder.config["machine"]["cores"] >= 1
        folder.describe({"gold": "gold: a tree"})
        folder.config["machine"] = {"processor": "the one that ran the first cells"}
        folder.save()
    with BenchFolder(tmp_path, config(seeds=[2, 0], optimisers=["ppo"], kl_coefficients=[0.1])) as folder:
        assert folder.config["seeds"] == [0, 2]
        assert folder.config["optimisers"] == ["rloo", "ppo"]
        assert folder.config["kl_coefficients"] == [0.0, 0.1]
        assert folder.config["designs"][0]["tree"] == "gold: a tree"
        assert folder.config["machine"] == {"processor": "the one that ran the first cells"}
    found = json.loads((tmp_path / "config.json").read_text())
    assert found["seeds"] == [0, 2]


def test_a_design_of_another_content_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    with BenchFolder(tmp_path, config()) as folder:
        folder.describe({"gold": "old"})
        put(tmp_path, "gold", "1", 0)
    changed = [{"name": "gold", "fingerprint": "2", "tree": None}]
    with BenchFolder(tmp_path, config(designs=changed)) as folder:
        assert folder.config["designs"] == changed
        assert folder.rows() == []
        put(tmp_path, "gold", "2", 0, gold=0.5)
        assert [row["gold"] for row in folder.rows()] == [0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"what": "agents"}, "what = 'rewards', not 'agents'"),
        ({"settings": {"products": {"iterations": 9, "episodes": 64}}}, "products: iterations = 40, not 9"),
        ({"optimiser_settings": {"rloo": {"epochs": 2}}}, "rloo: epochs = 1, not 2"),
    ],
)
def test_other_settings_are_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with BenchFolder(tmp_path, config()):
        pass
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=message):
        BenchFolder(tmp_path, config(**changes))
    assert (tmp_path / "config.json").read_bytes() == before
    with BenchFolder(tmp_path, config()):  # and the lock was let go
        pass


def test_settings_of_another_task_or_optimiser_are_added() -> None:
    more = config(settings={"sort": {"iterations": 9}}, optimiser_settings={"ppo": {}}, tasks=["sort"])
    found = extended(config(), more, Path("there"))
    assert set(found["settings"]) == {"products", "sort"}
    assert found["tasks"] == ["products", "sort"]


def test_one_process_at_a_time_and_no_folder_of_something_else(tmp_path: Path) -> None:
    with BenchFolder(tmp_path / "a", config()), pytest.raises(ConfigError, match="in use by process"):
        BenchFolder(tmp_path / "a", config())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something other than a benchmark"):
        BenchFolder(tmp_path / "b", config())


def test_a_process_that_was_killed_before_it_had_written_the_settings_is_no_obstacle(tmp_path: Path) -> None:
    with BenchFolder(tmp_path / "whole", config()):
        (tmp_path / "whole" / "config.json").unlink()
        left = {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()}
    assert sorted(left) == ["run.lock", "started_with.json"]
    for names in (["run.lock"], [*left], [".started_with.json.partial"], [*left, ".config.json.partial"]):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(left.get(name, b"{"))
        with BenchFolder(folder, config()):
            pass
        assert sorted(file.name for file in folder.iterdir()) == ["config.json", "started_with.json"]


def test_results_are_in_canonical_order_whatever_was_done_first(tmp_path: Path) -> None:
    designs = [{"name": n, "fingerprint": "1", "tree": None} for n in ("gold", "alpha")]
    with BenchFolder(
        tmp_path, config(designs=designs, optimisers=["rloo", "best_of_n"], seeds=[0, 10])
    ) as folder:
        put(tmp_path, "alpha", "1", 10, null_rulers={"empty": 0.5})
        put(tmp_path, "alpha", "1", 2)
        put(tmp_path, "gold", "1", 0, gold=None)
        rows = folder.write_results()
    assert [(r["design"], r["seed"]) for r in rows] == [("gold", 0), ("alpha", 2), ("alpha", 10)]
    assert json.loads((tmp_path / "results.json").read_text()) == rows
    with (tmp_path / "results.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["design"] for row in table] == ["gold", "alpha", "alpha"]
    assert json.loads(table[2]["null_rulers"]) == {"empty": 0.5}
    assert table[0]["gold"] == ""


def test_the_machine_is_described_in_plain_data() -> None:
    found = machine()
    assert set(found) == {"processor", "cores", "python", "torch", "date"}
    json.dumps(found)
