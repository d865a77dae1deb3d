"""`text-gym init` and `text-gym tasks`: what they write and print, and how they refuse."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installed_package import install
from text_gym.cli.main import main
from text_gym.cli.project import FILES, TEMPLATE, check_name
from text_gym.errors import ConfigError
from text_gym.tasks.task import TASKS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_tests_of_a_new_package_pass(here: Path) -> None:
    assert main(["init", "my_task"]) == 0
    project = here / "my_task"
    # As pip would install it: on the path, with the entry point that its pyproject.toml names.
    (point,) = re.findall(
        r'^\[project\.entry-points\."text_gym\.tasks"\]\n(\w+ = ".*")$',
        (project / "pyproject.toml").read_text(),
        re.MULTILINE,
    )
    about = here / "site" / "my_task-0.1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-task\nVersion: 0.1.0\n")
    (about / "entry_points.txt").write_text("[text_gym.tasks]\n" + point.replace('"', "") + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        cwd=project,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here / "site"), *sys.path])},
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 passed" in done.stdout
    assert "skipped" not in done.stdout


def test_all_of_the_template_is_written_and_nothing_in_it_is_left_open(here: Path) -> None:
    assert set(FILES) == {file.name for file in TEMPLATE.iterdir()}
    assert main(["init", "word_count", "--out", "some/where"]) == 0
    written = [file for file in (here / "some/where").rglob("*") if file.is_file()]
    assert len(written) == len(FILES)
    for file in written:
        assert not re.search(r"\$|my_task", file.read_text(encoding="utf-8")), file
    assert 'gym.make("word_count/WordCount-v0")' in (here / "some/where/README.md").read_text()
    assert 'name = "word-count"' in (here / "some/where/pyproject.toml").read_text()
    assert os.listdir(here / "some") == ["where"]  # no file of the writing is left


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("class", "reserved word; choose another name, such as my_class"),
        ("nul", "reserved word"),
        ("tests", "reserved word"),
        ("../x", "small letters, digits and underscores, a letter first, such as x"),
        ("/tmp/x", "such as tmp_x"),
        ("", "cannot be the name of a Python package"),
        ("My-Task", "such as my_task"),
        ("2cool", "such as cool"),
        ("_x", "such as x"),
        ("x\n", "such as x"),
        ("größe", "such as gr_e"),
        ("\x1b[31m", r"'\x1b[31m' cannot be"),
        ("x" * 51, "up to 50"),
        ("reverse", "there is a task 'reverse' already; choose another name, such as my_reverse"),
        ("random", "there is a Python package 'random' already"),
        ("numpy", "there is a Python package 'numpy' already"),
        ("text_gym", "there is a Python package 'text_gym' already"),
    ],
)
def test_bad_names_get_one_line(name: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", f"--name={name}"]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert len(shown.splitlines()) == 1
    assert "\x1b" not in shown
    assert not any(here.iterdir())


def test_the_line_to_type_goes_to_folders_with_spaces(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--to", "verl", "copy", "my project"]) == 0
    goes_to, _, runs = capsys.readouterr().out.splitlines()[-1].strip().partition(" && ")
    assert (shlex.split(goes_to), runs) == (["cd", "my project"], "sh train.sh")
    assert (here / "my project" / "train.sh").is_file()


def test_nothing_is_written_over(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "my_task").mkdir()
    assert main(["init", "my_task"]) == 2
    assert "my_task is there already" in capsys.readouterr().err
    assert not any((here / "my_task").iterdir())


def test_a_place_that_cannot_be_written_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").touch()
    assert main(["init", "my_task", "--out", "file/my_task"]) == 2
    shown = capsys.readouterr().err
    assert "my_task cannot be written" in shown
    assert len(shown.splitlines()) == 1


def test_a_write_that_fails_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = Path.write_text

    def fail(self: Path, *args: str, **kwargs: str) -> int:
        if self.name == "reward.py":
            raise OSError(28, "No space left on device")
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", fail)
    assert main(["init", "my_task"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert not any(here.iterdir())


def test_installed_tasks_keep_their_names(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(here)
    install(here, "palette", {"colours": "colours"})
    with pytest.raises(ConfigError, match="there is a task 'colours' already"):
        check_name("colours")


def test_tasks_lists_names_packages_and_what_is_broken(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(here)
    install(here, "palette_of_tests", {"colours": "colours", "copy": "colours"})
    install(here, "bad_of_tests", {"broken": "f"}, code="import no_such_module\n")
    install(here, "rude_of_tests", {"rude": "f"}, code='def f():\n    """Turn \x1b[31m red."""\n')
    assert main(["tasks"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    rows = [re.split(r"  +", line) for line in shown.splitlines()]
    assert [row[0] for row in rows[: len(TASKS)]] == list(TASKS)
    assert {row[1] for row in rows[: len(TASKS)]} == {"text-gym"}
    assert all(len(row[2]) > 20 for row in rows[: len(TASKS)])
    found = {row[0]: (row[1], row[2]) for row in rows[len(TASKS) :]}
    assert found["colours"] == ("palette_of_tests 1.2", "Name a colour.")
    assert "hidden by the task of text-gym" in found["copy"][1]
    assert "bad_of_tests 1.2 cannot be made: ModuleNotFoundError" in found["broken"][1]
    assert found["rude"][1] == r"Turn \x1b[31m red."
