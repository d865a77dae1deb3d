"""`text-gym train`: the files it leaves, determinism, Ctrl-C."""

from __future__ import annotations

import copy
import dataclasses
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console
from safetensors.torch import load_file

from tests import kill_harness
from tests.agents.sampling.test_generators import Fake
from tests.figure_tools import draw
from tests.own_algorithm import write_algorithm
from tests.ranks.start import finish, start
from text_gym import Prompt, TextVectorEnv, as_reward_source, load_task
from text_gym.agents import Policy, PPOConfig, SB3Config, rollout, trajectory_log_probs
from text_gym.agents.training.metrics import TIMES
from text_gym.cli.main import main
from text_gym.errors import ConfigError, NotSavedError, RewardError
from text_gym.models import runtime
from text_gym.runs import job
from text_gym.runs.folder import default_folder
from text_gym.runs.origin import load_start
from text_gym.runs.train import train

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from text_gym.cli.main import main; raise SystemExit(main())"]


def test_train_leaves_everything_it_promises(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Figure, "savefig", draw)
    out = tmp_path / "run"
    assert main(["train", "--iterations", "2", "--episodes", "8", "--out", str(out), "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert "before" in shown
    assert "persuasiveness" in shown

    summary = json.loads((out / "summary.json").read_text())
    assert summary["seed"] == 3
    assert summary["interrupted"] is False
    for when in ("before", "after"):
        for criterion in ("gold", "accuracy", "clarity", "persuasiveness", "perfect"):
            measure = summary[when][criterion]
            assert measure["ci95"][0] <= measure["mean"] <= measure["ci95"][1]
    assert summary["before"]["kl_nats"] == 0
    assert {"kl_nats", "seconds", "tokens"} <= summary.keys()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2]
    assert json.loads((out / "config.json").read_text())["algorithm"] == "ppo"
    assert (out / "samples.md").read_text().count("Before (") == 20
    assert (out / "curves.png").stat().st_size > 10_000
    assert list(out.glob("events.out.tfevents*"))

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(out / "policy")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(out / "policy"))


def test_an_algorithm_of_ones_own_trains_and_is_resumed_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its settings are options, and both runs end with the same policy."""
    write_algorithm(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["train", "--algorithm", "mine.py:Moving", "--decay", "0.5", "--episodes", "8"]
    words += ["--max-tokens", "8", "--checkpoint-every", "1", "--iterations", "2"]
    assert main([*words, "--out", "whole"]) == 0
    assert default_folder("products", "mine.py:Moving").name.startswith("products-Moving-")
    config = json.loads(Path("whole/config.json").read_text())
    assert config["decay"] == 0.5
    assert config["options"]["algorithm"] == f"{tmp_path / 'mine.py'}:Moving"
    rows = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    assert {"baseline", "objective", "kl", "reward"} <= rows[-1].keys()

    shutil.copytree("whole", "part")
    shutil.rmtree("part/checkpoints/00000002")
    Path("part/summary.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "--resume", str(tmp_path / "part")]) == 0
    policies = [(tmp_path / run / "policy" / "model.safetensors").read_bytes() for run in ("whole", "part")]
    assert policies[0] == policies[1]


def test_gold_is_the_tasks_own_and_kl_is_to_the_start_while_another_reward_is_optimised(
    tmp_path: Path,
) -> None:
    """By hand from the texts, with other code than the trainer's; and the run says it of itself."""
    start = Policy.new(kill_harness.TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")
    first = start.frozen()
    reward = as_reward_source(lambda completion: float(completion.count("i")))
    summary = train(
        "ppo", PPOConfig(iterations=6, learning_rate=1e-2), kill_harness.task(), reward=reward, policy=start,
        episodes=16, out=tmp_path / "run", console=Console(file=io.StringIO()),
    )  # fmt: skip
    policy = Policy.from_pretrained(tmp_path / "run" / "policy", kill_harness.TOKENIZER, device="cpu")
    env = TextVectorEnv(
        **kill_harness.task().env_kwargs(prompts=kill_harness.task().held_out), num_envs=2, shuffle=False
    )
    episodes = rollout(policy, env, np.arange(2), seed=0).episodes
    texts = [e.completion for e in episodes]
    gold = np.mean([t.count("a") + 0.1 * t.count("b") for t in texts])
    assert summary["after"]["gold"]["mean"] == pytest.approx(gold)
    assert summary["after"]["reward"]["mean"] == np.mean([t.count("i") for t in texts])
    with torch.no_grad():
        kl = trajectory_log_probs(policy, episodes) - trajectory_log_probs(first, episodes)
    assert summary["after"]["kl_nats"] == pytest.approx(float(kl.mean()), abs=1e-4)
    assert abs(summary["kl_nats"]) > 0.01
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "gold" in row] == [5, 6]  # every fifth, and the last
    assert (rows[-1]["gold"], rows[-1]["gold_kl"]) == pytest.approx((gold, float(kl.mean())), abs=1e-4)
    found, where = load_start(tmp_path / "run" / "policy", policy, "cpu")
    assert found is not None
    assert found.digest() == first.digest()
    assert where == str(tmp_path / "run" / "checkpoints" / "reference")


