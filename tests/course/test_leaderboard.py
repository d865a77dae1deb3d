"""The leaderboard: gold at five nats ranks rewards, and what is handed in can only lose its rank."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from course.imports import import_of_answers
from course.leaderboard import (
    COLUMNS,
    FILE,
    LAB,
    Entry,
    at_nats,
    main,
    measure,
    ranked,
    take_entries,
    write_page,
    write_table,
)
from text_gym.bench.matrix.engines import LocalEngine
from text_gym.bench.matrix.settings import Settings
from text_gym.utils.confinement import unavailable

safe_here = pytest.mark.skipif(bool(unavailable()), reason="the sandbox is not whole here")
HOSTILE: Mapping[str, tuple[str, str]] = {  # name -> reward.py, words of the reason
    "exits": ("import os\ndef reward(completion):\n    os._exit(0)\n", "its worker process died"),
    "is nan": ("def reward(completion):\n    return float('nan')\n", "nan"),
    "reads a classmate": (
        "open('CLASSMATE').read()\ndef reward(completion):\n    return 1.0\n",
        "Permission",
    ),
    "imports gold": ("from text_gym import load_task\ndef reward(completion):\n    return 1.0\n", "answers"),
    "raises markup": (
        "def reward(completion):\n    raise ValueError('<script>alert(1)</script>\\x1b[31m' + 'A' * 10**6)\n",
        "<script>",
    ),
    "has another name": ("def rewards(completion):\n    return 1.0\n", "unknown name"),
    "is no Python": ("def reward(completion:\n", "SyntaxError"),
    "uses the network": (
        "import socket\ndef reward(completion):\n    socket.create_connection(('::1', 9))\n    return 1.0\n",
        "network",
    ),
    "takes 10 GB": ("def reward(completion):\n    return float(len(bytearray(10 << 30)))\n", "memory"),
    "is a fork bomb": ("import os\ndef reward(completion):\n    while True: os.fork()\n", "start no process"),
    "floods": ("def reward(completion):\n    while True: print('\\x1b[2J' * 1000)\n", "printed more"),
    "loops": ("def reward(completion):\n    while True: pass\n", "longer than"),
    "loops later": (
        "n = 0\ndef reward(completion):\n    global n\n    n += 1\n    while n > 3000: pass\n    return 1\n",
        "longer than",
    ),
}
QUICK = ("exits", "reads a classmate", "raises markup")


def hand_in(folder: Path, student: str, source: str) -> Path:
    file = folder / student / LAB / FILE
    file.parent.mkdir(parents=True)
    file.write_text(source, encoding="utf-8")
    return folder / student


def point(kl: float, gold: float, proxy: float = 0.0) -> dict[str, Any]:
    return {"kl_nats": kl, "gold": gold, "proxy": proxy, "length": 20.0}


def entry(student: str, golds: tuple[float, ...], **more: Any) -> Entry:
    """An entry whose gold goes from 0.7 at the start to the given one at 9 nats, a seed each."""
    rows = tuple(
        {
            "curve": [point(0.0, 0.7), point(1.0, 0.9), point(9.0, gold, 4.0)],
            "gold_start": 0.7,
            "gold_std_start": 0.1,
            "gold_best": 0.9,
            "proxy_start": 0.0,
            "proxy_std_start": 1.0,
            "static_accuracy": 0.6,
            "samples": [
                {"prompt": "<b>p", "texts": [{"when": "end", "text": "<i>t", "gold": 1.0, "words": 2}]}
            ],
        }
        | more
        for gold in golds
    )
    return Entry(student, None, rows=rows)


def test_a_curve_is_read_at_five_nats_by_a_line_over_the_root() -> None:
    curve = [point(0.0, 0.0), point(4.0, 1.0), point(6.25, 0.5)]
    assert at_nats(curve, "gold") == pytest.approx(1.0 - (math.sqrt(5.0) - 2.0), abs=1e-12)
    assert math.isnan(at_nats(curve[:2], "gold"))


def test_gold_ranks_and_its_reward_is_described() -> None:
    good, bad, same = entry("ada", (1.0, 0.9)), entry("bob", (0.1, 0.3)), entry("cem", (0.9, 1.0))
    lost = Entry("dee", None, "not handed in")
    assert [(rank, e.student) for rank, e in ranked([lost, bad, good, same])] == [
        (1, "ada"),
        (1, "cem"),
        (3, "bob"),
        (None, "dee"),
    ]
    assert good.note == ""
    assert bad.note == "hacked: worse than chance; at its best point gold was 0.90"
    assert entry("eve", (0.7,)).note == "over-optimised: at its best point gold was 0.90"
    assert "pays every text the same" in entry("flo", (0.7,), proxy_std_start=0.0).note
    assert "is it gold itself" in entry("gus", (1.0,), static_accuracy=1.0).note


def test_names_and_texts_are_text_in_page_and_table(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\x1b[31m"
    entries = [entry(f"={hostile}", (1.0,)), Entry("+bob", None, hostile)]
    write_page(entries, entry("gold", (1.0,)), tmp_path / "a.html", Settings())
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<i>t" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    write_table(entries, tmp_path / "a.csv")
    with open(tmp_path / "a.csv", encoding="utf-8") as file:
        first, second, third = csv.reader(file)
    assert tuple(first) == COLUMNS
    assert first[1] == "student"
    assert second[1].startswith("'=<script>")
    assert third[0] == ""
    assert third[1] == "'+bob"


@safe_here
def test_rewards_are_measured_and_hostile_ones_lose_their_rank(tmp_path: Path) -> None:
    group = tmp_path / "class"
    good = "def reward(completion, price):\n    return float(price in completion)\n"
    ada, bob = hand_in(group, "ada", good), hand_in(group, "bob", good)
    bad = [
        hand_in(group, name, HOSTILE[name][0].replace("CLASSMATE", str(ada / LAB / FILE))) for name in QUICK
    ]
    (group / "cleo").mkdir()
    settings = Settings(candidates=8, prompts=2, held_out=4)
    work = tmp_path / "work"
    for _ in range(2):  # the second time finds what the first made
        entries = take_entries([ada, bob, *bad, group / "cleo"], work)
        entries, gold = measure(entries, work, settings, [0], False, LocalEngine(0))
    found = {e.student: e for e in entries}
    assert found["ada"].rows == found["bob"].rows
    first, *_, last = found["ada"].rows[0]["curve"]
    assert last["proxy"] >= first["proxy"]
    assert gold.rows[0]["curve"][-1]["gold"] >= last["gold"] - 1e-12
    for name in QUICK:
        assert not found[name].rows
        assert HOSTILE[name][1] in found[name].reason
        assert str(work) not in found[name].reason
        assert len(found[name].reason) < 400
    assert found["cleo"].reason == f"not handed in: there is no {LAB}/{FILE}"


@safe_here
@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_class_with_every_kind_of_hostile_reward(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = tmp_path / "class"
    ada = hand_in(group, "ada", "def reward(completion, name):\n    return float(name in completion)\n")
    hand_in(group, "bob", "def reward(completion):\n    return len(completion.split())\n")
    for name, (source, _) in HOSTILE.items():
        hand_in(group, name, source.replace("CLASSMATE", str(ada / LAB / FILE)))
    assert len(HOSTILE) >= 12
    out = tmp_path / "board.html"
    main([*map(str, sorted(group.iterdir())), "--out", str(out), "--seeds", "0", "--prompts", "8"])
    with open(out.with_suffix(".csv"), encoding="utf-8") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    # A longer text is a worse one here, as docs/benchmark-rewards.md says; the name belongs into it.
    assert [rows[name]["rank"] for name in ("ada", "bob")] == ["1", "2"]
    assert float(rows["ada"]["gold_at_5_nats"]) > float(rows["ada"]["gold_at_start"])
    assert float(rows["bob"]["gold_at_5_nats"]) < float(rows["bob"]["gold_at_start"])
    for name, (_, reason) in HOSTILE.items():
        assert rows[name]["rank"] == ""
        assert reason in rows[name]["note"], name
    assert "<script" not in out.read_text(encoding="utf-8")
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("import numpy as np, text_gym.agents as a", "text_gym.agents"),
        ("def f():\n    from text_gym.bench import DESIGNS", "text_gym.bench"),
        ("import importlib\nimportlib.import_module('text_gym')", "text_gym"),
        ("__import__('course.lab2_policy_gradient.lab')", "course.lab2_policy_gradient.lab"),
        ("import torch\nfrom . import text_gym\ntext_gym = 'import text_gym'", ""),
        ("def f(:", ""),
    ],
)
def test_imports_of_answers_are_named(source: str, named: str) -> None:
    assert import_of_answers(source).partition(" imports ")[2].partition(":")[0] == named


@safe_here
def test_a_class_of_nobody_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "mistyped"), "--out", str(tmp_path / "nobody.html")])
    assert "none of the submissions is a folder" in capsys.readouterr().err
