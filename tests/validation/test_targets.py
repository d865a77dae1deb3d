"""What the words after `text-gym validate` name; code of others runs in a sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.installed_package import install
from text_gym.cli.main import main
from text_gym.errors import ConfigError, UnknownNameError
from text_gym.validation.result import CheckResult
from text_gym.validation.targets import ValidationRequest, validate_target

FAST = {"levels": (0, 1), "prompts": 8}
CODE = '''
from pathlib import Path
from text_gym import FunctionReward, Prompt, Task, WordTokenizer

try:
    (Path(__file__).parent / "marker").touch()
except OSError:
    pass


def colours() -> Task:
    """Name a colour."""
    prompts = [Prompt(f"{a} {b}", {"answer": a}) for a in "abcd" for b in "efgh"]
    reward = FunctionReward(lambda completion, answer: float(completion == answer))
    return Task("colours", prompts[:12], prompts[12:], WordTokenizer("abcdefgh"), reward, 2, optimum=1.0)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path, "their_package", {"their_task": "colours"}, CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_package_runs_in_a_sandbox_unless_it_is_trusted(package: Path) -> None:
    (report,) = validate_target(ValidationRequest("their_package", options=FAST))
    assert (report.target, report.kind, report.grade) == ("their_task", "task", 1)
    assert not (package / "marker").exists()
    (trusted,) = validate_target(ValidationRequest("their_task", options=FAST), trust=True)
    assert (package / "marker").exists()
    assert [(r.check_id, r.status) for r in trusted.results] == [
        (r.check_id, r.status) for r in report.results
    ]


TALK = """
class Echo:
    def respond(self, episodes, generators):
        return [Reply("a") for _ in episodes]


def talk() -> Task:
    prompts = [Prompt("a"), Prompt("b")]
    return Task("talk", prompts[:1], prompts[1:], WordTokenizer("ab"), FunctionReward(len), 2,
                respondent=Echo(), max_turns=2)


def broken() -> Task:
    raise KeyError("no data here")
"""


def test_tasks_of_several_turns_are_left_out_and_one_that_cannot_be_made_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    code = CODE.replace("import FunctionReward", "import FunctionReward, Reply") + TALK
    install(tmp_path, "mixed", {"one_turn": "colours", "some_turns": "talk", "no_task": "broken"}, code)
    monkeypatch.syspath_prepend(str(tmp_path))
    told: list[str] = []
    options = {"levels": (0,), "prompts": 4}

    def tell(result: CheckResult) -> None:
        told.append(result.line())

    reports = validate_target(ValidationRequest("mixed", options=options), trust=True, progress=tell)
    assert {r.target: r.exit_status for r in reports} == {"one_turn": 0, "no_task": 10}
    assert "'some_turns'" in caplog.text
    assert any("no data here" in line for line in told)
    with pytest.raises(ConfigError, match="these have several: 'some_turns'"):
        validate_target(ValidationRequest("some_turns", options=options))  # in a sandbox


def test_a_file_is_validated_on_the_texts_of_a_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "mine.py", tmp_path / "out"
    file.write_text("def pay(completion):\n    return 1.0\n")
    words = [f"{file}:pay", "--task", "reverse", "--levels", "0", "1", "--prompts", "6", "--out", str(out)]
    assert main(["validate", *words]) == 11
    assert "✗ L1 semantic.oracle_max" in capsys.readouterr().out
    assert {f.name for f in out.iterdir()} == {"validation.html", "validation.json", "badge.json"}


def test_a_file_that_cannot_be_loaded_fails_the_lowest_level(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("raise ValueError('no')\n")
    (report,) = validate_target(ValidationRequest(f"{file}:pay", "reverse", options=FAST))
    assert report.exit_status == 10


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(ConfigError, match=r"is the id of an environment, .*; the task is 'reverse'"):
        validate_target(ValidationRequest("text_gym/Reverse-v0"))
    with pytest.raises(UnknownNameError, match="reverse"):
        validate_target(ValidationRequest("revers"))


@pytest.mark.parametrize("words", [["reverse", "--levels", "7"], ["reverse", "--seconds", "0"]])
def test_options_that_make_no_sense_get_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
