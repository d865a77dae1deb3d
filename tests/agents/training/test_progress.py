"""Progress: a notebook's curves, a terminal's bar, lines elsewhere, and nothing where nobody asked."""

from __future__ import annotations

import math
import os
import pty
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from text_gym import TextVectorEnv, load_task
from text_gym.agents import DPO, PPO, SFT, DPOConfig, Policy, PPOConfig, SFTConfig
from text_gym.agents.training.progress import training_progress

REVERSE = load_task("reverse", length=3)
PAIRS = [(prompt, prompt.text[::-1]) for prompt in REVERSE.prompts[:8]]


def policy() -> Policy:
    return Policy.new(REVERSE.tokenizer, layers=1, width=16, heads=2, context=16, device="cpu")


def agent(iterations: int = 3) -> PPO:
    return PPO(policy(), TextVectorEnv(task=REVERSE, num_envs=8), PPOConfig(iterations=iterations))


def learn(kind: str, **how: Any) -> Any:
    if kind == "ppo":
        return agent().learn(**how)
    if kind == "sft":
        return SFT(policy(), PAIRS, SFTConfig(epochs=3, batch_size=8)).learn(**how)
    pairs = [(prompt, text, text[::-1]) for prompt, text in PAIRS]
    return DPO(policy(), pairs, DPOConfig(epochs=3, batch_size=8)).learn(**how)


class Notebook:
    """As much of IPython as a display needs, with everything it was shown."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[tuple[str, str]] = []
        module = types.ModuleType("IPython")
        shell = types.SimpleNamespace(kernel=object())
        module.get_ipython = lambda: shell  # type: ignore[attr-defined]
        module.version_info = (9, 0, 0, "")  # type: ignore[attr-defined]  # which matplotlib asks for
        inner = types.ModuleType("IPython.display")
        inner.display = self.display  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", module)
        monkeypatch.setitem(sys.modules, "IPython.display", inner)

    def display(self, value: Any, display_id: bool) -> Notebook:
        assert display_id
        self.update(value)
        return self

    def update(self, value: Any) -> None:
        self.shown.append((repr(value), value._repr_html_()))


@pytest.mark.parametrize(
    ("kind", "last", "panels"),
    [
        ("ppo", r"iteration 3 of 3 · reward 0\.\d+ · KL \S+ · length [\d.]+ · [\d,]+ tokens/s", 3),
        ("sft", r"step 3 of 3 · loss [\d.]+", 1),
        ("dpo", r"step 3 of 3 · loss [\d.]+ · accuracy [\d.]+", 2),
    ],
)
def test_a_notebook_shows_curves(kind: str, last: str, panels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    learn(kind, progress=True)
    assert notebook.shown[0][0] == "starting …"
    status, html = notebook.shown[-1]
    assert re.fullmatch(last, status)
    assert html.count("<svg") == 1
    titles = {"ppo": ["KL, nats per episode", "length, tokens"], "sft": ["loss, nats"], "dpo": ["accuracy"]}[
        kind
    ]
    assert all(title in html for title in titles)
    assert len(re.findall(r">(?:iteration|step)<", html)) == panels  # an axis each


def test_drawing_never_takes_most_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    with training_progress(True, 1000) as show:
        for iteration in range(1, 1001):
            clock[0] += 0.01  # ten seconds in all
            show({"iteration": iteration, "reward": 0.5})
    assert len(notebook.shown) <= 13  # the first, one a second, the last
    assert notebook.shown[-1][0].startswith("iteration 1,000 of 1,000 · reward 0.5")


def test_what_is_not_known_is_no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    with training_progress(True, 3) as show:
        show({"iteration": 1, "reward": math.nan, "length": 4.0})
        show({"iteration": 2, "reward": math.nan, "length": 4.0, "kl": 1.0})
    status, html = notebook.shown[-1]
    assert status == "iteration 2 of 3 · KL 1 · length 4"
    assert ">reward<" not in html
    assert "KL, nats per episode" in html


def test_a_run_that_fails_leaves_its_last_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)

    def fail(*_: Any) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        agent().learn(callback=fail, progress=True)
    assert notebook.shown[-1][0].startswith("iteration 1 of 3")


@pytest.mark.parametrize("kind", ["ppo", "sft", "dpo"])
def test_elsewhere_there_are_lines(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    learn(kind, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        f"{'iteration' if kind == 'ppo' else 'step'} {i} of 3" for i in (1, 2, 3)
    ]


def test_there_are_about_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with training_progress(True, 1234, "step") as show:
        for step in range(1, 1235):
            show({"step": step, "loss": 1.0})
    lines = capsys.readouterr().out.splitlines()
    assert 10 <= len(lines) <= 12
    assert lines[-1] == "step 1,234 of 1,234  loss 1"


@pytest.mark.parametrize("kind", ["ppo", "sft", "dpo"])
def test_nobody_asked_and_nothing_is_shown(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = Notebook(monkeypatch)
    learn(kind)
    assert notebook.shown == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["ppo", "sft", "dpo"])
def test_callbacks_are_called_as_without_it_and_may_stop(kind: str) -> None:
    def count(progress: bool) -> int:
        called: list[object] = []

        def callback(*given: object) -> bool:
            called.append(given)
            return len(called) < 2

        learn(kind, callback=callback, progress=progress)
        return len(called)

    assert count(progress=False) == count(progress=True) == 2


def test_progress_changes_no_weights() -> None:
    plain, shown = agent().learn(), agent().learn(progress=True)
    for own, other in zip(plain.policy.parameters(), shown.policy.parameters(), strict=True):
        assert (own == other).all()


PROGRAM = """
import sys
from text_gym.agents.training.progress import training_progress
with training_progress(True, 5) as show:
    for i in range(1, 6):
        show({"iteration": i, "reward": 0.25 * i, "tokens_per_second": 1234.5})
print("IPython" in sys.modules)
"""


def test_a_terminal_shows_a_bar() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        screen = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:
                break
            if not part:
                break
            screen += part
    os.close(ours)
    assert process.returncode == 0
    assert b"5/5" in screen
    assert b"reward 1.25" in screen
    assert screen.rstrip().endswith(b"False")  # IPython was not loaded


def test_a_file_gets_lines_without_control_characters(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "iteration 1 of 5  reward 0.25  1,234 tokens/s"
    assert "\x1b" not in done.stdout + done.stderr


def test_a_cell_that_is_run_again_says_that_nothing_is_left_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = agent(iterations=1).learn()
    done.learn(progress=True)
    assert capsys.readouterr().out == "nothing left to do: 1 iterations were asked for in all\n"
    notebook = Notebook(monkeypatch)
    done.learn(progress=True)
    assert notebook.shown[-1][0] == "nothing left to do: 1 iterations were asked for in all"
    assert "nothing left to do" in notebook.shown[-1][1]
    with pytest.raises(ValueError, match="own"), training_progress(True, 3):
        raise ValueError("own")
    assert notebook.shown[-1][0] == "starting …"  # it was not done, it failed