def test_a_run_on_gold_has_no_second_column_of_it(tmp_path: Path) -> None:
    kill_harness.run(tmp_path, reward=None)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert not any("gold" in row for row in rows)
    assert "reward" not in json.loads((tmp_path / "summary.json").read_text())["after"]


def test_looks_at_gold_change_no_bit_of_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_harness.run(tmp_path / "seen")
    monkeypatch.setattr("text_gym.runs.job.TrainingJob.gold_watch", lambda self: None)
    kill_harness.run(tmp_path / "unseen")
    seen, unseen = (kill_harness.result(tmp_path / name) for name in ("seen", "unseen"))
    assert any("gold" in row for row in seen["metrics"])
    for row in seen["metrics"]:
        row.pop("gold", None), row.pop("gold_kl", None)
    assert seen == unseen


def test_an_adapter_knows_what_it_is_added_to(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    start = Policy.new(kill_harness.TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")
    digest = start.digest()
    kill_harness.run(tmp_path, policy=start, lora=2)
    policy = Policy.from_pretrained(tmp_path / "policy", kill_harness.TOKENIZER, device="cpu")
    found, _ = load_start(tmp_path / "policy", policy, "cpu")
    assert found is not None
    assert found.digest() == digest != policy.digest()


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    words = ["train", "--task", "reverse", "--policy", "new", "--iterations", "1", "--episodes", "8"]
    for name in ("a", "b"):
        assert main([*words, "--out", str(tmp_path / name)]) == 0
    for file in ("policy/model.safetensors", "policy/value_head/value_head.safetensors", "samples.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_texts_may_come_from_a_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM is not installed here: a small engine stands in for it, made with the run's own policy."""
    made: list[dict[str, Any]] = []

    def engine(policy: Policy, **settings: Any) -> Fake:
        made.append(settings)
        return Fake(copy.deepcopy(policy.model))

    monkeypatch.setattr(job, "VLLMGenerator", engine)
    start = Policy.new(kill_harness.TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")
    kill_harness.run(tmp_path, policy=start, lora=None, generator="vllm")
    assert json.loads((tmp_path / "config.json").read_text())["generator"] == "vllm"
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(row["generator_gap"] < 1e-5 for row in rows)
    assert [m["dtype"] for m in made] == ["float32"]
    assert made[0]["max_model_len"] > 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--algorithm", "sb3.ppo"], "sb3.ppo plays no texts by a generator"),
        ([], 'pip install "text-gym[vllm]"'),
    ],
)
def test_generators_that_cannot_be_are_refused_before_pytorch_is_loaded(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert main(["train", "--generator", "vllm", "--out", out, *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path(out).exists()


@pytest.mark.parametrize("algorithm", ["ppo", "sb3.ppo"])
@pytest.mark.parametrize("limit", ["end", "truncate"])
def test_the_limit_reaches_the_environment_and_the_settings(
    algorithm: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    for module in ("text_gym.runs.learners", "text_gym.agents.adapters.sb3.make"):

        class Watched(TextVectorEnv):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                if self.num_envs == 8:  # the one to learn in
                    made.append(self.batch.options.limit)

        monkeypatch.setattr(f"{module}.TextVectorEnv", Watched)
    rows = ["--episodes", "8"] if algorithm == "ppo" else ["--num-envs", "8", "--n-steps", "4"]
    options = ["--algorithm", algorithm, "--iterations", "1", "--max-tokens", "6", *rows]
    assert main(["train", *options, "--limit", limit, "--out", str(tmp_path / "run")]) == 0
    assert made == [limit]
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["limit"] == kept["options"]["limit"] == limit


# The best policy, not just the last


def ruinous(folder: Path, on_decline: Any = "warn", at: int | None = None, **changes: Any) -> dict[str, Any]:
    """A run that learns far too fast from a policy that is at its best at the start; fails at call `at`.

    With `interrupt`, Ctrl-C is pressed at that call.
    """
    interrupt = changes.pop("interrupt", None)
    calls: list[int] = []

    def varied(completions: list[str]) -> list[float]:
        calls.append(1)
        if len(calls) == at:
            raise KeyError("price")
        if len(calls) == interrupt:
            signal.raise_signal(signal.SIGINT)
        return [len(set(c)) / 6 for c in completions]

    gold = as_reward_source(lambda completion: len(set(completion)) / 6)
    task = dataclasses.replace(kill_harness.task(), reward=gold)
    policy = Policy.new(kill_harness.TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")
    config = PPOConfig(
        iterations=24, learning_rate=0.5, warmup=0, anneal=False, kl_coef=0.5, on_decline=on_decline
    )
    settings: dict[str, Any] = {"episodes": 16, "checkpoint_every": 4} | changes
    console = settings.pop("console", Console(file=io.StringIO()))
    return train(
        "ppo",
        config,
        task,
        reward=as_reward_source(varied),
        policy=policy,
        out=folder,
        console=console,
        **settings,
    )


def held_out(summary: dict[str, Any]) -> float:
    return float(summary["after"]["gold"]["mean"] - 0.5 * summary["kl_nats"])


@pytest.mark.parametrize("on_decline", ["warn", "stop"])
def test_a_ruined_run_ends_with_its_best_policy(tmp_path: Path, on_decline: str) -> None:
    screen = io.StringIO()
    found = ruinous(tmp_path / "run", on_decline, console=Console(file=screen, width=1000))
    last = ruinous(tmp_path / "last", on_decline, checkpoint_every=0)
    assert last["iterations"] == found["iterations"]
    assert (found["iterations"] == 24) == (on_decline == "warn")
    assert found["policy_of_iteration"] == found["objective"]["best"]["iteration"] < found["iterations"]
    assert found["objective"]["last"] == last["objective"]["last"] == last["objective"]["best"]
    assert last["policy_of_iteration"] == last["iterations"]
    assert found["objective"]["best"]["mean"] > found["objective"]["last"]["mean"] + 0.5
    assert held_out(found) > held_out(last) + 0.5
    assert found["declined"] == last["declined"] is not None
    said = screen.getvalue()
    assert said.count(found["declined"]) == 1
    assert (
        said.count(f"kept the policy of iteration {found['policy_of_iteration']}, not that of the last") == 1
    )
    assert "to go on" not in said
    saved, of_the_last = (tmp_path / name / "policy" / "model.safetensors" for name in ("run", "last"))
    assert saved.read_bytes() != of_the_last.read_bytes()


def test_an_interrupted_run_keeps_the_policy_that_it_goes_on_from(tmp_path: Path) -> None:
    found = ruinous(tmp_path, interrupt=14)
    assert found["interrupted"]
    assert 8 < found["iterations"] < 24
    assert found["policy_of_iteration"] == found["iterations"]


@pytest.mark.parametrize("on_decline", [pytest.param("warn", marks=pytest.mark.nightly), "stop"])
def test_a_ruined_run_that_is_resumed_ends_with_the_same_policy(tmp_path: Path, on_decline: str) -> None:
    ruinous(tmp_path / "whole", on_decline)
    whole = kill_harness.result(tmp_path / "whole")
    ruinous(tmp_path / "whole", on_decline, resume=True)  # a finished run
    assert kill_harness.result(tmp_path / "whole") == whole
    for at in (3, 6):  # the checkpoints that are taken then have no say
        with pytest.raises(RewardError):
            ruinous(tmp_path / f"{at}", on_decline, at=at)
        ruinous(tmp_path / f"{at}", on_decline, resume=True)
        assert kill_harness.result(tmp_path / f"{at}") == whole


def hacked(folder: Path, at: int | None = None, **changes: Any) -> dict[str, Any]:
    """A run whose reward pays for a letter that the watched criterion does not like; fails at call `at`."""
    calls: list[int] = []

    def loud(completions: list[str]) -> list[float]:
        calls.append(1)
        if len(calls) == at:
            raise KeyError("price")
        return [c.count("a") / 6 for c in completions]

    prompts = [Prompt(f"{x}{y}") for x in "abcdef" for y in "ghi"]
    task = dataclasses.replace(kill_harness.task(), prompts=prompts, held_out=prompts)
    policy = Policy.new(kill_harness.TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")
    quiet = as_reward_source(lambda completion: -completion.count("a") / 6)
    quiet.name = "quiet"
    settings: dict[str, Any] = {"console": Console(file=io.StringIO()), "checkpoint_every": 2} | changes
    return train(
        "ppo", PPOConfig(iterations=16, learning_rate=2e-2, kl_coef=0.0), task, reward=as_reward_source(loud),
        policy=policy, episodes=32, out=folder, watch=[quiet], **settings,
    )  # fmt: skip


def test_a_hacked_reward_raises_an_alarm_that_a_resumed_run_remembers(tmp_path: Path) -> None:
    screen = io.StringIO()
    summary = hacked(tmp_path / "whole", console=Console(file=screen, width=1000))
    assert "the reward may be hacked" in summary["hacking_alarm"]
    assert "watch/quiet" in summary["hacking_alarm"]
    assert screen.getvalue().count(summary["hacking_alarm"]) == 1
    assert summary["iterations"] == 16
    whole = kill_harness.result(tmp_path / "whole")
    alarms = [row["alarm"] for row in whole["metrics"]]
    first = alarms.index(1.0)
    assert 1 < first < 15
    assert alarms == [0.0] * first + [1.0] * (16 - first)
    for i, at in enumerate((first, first + 4)):
        with pytest.raises(RewardError):
            hacked(tmp_path / f"{i}", at=at)
        hacked(tmp_path / f"{i}", resume=True)
        assert kill_harness.result(tmp_path / f"{i}") == whole


def test_a_run_stops_at_the_alarm_if_it_is_asked_to(tmp_path: Path) -> None:
    summary = hacked(tmp_path, stop_on_alarm=True)
    assert summary["iterations"] < 16
    assert f"iteration {summary['iterations']}: the reward may be hacked" in summary["hacking_alarm"]
    assert summary["interrupted"] is False


def test_a_good_run_ends_with_its_last_policy_and_says_nothing(tmp_path: Path) -> None:
    screen = io.StringIO()
    policy = Policy.new(kill_harness.TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")
    summary = train(
        "ppo", PPOConfig(iterations=12, learning_rate=1e-2), kill_harness.task(), policy=policy,
        episodes=32, out=tmp_path, console=Console(file=screen, width=1000), checkpoint_every=3,
    )  # fmt: skip
    assert (summary["policy_of_iteration"], summary["declined"]) == (12, None)
    assert summary["objective"]["last"]["mean"] > summary["objective"]["start"]["mean"]
    assert "kept the policy" not in screen.getvalue()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_stops_cleanly_and_keeps_what_was_learnt(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [*COMMAND, "train", "--episodes", "8", "--iterations", "100000", "--out", str(out)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (out / "metrics.jsonl").exists():
        time.sleep(0.1)
    while time.monotonic() < deadline and (out / "metrics.jsonl").stat().st_size == 0:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert json.loads((out / "summary.json").read_text())["interrupted"] is True
    assert (out / "policy" / "model.safetensors").exists()


def test_a_policy_of_other_tokens_than_the_tasks_is_refused_before_a_run_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, policy = tmp_path / "run", str(load_task("products").policy)
    assert main(["train", "--task", "sort", "--model", policy, "--out", str(out)]) == 2
    assert "other tokens than task 'sort'" in capsys.readouterr().err
    assert not out.exists()


def test_an_algorithm_of_stable_baselines3_starts_from_scratch(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--iterations", "2", "--num-envs", "8", "--n-steps", "8", "--batch-size", "32"]
    assert main(["train", "--algorithm", "sb3.ppo", "--task", "sort", *options, "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["tokens"] == 2 * 8 * 8
    assert summary["kl_nats"] is None
    assert {"gold", "exact", "greedy"} <= summary["after"].keys()
    assert (out / "policy" / "sb3_policy.safetensors").exists()


def test_a_reward_that_fails_stops_the_run_but_not_what_was_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = """
calls = []

def late(completion):
    calls.append(1)
    return 1.0 if len(calls) < 275 else 1 / 0
"""
    (tmp_path / "mine.py").write_text(code)
    out = tmp_path / "run"
    options = ["--iterations", "5", "--episodes", "8", "--out", str(out), "--reward"]
    assert main(["train", *options, f"{tmp_path / 'mine.py'}:late"]) == 2
    assert "reward 'late' raised ZeroDivisionError" in capsys.readouterr().err
    assert (out / "policy" / "model.safetensors").exists()


def test_a_run_of_sb3_that_fails_is_resumed_and_ends_as_if_it_had_not(tmp_path: Path) -> None:
    code = """
calls = []

def late(completions):
    if len(completions) <= 4:  # while it learns; more are judged before and after
        calls.append(1)
        assert len(calls) != FAILS
    return [text.count("a") / 5 for text in completions]
"""

    def write(name: str, fails: int) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "mine.py").write_text(code.replace("FAILS", str(fails)))

    write("whole", -1)
    write("part", 20)
    words = ["train", "--algorithm", "sb3.ppo", "--task", "sort", "--iterations", "5", "--num-envs", "4"]
    words += ["--n-steps", "8", "--batch-size", "16", "--width", "16", "--checkpoint-every", "2"]

    def start(name: str) -> int:
        reward = f"{tmp_path / name / 'mine.py'}:late"
        return main([*words, "--out", str(tmp_path / name / "run"), "--reward", reward])

    assert start("whole") == 0
    assert start("part") == 2
    part = tmp_path / "part" / "run"
    assert (part / "policy" / "sb3_policy.safetensors").exists()
    assert 0 < len((part / "metrics.jsonl").read_text().splitlines()) < 5
    write("part", -1)
    assert main(["train", "--resume", str(part)]) == 2  # the reward's file is another one now
    assert main(["train", "--resume", str(part), "--accept-changes"]) == 0
    found = []
    for name in ("whole", "part"):
        run = tmp_path / name / "run"
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        plain = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
        weights = load_file(run / "policy" / "sb3_policy.safetensors")
        found.append((plain, {name: t.tolist() for name, t in weights.items()}))
    assert [row["iteration"] for row in found[0][0]] == [1, 2, 3, 4, 5]
    assert found[0] == found[1]


def test_sb3_saves_the_policy_that_it_trained(tmp_path: Path) -> None:
    policy = Policy.new(kill_harness.TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")
    before = [p.clone() for p in policy.model.parameters()]
    config = SB3Config(iterations=1, num_envs=8, batch_size=16, learning_rate=0.01, anneal=False)
    train(
        "sb3.ppo", config, kill_harness.task(), policy=policy,
        out=tmp_path / "run", console=Console(file=io.StringIO()), device="cpu",
    )  # fmt: skip
    saved = Policy.from_pretrained(tmp_path / "run" / "policy", kill_harness.TOKENIZER, device="cpu")
    assert any(not torch.equal(a, b) for a, b in zip(saved.model.parameters(), before, strict=True))


def test_sharding_needs_processes(tmp_path: Path) -> None:
    policy = Policy.new(kill_harness.TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")
    how: dict[str, Any] = {"policy": policy, "out": tmp_path / "run", "console": Console(file=io.StringIO())}
    with pytest.raises(ConfigError, match="shard divides weights among processes; start some by torchrun"):
        train("ppo", PPOConfig(iterations=1), kill_harness.task(), shard=True, **how)
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
@pytest.mark.timeout(1800)  # six runs, each of which may take 300 s on a busy machine
@pytest.mark.parametrize("moment", ["5", "6"])  # by PPO and by GRPO
def test_a_sharded_run_that_is_stopped_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, moment: str
) -> None:
    """Half the weights are in each of two processes; one of them gets SIGTERM; two go on, and then one."""

    def run(folder: str, kind: str, *more: str, ranks: int = 2) -> list[int | None]:
        words = ["-m", "tests.ranks.hurt", str(tmp_path / folder), kind, "1", moment, *more]
        return [status for status, _ in finish(start(ranks, words), 300)]

    assert run("whole", "none", "--shard") == [0, 0]
    for folder in ("two", "one"):
        assert run(folder, "sigterm", "--shard") == [143, 143]
    assert run("two", "none", "--shard", "--resume") == [0, 0]
    assert run("one", "none", "--shard", "--resume", ranks=1) == [0]
    whole, two, one = (
        load_file(tmp_path / f / "policy" / "model.safetensors") for f in ("whole", "two", "one")
    )
    for name, weight in whole.items():
        assert torch.equal(weight, two[name]), name
        assert torch.allclose(weight, one[name], atol=1e-3), name


def test_a_full_disk_ends_a_run_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(job, "write_model_card", full)
    policy = Policy.new(kill_harness.TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")
    with pytest.raises(NotSavedError, match=r"cannot write to .*run: .*No space left"):
        train(
            "ppo", PPOConfig(iterations=1), kill_harness.task(), policy=policy, episodes=4,
            out=tmp_path / "run", console=Console(file=io.StringIO()),
        )  # fmt: skip


@pytest.mark.parametrize(("chosen", "expected"), [(False, 4), (True, 16)])
def test_a_small_model_gets_few_threads_where_nobody_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: bool, expected: int
) -> None:
    """Rewards, too, are asked for on these threads; sixteen cores are played."""
    seen: set[int] = set()

    def reward(completion: str) -> float:
        seen.add(torch.get_num_threads())
        return float(completion.count("i"))

    monkeypatch.setattr(runtime, "cores", lambda: 16)
    for name in runtime.CHOICES:
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv("OMP_NUM_THREADS", "16")
    start = Policy.new(kill_harness.TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(16)
    try:
        train(
            "ppo", PPOConfig(iterations=1), kill_harness.task(), reward=as_reward_source(reward),
            policy=start, episodes=4, out=tmp_path / "run", console=Console(file=io.StringIO()),
        )  # fmt: skip
        assert torch.get_num_threads() == 16
    finally:
        torch.set_num_threads(before)
    assert seen == {expected}
