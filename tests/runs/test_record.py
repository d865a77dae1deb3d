"""A run's record: what is not as the run was started is named, and code from elsewhere asks for trust."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests import kill_harness
from text_gym import Prompt, RewardSource, Task, as_reward_source
from text_gym.agents import Policy, PPOConfig
from text_gym.cli.main import main
from text_gym.errors import ChangedRunError, UntrustedRunError
from text_gym.reward_models.loading import load_reward
from text_gym.reward_models.scripted.rules import Length
from text_gym.runs import conditions as conditions_module
from text_gym.runs.conditions import conditions
from text_gym.runs.record import RECORD, check_trust, go_on, read_record, start_record
from text_gym.runs.train import train
from text_gym.utils.signing import is_signed, sign

pytestmark = pytest.mark.usefixtures("undrawn")

CODE = "def reward(completion):\n    return float(len(completion))\n"


def started(folder: Path, **changes: Any) -> None:
    """Begin a run of one iteration, or go on with it."""
    policy = Policy.new(kill_harness.TOKENIZER, layers=1, width=8, heads=2, context=16, device="cpu")
    given: dict[str, Any] = {
        "config": PPOConfig(iterations=1, epochs=1),
        "task": kill_harness.task(),
    } | changes
    config, task = given.pop("config"), given.pop("task")
    quiet = Console(file=io.StringIO())
    train("ppo", config, task, policy=policy, episodes=4, out=folder, console=quiet, **given)


def other_task(**changes: Any) -> Task:
    kept = {
        k: getattr(kill_harness.task(), k) for k in ("name", "prompts", "held_out", "tokenizer", "reward")
    }
    return Task(**{**kept, "max_tokens": 6, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    started(folder)
    return folder


@pytest.fixture
def again(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"config": PPOConfig(iterations=1, epochs=1, learning_rate=0.5)}, ["learning_rate"]),
        ({"config": PPOConfig(iterations=2, epochs=2)}, ["iterations", "epochs"]),
        ({"task": other_task(prompts=[Prompt("a")])}, ["prompts"]),
        ({"task": other_task(held_out=[Prompt("ghi")])}, ["held-out prompts"]),
        (
            {"task": other_task(prompts=[Prompt(p.text, {"x": 1}) for p in kill_harness.task().prompts])},
            ["prompts"],
        ),
        ({"task": other_task(max_tokens=5)}, ["tokens of an episode, at most"]),
        ({"reward": Length(low=1, high=2)}, ["reward"]),
        ({"reward": as_reward_source(lambda completion: 1.0)}, ["code of the reward"]),
    ],
)
def test_what_differs_is_named_and_refused(again: Path, changes: dict[str, Any], what: list[str]) -> None:
    before = {f.name: f.read_bytes() for f in again.iterdir() if f.is_file()}
    with pytest.raises(ChangedRunError) as found:
        started(again, resume=True, **changes)
    assert {change[0] for change in found.value.changes} >= set(what) - {"code of the reward"}
    for name in what:
        assert name in str(found.value)
    assert "--accept-changes" in str(found.value)
    assert {f.name: f.read_bytes() for f in again.iterdir() if f.is_file()} == before


def test_what_is_the_same_is_not_refused(again: Path) -> None:
    started(again, resume=True)
    record = read_record(again)
    assert record is not None
    assert record["accepted"] == []


def test_accepted_changes_are_listed_and_are_none_afterwards(again: Path) -> None:
    changes = {"config": PPOConfig(iterations=2, epochs=1)}
    started(again, resume=True, accept_changes=True, **changes)
    record = read_record(again)
    assert record is not None
    assert record["accepted"] == [["iterations", "1", "2"]]
    assert "iterations: 1 before, 2 now" in (again / "log.txt").read_text()
    assert json.loads((again / "config.json").read_text())["iterations"] == 2
    started(again, resume=True, **changes)


def test_a_growing_record_takes_up_what_was_accepted_and_keeps_the_rest(tmp_path: Path) -> None:
    """Such as a benchmark's, to which another optimiser's library may be added."""
    start_record(tmp_path, {}, {"version of numpy": "1", "reward": "a"})
    now = {"reward": "b", "version of another": "3"}
    with pytest.raises(ChangedRunError, match="reward: a before, b now"):
        go_on(tmp_path, {}, now, growing=True)
    go_on(tmp_path, {}, now, growing=True, accept_changes=True)
    assert go_on(tmp_path, {}, now, growing=True) == []
    record = read_record(tmp_path)
    assert record is not None
    assert record["conditions"] == {"version of numpy": "1", **now}


def conditions_of(reward: RewardSource, task: Task | None = None) -> dict[str, str]:
    return conditions(task or kill_harness.task(), reward)


@pytest.mark.parametrize("sandbox", [True, False])
def test_the_code_of_a_reward_counts_wherever_it_stands(tmp_path: Path, sandbox: bool) -> None:
    found: list[Mapping[str, str]] = []
    for place, code in (("a", CODE), ("b", CODE), ("c", CODE + "\n")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mine.py").write_text(code)
        source = load_reward(f"{tmp_path / place / 'mine.py'}:reward", sandbox=sandbox)
        found.append(conditions_of(source + Length(low=1, high=2)))
    assert found[0] == found[1]
    assert {k for k in found[0] if found[0][k] != found[2][k]} == {"code of the reward"}


def test_the_code_of_a_module_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rewards_of_test_record.py").write_text(CODE)
    first = conditions_of(load_reward("my_rewards_of_test_record:reward"))
    (tmp_path / "my_rewards_of_test_record.py").write_text(CODE + "# changed\n")
    second = conditions_of(load_reward("my_rewards_of_test_record:reward"))
    assert first["code of the reward"] != second["code of the reward"]


@pytest.mark.parametrize(
    ("what", "before", "now", "grave"),
    [
        ("version of torch", "2.13.0+cpu", "2.14.0", True),
        ("version of torch", "2.13.0+cpu", "2.13.1", False),
        ("version of text-gym", "0.2.0", "1.2.0", True),
        ("version of transformers", "5.4.0", "not installed", True),
        ("compiled kernels", "on", "off", False),
        ("prompts", "4 sha256:aa", "4 sha256:ab", True),
    ],
)
def test_kernels_and_patch_versions_are_a_warning(
    tmp_path: Path, what: str, before: str, now: str, grave: bool
) -> None:
    start_record(tmp_path, {"a": 1}, {what: before, "other": "x"})
    if grave:
        with pytest.raises(ChangedRunError, match=f"{what}: "):
            go_on(tmp_path, {"a": 1}, {what: now, "other": "x"})
    else:
        (note,) = go_on(tmp_path, {"a": 1}, {what: now, "other": "x"})
        assert f"{what}: {before} before, {now} now" in note
    (note,) = go_on(tmp_path, {"a": 1}, {what: now, "other": "x"}, accept_changes=True) or [what]
    assert what in note


def test_kernels_that_are_off_are_told_at_the_resumption(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = json.loads((again / RECORD).read_text())["conditions"]
    is_on = record["compiled kernels"] == "on"
    monkeypatch.setattr(conditions_module, "has_kernels", lambda: not is_on)
    started(again, resume=True)
    assert "compiled kernels: " in (again / "log.txt").read_text()


def test_an_older_run_goes_on_with_a_warning(again: Path) -> None:
    (again / RECORD).unlink()
    started(again, resume=True)
    assert "an older text-gym made it" in (again / "log.txt").read_text()
    assert not (again / RECORD).exists()  # nobody knows what to write there


# On the command line

WORDS = ["--task", "reverse", "--policy", "new", "--layers", "1", "--width", "8", "--iterations", "1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that has a reward of its own."""
    place = tmp_path_factory.mktemp("home")
    (place / "mine.py").write_text(CODE)
    out = ["--out", str(place / "run"), "--episodes", "4", "--checkpoint-every", "1"]
    assert main(["train", *WORDS, *out, "--reward", f"{place / 'mine.py'}:reward"]) == 0
    return place


