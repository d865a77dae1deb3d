"""Where a policy comes from: its start is found by name, by path, in the run; another one is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.own_data import write_policy
from text_gym import load_task
from text_gym.agents import Policy
from text_gym.runs.origin import Start, load_start, write_origin
from text_gym.runs.saved_policy import ORIGIN, read_origin


def load(folder: Path) -> Policy:
    return Policy.from_pretrained(folder, device="cpu")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A start policy, and another one that says it began as that, in a run's folder."""
    start = load(write_policy(tmp_path / "start"))
    write_policy(tmp_path / "run" / "policy", seed=1)
    write_origin(tmp_path / "run" / "policy", {"task": "x"}, 8, Start.of(start, tmp_path / "start"))
    return tmp_path


def found(folder: Path) -> tuple[str | None, str]:
    start, said = load_start(folder, load(folder), "cpu")
    return None if start is None else start.digest(), said


def test_a_start_in_a_folder_is_found_and_is_that_policy(world: Path) -> None:
    digest, where = found(world / "run" / "policy")
    assert digest == load(world / "start").digest() != load(world / "run" / "policy").digest()
    assert where == str(world / "start")
    assert read_origin(world / "run" / "policy")["start_policy"]["places"][0] == {"folder": "../../start"}


def test_run_and_start_can_be_moved_together_or_the_run_alone(world: Path) -> None:
    (world / "there").mkdir()
    shutil.copytree(world / "run", world / "there" / "run")
    assert found(world / "there" / "run" / "policy")[1] == str(world / "start")
    shutil.move(world / "start", world / "there" / "start")
    assert found(world / "there" / "run" / "policy")[1] == str(world / "there" / "start")


def test_a_start_that_is_gone_is_not_known_and_what_to_pass_is_said(world: Path) -> None:
    (world / "start").rename(world / "elsewhere")
    digest, said = found(world / "run" / "policy")
    assert digest is None
    assert f"{world / 'start'} is not there" in said
    assert said.endswith("pass --reference")


def test_another_policy_in_its_place_is_refused(world: Path) -> None:
    shutil.rmtree(world / "start")
    write_policy(world / "start", seed=2)
    digest, said = found(world / "run" / "policy")
    assert digest is None
    assert f"{world / 'start'} is another policy" in said


def test_a_copy_is_found_wherever_the_run_goes(world: Path) -> None:
    folder, start = world / "run" / "policy", load(world / "start")
    shutil.copytree(world / "start", world / "run" / "copy")
    write_origin(folder, {}, 8, Start.of(start, world / "start").also_at(world / "run" / "copy"))
    text = (folder / ORIGIN).read_text()
    assert str(world / "run") not in text
    shutil.rmtree(world / "start")
    (world / "run").rename(world / "moved")
    digest, where = found(world / "moved" / "policy")
    assert (digest, where) == (start.digest(), str(world / "moved" / "copy"))


def test_the_policy_of_a_task_is_found_by_name(tmp_path: Path) -> None:
    task = load_task("products")
    assert task.policy is not None
    policy = load(task.policy)
    for came_from in (None, task.policy, str(task.policy), policy):
        start = Start.of(policy, came_from, task)
        assert start.places == ({"task": "products"},)
    policy.save(tmp_path / "policy")
    write_origin(tmp_path / "policy", task.settings, 64, start, "length")
    origin = read_origin(tmp_path / "policy")
    assert (origin["task"], origin["max_tokens"], origin["reward"]) == ("products", 64, "length")
    assert found(tmp_path / "policy") == (policy.digest(), "the policy shipped with task 'products'")


def test_hub_models_and_policies_from_python() -> None:
    policy = Policy.new(load_task("sort").tokenizer, width=16, heads=2, device="cpu")
    assert Start.of(policy, "someone/model").places == ({"hub": "someone/model"},)
    assert Start.of(policy, policy).places == ()


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ({"task": "products", "max_tokens": 64}, "not known"),  # as older versions wrote it
        ({"start_policy": None}, "made from nothing"),
        ({"start_policy": {"places": 3}}, "damaged"),
        ({"start_policy": {"sha256": "0", "dtype": "import os", "places": []}}, "kept nowhere"),
        ({"start_policy": {"sha256": "0", "dtype": "float32", "places": [{"task": "x"}, {}]}}, "not there"),
    ],
)
def test_what_is_not_known_is_said(tmp_path: Path, origin: object, said: str) -> None:
    policy = load(write_policy(tmp_path / "p"))
    assert load_start(tmp_path / "p", policy) == (
        None,
        "not known: the policy's folder does not say what it started from; pass --reference",
    )
    (tmp_path / "p" / ORIGIN).write_text(json.dumps(origin))
    start, sentence = load_start(tmp_path / "p", policy)
    assert start is None
    assert said in sentence
    assert "pass --reference" in sentence
