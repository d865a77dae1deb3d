"""Every kind of tampering is found, and named: with the seal unbroken, too."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bench_submissions import forged, moved, submitted
from text_gym.bench.leaderboard.checking import check_contest, check_duplicate, read_submission
from text_gym.bench.matrix.settings import digest_of_files
from text_gym.errors import DamagedError, DataError, NonFiniteError, TextGymError

ABOUT = "submission.json"


def test_an_untouched_submission_is_read(here: Path) -> None:
    found = read_submission(here)
    assert (found.name, len(found.cells), found.validation) == ("first", 9, None)
    assert found.gold.value == json.loads((here / ABOUT).read_text())["summary"]["gold"]["value"]


def _change(folder: Path) -> None:
    file = next((folder / "cells").iterdir())
    file.write_text(file.read_text().replace("0", "1", 1))


def _link(folder: Path) -> None:
    (folder / "reward/warm.py").unlink()
    (folder / "reward/warm.py").symlink_to("/etc/hostname")


def _outside(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["manifest"]["files"]["../secret"] = {"bytes": 0, "sha256": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("tamper", "error", "message"),
    [
        (_change, DamagedError, "not what was written|bytes, not"),
        (lambda f: (f / "reward/warm.py").unlink(), DamagedError, "warm.py cannot be read"),
        (lambda f: (f / "reward/more.py").write_text(""), DamagedError, "more.py is not in its manifest"),
        (lambda f: (f / "manifest.json").unlink(), DamagedError, "no manifest.json"),
        (lambda f: (f / "manifest.json").write_text("{}"), DamagedError, "its manifest.json is none"),
        (lambda f: (f / "manifest.json").write_text("[" * 5000), DamagedError, "nested|not JSON"),
        (_outside, DamagedError, "'../secret', which is outside"),
        (_link, DataError, "warm.py is a link"),
        (lambda f: os.mkfifo(f / "pipe"), DataError, "pipe is a link or no plain file"),
    ],
)
def test_a_broken_seal_is_found(
    here: Path, tamper: Callable[[Path], object], error: type[TextGymError], message: str
) -> None:
    tamper(here)
    with pytest.raises(error, match=message):
        read_submission(here)


def _row(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda cell: cell["row"].update(values)


def _summary(about: dict[str, Any]) -> None:
    about["summary"]["gold"]["value"] += 0.01


def _better_by_hand(about: dict[str, Any]) -> None:
    about["summary"]["answer"] = "It holds."


def _cheaper(cell: dict[str, Any]) -> None:
    for point in cell["curve"]:
        point["kl_nats"] /= 2
    cell["row"]["kl_nats"] = cell["curve"][-1]["kl_nats"]


def _shorter(cell: dict[str, Any]) -> None:
    if cell["row"]["optimiser"] == "ppo":
        del cell["curve"][-1]
        last = cell["curve"][-1]
        cell["row"] |= {k: last[k] for k in ("gold", "proxy", "kl_nats", "length")}
        cell["row"]["gold_best"] = max(p["gold"] for p in cell["curve"])


def _one_start(cell: dict[str, Any]) -> None:
    cell["row"]["gold_start"] -= 0.1 * (cell["row"]["seed"] == 0)


@pytest.mark.parametrize(
    ("change", "file", "error", "message"),
    [
        (_row(gold=0.99), "", DataError, "gold is 0.99 in its row"),
        (_row(kl_nats=0.5), "", DataError, "kl_nats is 0.5 in its row"),
        (_row(gold_best=0.1), "", DataError, "gold_best is 0.1 in its row"),
        (_row(gold=float("nan")), "", NonFiniteError, "gold in the row is nan"),
        (_row(gold="0.9"), "", NonFiniteError, "'0.9', not a finite number"),
        (_row(gold=True), "", NonFiniteError, "True, not a finite number"),
        (_row(gold=10**400), "", NonFiniteError, "not a finite number"),
        (_row(seed=0), "", DataError, "has 9 cells.*missing is"),
        (_row(seed="0"), "", DataError, "its seed is '0'"),
        (_row(design="gold"), "", DataError, "another task or design"),
        (_cheaper, "", DataError, "its KL is not that of best-of-n"),
        (_shorter, "", DataError, "from 0 to the last iteration"),
        (_one_start, "", DataError, "start at different gold"),
        (moved(lambda seed: 0.1), "", DataError, "its summary says"),
        (lambda cell: {"row": []}, "", DataError, "not the form of a submission"),
        (lambda rows: rows[1:], "results.json", DataError, "results.json does not hold the rows"),
        (_summary, ABOUT, DataError, r"summary says gold.value = "),
        (_better_by_hand, ABOUT, DataError, "summary says answer = 'It holds.'"),
        (
            lambda a: a["reward"].update(content="0" * 16),
            ABOUT,
            DataError,
            "not the reward that was optimised",
        ),
        (lambda a: a["reward"].update(spec=None), ABOUT, DataError, "carries no reward"),
        (lambda a: a["reward"].update(spec="/etc/x.py:f"), ABOUT, DataError, "does not carry its reward"),
        (lambda a: a["contest"].update(seeds=[0, 1]), ABOUT, DataError, "has 9 cells, and its settings"),
        (lambda a: a.update(name="x" * 61), ABOUT, DataError, "name is no text of at most 60"),
        (lambda a: a.update(versions={"torch": []}), ABOUT, DataError, "are no texts"),
        (lambda a: a.update(versions="all"), ABOUT, DataError, "not the form"),
        (lambda a: a.update(format=2), ABOUT, DataError, "format 2"),
    ],
)
def test_forgeries_under_a_new_seal_are_found(
    here: Path, change: Callable[[dict[str, Any]], Any], file: str, error: type[TextGymError], message: str
) -> None:
    forged(here, change, *([file] if file else []))
    with pytest.raises(error, match=message):
        read_submission(here)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["settings"].update(episodes=65), "settings.episodes = 65"),
        (lambda c: c["contents"].update({"gold reward": "mine"}), "contents.gold reward = 'mine'"),
        (lambda c: c["optimisers"]["ppo"].update(epochs=9), "optimisers.ppo.epochs = 9"),
        (lambda c: c.update({"text-gym": "0.1.0"}), "text-gym = '0.1.0'"),
    ],
)
def test_other_conditions_are_another_contest(
    made: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    here, other = made["hackable"], Path(shutil.copytree(made["keywords"], tmp_path / "b"))
    check_contest(read_submission(other), read_submission(here))
    forged(other, lambda about: change(about["contest"]), ABOUT)
    with pytest.raises(DataError, match=message):
        check_contest(read_submission(other), read_submission(here))


def test_fewer_seeds_are_another_contest(here: Path, tmp_path: Path) -> None:
    other = submitted(tmp_path / "b", design="keywords", seeds=(0, 1))
    with pytest.raises(DataError, match=r"seeds.2 = None"):
        check_contest(read_submission(other), read_submission(here))


def test_duplicates_of_reward_or_results_are_found(made: dict[str, Path], here: Path, tmp_path: Path) -> None:
    first = read_submission(made["hackable"])
    again = read_submission(forged(here, lambda about: about | {"name": "other", "author": "Bob"}, ABOUT))
    with pytest.raises(DataError, match="duplicate: the same reward as 'first'"):
        check_duplicate(again, [first])
    copied = Path(shutil.copytree(made["hackable"], tmp_path / "c"))
    text = b"def warm(completion):\n    return 1.0\n"
    content = json.loads((copied / ABOUT).read_text())
    (copied / "reward/warm.py").write_bytes(text)

    content["reward"]["content"] = digest_of_files(copied / "reward/warm.py")
    forged(copied, lambda about: content, ABOUT)
    with pytest.raises(DataError, match="to the last digit the results of 'first'"):
        check_duplicate(read_submission(copied), [first])
    check_duplicate(read_submission(made["keywords"]), [first])
