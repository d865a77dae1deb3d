"""The command line as a user meets it: exit status, messages, files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from text_gym.cli.main import COMMANDS, main
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
        (["train", "--task", "copy"], "ships no policy"),
        (["train", "--max-tokens", "500"], "context"),
        (["train", "--reward", "tests.cli.test_main:nothing"], "nothing"),
    ],
)
def test_what_is_found_late_is_one_line_and_a_status_too(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert len(shown.strip().splitlines()) == 1


# What is wrong and cheap to see, with what is said about it; FOLDER is one with a few files.
CHEAP = [
    ("trian", "unknown command 'trian'; did you mean 'train'"),
    ("train --iteratoins 3", "no option --iteratoins; did you mean --iterations?"),
    ("train --episodes many", "--episodes: invalid literal for int"),
    ("train --episodes", "Missing value for argument '--episodes'"),
    ("train --limit stop", "invalid choice 'stop' for argument '--limit'"),
    ("train stray", "Unrecognized options: stray"),
    ("labels merge a\0b=c.db", r"an option holds a NUL character, which no path or text may: 'a\x00b=c.db'"),
    ("train --episodes 0", "--episodes is 0; it must be at least 1"),
    ("train --iterations 0", "--iterations is 0; it must be at least 1"),
    ("train --iterations -3", "iterations is -3; it must not be negative"),
    ("train --checkpoint-every -1", "--checkpoint-every is -1; it must be at least 0"),
    ("train --max-tokens 0", "--max-tokens is 0; it must be at least 1"),
    ("train --lora 0", "--lora is 0; it must be at least 1"),
    ("train --task sort --policy new --layers 0", "--layers is 0"),
    ("train --task sort --policy new --width 30", "--width is 30; it must be a multiple of 4"),
    ("train --learning-rate -1", "learning_rate is -1.0; it must not be negative"),
    ("train --algorithm pppo", "did you mean 'ppo'? Known: best_of_n, dpo, grpo, ppo"),
    ("train --algorithm sb3.pppo", "did you mean 'sb3.ppo'?"),
    ("train --algorithm FOLDER/no.py:Mine", "there is no file FOLDER/no.py"),
    ("train --algorithm grpo --group-size 1", "group_size is 1; a group needs at least 2"),
    ("train --algorithm grpo --episodes 9", "--episodes is 9; grpo needs a multiple of 8"),
    ("train --algorithm dpo", "pass --pairs FILE, with columns prompt, chosen, rejected"),
    ("train --algorithm dpo --pairs FOLDER/no.csv", "FOLDER/no.csv: no such file"),
    ("train --algorithm dpo --pairs FOLDER/labels.db", "there is no such label store"),
    ("train --algorithm dpo --pairs FOLDER/rows.csv --reward length", "reward train --pairs FOLDER/rows.csv"),
    ("train --algorithm dpo --pairs FOLDER/rows.csv --beta 0", "beta is 0.0; it must be above 0"),
    ("train --pairs FOLDER/rows.csv", "ppo learns from a reward, not from --pairs; pass --algorithm dpo"),
    ("train --task product", "unknown task 'product'; did you mean 'products'"),
    ("train --device gpu", "unknown device 'gpu'; choose auto, cpu, cuda"),
    ("train --policy no/such/folder", "--policy no/such/folder: there is no such folder"),
    ("train --policy FOLDER", "the folder holds no policy"),
    ("train --policy FOLDER/rows.csv", "FOLDER/rows.csv is a file; pass the folder of a policy"),
    ("train --data FOLDER/rows.csv", "--data needs a --policy"),
    ("train --data FOLDER/rows.csv --policy new", "make one with `text-gym sft --data"),
    ("train --data FOLDER/no.csv --policy gpt2", "FOLDER/no.csv: no such file"),
    ("train --data FOLDER/mine.py --policy gpt2", "unknown kind of file; use .csv"),
    ("train --data FOLDER/rows.csv --policy gpt2 --gold lenght", "unknown reward 'lenght'; did you mean"),
    ("train --gold length", "has a reward of its own, which is gold"),
    ("train --reward lenght", "unknown reward 'lenght'; did you mean 'length'?"),
    ("train --reward FOLDER/no.py:f", "there is no file FOLDER/no.py"),
    ("train --reward FOLDER/mine.py", "which name in FOLDER/mine.py? Write --reward"),
    ("train --reward no_such_module:f", "there is no module no_such_module; is it installed?"),
    ("train --log neptune", "invalid choice 'neptune' for argument '--log'"),
    ("train --push-to-hub a/b/c", "--push-to-hub a/b/c: write OWNER/NAME"),
    ("train --out FOLDER/run", "FOLDER/run already holds a run; choose another --out"),
    ("train --out FOLDER/rows.csv", "FOLDER/rows.csv is a file; choose a folder"),
    (f"train --out FOLDER/{'x' * 300}", "File name too long; choose another place"),
    ("train --resume FOLDER", "FOLDER holds no run: there is no config.json"),
    ("train --resume FOLDER/run --seed 1", "leave out all options but --resume"),
    ("sft --data FOLDER/rows.csv", "pass --completion COLUMN"),
    ("sft --data FOLDER/no.csv", "FOLDER/no.csv: no such file"),
    ("sft --width 0", "--width is 0"),
    ("sft --width 30", "--width is 30; it must be a multiple of --heads, 4"),
    ("sft --dropout 1.5", "--dropout is 1.5; it must be in [0, 1)"),
    ("sft --out FOLDER/rows.csv", "choose a folder"),
    ("sft --model FOLDER", "--model FOLDER: the folder holds no policy"),
    ("sample --temperature 0", "--temperature is 0.0; it must be positive"),
    ("sample --top-p 0", "--top-p is 0.0; it must be in (0, 1]"),
    ("sample --top-p 1.5", "--top-p is 1.5; it must be in (0, 1]"),
    ("sample --top-k -1", "--top-k is -1; it must be at least 0"),
    ("sample --count 0", "--count is 0"),
    ("evaluate --policy new", "a policy with random weights, for `text-gym train`"),
    ("evaluate --data FOLDER/rows.csv", "--data needs a --policy"),
    ("evaluate --reward lenght", "did you mean 'length'?"),
    ("evaluate --reference FOLDER", "--reference FOLDER: the folder holds no policy"),
    ("evaluate --out FOLDER", "FOLDER is a folder; pass the name of a file"),
    ("evaluate --transcripts FOLDER/no/t.jsonl", "there is no folder FOLDER/no; make it first"),
    ("view FOLDER/none", "there is no folder FOLDER/none"),
    ("view FOLDER", "keeps no rollouts (no iteration is in FOLDER/rollouts): train with --keep-rollouts"),
    ("view FOLDER --output FOLDER", "--output FOLDER is a folder"),
    (f"view FOLDER --output FOLDER/{'x' * 300}", "File name too long; choose another place"),
    ("train --keep-rollouts -1", "--keep-rollouts is -1; it must be at least 0"),
    ("train --algorithm sb3.ppo --keep-rollouts 2", "leave out --keep-rollouts"),
    ("train --watch readibility", "readability"),
    ("train --algorithm sb3.ppo --stop-on-alarm", "leave out --watch and --stop-on-alarm"),
    ("push FOLDER/no me/name", "FOLDER/no: there is no such folder"),
    ("push FOLDER", "NAME"),
    ("play --task text_gym/Product-v0", "did you mean 'text_gym/Products-v0'"),
    ("init 1st", "1st"),
    ("init my_task --out FOLDER", "FOLDER is there already; choose another name"),
    ("export --to verl product FOLDER/x", "did you mean 'products'"),
    ("tasks stray", "Unrecognized options: stray"),
    ("reward train", "pass --pairs FILE, --ratings FILE or --steps FILE, one of them"),
    ("reward train --pairs FOLDER/no.csv", "FOLDER/no.csv: no such file"),
    ("reward train --pairs FOLDER/rows.csv --members 0", "members is 0; an ensemble needs one at least"),
    ("reward train --pairs FOLDER/rows.csv --held-out 1", "held_out is 1.0; it must be between 0 and 1"),
    ("reward score FOLDER/no.jsonl --reward length --out FOLDER/s.jsonl", "FOLDER/no.jsonl: no such file"),
    ("reward score FOLDER/rows.csv --reward lenght --out FOLDER/s.jsonl", "did you mean 'length'?"),
    ("reward audit lenght", "unknown reward 'lenght'; did you mean 'length'?"),
    ("reward audit length --task product", "did you mean 'products'"),
    ("reward audit length --count 0", "--count is 0"),
    ("tune --seconds 0", "--seconds is 0.0; it must be above 0"),
    ("train --sizes none.json", "there is no such file; `text-gym tune` makes one"),
    ("rlhf --task product", "did you mean 'products'"),
    ("rlhf --policy new", "make one with `text-gym sft`"),
    ("rlhf --gold length", "has a reward of its own, which is gold"),
    ("rlhf --rounds 0", "rounds is 0"),
    ("bench rewards --task product", "did you mean 'products'"),
    ("bench rewards --optimisers pppo", "did you mean 'ppo'"),
    ("bench rewards --iterations 0", "--iterations is 0"),
    ("bench agents --tasks product", "did you mean 'products'"),
    ("bench agents --workers -1", "--workers is -1"),
    ("bench submit FOLDER/no --design gold --author ada --out FOLDER/x", "FOLDER/no: no such folder"),
    ("bench leaderboard --out FOLDER/x", "no submissions"),
    ("bench compare FOLDER/no FOLDER/run", "FOLDER/no"),
    ("bench findings FOLDER/no FOLDER/run", "FOLDER/no"),
    ("check pppo", "unknown environment, task, reward or algorithm 'pppo'; did you mean 'ppo'?"),
    ("check FOLDER/no.py:f", "there is no file FOLDER/no.py"),
    ("check length --task product", "did you mean 'products'"),
    ("check length --steps 0", "--steps is 0"),
    ("label --data FOLDER/no.csv", "FOLDER/no.csv: no such file"),
    ("label --scale 1", "--scale is 1; it must be at least 2"),
    ("label --kind best-of-n --n 1", "--n is 1; it must be at least 2"),
    ("labels stats --store FOLDER/no.db", "FOLDER/no.db"),
    ("labels verify --store FOLDER/rows.csv", "FOLDER/rows.csv"),
    ("labels export FOLDER/l.jsonl --store FOLDER/no.db", "FOLDER/no.db"),
    ("labels import FOLDER/no.jsonl --store FOLDER/new.db", "FOLDER/no.jsonl"),
    ("labels merge FOLDER/no.db --out FOLDER/new.db", "FOLDER/no.db"),
    ("serve nosuch", "unknown task 'nosuch'"),
    ("validate reverse --levels 9", "--levels is 9; choose of 0 to 5"),
]


@pytest.fixture(scope="module")
def cheap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What every one of the mistakes gives, in one process that cannot import PyTorch."""
    folder = tmp_path_factory.mktemp("cheap")
    (folder / "rows.csv").write_text("prompt,completion\na,b\n")
    (folder / "mine.py").write_text("def f(completion): return 1.0\n")
    (folder / "run").mkdir()
    for name, text in (("metrics.jsonl", ""), ("config.json", "{}")):
        (folder / "run" / name).write_text(text)
    inputs = {words: words.replace("FOLDER", str(folder)).split() for words, _ in CHEAP}
    program = (
        "import contextlib, io, json, sys\n"
        "class Forbidden:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'torch':\n            raise AssertionError('PyTorch is imported')\n"
        "sys.meta_path.insert(0, Forbidden)\n"
        "from text_gym.cli.main import main\nfound = {}\n"
        f"for name, words in {inputs!r}.items():\n"
        "    out, err = io.StringIO(), io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n"
        "        try:\n            code = main(words)\n"
        "        except SystemExit as end:\n            code = end.code\n"
        "        except BaseException as raised:\n            code = repr(raised)\n"
        "    found[name] = code, out.getvalue(), err.getvalue()\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, check=True, timeout=300
    )
    yield {"folder": folder, **json.loads(done.stdout)}
    assert sorted(p.name for p in folder.iterdir()) == ["mine.py", "rows.csv", "run"]


