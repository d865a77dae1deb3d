"""The command line as a user meets it: exit status, messages, files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from text_gym.cli.main import main

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from text_gym.cli.main import main; raise SystemExit(main())"]


def test_without_arguments_it_says_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for command in ("train", "sft", "sample", "evaluate", "play", "check"):
        assert f"  {command} " in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean 'train'"),
        (["train", "--task", "product"], "did you mean 'products'"),
        (["train", "--algorithm", "pppo"], "did you mean 'ppo'"),
        (["train", "--reward", "lenght"], "did you mean 'length'"),
        (
            ["train", "--data", "missing.csv", "--policy", "x", "--reward", "slots"],
            "missing.csv: no such file",
        ),
        (["train", "--data", "missing.csv"], "needs a --policy"),
        (["train", "--data", "README.md", "--policy", "x"], "unknown kind of file"),
        (["train", "--gold", "length"], "has a reward of its own, which is gold"),
        (["evaluate", "--gold", "length"], "has a reward of its own, which is gold"),
        (["evaluate", "--data", "missing.csv"], "needs a --policy"),
        (["evaluate", "no/such/folder"], "no/such/folder"),
        (["rlhf", "--gold", "length", "--out", "never"], "has a reward of its own, which is gold"),
        (["train", "--task", "copy"], "ships no policy"),
        (["train", "--policy", "no/such/folder"], "no/such/folder"),
        (["train", "--device", "gpu"], "unknown device 'gpu'"),
        (["train", "--episodes", "0"], "--episodes is 0"),
        (["train", "--max-tokens", "500"], "context"),
        (["sample", "--temperature", "0"], "temperature is 0"),
        (["sample", "--top-p", "0"], "--top-p is 0"),
        (["sft", "--data", "missing.csv"], "missing.csv: no such file"),
        (["play", "--env", "text_gym/Product-v0"], "did you mean 'text_gym/Products-v0'"),
    ],
)
def test_bad_input_is_one_line_and_a_status(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if arguments[0] == "train":
        arguments = [*arguments, "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert len(shown.strip().splitlines()) == 1


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(KeyError, match="trian"):
        main(["--debug", "trian"])


def test_play_over_a_pipe() -> None:
    done = subprocess.run(
        [*COMMAND, "play"],
        input="Meet\n.\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0
    assert "terminated" in done.stdout
    assert "return" in done.stdout


def test_rewards_from_files_run_in_the_sandbox_or_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that writes beside itself breaks in the sandbox, and not with --no-sandbox."""
    monkeypatch.delenv("TEXT_GYM_SANDBOX", raising=False)
    file = tmp_path / "mine.py"
    file.write_text(
        "from pathlib import Path\n"
        "def f(completion):\n"
        "    Path(__file__).with_suffix('.txt').write_text('written')\n"
        "    return float(len(completion))\n"
    )
    assert main(["check", f"{file}:f"]) == 2
    err = capsys.readouterr().err
    assert "may write only to its temporary folder" in err
    assert not file.with_suffix(".txt").exists()
    for arguments in (["--no-sandbox", "check", f"{file}:f"], ["check", f"{file}:f", "--no-sandbox"]):
        assert main(arguments) == 0
        assert file.with_suffix(".txt").read_text() == "written"
        assert "TEXT_GYM_SANDBOX" not in os.environ
