from __future__ import annotations

import dataclasses
import html
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from tests import rlhf_world
from tests.rlhf_world import GOLD, QUALITY, TOKENIZER, config, policy, result, run, task
from text_gym import TextVectorEnv, read_transcripts
from text_gym.agents import Checkpoints, Policy, rollout, trajectory_log_probs
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.errors import ConfigError, DataError, RaterLeftError
from text_gym.reward_models import LabelStore
from text_gym.rlhf import cycle, rlhf
from text_gym.rlhf.people import simulated_people
from text_gym.rlhf.verdict import headline
from text_gym.runs.origin import load_start
from text_gym.tasks.task import NoGold
from text_gym.utils import sealed
from text_gym.viewer.store import kept_files

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rlhf") / "run"
    run(folder)
    return folder


def test_the_folder_holds_what_it_should(done: Path) -> None:
    rows = [json.loads(line) for line in (done / "rounds.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2]
    for row in rows:
        assert row["labels"] == 24
        low, high = row["gold"]["ci95"]
        assert low <= row["gold"]["mean"] <= high
        assert {"proxy", "kl_nats", "alpha"} <= set(row)
        folder = done / f"round-{row['round']}"
        assert (folder / "reward_model" / "reward_model.json").is_file()
        assert (folder / "policy" / "model.safetensors").is_file()
        assert not (folder / "training" / "checkpoints").exists()
        assert list(kept_files(folder / "training")) == [1, 3]
    assert rows[1]["gold_before"] == rows[0]["gold"]
    report = (done / "report.html").read_text()
    assert "<!doctype html>" in report
    assert '<a href="view.html">' in report
    about = re.findall(r'id="about">(.*?)</script>', (done / "view.html").read_text())
    names = [f"round {n}, iteration {i}" for n in (1, 2) for i in (1, 3)]
    assert json.loads(about[0])["iterations"] == names
    with LabelStore(done / "labels.db", create=False) as store:
        assert len(list(store.labels())) == 48
        assert {x.policy for x in store.labels()} == {"round 0", "round 1"}
        store.verify()


def test_gold_is_the_tasks_own_and_kl_is_to_the_first_policy(done: Path) -> None:
    """By hand from the texts on disk, with other code than the cycle's."""
    rows = [json.loads(line) for line in (done / "rounds.jsonl").read_text().splitlines()]
    start = Policy.from_pretrained(done / "start" / "policy", TOKENIZER, device="cpu")
    for row in rows:
        folder = done / f"round-{row['round']}"
        episodes = list(read_transcripts(folder / "texts.jsonl", TOKENIZER))
        own = [min(1.0, e.completion.split().count("good") / 3) for e in episodes]
        assert row["gold"]["mean"] == pytest.approx(np.mean(own))
        after = Policy.from_pretrained(folder / "policy", TOKENIZER, device="cpu")
        with torch.no_grad():
            kl = trajectory_log_probs(after, episodes) - trajectory_log_probs(start, episodes)
        assert row["kl_nats"] == pytest.approx(float(kl.mean()), abs=1e-4)
        found, where = load_start(folder / "policy", after, "cpu")
        assert found is not None
        assert (found.digest(), where) == (start.digest(), str(done / "start" / "policy"))
    assert any(abs(row["kl_nats"]) > 1e-3 for row in rows)


def test_it_learns_what_the_raters_like(tmp_path: Path) -> None:
    rows = run(tmp_path / "run", rounds=1, labels_per_round=80, iterations=25, kl_coef=0.0)
    assert rows[0]["gold"]["mean"] > rows[0]["gold_before"]["mean"] + 0.3
    assert rows[0]["proxy"] > rows[0]["proxy_before"]
    assert rows[0]["kl_nats"] > 0.5
    assert rows[0]["proxy_gold"] is None or rows[0]["proxy_gold"] > 0.5


@pytest.mark.parametrize("limit", ["end", "truncate"])
def test_the_limit_is_that_of_the_environment_to_learn_in_and_of_no_other(
    limit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []

    class Watched(TextVectorEnv):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append({"limit": self.batch.options.limit, "learning": self.num_envs == 16})

    monkeypatch.setattr("text_gym.rlhf.cycle.TextVectorEnv", Watched)
    run(tmp_path / "run", limit=limit, rounds=1)
    assert made == [{"limit": "end", "learning": False}, {"limit": limit, "learning": True}]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["limit"] == limit


def test_two_raters_answer_the_shared_questions(done: Path) -> None:
    chosen = json.loads((done / "round-1" / "questions.json").read_text())
    assert (len(chosen["about"]), chosen["shared"]) == (20, 4)
    with LabelStore(done / "labels.db", create=False) as store:
        raters: dict[str, list[str]] = {}
        for label in store.labels():
            if label.policy == "round 0":
                raters.setdefault(label.item, []).append(label.rater)
    assert sorted(map(len, raters.values())) == [1] * 16 + [2] * 4


def test_each_round_learns_from_all_answers_and_is_held_to_the_first_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opinions, references, seeds = [], [], []
    fit, load, play = cycle.fit_reward, load_algorithm, rollout

    def fitting(run: Any, some: Any) -> Any:
        opinions.append(len(some))
        return fit(run, some)

    def loading(name: str) -> Any:
        def make(policy: Policy, env: Any, config: Any, reference: Policy) -> Any:
            references.append(reference.digest())
            return load(name)(policy, env, config, reference)

        return make

    def playing(*args: Any, seed: int, **kwargs: Any) -> Any:
        seeds.append(seed)
        return play(*args, seed=seed, **kwargs)

    monkeypatch.setattr(cycle, "fit_reward", fitting)
    monkeypatch.setattr(cycle, "load_algorithm", loading)
    monkeypatch.setattr(cycle, "rollout", playing)
    rows = run(tmp_path / "run")
    assert opinions == [rows[0]["opinions"], rows[0]["opinions"] + rows[1]["opinions"]]
    start = Policy.from_pretrained(tmp_path / "run" / "start" / "policy", TOKENIZER, device="cpu")
    assert references == [start.digest()] * 2
    assert len(set(seeds)) == 2  # the texts of a round have luck of their own


def test_a_skip_is_no_label(tmp_path: Path) -> None:
    class SkippingOne:
        def __init__(self, store: LabelStore, first: Any) -> None:
            self.store, self.inner = store, simulated_people(GOLD, QUALITY)(store, first)

        def __enter__(self) -> Any:
            asking = self.inner.__enter__()

            def answers(episodes: Any) -> Any:
                def ask(among: list[str]) -> None:
                    if len(among) == 16:  # those for one rater
                        self.store.skip(among[0], f"simulated-{int(among[0][:8], 16) % 2 + 1}")
                    asking(episodes)(among)

                return ask

            return answers

        def __exit__(self, *error: Any) -> None:
            self.inner.__exit__(*error)

    (row,) = run(tmp_path / "run", SkippingOne, rounds=1)
    assert (row["labels"], row["opinions"]) == (23, 19)


def test_the_same_call_again_changes_nothing(done: Path) -> None:
    before = result(done)
    assert [row["round"] for row in run(done)] == [1, 2]
    assert result(done) == before


def test_the_same_answers_give_the_same_bits(done: Path, tmp_path: Path) -> None:
    run(tmp_path / "other")
    assert result(tmp_path / "other") == result(done)


def test_more_rounds_may_be_asked_for_later(done: Path, tmp_path: Path) -> None:
    run(tmp_path / "one", rounds=1)
    run(tmp_path / "one", rounds=2)
    assert result(tmp_path / "one") == result(done)


@pytest.mark.parametrize("moment", ["before", pytest.param("after", marks=pytest.mark.nightly)])
def test_stopped_at_any_step_it_goes_on_to_the_same_end(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Ends the run before and after each of its files appears, until nothing is left to do."""
    folder = tmp_path / "run"
    stopped = Stopper(moment)
    monkeypatch.setattr(Path, "replace", stopped.wrap(Path.replace))
    monkeypatch.setattr(Path, "rename", stopped.wrap(Path.rename))
    for attempt in range(200):
        stopped.left = 2 if attempt % 2 else 1  # so that some attempts get a step further
        try:
            run(folder)
            break
        except KeyboardInterrupt:
            continue
    else:
        pytest.fail("it never ended")
    monkeypatch.undo()
    assert attempt > 20
    assert result(folder) == result(done)


class Stopper:
    """Interrupts the n-th time that a file or folder is put in its place; a place is used up only once."""

    def __init__(self, moment: str) -> None:
        self.moment, self.left = moment, 1
        self.seen: set[str] = set()

    def wrap(self, move: Callable[..., Path]) -> Callable[..., Path]:
        def moved(source: Path, target: str | Path) -> Path:
            new = str(target) not in self.seen
            self.left -= new
            if new and self.left == 0:
                self.seen.add(str(target))
                if self.moment == "after":
                    move(source, target)
                raise KeyboardInterrupt
            return move(source, target)

        return moved


@pytest.mark.nightly
def test_killed_it_goes_on_to_the_same_end(done: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    program = [sys.executable, str(ROOT / "tests" / "rlhf_world.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for awaited in ("round-1/opinions.jsonl", "round-2/reward_model"):
        process = subprocess.Popen(program, env=environment)
        deadline = time.monotonic() + 120
        while not (folder / awaited).exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(program, env=environment, check=True)
    assert result(folder) == result(done)


def test_people_who_leave_find_their_place(done: Path, tmp_path: Path) -> None:
    calls: list[str] = []

    def people(store: LabelStore, first: Any) -> Any:
        inner = simulated_people(GOLD, QUALITY)(store, first)
        return Leaving(inner, calls)

    for expected in (1, 2):  # they leave in each round once
        with pytest.raises(RaterLeftError):
            run(tmp_path / "run", people)
        assert len(calls) == expected
    run(tmp_path / "run", people)
    assert result(tmp_path / "run") == result(done)


class Leaving:
    """People who leave at the first question of each round, once."""

    def __init__(self, inner: Any, calls: list[str]) -> None:
        self.inner, self.calls = inner, calls

    def __enter__(self) -> Any:
        asking = self.inner.__enter__()

        def answers(episodes: Any) -> Any:
            ask = asking(episodes)

            def one_then_leave(among: list[str]) -> None:
                if len(among) == 16:  # all questions for one rater: none is answered yet
                    ask(among[:3])
                    self.calls.append(among[0])
                    raise RaterLeftError("tea")
                ask(among)

            return one_then_leave

        return answers

    def __exit__(self, *error: Any) -> None:
        self.inner.__exit__(*error)


@pytest.mark.parametrize("choose", ["disagreement", "top-against-random"])
def test_pairs_and_active_choice(tmp_path: Path, choose: str) -> None:
    rows = run(tmp_path / "run", questions="pairs", choose=choose, labels_per_round=12, overlap=None)
    assert [row["labels"] for row in rows] == [12, 12]
    with LabelStore(tmp_path / "run" / "labels.db", create=False) as store:
        assert {label.kind for label in store.labels()} == {"comparison"}
    about = json.loads((tmp_path / "run" / "round-2" / "questions.json").read_text())["about"]
    assert all(a != b for a, b in about)


def test_without_gold(tmp_path: Path) -> None:
    blind = dataclasses.replace(task(), reward=NoGold())
    people = simulated_people(GOLD, QUALITY)
    rows = rlhf(
        blind,
        config(rounds=1, iterations=1),
        people,
        tmp_path / "run",
        policy=policy(),
        criteria=QUALITY,
        device="cpu",
    )
    assert np.isnan(rows[0]["gold"]["mean"])
    assert json.loads((tmp_path / "run" / "rounds.jsonl").read_text())["gold"]["mean"] is None
    assert "gold, now" not in (tmp_path / "run" / "report.html").read_text()


# When it goes wrong


def ruin(monkeypatch: pytest.MonkeyPatch, only: int) -> None:
    """After a round has learnt, spoil its policy in a way that its own batches cannot have seen."""
    plain = Checkpoints.take_best

    def spoilt(checkpoints: Checkpoints, agent: Any) -> Any:
        found = plain(checkpoints, agent)
        if checkpoints.folder.parent.parent.name == f"round-{only}":
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for weight in agent.policy.parameters():
                    weight += torch.randn(weight.shape, generator=generator)
        return found

    monkeypatch.setattr(Checkpoints, "take_best", spoilt)


def thorough(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """A run that learns something, judged on more texts."""
    several = dataclasses.replace(task(), held_out=[*task().held_out] * 8)
    return rlhf(
        several,
        config(rounds=rounds, labels_per_round=60, iterations=15, kl_coef=0.05),
        simulated_people(GOLD, QUALITY),
        folder,
        policy=policy(),
        criteria=QUALITY,
        device="cpu",
        console=Console(file=io.StringIO()),
    )


def test_after_a_ruin_the_next_round_starts_from_the_policy_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruin(monkeypatch, only=2)
    folder = tmp_path / "run"
    rows = thorough(folder, rounds=3)
    assert [row["verdict"] for row in rows[:2]] == ["better", "worse"]
    assert [row["started_from"] for row in rows] == [0, 1, 1]
    assert [row["kept"] for row in rows][:2] == [1, 1]
    found = [json.loads((folder / f"round-{n}" / "evaluation.json").read_text()) for n in (1, 2, 3)]
    assert [f["starts_from"] for f in found] == [row["kept"] for row in rows]
    assert rows[2]["gold_before"] == rows[0]["gold"]
    low, high = rows[1]["gold_change"]["ci95"]
    assert low <= rows[1]["gold_change"]["mean"] <= high < 0
    change = rows[1]["gold"]["mean"] - rows[0]["gold"]["mean"]
    assert rows[1]["gold_change"]["mean"] == pytest.approx(change)
    assert rows[1]["objective_after"] < rows[1]["objective_before"]
    assert headline(rows).text.startswith("It got worse in round 2: gold ")
    assert "round 3 went on from the policy of round 1 instead" in headline(rows).text
    assert headline(rows).text[:60] in (folder / "report.html").read_text()
    with LabelStore(folder / "labels.db", create=False) as store:
        assert {x.policy for x in store.labels()} == {"round 0", "round 1"}


@pytest.mark.nightly
def test_after_a_ruin_two_calls_come_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ruin(monkeypatch, only=2)
    thorough(tmp_path / "one", rounds=3)
    assert [row["round"] for row in thorough(tmp_path / "two", rounds=2)] == [1, 2]
    thorough(tmp_path / "two", rounds=3)
    assert result(tmp_path / "two") == result(tmp_path / "one")


def test_training_that_ruins_the_policy_is_stopped_and_costs_nothing(tmp_path: Path) -> None:
    """Learning much too fast: the round ends with the policy that it started from, and says so."""
    (row,) = run(tmp_path / "run", rounds=1, iterations=30, learning_rate=0.3, kl_coef=0.5)
    assert row["declined"].startswith("The objective (reward − β·KL) fell from ")
    assert row["policy_of_iteration"] == 0
    metrics = (tmp_path / "run" / "round-1" / "training" / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) < 30
    assert row["gold_change"] == {"mean": 0.0, "ci95": [0.0, 0.0]}
    assert (row["verdict"], row["kept"], row["kl_nats"]) == ("same", 1, 0.0)
    found = headline([row])
    assert "Training of round 1 was stopped early" in found.notes[0]
    assert found.notes[0] in html.unescape((tmp_path / "run" / "report.html").read_text())


@pytest.mark.parametrize("algorithm", ["grpo", pytest.param("rloo", marks=pytest.mark.nightly)])
def test_other_algorithms(tmp_path: Path, algorithm: Any) -> None:
    (row,) = run(tmp_path / "run", rounds=1, algorithm=algorithm, labels_per_round=80, iterations=25)
    assert row["gold"]["mean"] > row["gold_before"]["mean"] + 0.2
    with pytest.raises(ConfigError, match=f"episodes is 17; {algorithm} needs a multiple of"):
        run(tmp_path / "odd", algorithm=algorithm, episodes=17)


def test_refusals(done: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="labels_per_round"):
        run(done, labels_per_round=25)
    with pytest.raises(ConfigError, match="ships no policy"):
        rlhf(task(), config(), simulated_people(GOLD, QUALITY), tmp_path / "none")
    with pytest.raises(ConfigError, match="noise"):
        rlhf(task(), config(), simulated_people(GOLD, QUALITY, noise=-1), tmp_path / "none")
    assert not (tmp_path / "none").exists()  # so that the command, put right, can have the same --out
    with pytest.raises(ConfigError, match="gold"):
        simulated_people(NoGold(), QUALITY)


def test_when_everything_is_skipped(tmp_path: Path) -> None:
    class Skipping:
        def __init__(self, store: LabelStore, first: Any) -> None:
            self.store = store

        def __enter__(self) -> Any:
            def ask(among: list[str]) -> None:
                for item in among:
                    self.store.skip(item, "ann")

            return lambda episodes: ask

        def __exit__(self, *error: object) -> None:
            pass

    with pytest.raises(DataError, match="no opinions"):
        run(tmp_path / "run", Skipping, overlap=None)


def test_the_world_is_the_one_that_is_killed() -> None:
    assert rlhf_world.config() == config()
    assert sealed.MANIFEST == "manifest.json"
