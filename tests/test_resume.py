"""`train` ended in every way there is, and resumed: it leaves what an uninterrupted run leaves."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests import kill_harness
from tests.fault_server import fault_server
from text_gym import PretrainedTokenizer, RewardSource
from text_gym.agents import Policy, PPOConfig
from text_gym.cli.main import main
from text_gym.errors import CheckpointError, ConfigError, RewardError
from text_gym.runs.train import train
from text_gym.utils.locking import FolderLock

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parent.parent
posix = pytest.mark.skipif(os.name == "nt", reason="fork and POSIX signals")


CODES = {"SIGKILL": -9, "SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}


def harness(victim: str, folder: Path, trials: int, seed: int, *signals: str) -> dict[str, Any]:
    """Ends runs and resumes them; how often a signal gave which exit status, and what went wrong."""
    script = str(ROOT / "tests" / "kill_harness.py")
    done = subprocess.run(
        [sys.executable, script, victim, str(folder), str(trials), str(seed), *signals],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(found: dict[str, Any], folder: Path, *signals: str) -> int:
    """All runs were resumed and ended with the same bits; how many were stopped before they had ended."""
    assert found["failed"] == [], [f.read_text()[-2000:] for f in folder.glob("*/stderr")]
    assert found["differ"] == []
    codes = found["codes"]
    # The only other exit status is that of a run that had ended before the signal came.
    assert set(codes) <= {f"{s} {code}" for s in signals for code in (CODES[s], 0)}
    return sum(n for code, n in codes.items() if not code.endswith(" 0"))


@posix
def test_ended_at_random_moments(tmp_path: Path) -> None:
    signals = ("SIGKILL", "SIGTERM", "SIGKILL", "SIGHUP", "SIGKILL", "SIGINT")
    found = harness("ppo", tmp_path, 2, 0, *signals)
    assert check(found, tmp_path, *signals) >= 1


def told(found: dict[str, Any], by: str) -> dict[str, int]:
    """What `tried` is told."""
    return {
        "number": sum(n for code, n in found["codes"].items() if code.startswith(by)),
        "different": len(found["differ"]),
        "not_resumed": len(found["failed"]),
    }


@posix
@pytest.mark.nightly
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signals_at_random_moments_end_a_run_cleanly(
    tmp_path: Path, number: str, tried: Callable[..., None]
) -> None:
    found = harness("ppo", tmp_path, 50, 1, number)
    tried(
        "a run that gets SIGTERM, SIGHUP or Ctrl-C takes a checkpoint, exits with 143, 129 or 130, and, "
        "resumed, ends with the bits of one that was never stopped",
        unit="signals",
        **told(found, number),
    )
    assert check(found, tmp_path, number) >= 25


@posix
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("victim", "trials"),
    [
        ("ppo", 120),
        ("grpo", 80),
        ("rloo", 60),
        ("reinforce", 60),
        ("sb3.ppo", 60),
        ("sft", 40),
        ("reward", 40),
        ("rlhf", 30),
        ("bench", 50),
    ],
)
def test_killed_at_random_moments(
    victim: str, trials: int, tmp_path: Path, tried: Callable[..., None]
) -> None:
    found = harness(victim, tmp_path, trials, trials, "SIGKILL")
    tried(
        "`train` (PPO, GRPO, RLOO, REINFORCE, Stable-Baselines3), `sft`, `reward train`, `rlhf` and `bench`, "
        "killed at any moment and begun again, end with the bits of a run that was not killed",
        unit="kills",
        **told(found, "SIGKILL"),
    )
    assert check(found, tmp_path, "SIGKILL") >= trials / 4


# In this process


class Fails(RewardSource):
    """Raises at its call number `at`, once."""

    name = "fails"

    def __init__(self, at: int, error: BaseException) -> None:
        self.left, self.error = at, error

    def score(self, episodes: Any) -> list[float]:
        self.left -= 1
        if self.left == -1:
            raise self.error
        return [0.0] * len(episodes)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    kill_harness.run(folder, reward=kill_harness.reward() + Fails(-1, KeyError()))
    return kill_harness.result(folder)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyError("price"), RewardError),
        (SystemExit(0), RewardError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize(
    "at", [5, *(pytest.param(n, marks=pytest.mark.nightly) for n in [1, 2, 3, 4, *range(6, 11)])]
)
def test_a_reward_that_fails_takes_a_checkpoint_first(
    tmp_path: Path, error: BaseException, raised: type[BaseException], at: int, expected: dict[str, Any]
) -> None:
    with pytest.raises(raised) as found:
        kill_harness.run(tmp_path, reward=kill_harness.reward() + Fails(at, error), checkpoint_every=4)
    if raised is RewardError:
        assert found.value.__cause__ is error
    done = at - 1  # the first call is that of the judgement before
    assert (tmp_path / "checkpoints" / f"{done:08d}").is_dir()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == done
    assert (tmp_path / "policy" / "model.safetensors").is_file()
    assert f"text-gym train --resume {tmp_path}" in (tmp_path / "log.txt").read_text()
    kill_harness.run(
        tmp_path, resume=True, reward=kill_harness.reward() + Fails(-1, error), checkpoint_every=4
    )
    assert f"resumed after iteration {done}" in (tmp_path / "log.txt").read_text()
    assert kill_harness.result(tmp_path) == expected


def test_without_checkpoints_a_failing_reward_still_costs_nothing_learnt(tmp_path: Path) -> None:
    failing = kill_harness.reward() + Fails(3, KeyError())
    with pytest.raises(RewardError):
        kill_harness.run(tmp_path, reward=failing, checkpoint_every=0)
    assert (tmp_path / "policy" / "model.safetensors").is_file()
    assert not (tmp_path / "checkpoints").exists()
    with pytest.raises(ConfigError, match="takes no checkpoints"):
        kill_harness.run(tmp_path, reward=failing, checkpoint_every=0, resume=True)
    with pytest.raises(ConfigError, match="checkpoint_every is -1"):
        kill_harness.run(tmp_path / "other", checkpoint_every=-1)


def test_a_finished_run_can_be_resumed_to_no_effect(tmp_path: Path) -> None:
    kill_harness.run(tmp_path / "run")
    whole = kill_harness.result(tmp_path / "run")
    kill_harness.run(tmp_path / "run", resume=True)
    assert kill_harness.result(tmp_path / "run") == whole
    with pytest.raises(ConfigError, match=r"already holds a run; choose another --out, or go on with it"):
        kill_harness.run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"something else \(episodes: 8 before, 4 now\)"):
        kill_harness.run(tmp_path / "run", resume=True, episodes=4)
    with pytest.raises(ConfigError, match="holds no run"):
        kill_harness.run(tmp_path / "none", resume=True)
    for damaged in (tmp_path / "run" / "checkpoints").glob("0*/agent.safetensors"):
        damaged.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        kill_harness.run(tmp_path / "run", resume=True)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    kill_harness.run(tmp_path)
    lock = FolderLock(tmp_path)
    for resume in (False, True):
        with pytest.raises(ConfigError, match=f"is in use by process {os.getpid()}"):
            kill_harness.run(tmp_path, resume=resume)
    lock.release()
    kill_harness.run(tmp_path, resume=True)
    assert not (tmp_path / "run.lock").exists()


def test_advice_is_on_the_console_and_in_the_log_once(tmp_path: Path) -> None:
    stream = io.StringIO()
    whole = Console(file=stream, width=1000)
    equal = Fails(-1, KeyError())
    policy = Policy.new(kill_harness.TOKENIZER, layers=1, width=16, heads=2, context=16)
    for resume in (False, True):
        train(
            "ppo", PPOConfig(iterations=4), kill_harness.task(), reward=equal, policy=policy,
            episodes=8, out=tmp_path, console=whole, checkpoint_every=1, resume=resume,
        )  # fmt: skip
    for text in (stream.getvalue(), (tmp_path / "log.txt").read_text()):
        assert text.count("All rewards are equal") == 1
        assert "iteration 3: All rewards are equal: each of the 8 episodes got 0" in text


# The command line


def test_the_command_line_resumes_with_the_runs_own_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import pathlib
calls = []

def late(completion):
    calls.append(1)
    if len(calls) == 40 and not pathlib.Path(__file__).with_name("mended").exists():
        raise KeyError("price")
    return float(len(completion))
"""
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "data.csv").write_text("prompt\n" + "\n".join(f"text {i}" for i in range(10)))
    tokenizer = PretrainedTokenizer.train(["text"], vocab_size=258)
    Policy.new(tokenizer, width=8, layers=1, heads=2, context=32, device="cpu").save(tmp_path / "start")
    monkeypatch.chdir(tmp_path)
    options = ["--iterations", "6", "--episodes", "8", "--checkpoint-every", "2", "--seed", "4"]
    options += ["--data", "data.csv", "--policy", "start", "--max-tokens", "8"]
    command = ["train", *options, "--reward", "mine.py:late", "--out"]
    assert main([*command, "run"]) == 2
    shown = capsys.readouterr()
    assert "RewardError: reward 'late' raised KeyError" in shown.err
    assert "to go on: text-gym train --resume run" in shown.out
    first = (tmp_path / "run" / "config.json").read_text()
    assert json.loads(first)["options"]["reward"] == f"{tmp_path}/mine.py:late"
    (tmp_path / "mended").touch()
    assert main([*command, "whole"]) == 0
    # A run has a copy of the policy that it began with.
    Policy.new(tokenizer, width=8, layers=1, heads=2, context=32, seed=9, device="cpu").save(
        tmp_path / "start"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for wrong in (["--seed", "5"], ["--iterations=9"]):
        assert main(["train", "--resume", "../run", *wrong]) == 2
        assert "leave out all options but --resume" in capsys.readouterr().err
    assert main(["train", "--resume", "../run"]) == 0
    assert "before" in capsys.readouterr().out
    assert (tmp_path / "run" / "config.json").read_text() == first
    assert kill_harness.result(tmp_path / "run") == kill_harness.result(tmp_path / "whole")


JUDGE = """
import os
from text_gym.reward_models import ChatEndpoint, Judge

def judge():
    endpoint = ChatEndpoint(os.environ["TINY_URL"], "tiny", key_variable="TINY_KEY", attempts=1, wait=0.0)
    return Judge(endpoint, {"quality": "Is it good?"})
"""


@pytest.mark.parametrize(
    ("fault", "done", "said"),
    [
        pytest.param(
            "500",
            5,
            r"NoScoresError: reward 'judge' scored none of 8 episodes: .*status 500, 'boom'",
            marks=pytest.mark.nightly,
        ),
        ("401", 2, r"EndpointRefusedError: .*status 401, .*check the key in \$TINY_KEY"),
    ],
)
def test_a_judge_that_goes_down_stops_the_run_which_goes_on_when_it_is_back(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    done: int,
    said: str,
) -> None:
    (tmp_path / "mine.py").write_text(JUDGE)
    (tmp_path / "data.csv").write_text("prompt\n" + "\n".join(f"text {i}" for i in range(10)))
    tokenizer = PretrainedTokenizer.train(["text"], vocab_size=258)
    Policy.new(tokenizer, width=8, layers=1, heads=2, context=32, device="cpu").save(tmp_path / "start")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINY_KEY", "sk-test-0123456789")
    options = ["--iterations", "7", "--episodes", "8", "--checkpoint-every", "4", "--seed", "4"]
    options += ["--data", "data.csv", "--policy", "start", "--max-tokens", "8", "--reward", "mine.py:judge"]
    options += ["--no-sandbox"]  # a judge needs the network
    # Texts of two held-out prompts, then 8 texts an iteration: it goes down in the third.
    asked = 2 + 2 * 8
    down = range(asked, 10**9)
    with fault_server(lambda n, request: fault if n in down else "good") as server:
        monkeypatch.setenv("TINY_URL", server.url)
        assert main(["train", *options, "--out", "run"]) == 2
        shown = capsys.readouterr()
        assert re.search(said, shown.err)
        assert "sk-test" not in shown.err + shown.out
        assert shown.out.count("scored none of 8 episodes") == (fault == "500")
        assert "to go on: text-gym train --resume run" in shown.out
        assert (tmp_path / "run" / "checkpoints" / f"{done:08d}").is_dir()
        rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
        assert [row["unscored_batches"] for row in rows] == [0, 0, 1, 2, 3][:done]
        assert [row["reward"] is None for row in rows] == [False, False, True, True, True][:done]
        down = range(0)
        assert main(["train", "--resume", "run", "--no-sandbox"]) == 0
    # The same faults in a run that is patient.
    down = range(asked, asked + 8 * (done - 2))
    with fault_server(lambda n, request: fault if n in down else "good") as server:
        monkeypatch.setenv("TINY_URL", server.url)
        assert main(["train", *options, "--max-unscored", "9", "--out", "whole"]) == 0
    assert _less_the_card(tmp_path / "run") == _less_the_card(tmp_path / "whole")


def _less_the_card(run: Path) -> dict[str, Any]:
    """What a run left; its model card tells how patient it was."""
    return {name: value for name, value in kill_harness.result(run).items() if name != "README.md"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "holds no run: there is no config.json"),
        ("{", "not JSON"),
        ("{}", "lacks what `text-gym train --resume` needs"),
        ('{"options": {"task": "sort", "colour": "red"}}', "lacks what"),
        ('{"options": {"algorithm": "sb3.ppo"}}', "lacks what"),
    ],
)
def test_folders_that_cannot_be_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str | None, message: str
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert main(["train", f"--resume={tmp_path}"]) == 2
    assert message in capsys.readouterr().err
