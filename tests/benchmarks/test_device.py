"""`benchmarks/device.py` on the CPU: its checks pass, and fail when something is wrong."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from text_gym.agents import Policy

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
CHECKS = {"log_probs", "precision", "sampling", "ppo", "grpo", "sft", "reward_model", "checkpoint", "lora"}
CHECKS |= {"decode_without_waiting"}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("device")


@pytest.fixture
def parts(script: Any) -> Any:
    return importlib.import_module("device_parts")


@pytest.mark.nightly
def test_all_of_it_passes_on_the_cpu(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new folder" / "device.json"
    assert script.main(script.Options(device="cpu", quick=True, json=file)) == 0
    found = json.loads(file.read_text())
    assert found["machine"]["torch"] == torch.__version__
    assert found["device"]["device"] == "cpu"
    assert found["device"]["name"]
    rows = {row["part"]: row for row in found["rows"]}
    assert len(rows) == len(found["rows"])
    checks = {name.partition("/")[2]: row for name, row in rows.items() if name.startswith("correctness/")}
    assert checks.keys() == CHECKS
    if importlib.util.find_spec("peft") is None:
        assert checks.pop("lora")["status"] == "skipped"
    assert all(row["status"] == "passed" and row["seconds"] > 0 for row in checks.values())
    assert 0 < checks["log_probs"]["figures"]["log_prob_error_float64"] < 1e-4
    assert 0 < checks["log_probs"]["figures"]["gradient_relative_error_float64"] < 1e-4
    assert checks["checkpoint"]["figures"]["compared"] == "bits"
    speeds = [row for name, row in rows.items() if name.startswith("speed/")]
    assert {row["figures"]["precision"] for row in speeds} == {"fp32", "bf16"}
    for row in speeds:
        assert row["status"] == "passed"
        assert min(row["figures"][f"{what}_tokens_per_second"] for what in ("rollout", "update")) > 0
        assert row["figures"]["rollout_peak_mib"] is row["figures"]["waits_per_step"] is None
    more = {name: row for name, row in rows.items() if name.startswith("more/")}
    assert more.keys() == {"more/graphs/B=4", "more/graphs/B=8", "more/7B LoRA"}
    assert all(row["status"] == "passed" or "peft" in row["reason"] for row in more.values())
    assert more["more/graphs/B=4"]["figures"]["tokens_alike"] == 1
    printed = capsys.readouterr().out
    assert f"{len(rows)} passed, 0 failed, 0 skipped" in printed or "lora" not in checks
    assert all(name in printed for name in rows)


def test_cuda_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "device.py"), "--device", "cuda"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "rows.json")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert "ConfigError: device 'cuda': PyTorch sees 0 GPUs" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"device": "meta"}, "--device meta"),
        ({"device": "toaster"}, "'toaster'"),
        ({"budget": 0}, "--budget is 0"),
        ({"only": "nothing"}, "correctness/ppo"),
        ({"only": "("}, "no regular expression"),
        ({"json": Path(os.devnull) / "rows.json"}, "cannot be written"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(
    script: Any, options: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(script.Options(**{"device": "cpu", **options})) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("device.py: ConfigError: ")
    assert named in err


# One part's trouble is not the others'


def fails(found: dict[str, Any]) -> None:
    found["before"] = 1.5
    raise ValueError("a \x1b[31mred\x1b[0m herring")


def skips(parts: Any) -> Any:
    def work(found: dict[str, Any]) -> None:
        raise parts.SkippedError("not here")

    return work


def test_failures_are_recorded_and_the_rest_runs(
    script: Any,
    parts: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    some = [
        parts.Part("correctness/fails", fails),
        parts.Part("correctness/sleeps", lambda found: time.sleep(30), seconds=0.05),
        parts.Part("correctness/skips", skips(parts)),
        parts.Part("speed/runs", lambda found: found.update(rollout_tokens_per_second=1234.5)),
    ]
    monkeypatch.setattr(script, "all_parts", lambda device, quick: some)
    file = tmp_path / "rows.json"
    assert script.main(script.Options(device="cpu", json=file)) == 1
    rows = json.loads(file.read_text())["rows"]
    assert [row["status"] for row in rows] == ["failed", "failed", "skipped", "passed"]
    error = rows[0]["error"]
    assert (error["type"], error["message"]) == ("ValueError", "a \\x1b[31mred\\x1b[0m herring")
    assert error["at"][-1].startswith("benchmarks/test_device.py:")
    assert "fails: raise ValueError" in error["at"][-1]
    assert rows[0]["figures"] == {"before": 1.5}
    assert rows[1]["error"]["type"] == "OutOfTime"
    assert rows[1]["seconds"] < 20
    assert rows[2]["reason"] == "not here"
    out = capsys.readouterr().out
    assert "1 passed, 2 failed, 1 skipped" in out
    assert "\x1b" not in out
    assert "1,234" in out


def test_what_the_budget_leaves_no_time_for_is_skipped(script: Any, parts: Any) -> None:
    slow = [parts.Part(f"correctness/{i}", lambda found: time.sleep(30)) for i in range(3)]
    started = time.perf_counter()
    rows = list(script.run_all(slow, CPU, budget=0.1))
    assert time.perf_counter() - started < 20
    assert [row["status"] for row in rows] == ["skipped"] * 3
    assert "stopped" in rows[0]["reason"]
    assert all("budget of 0.1 s" in row["reason"] for row in rows[1:])


def test_a_device_that_broke_is_asked_nothing_more(
    script: Any, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "trouble", lambda device: "an illegal memory access")
    both = [parts.Part("correctness/a", fails), parts.Part("correctness/b", fails)]
    failed, skipped = script.run_all(both, CPU, budget=60)
    assert failed["status"] == "failed"
    assert skipped["status"] == "skipped"
    assert "correctness/a" in skipped["reason"]
    assert "illegal memory access" in skipped["reason"]


# What is wrong is found


@pytest.mark.parametrize("check", ["log_probs", "sampling"])
def test_low_precision_is_not_taken_for_the_cpus_numbers(
    parts: Any, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = parts.random_policy

    def coarse(*arguments: Any) -> Policy:
        policy: Policy = make(*arguments)
        return policy.use_less_memory(bf16=True)

    monkeypatch.setattr(parts, "random_policy", coarse)
    with pytest.raises(AssertionError, match="off by"):
        getattr(parts, check)(CPU, True, {})


@pytest.mark.parametrize("factor", [1.01, math.nan])
def test_a_wrong_gradient_is_found(parts: Any, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients_of = parts.gradients_of

    def wrong(policy: Policy, *arguments: Any) -> Any:
        found = gradients_of(policy, *arguments)
        if policy.dtype == torch.float32:
            found["model.transformer.h.0.ln_2.bias"] *= factor
        return found

    monkeypatch.setattr(parts, "gradients_of", wrong)
    with pytest.raises(AssertionError, match=r"h\.0\.ln_2\.bias"):
        parts.log_probs(CPU, True, {})


@pytest.mark.parametrize("error", [1e-3, math.nan])
@pytest.mark.parametrize("what", ["log_probs", "values"])
def test_wrong_numbers_are_found(
    parts: Any, what: str, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Policy.evaluate

    def wrong(*arguments: Any, **options: Any) -> Any:
        now = evaluate(*arguments, **options)
        return now._replace(**{what: getattr(now, what) + error})

    monkeypatch.setattr(Policy, "evaluate", wrong)
    with pytest.raises(
        AssertionError, match=what.replace("_", "-").replace("log-probs", "log-probabilities")
    ):
        parts.log_probs(CPU, True, {})


def test_a_checkpoint_that_is_not_loaded_is_found(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.Checkpoints, "load", lambda self, agent: None)
    with pytest.raises(AssertionError, match="weights of a checkpoint"):
        parts.checkpoint(CPU, True, {})


@pytest.mark.parametrize(
    ("rewards", "kl"), [([0.1, 0.2], 1.0), ([0.1, 0.9], math.nan), ([0.1, math.inf], 1.0)]
)
def test_an_agent_that_learns_nothing_is_found(parts: Any, rewards: list[float], kl: float) -> None:
    class Stubborn:
        def learn(self, callback: Any) -> None:
            for reward in rewards:
                callback(self, {"reward": reward, "kl": kl})

    with pytest.raises(AssertionError):
        parts.improves(Stubborn(), {})


# What only CUDA tells


def test_waits_are_counted_by_place(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def work() -> None:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)

    counted = parts.host_waits(CUDA, work)
    assert counted.total() == 3
    (place,) = counted
    assert place.startswith("benchmarks/test_device.py:")
    assert modes == ["warn", "default"]
    with pytest.raises(ZeroDivisionError):
        parts.host_waits(CUDA, lambda: 1 // 0)
    assert modes[-1] == "default"
    assert parts.host_waits(CPU, work) is None


def test_tf32_is_on_in_its_own_parts_alone(parts: Any) -> None:
    before = torch.get_float32_matmul_precision()
    for name, expected in (("tf32", "high"), ("fp32", "highest"), ("bf16", "highest")):
        with parts.products_in(name):
            assert torch.get_float32_matmul_precision() == expected
        assert torch.get_float32_matmul_precision() == before


def test_on_cuda_every_shape_precision_and_batch_is_measured(parts: Any) -> None:
    names = [part.name for part in parts.all_parts(CUDA, quick=False)]
    expected = {
        f"speed/{shape}/{precision}/B={batch}"
        for shape in ("tiny", "gpt2")
        for precision in ("fp32", "tf32", "bf16")
        for batch in (64, 256)
    }
    assert {name for name in names if name.startswith("speed/")} == expected
    assert {part.precision for part in parts.all_parts(CUDA, quick=False) if "tf32" in part.name} == {"tf32"}


def test_decoding_is_checked_for_waits(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}
    parts.decode_without_waiting(CPU, True, found)
    assert found["steps"] > 2
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with parts.raising_where_it_waits(CUDA):
        assert modes == ["error"]
    assert modes == ["error", "default"]
