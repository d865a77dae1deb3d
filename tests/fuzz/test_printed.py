"""Hostile text through every place that prints: no control byte may reach the terminal."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.effort import count, effort, tries
from text_gym.cli.main import main
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.questions import LabelCriterion, Question

HARM = (
    "\x1b[2J\x1b]0;title\x07\x1b]8;;http://evil.example\x07link \r\x9b31m[bold red]x[/x] "
    "\u202e\u2066\u200b\u200d\ufeff\u2028\u2029\x85\x08\x0c\x7f\udcff"
)
PIECES = st.lists(
    st.sampled_from(["\x1b[31m", "\x1b]0;t\x07", "\x9b", "\r", "\x07", "\u202e", "\u200b", "\u2028", "\x85"])
    | st.sampled_from(["[/x]", "[link=http://e]", ":smile:", "\udcff", "\ufeff", "\t", "\n", "\x08", "\x7f"])
    | st.text(max_size=3),
    min_size=1,
    max_size=6,
).map("".join)
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def controls(shown: str) -> set[str]:
    """The characters of what was shown that a terminal would act on, or that nobody sees."""
    return {c for c in shown if unicodedata.category(c) in HIDDEN} - {"\n"}


def in_name(harm: str) -> str:
    """What a file system takes of it."""
    return "".join(c for c in harm if c not in "/\0" and not "\ud800" <= c <= "\udfff")[:60]


def shown_by(words: list[str]) -> str:
    """Everything a command prints, exceptions that leave it included."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        hook = sys.excepthook
        try:
            main(words)
        except SystemExit:
            pass
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            sys.excepthook = hook
    return said.getvalue()


def answers(harm: str) -> io.TextIOWrapper:
    """Standard input of somebody who answers, writes nonsense, takes it back, asks for help and leaves."""
    return io.TextIOWrapper(io.BytesIO(f"1\n{harm}\nu\n?\nq\n".encode("utf-8", "replace")))


