from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.small_models import small_policy
from text_gym.errors import ConfigError
from text_gym.models import tuned
from text_gym.models.sizes import DEFAULTS, Sizes
from text_gym.models.tuned import TunedFor, read_sizes, write_sizes

HERE = TunedFor("cpu", "a processor, 2 cores, 1 thread", "gpt2, 2 layers of width 64, 300 ids")
FOUND = Sizes(tile_rows=2048, compact_below=0.75)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "text-gym"


@given(st.integers(1, 2**20), st.floats(0, 1), st.integers(0, 2**44))
def test_what_was_written_comes_back(rows: int, share: float, whole: int) -> None:
    sizes = Sizes(tile_rows=rows, compact_below=share, whole_bytes=whole)
    write_sizes(sizes, HERE, "today")
    assert read_sizes(None, HERE) == sizes


def test_every_machine_device_and_model_has_its_own_file(cache: Path) -> None:
    subjects = [HERE, *(replace(HERE, **{name: "another"}) for name in asdict(HERE))]
    assert len({subject.file() for subject in subjects}) == 4
    assert {subject.file().parent for subject in subjects} == {cache}
    file = write_sizes(FOUND, HERE, "64 episodes")
    content = json.loads(file.read_text())
    assert (content["measured"], content["machine"]) == ("64 episodes", HERE.machine)
    with pytest.raises(ConfigError, match=r"no sizes were measured on this machine \(another.*`text-gym"):
        read_sizes(None, replace(HERE, machine="another"))


def test_a_file_may_name_a_few_sizes_and_leave_the_rest_to_the_defaults(tmp_path: Path) -> None:
    subject = replace(HERE, device="cuda")
    content = {"format": 1, **asdict(subject), "sizes": {"tell_every": 8}}
    (tmp_path / "sizes.json").write_text(json.dumps(content))
    assert read_sizes(tmp_path / "sizes.json", subject) == replace(DEFAULTS["cuda"], tell_every=8)


@pytest.mark.parametrize("name", asdict(HERE))
def test_a_file_for_something_else_is_refused_with_what_it_is_for(name: str, tmp_path: Path) -> None:
    file = write_sizes(FOUND, HERE, "", tmp_path / "sizes.json")
    there = replace(HERE, **{name: "cuda"})
    with pytest.raises(
        ConfigError, match=f"for another {name}, .*this is 'cuda'; measure them with `text-gym tune`"
    ):
        read_sizes(file, there)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "no file of sizes that this version reads"),
        ({"sizes": [1]}, "numbers by name"),
        ({"sizes": {"tile_row": 8}}, "unknown size 'tile_row'; did you mean 'tile_rows'"),
        ({"sizes": {"tile_rows": 0}}, "the size tile_rows is 0"),
        ({"sizes": {"tile_rows": 1.5}}, "the size tile_rows is 1.5; it must be a whole number"),
        ({"sizes": {"free_share": "much"}}, "the size free_share is 'much'"),
    ],
)
def test_a_file_with_something_else_in_it_is_refused_by_name(change: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "sizes.json"
    file.write_text(json.dumps({"format": 1, **asdict(HERE), "sizes": asdict(FOUND), **change}))
    with pytest.raises(ConfigError, match=f"sizes.json.*{said}.*; measure them with `text-gym tune`"):
        read_sizes(file, HERE)


@pytest.mark.parametrize(
    ("text", "said"), [("{", "not JSON"), ("[]", "holds a list"), (None, "cannot be read")]
)
def test_a_broken_file_is_refused_by_name(text: str | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "sizes.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=f"sizes.json.*{said}"):
        read_sizes(file, HERE)


def test_without_a_cache_folder_a_file_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "private_folder", lambda *_: None)
    with pytest.raises(ConfigError, match="--out FILE, --sizes FILE"):
        HERE.file()


def test_a_machine_is_its_processor_and_threads_or_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_policy().model.config
    monkeypatch.setattr(tuned, "cores", lambda: 8)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        here = TunedFor.of(torch.device("cpu"), config)
    finally:
        torch.set_num_threads(before)
    assert here.device == "cpu"
    assert here.machine.endswith(", 8 cores, 3 threads")
    assert here.model == f"gpt2, {config.n_layer} layers of width {config.n_embd}, {config.vocab_size} ids"
    gpu = type("Properties", (), {"name": "NVIDIA H200", "total_memory": 139 * 2**30})()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    there = TunedFor.of(torch.device("cuda"), config)
    assert (there.device, there.machine) == ("cuda", "NVIDIA H200, 139 GiB")
