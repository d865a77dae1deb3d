"""Training by Ray Train: what the command line asks of it, and, where Ray is, that it does so."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from text_gym.cli.main import main
from text_gym.cli.train import train_in_ray
from text_gym.errors import ConfigError, PeerError
from text_gym.models.launch import launch_by_ray, rank_zero_says, ray_wants_cuda

RUN = ("train", "--algorithm", "reinforce", "--task", "reverse", "--policy", "new", "--width", "16")
SMALL = (*RUN, "--layers", "1", "--episodes", "4", "--iterations", "2", "--device", "cpu", "--log")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for Ray Train that notes its arguments and runs the function here, as often as it fails."""
    noted: dict[str, Any] = {"failures": 0}

    def trainer(function: Any, **given: Any) -> Any:
        noted.update(given)

        def fit() -> None:
            for attempt in range(given["run_config"].failure_config.max_failures + 1):
                try:
                    if noted["failures"] > attempt:
                        raise OSError("a worker died")
                    function(given["train_loop_config"])
                    break
                except OSError:
                    if attempt == given["run_config"].failure_config.max_failures:
                        raise

        return types.SimpleNamespace(fit=fit)

    ray: Any = types.ModuleType("ray")
    ray.is_initialized = lambda: True
    ray.cluster_resources = lambda: {"CPU": 3.0}
    train: Any = types.ModuleType("ray.train")
    for name in ("FailureConfig", "RunConfig", "ScalingConfig"):
        setattr(train, name, types.SimpleNamespace)
    torch: Any = types.ModuleType("ray.train.torch")
    torch.TorchConfig, torch.TorchTrainer = types.SimpleNamespace, trainer
    for module in (ray, train, torch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    ray.__spec__ = types.SimpleNamespace(name="ray")  # `find_spec` asks for it
    return noted


def test_a_run_by_ray_is_the_run(asked: dict[str, Any], tmp_path: Path) -> None:
    assert main([*SMALL, "--out", str(tmp_path / "here")]) == 0
    ray = [*SMALL, "--out", str(tmp_path / "ray"), "--engine", "ray", "--workers", "3", "--restarts", "1"]
    assert main(ray) == 0
    assert asked["scaling_config"] == types.SimpleNamespace(num_workers=3, use_gpu=False)
    assert asked["torch_config"].backend == "gloo"
    assert asked["run_config"].failure_config.max_failures == 1
    runs = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("here", "ray")]
    assert runs[0]["iterations"] == runs[1]["iterations"]
    assert runs[0]["after"] == runs[1]["after"]


def test_processes_go_on_with_the_run_that_is_there(asked: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main([*SMALL, "--out", str(out), "--engine", "ray"]) == 0
    rows = (out / "metrics.jsonl").read_text()
    (out / "summary.json").unlink()  # as if it had died before it was complete
    train_in_ray(asked["train_loop_config"])
    assert (out / "metrics.jsonl").read_text() == rows
    assert (out / "summary.json").is_file()


def test_failures_beyond_the_restarts_and_what_cannot_be(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[int] = []

    def work(settings: Any) -> None:
        done.append(settings["n"])

    asked["failures"] = 1
    launch_by_ray(work, {"n": 5}, workers=2, restarts=1, cuda=False)
    assert done == [5]
    with pytest.raises(PeerError, match="after 0 restarts: a worker died"):
        launch_by_ray(work, {"n": 5}, workers=2, restarts=0, cuda=False)
    with pytest.raises(ConfigError, match="--workers is 4, but the Ray cluster has 3 of CPU"):
        launch_by_ray(work, {}, workers=4, restarts=0, cuda=False)
    with pytest.raises(ConfigError, match="has 0 of GPU"):
        launch_by_ray(work, {}, workers=1, restarts=0, cuda=True)
    assert rank_zero_says(True)
    assert not rank_zero_says(False)
    assert ray_wants_cuda("cuda:0")
    assert not ray_wants_cuda("cpu")
    assert main(["train", "--algorithm", "sb3.ppo", "--engine", "ray", "--out", str(tmp_path / "x")]) == 2
    assert "leave out --engine ray" in capsys.readouterr().err


@pytest.mark.nightly
def test_a_killed_process_is_replaced_and_the_run_is_that_of_one_process(tmp_path: Path) -> None:
    """Ray itself starts two; one kills itself in the middle, once."""
    pytest.importorskip("ray.train.torch")
    (tmp_path / "deadly.py").write_text(
        "import os, signal\n"
        f"mark = {str(tmp_path / 'mark')!r}\n"
        "calls = 0\n"
        "def reward(completion):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls == 10 and os.environ.get('RANK') == '1' and not os.path.exists(mark):\n"
        "        open(mark, 'x').close()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return float(len(completion))\n"
    )
    run = ["--no-sandbox", *SMALL, "--iterations", "12", "--checkpoint-every", "1"]
    run += ["--reward", f"{tmp_path / 'deadly.py'}:reward"]
    assert main([*run, "--out", str(tmp_path / "ray"), "--engine", "ray"]) == 0
    assert (tmp_path / "mark").is_file()
    assert main([*run, "--out", str(tmp_path / "one")]) == 0
    rows = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("ray", "one")]
    assert len(rows[0]) == len(rows[1]) == 12
    for ours, theirs in zip(*(map(json.loads, lines) for lines in rows), strict=True):
        assert ours["reward"] == pytest.approx(theirs["reward"], abs=1e-6)
