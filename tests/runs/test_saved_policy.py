from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from text_gym.errors import DataError
from text_gym.runs.saved_policy import ORIGIN, holds_model, is_plain_name, policy_folder, read_origin


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_file_that_is_no_object_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / ORIGIN).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=rf"{ORIGIN}.*remove it"):
        read_origin(tmp_path)


def test_the_policy_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "run" / "policy").mkdir(parents=True)
    (tmp_path / "run" / "policy" / "model.safetensors").touch()
    assert policy_folder(tmp_path / "run") == str(tmp_path / "run" / "policy")
    assert policy_folder(tmp_path / "run" / "policy") == str(tmp_path / "run" / "policy")
    assert policy_folder("someone/model") == "someone/model"
    (tmp_path / "rlhf").mkdir()
    for kept, name in ((0, "start"), (2, "round-2")):
        rows = [{"kept": 1}, {"kept": kept}]
        (tmp_path / "rlhf" / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        assert policy_folder(tmp_path / "rlhf") == str(tmp_path / "rlhf" / name / "policy")
    (tmp_path / "rlhf" / "rounds.jsonl").write_text("")
    with pytest.raises(DataError, match="which policy stands"):
        policy_folder(tmp_path / "rlhf")


def test_a_run_that_has_not_ended_says_that_it_has_no_policy_yet(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text('{"task": "guess"}')  # of the run, not of a model
    with pytest.raises(DataError, match=r"not saved its policy yet.*train --resume"):
        policy_folder(tmp_path)


def test_only_names_are_loaded_without_being_asked() -> None:
    assert is_plain_name("slots")
    for spec in ("mine.py:f", "os:system", "human:labels.db", "/somewhere/model", "a b", "", None, 3):
        assert not is_plain_name(spec)


def test_a_policy_made_elsewhere_has_no_origin(tmp_path: Path) -> None:
    assert read_origin(tmp_path) == {}
    (tmp_path / ORIGIN).write_text('{"task": "sort"}')
    assert read_origin(str(tmp_path)) == {"task": "sort"}


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_a_model_is_known_by_its_configuration(tmp_path: Path, name: str) -> None:
    assert not holds_model(tmp_path)
    (tmp_path / name).mkdir()  # a folder of that name is none
    assert not holds_model(tmp_path)
    (tmp_path / name).rmdir()
    (tmp_path / name).write_text("{}")
    assert holds_model(tmp_path)


def test_pytorch_stays_out() -> None:
    """Command lines look folders up before they load anything large."""
    program = "import sys, text_gym.runs.saved_policy; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