def rows(file: Path, content: list[dict[str, object]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return str(file)


def table(file: Path, header: list[str], *lines: list[str]) -> str:
    with file.open("w", encoding="utf-8", errors="replace", newline="") as out:
        csv.writer(out).writerows([header, *lines])
    return str(file)


def labels(file: Path, harm: str) -> str:
    """A store in which everything that people and models wrote is hostile."""
    name = "".join(c for c in harm if c.isprintable()) or "x"
    criterion = LabelCriterion(name, "".join(c for c in harm if not "\ud800" <= c <= "\udfff"))
    with LabelStore(file) as store:
        ids = store.put(
            [Question.rating(harm + str(i), harm, (criterion,)) for i in range(12)], policy=harm, overlap=2
        )
        for rater in (harm + "1", harm + "2"):
            for i, item in enumerate(ids[:11]):
                store.record(item, rater, {name: 1 + i % 2}, latency=0.1, key=harm + rater + str(i))
    return str(file)


def reward(file: Path, harm: str) -> str:
    file.write_text(
        f"def broken(completion):\n    raise ValueError({harm!r})\n"
        f"def nonsense(completion):\n    return {harm!r}\n"
        f"def says(completion):\n    print({harm!r})\n    return 1.0\n"
        f"def leaves(completion):\n    raise SystemExit({harm!r})\n"
    )
    return str(file)


Route = Callable[[Path, str], list[str]]
OPTIONS: dict[str, Route] = {
    "a command": lambda d, x: [x],
    "a command of a group": lambda d, x: ["labels", x],
    "an option": lambda d, x: ["train", "--" + x],
    "a stray word": lambda d, x: ["train", x],
    "a number": lambda d, x: ["train", "--episodes", x],
    "a choice": lambda d, x: ["train", "--limit", x],
    "an algorithm": lambda d, x: ["train", "--algorithm", x],
    "a file of an algorithm": lambda d, x: ["train", "--algorithm", f"{x}.py:Mine"],
    "a task": lambda d, x: ["train", "--task", x],
    "a device": lambda d, x: ["train", "--device", x],
    "a policy": lambda d, x: ["train", "--policy", f"no/{x}"],
    "a reward": lambda d, x: ["train", "--reward", x],
    "a file of a reward": lambda d, x: ["train", "--reward", f"{x}.py:f"],
    "a module of a reward": lambda d, x: ["train", "--reward", f"{x}:f"],
    "a run to resume": lambda d, x: ["train", "--resume", x],
    "a name on the hub": lambda d, x: ["train", "--push-to-hub", x],
    "a file of data": lambda d, x: ["sft", "--data", f"{x}.csv", "--completion", "c"],
    "a file of pairs": lambda d, x: ["reward", "train", "--pairs", f"{x}.jsonl"],
    "a file to write": lambda d, x: ["evaluate", "--out", f"no/{x}"],
    "a name of a package": lambda d, x: ["init", x],
    "an environment": lambda d, x: ["play", "--task", x],
    "what to check": lambda d, x: ["check", x],
    "a design": lambda d, x: ["bench", "rewards", "--only", x],
    "a benchmark": lambda d, x: ["bench", "compare", x, x],
    "a store": lambda d, x: ["labels", "stats", "--store", x],
    "a store to merge": lambda d, x: ["labels", "merge", x, "--out", str(d / "m.db")],
    "a host": lambda d, x: ["label", "--web", "--host", x, "--store", str(d / "h.db")],
}
DATA: dict[str, Route] = {
    "a name of a file": lambda d, x: ["label", "--data", table(d / f"{in_name(x)}.csv", ["a"], ["b"])],
    "a header": lambda d, x: ["label", "--data", table(d / "a.csv", [x, "b"], ["c", "d"])],
    "a header given twice": lambda d, x: ["label", "--data", table(d / "b.csv", [x, x], ["c", "d"])],
    "a column": lambda d, x: [
        "sft", "--data", table(d / "c.csv", ["prompt", "y"], ["a", "b"]), "--completion", x,
    ],
    "a key of a row": lambda d, x: ["label", "--data", rows(d / "d.jsonl", [{x: 1}])],
    "a prompt that is none": lambda d, x: [
        "sft", "--data", rows(d / "e.jsonl", [{"prompt": [x], "y": "b"}]), "--completion", "y",
    ],
    "a row that is no label": lambda d, x: [
        "labels", "import", rows(d / "f.jsonl", [{"kind": x, "question": x, "criteria": [{x: 1}]}]),
        "--store", str(d / "f.db"),
    ],
    "a damaged line": lambda d, x: [
        "labels", "import", str(_written(d / "g.jsonl", "{" + x)), "--store", str(d / "g.db"),
    ],
    "another program's file": lambda d, x: [
        "labels", "verify", "--store", str(_written(d / "other.db", x * 200)),
    ],
    "labels, their statistics": lambda d, x: ["labels", "stats", "--store", labels(d / "l.db", x)],
    "labels, exported": lambda d, x: [
        "labels", "export", str(d / f"{in_name(x)}.jsonl"), "--store", labels(d / "m.db", x),
    ],
    "labels, verified": lambda d, x: [
        "labels", "verify", "--head", x, "--store", labels(d / f"{in_name(x)}.db", x),
    ],
    "labels, merged": lambda d, x: [
        "labels", "merge", f"{x.replace('=', '') or 'x'}={labels(d / 'n.db', x)}", "--out", str(d / "o.db"),
    ],
    "questions on the console": lambda d, x: ["label", "--rater", x + "3", "--store", labels(d / "p.db", x)],
    "a reward that raises": lambda d, x: ["check", f"{reward(d / 'r.py', x)}:broken"],
    "a reward that is no number": lambda d, x: ["check", f"{reward(d / 's.py', x)}:nonsense"],
    "a reward that leaves": lambda d, x: ["check", f"{reward(d / 't.py', x)}:leaves"],
    "a reward that is not there": lambda d, x: ["check", f"{reward(d / 'u.py', x)}:{x}"],
    "pairs to learn from": lambda d, x: [
        "reward", "train", "--pairs", rows(d / "v.jsonl", [{"prompt": x, "chosen": x, "rejected": x + "2"}]),
        "--out", str(d / in_name(x) / "model"),
    ],
    "ratings to learn from": lambda d, x: [
        "reward", "train", "--criteria", x, "--ratings",
        rows(d / "w.jsonl", [{"prompt": x + str(i), "completion": x * i, x: i} for i in range(1, 9)]),
        "--out", str(d / "ratings-model"),
    ],
    "transcripts": lambda d, x: [
        "reward", "score", rows(d / "x.jsonl", [{"prompt": x, "completion": x, "tokens": x}]),
        "--reward", "length", "--out", str(d / f"{in_name(x)}.jsonl"),
    ],
    "what a policy reads": lambda d, x: ["sample", x, "--max-tokens", "8", "--count", "1"],
    "what a policy reads, as JSON": lambda d, x: ["sample", x, "--max-tokens", "8", "--count", "1", "--json"],
    "a debugger's traceback": lambda d, x: ["--debug", "check", f"{reward(d / 'y.py', x)}:broken"],
}  # fmt: skip


def _written(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    return file


def test_there_are_more_routes_than_the_31_of_the_attack() -> None:
    assert len(OPTIONS) + len(DATA) > 31


@pytest.mark.parametrize("name", [*OPTIONS, *DATA])
def test_no_control_byte_reaches_the_terminal(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", answers("nonsense\x1b[31m"))
    shown = shown_by((OPTIONS | DATA)[name](tmp_path, HARM))
    assert shown.strip()
    assert not controls(shown), (controls(shown), shown)
    assert "Traceback" not in shown or "traceback" in name


@tries(20, 10_000)
def test_any_text_through_every_place_that_prints(
    tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Callable[..., None]
) -> None:
    routes = OPTIONS | DATA
    names = st.sampled_from(
        sorted(OPTIONS) if tries < 100 else sorted(routes)
    )  # commands at work take longer

    @effort(tries)
    @given(names, PIECES)
    def run(name: str, harm: str) -> None:
        monkeypatch.setattr("sys.stdin", answers(harm))
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            shown = shown_by(routes[name](Path(folder), harm))
        assert not controls(shown), name
        assert "Traceback" not in shown or "traceback" in name

    tried(
        "hostile text passes every place that prints without a control byte reaching the terminal",
        count(run),
        "texts",
        places=len(routes),
    )
