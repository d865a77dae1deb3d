"""Options of every command in any combination: read or refused in one line, never a traceback."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.effort import count, effort, tries
from text_gym.cli import main as command_line
from text_gym.cli.main import COMMANDS, main

WORDS = [
    "0", "1", "-1", "3", "64", "0.5", "-0.1", "nan", "inf", "1e308", "99999999999999999999", "", " ", "-",
    "--", "none", "None", "true", "new", "ppo", "grpo", "dpo", "sb3.ppo", "products", "copy", "length", "cpu",
    "cuda", "ROWS", "PAIRS", "FOLDER", "STORE", "FOLDER/no", "FOLDER/x.py:f", "a:b", ":", "a/b", "../..", "=",
    "a=b", "\x1b[31m", "\udcff", "é", "1,2", "[1, 2]", "simulated", "web", "end", "small",
]  # fmt: skip
ANY = st.sampled_from(WORDS) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8
)


def flags_of(command: str) -> list[str]:
    """The options that the help of a command names."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    return sorted(set(re.findall(r"--[a-z][a-z0-9-]*", said.getvalue())) - {"--help"})


@pytest.fixture(scope="module")
def flags() -> dict[str, list[str]]:
    return {command: flags_of(command) for command in COMMANDS}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few files, and commands that are read but do not run."""
    (tmp_path / "rows.csv").write_text("prompt,completion\na,b\nc,d\n")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    (tmp_path / "x.py").write_text("def f(completion): return 1.0\n")
    loads = command_line._load
    runs = {run for _, run, _ in COMMANDS.values()}

    def load(name: str) -> object:
        if name in runs:
            return lambda *found: 0
        return loads(name)

    monkeypatch.setattr(command_line, "_load", load)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(words: list[str]) -> tuple[object, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            return main(words), said.getvalue()
        except SystemExit as end:
            return end.code, said.getvalue()


@tries(40, 20_000)
def test_any_options_are_read_or_refused_in_one_line(
    tries: int, place: Path, flags: dict[str, list[str]], tried: Callable[..., None]
) -> None:
    names = {"ROWS": "rows.csv", "PAIRS": "pairs.jsonl", "STORE": "labels.db"}

    @effort(tries)
    @given(st.sampled_from(sorted(COMMANDS)), st.data())
    def run(command: str, data: st.DataObject) -> None:
        one = st.sampled_from([*flags[command], "--seed"])
        part = st.one_of(
            st.tuples(one, ANY).map(list), one.map(lambda f: [f]), ANY.map(lambda w: [w]),
            st.tuples(one, ANY).map(lambda p: [f"{p[0]}={p[1]}"]),
        )  # fmt: skip
        parts = data.draw(st.lists(part, max_size=5))
        words = [names.get(w, w.replace("FOLDER", str(place))) for p in parts for w in p]
        code, said = read([*command.split(), *words])
        assert code in (0, 2), (code, words)
        if code == 2:
            assert re.fullmatch(r"text-gym: [A-Z]\w+Error: (?s:.+)\n", said) or not said, said
            assert "Traceback" not in said

    tried(
        "any options of any command are read, or refused in one line",
        count(run),
        "command lines",
    )
