"""`text-gym check`: what it calls right, and what it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.own_algorithm import write_algorithm
from text_gym.agents.verification import laws
from text_gym.cli.main import main


@pytest.mark.parametrize("what", ["reverse", "text_gym/Products-v0", "length"])
def test_what_is_right_breaks_no_law(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", what, "--steps", "20"]) == 0
    assert capsys.readouterr().out == f"{what} breaks none of the laws\n"


def test_a_reward_that_draws_lots_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import random\n\ndef lots(completion: str) -> float:\n    return random.random()\n")
    assert main(["check", f"{file}:lots"]) == 2
    shown = capsys.readouterr().err
    assert "lots" in shown
    assert "determin" in shown
    assert "Traceback" not in shown


def test_what_nobody_knows_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "text_gym/Revers-v0"]) == 2
    told = "unknown environment 'text_gym/Revers-v0'; did you mean 'text_gym/Reverse-v0'?"
    assert told in capsys.readouterr().err
    assert main(["check", "text_gym/Reverse-onehot-v0"]) == 2
    assert 'check the same environment with observation="tokens"' in capsys.readouterr().err


def test_an_algorithm_of_ones_own_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laws, "ITERATIONS", 40)
    assert main(["check", write_algorithm(tmp_path), "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("Moving breaks none of the laws\n  holds   learning rate")
    wrong = write_algorithm(tmp_path, ("loss = -((", "loss = (("), name="wrong.py")
    assert main(["check", wrong]) == 2
    shown = capsys.readouterr().err
    assert "BROKEN  credit" in shown
    assert "the sign is wrong" in shown
    assert "Traceback" not in shown
