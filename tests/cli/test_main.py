"""The command line as a user meets it: exit status, messages, files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from text_gym.cli.main import main
from text_gym.cli.options.checks import check_device
from text_gym.errors import ConfigError

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


# What is wrong and cheap to see, with what is said about it; FOLDER is one with a few files.
CHEAP = [
    (["trian"], "unknown command 'trian'; did you mean 'train'"),
    (["reward"], "text-gym reward train"),
    (["train", "--iteratoins", "3"], "no option --iteratoins; did you mean --iterations?"),
    (["train", "--episodes", "many"], "--episodes: invalid literal for int"),
    (["train", "--episodes"], "Missing value for argument '--episodes'"),
    (["train", "--limit", "stop"], "invalid choice 'stop' for argument '--limit'"),
    (["train", "stray"], "Unrecognized options: stray"),
    (["train", "--episodes", "0"], "--episodes is 0; it must be at least 1"),
    (["train", "--iterations", "0"], "--iterations is 0; it must be at least 1"),
    (["train", "--iterations", "-3"], "iterations is -3; it must not be negative"),
    (["train", "--checkpoint-every", "-1"], "--checkpoint-every is -1; it must be at least 0"),
    (["train", "--max-tokens", "0"], "--max-tokens is 0; it must be at least 1"),
    (["train", "--lora", "0"], "--lora is 0; it must be at least 1"),
    (["train", "--task", "sort", "--policy", "new", "--layers", "0"], "--layers is 0"),
    (["train", "--learning-rate", "-1"], "learning_rate is -1.0; it must not be negative"),
    (["train", "--algorithm", "pppo"], "did you mean 'ppo'? Known: best_of_n, grpo, ppo"),
    (["train", "--algorithm", "sb3.pppo"], "did you mean 'sb3.ppo'?"),
    (["train", "--algorithm", "FOLDER/no.py:Mine"], "there is no file FOLDER/no.py"),
    (["train", "--algorithm", "grpo", "--group-size", "1"], "group_size is 1; a group needs at least 2"),
    (["train", "--task", "product"], "unknown task 'product'; did you mean 'products'"),
    (["train", "--device", "gpu"], "unknown device 'gpu'; choose auto, cpu, cuda"),
    (["train", "--policy", "no/such/folder"], "--policy no/such/folder: there is no such folder"),
    (["train", "--policy", "FOLDER"], "the folder holds no policy"),
    (["train", "--policy", "FOLDER/rows.csv"], "FOLDER/rows.csv is a file; pass the folder of a policy"),
    (["train", "--data", "FOLDER/rows.csv"], "--data needs a --policy"),
    (["train", "--data", "FOLDER/rows.csv", "--policy", "new"], "make one with `text-gym sft --data"),
    (["train", "--data", "FOLDER/no.csv", "--policy", "gpt2"], "FOLDER/no.csv: no such file"),
    (["train", "--data", "FOLDER/mine.py", "--policy", "gpt2"], "unknown kind of file; use .csv"),
    (["train", "--gold", "length"], "has a reward of its own, which is gold"),
    (["train", "--reward", "FOLDER/no.py:f"], "there is no file FOLDER/no.py"),
    (["train", "--reward", "FOLDER/mine.py"], "which name in FOLDER/mine.py? Write --reward"),
    (["train", "--out", "FOLDER/run"], "FOLDER/run already holds a run; choose another --out"),
    (["train", "--out", "FOLDER/rows.csv"], "FOLDER/rows.csv is a file; choose a folder"),
    (["train", "--resume", "FOLDER"], "FOLDER holds no run: there is no config.json"),
    (["train", "--resume", "FOLDER/run", "--seed", "1"], "leave out all options but --resume"),
    (["sft", "--data", "FOLDER/rows.csv"], "pass --completion COLUMN"),
    (["sft", "--width", "0"], "--width is 0"),
    (["sft", "--out", "FOLDER/rows.csv"], "choose a folder"),
    (["sample", "--temperature", "0"], "--temperature is 0.0; it must be positive"),
    (["sample", "--top-p", "0"], "--top-p is 0.0; it must be in (0, 1]"),
    (["sample", "--top-k", "-1"], "--top-k is -1; it must be at least 0"),
    (["sample", "--count", "0"], "--count is 0"),
    (["evaluate", "--policy", "new"], "a policy with random weights, for `text-gym train`"),
    (["evaluate", "--data", "FOLDER/rows.csv"], "--data needs a --policy"),
    (["evaluate", "--out", "FOLDER"], "FOLDER is a folder; pass the name of a file"),
    (["evaluate", "--transcripts", "FOLDER/no/t.jsonl"], "there is no folder FOLDER/no; make it first"),
    (["rlhf", "--task", "product"], "did you mean 'products'"),
    (["rlhf", "--policy", "new"], "make one with `text-gym sft`"),
]


def test_cheap_mistakes_are_one_typed_line_each_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\na,b\n")
    (tmp_path / "mine.py").write_text("def f(completion): return 1.0\n")
    (tmp_path / "run").mkdir()
    for name, text in (("metrics.jsonl", ""), ("config.json", "{}")):
        (tmp_path / "run" / name).write_text(text)
    inputs = [[word.replace("FOLDER", str(tmp_path)) for word in words] for words, _ in CHEAP]
    program = (
        "import contextlib, io, json, sys\nfrom text_gym.cli.main import main\nfound = []\n"
        f"for words in {inputs!r}:\n"
        "    out, err = io.StringIO(), io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n"
        "        try:\n            code = main(words)\n"
        "        except SystemExit as end:\n            code = end.code\n"
        "    found.append((code, out.getvalue(), err.getvalue()))\n"
        "print(json.dumps([found, 'torch' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True, timeout=120
    )
    found, torch_is_loaded = json.loads(done.stdout)
    for (words, message), (code, out, err) in zip(CHEAP, found, strict=True):
        assert code == 2, (words, out, err)
        assert message.replace("FOLDER", str(tmp_path)) in out + err, (words, out, err)
        if words != ["reward"]:  # which lists the commands of a group
            assert re.fullmatch(r"text-gym: [A-Z]\w+Error: .*\n", err), (words, err)
            assert out == "", words
    assert not torch_is_loaded
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.py", "rows.csv", "run"]


def test_a_device_that_cannot_be_here_is_told_from_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_gym.cli.options.checks.version", lambda name: "2.9.0+cpu")
    monkeypatch.setattr("sys.platform", "linux")
    for device in ("auto", "cpu"):
        check_device(device)
    with pytest.raises(ConfigError, match="it exists on macOS alone; pass --device cpu"):
        check_device("mps")
    with pytest.raises(ConfigError, match=r"PyTorch \(2.9.0\+cpu\) is built without CUDA"):
        check_device("cuda:1")
    monkeypatch.setattr("text_gym.cli.options.checks.version", lambda name: "2.9.0+cu128")
    monkeypatch.setattr("text_gym.cli.options.checks._GPU_FILES", ("no-such-device",))
    with pytest.raises(ConfigError, match="this machine shows no GPU"):
        check_device("cuda")
    monkeypatch.setattr("text_gym.cli.options.checks._GPU_FILES", ("null",))  # some driver's file
    check_device("cuda")
    monkeypatch.setattr("sys.platform", "darwin")
    check_device("mps")
    with pytest.raises(ConfigError, match="no CUDA on macOS"):
        check_device("cuda")


def test_the_version_and_python_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "text_gym", "--version"],
        capture_output=True, text=True, cwd=ROOT, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == f"text-gym {version('text-gym')}\n"


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