@pytest.fixture
def copy(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run; the reward leaves a mark where it runs outside a sandbox."""
    shutil.copytree(home / "run", tmp_path / "run")
    return tmp_path / "run"


def resumed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["train", "--resume", *words])
    return code, capsys.readouterr().err


def test_a_changed_reward_file_is_refused_unless_it_is_accepted(
    home: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        (home / "mine.py").write_text(CODE.replace("len", "2 * len"))
        code, said = resumed(capsys, str(copy))
        assert code == 2
        assert "ChangedRunError" in said
        assert "code of the reward: mine.py sha256:" in said
        assert resumed(capsys, str(copy), "--accept-changes")[0] == 0
    finally:
        (home / "mine.py").write_text(CODE)


def test_an_edited_config_is_refused_unless_it_is_accepted(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(content | {"learning_rate": 0.125}))
    code, said = resumed(capsys, str(copy))
    assert code == 2
    assert "learning_rate: " in said
    assert "0.125 now" in said
    assert resumed(capsys, str(copy), "--accept-changes")[0] == 0


# The record is the user's own, signature and all; only config.json names something else.
GENUINE = ("another reward", "another gold", "another upload")


def elsewhere(folder: Path, how: str, marker: Path) -> None:
    """Make a run's folder look as if it came from somebody else, who wants code to run."""
    code = f"open({str(marker)!r}, 'w')\n{CODE}"
    (folder / "evil.py").write_text(code)
    content = json.loads((folder / "config.json").read_text())
    record = json.loads((folder / RECORD).read_text())
    names = {
        "reward": {"reward": f"{folder / 'evil.py'}:reward"},
        "module": {"reward": "evil:reward"},
        "gold": {"gold": "evil:reward"},
        "algorithm": {"algorithm": f"{folder / 'evil.py'}:Agent"},
        "upload": {"reward": None, "push_to_hub": "somebody/policies"},
        "another reward": {"reward": f"{folder / 'evil.py'}:reward"},
        "another gold": {"gold": "evil:reward"},
        "another upload": {"push_to_hub": "somebody/policies"},
    }
    content["options"] |= names.get(how, {})
    (folder / "config.json").write_text(json.dumps(content))
    if how in ("unsigned", "reward", "module"):
        (folder / RECORD).unlink()
    elif how not in GENUINE:
        record["config"] = content
        (folder / RECORD).write_text(json.dumps(record))


@pytest.mark.parametrize(
    "how", ["unsigned", "reward", "module", "gold", "algorithm", "upload", "resigned", *GENUINE]
)
def test_code_that_a_folder_from_elsewhere_names_does_not_run(
    how: str, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "marker"
    elsewhere(copy, how, marker)
    if how == "resigned":  # nothing but the signature is another's
        record = json.loads((copy / RECORD).read_text())
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        (copy / RECORD).write_text(json.dumps(record))
    monkeypatch.chdir(copy)
    before = {f.name: f.read_bytes() for f in copy.iterdir() if f.is_file()}
    code, said = resumed(capsys, str(copy))
    assert code == 2
    assert "UntrustedRunError" in said
    assert f"--trust {copy}" in said
    told = {"gold": "gold reward", "algorithm": "algorithm", "upload": "upload"}
    assert told.get(how.removeprefix("another "), "reward") in said
    assert not marker.exists()
    assert {f.name: f.read_bytes() for f in copy.iterdir() if f.is_file()} == before
    code, said = resumed(capsys, str(copy), "--trust", str(tmp_path))
    assert (code, marker.exists()) == (2, False)
    assert "is not the folder of --resume" in said


def test_a_folder_that_is_trusted_goes_on_in_the_sandbox(
    copy: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    code, said = resumed(capsys, str(copy))
    assert code == 2
    assert f"run reward {home / 'mine.py'}:reward (in the sandbox)" in said
    marker = tmp_path / "marker"
    try:
        (home / "mine.py").write_text(f"open({str(marker)!r}, 'w')\n{CODE}")
        code, said = resumed(capsys, str(copy), "--trust", str(copy), "--accept-changes")
        assert (code, marker.exists()) == (2, False)
        assert "sandbox" in said
        (home / "mine.py").write_text(CODE)
        assert resumed(capsys, str(copy), "--trust", str(copy))[0] == 0
    finally:
        (home / "mine.py").write_text(CODE)


def test_a_folder_of_ones_own_goes_on_wherever_it_was_moved(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resumed(capsys, str(copy))[0] == 0


def test_changed_code_is_named_before_any_of_it_runs(
    copy: Path,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEXT_GYM_SANDBOX", "0")
    marker = tmp_path / "marker"
    try:
        (home / "mine.py").write_text(f"open({str(marker)!r}, 'w')\n{CODE}")
        code, said = resumed(capsys, str(copy))
        assert (code, marker.exists()) == (2, False)
        assert "ChangedRunError" in said
    finally:
        (home / "mine.py").write_text(CODE)


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_the_key_is_for_the_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    signature = sign("text")
    assert is_signed("text", signature)
    assert not is_signed("texts", signature)
    assert not is_signed("text", None)
    assert not is_signed("text", "é")
    key = tmp_path / "text-gym" / "key"
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    key.unlink()
    assert not is_signed("text", signature)


def test_no_home_is_no_signature(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "text-gym").write_text("a file")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert sign("text") is None
    start_record(tmp_path, {}, {})
    assert not is_signed("text", None)


def test_code_of_a_watched_criterion_needs_trust_too(tmp_path: Path) -> None:
    with pytest.raises(UntrustedRunError, match=r"run criterion 2 mine\.py:calm \(in the sandbox\)"):
        check_trust(tmp_path, {"watch": ["readability", "mine.py:calm"]})
    check_trust(tmp_path, {"watch": ["readability"]})
    check_trust(tmp_path, {})