@pytest.mark.parametrize(("words", "message"), CHEAP, ids=[words for words, _ in CHEAP])
def test_a_cheap_mistake_is_one_typed_line_before_torch_is_loaded(
    words: str, message: str, cheap: dict[str, Any]
) -> None:
    code, out, err = cheap[words]
    assert code == 2, (out, err)
    assert re.fullmatch(r"text-gym: [A-Z]\w+Error: .*\n", err), err
    assert message.replace("FOLDER", str(cheap["folder"])) in err
    assert out == ""


def test_a_group_without_a_command_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["reward"])
    assert exit_.value.code == 2
    assert "text-gym reward train" in capsys.readouterr().out


def test_every_command_is_among_the_mistakes() -> None:
    assert [name for name in COMMANDS if not any(words.startswith(name) for words, _ in CHEAP)] == []
    assert len({words for words, _ in CHEAP}) == len(CHEAP) >= 40


def test_no_help_loads_what_it_does_not_need() -> None:
    heavy = ["torch", "transformers", "matplotlib", "scipy", "stable_baselines3", "huggingface_hub", "wandb"]
    program = (
        "import contextlib, io, sys\nfrom text_gym.cli.main import COMMANDS, main\n"
        "for name in ('', *COMMANDS):\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "        main([*name.split(), '--help'])\n"
        f"    for module in {heavy}:\n"
        "        assert module not in sys.modules, (name, module)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_a_device_that_cannot_be_here_is_told_from_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_gym.cli.options.checks.version", lambda name: "2.9.0+cpu")
    monkeypatch.setattr("sys.platform", "linux")
    for device in ("auto", "cpu"):
        check_device(device)
    with pytest.raises(ConfigError, match=r"mps: it has no float64.*; pass --device cpu"):
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
    with pytest.raises(ConfigError, match="no CUDA on macOS"):
        check_device("cuda")


def test_the_exit_status_is_the_commands_own_and_130_after_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("text_gym.cli.project.run_tasks", lambda *_: 7)
    assert main(["tasks"]) == 7
    monkeypatch.setattr("text_gym.cli.project.run_tasks", interrupted)
    assert main(["tasks"]) == 130
    assert capsys.readouterr().err == "text-gym: interrupted\n"
    with pytest.raises(KeyboardInterrupt):
        main(["--debug", "tasks"])


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


@pytest.mark.parametrize(("others", "status"), [({}, 0), ({"WORLD_SIZE": "2", "RANK": "0"}, 1)])
def test_whoever_stops_reading_ends_a_command_and_all_its_processes(
    others: dict[str, str], status: int
) -> None:
    """`torchrun` ends the others when one fails; after a 0 they would wait for it."""
    command = [sys.executable, "-u", "-m", "text_gym", "tasks"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **others}) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=300) == status
