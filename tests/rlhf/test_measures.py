from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.rlhf_world import GOLD, QUALITY, TOKENIZER, config, run, task
from text_gym.agents import Policy
from text_gym.reward_models import LabelStore
from text_gym.reward_models.learned.loading import load_reward_model
from text_gym.rlhf.folder import RLHFFolder
from text_gym.rlhf.measures import _judge, write_rows

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measures") / "run"
    run(folder)
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_gold_and_proxy_are_means_over_the_texts_of_the_round(done: Path) -> None:
    with LabelStore(done / "labels.db", create=False) as store:
        folder = RLHFFolder(task(), config(), done, store, QUALITY, "cpu")
        for number, row in enumerate(rows_of(done), 1):
            texts = folder.texts(folder.at(number) / "texts.jsonl")
            assert [e.prompt.text for e in texts] == [p.text for p in task().held_out]
            gold = GOLD(texts).totals
            assert math.isclose(row["gold"]["mean"], gold.mean())
            reward = load_reward_model(folder.at(number) / "reward_model")
            assert math.isclose(row["proxy"], reward(texts).totals.mean())
            before = folder.texts(folder.at(number - 1) / "texts.jsonl")
            assert math.isclose(row["proxy_before"], reward(before).totals.mean())
            assert math.isclose(row["words"], sum(len(e.completion.split()) for e in texts) / len(texts))


def test_kl_is_to_the_first_policy(done: Path) -> None:
    """The mean of log π(text) − log π₀(text), computed text by text."""
    import torch

    first, last = (
        Policy.from_pretrained(done / name / "policy", TOKENIZER, device="cpu")
        for name in ("start", "round-2")
    )
    with LabelStore(done / "labels.db", create=False) as store:
        folder = RLHFFolder(task(), config(), done, store, QUALITY, "cpu")
        texts = folder.texts(folder.at(2) / "texts.jsonl")
    total = 0.0
    for e in texts:
        ids = torch.tensor([[*e.prompt_ids.tolist(), *e.completion_ids.tolist()]])
        for sign, policy in ((1, last), (-1, first)):
            with torch.no_grad():
                log_p = policy.model(ids).logits[0, :, : policy.vocab_size].log_softmax(-1)
            start = len(e.prompt_ids)
            for t, token in enumerate(e.completion_ids.tolist()):
                total += sign * float(log_p[start + t - 1, token])
    assert math.isclose(rows_of(done)[1]["kl_nats"], total / len(texts), abs_tol=1e-4)


def test_changes_are_paired_differences_of_texts(done: Path) -> None:
    """Gold, proxy and objective again from the files, text by text; β is the default, 0.02."""
    rows = rows_of(done)
    with LabelStore(done / "labels.db", create=False) as store:
        folder = RLHFFolder(task(), config(), done, store, QUALITY, "cpu")
        for number, row in enumerate(rows, 1):
            reward = load_reward_model(folder.at(number) / "reward_model")
            start = row["started_from"]
            assert start == (0 if number == 1 else rows[number - 2]["kept"])
            texts = [folder.texts(folder.at(n) / "texts.jsonl") for n in (start, number)]
            kls = [
                json.loads((folder.at(n) / "evaluation.json").read_text())["points"]["kl"]
                for n in (start, number)
            ]
            assert math.isclose(sum(kls[1]) / len(kls[1]), row["kl_nats"], abs_tol=1e-9)
            assert math.isclose(sum(kls[0]) / len(kls[0]), row["kl_before"], abs_tol=1e-9)
            gold = [GOLD(t).totals.tolist() for t in texts]
            proxy = [reward(t).totals.tolist() for t in texts]
            objective = [
                [p - 0.02 * k for p, k in zip(*x, strict=True)] for x in zip(proxy, kls, strict=True)
            ]
            for name, (before, after) in (("gold", gold), ("proxy", proxy), ("objective", objective)):
                differences = [b - a for a, b in zip(before, after, strict=True)]
                found = row[f"{name}_change"]
                assert math.isclose(found["mean"], sum(differences) / len(differences), abs_tol=1e-9)
                low, high = found["ci95"]
                assert min(differences) - 1e-12 <= low <= found["mean"] <= high <= max(differences) + 1e-12
            assert math.isclose(row["objective_before"], sum(objective[0]) / len(objective[0]), abs_tol=1e-9)
            assert math.isclose(row["objective_after"], sum(objective[1]) / len(objective[1]), abs_tol=1e-9)
            assert row["cut"] == sum(e.finish_reason == "length" for e in texts[1]) / len(texts[1])


def test_new_labels_are_compared_with_a_model_that_did_not_know_them(done: Path) -> None:
    rows = rows_of(done)
    assert rows[0]["new_labels"] is None  # there was no model yet
    with LabelStore(done / "labels.db", create=False) as store:
        folder = RLHFFolder(task(), config(), done, store, QUALITY, "cpu")
        pool = {(e.prompt.text, e.completion): e for e in folder.texts(folder.at(2) / "candidates.jsonl")}
        opinions = folder.opinions(2)
    asked = [pool[o.prompt.text, o.completion] for o in opinions]
    marks = [o.values["quality"] for o in opinions]
    before, after = (
        spearmanr(load_reward_model(done / f"round-{n}" / "reward_model")(asked).totals, marks).statistic
        for n in (1, 2)
    )
    assert rows[1]["new_labels"] == pytest.approx(before)
    assert abs(before - after) > 0.01  # the newest one has seen them


def test_gold_has_no_say_in_what_is_kept_and_the_last_word_in_the_verdict(done: Path) -> None:
    with LabelStore(done / "labels.db", create=False) as store:
        folder = RLHFFolder(task(), config(), done, store, QUALITY, "cpu")
        start = folder.started_from(2)
        points = folder.evaluation(start)["points"]
        reward = load_reward_model(folder.at(2) / "reward_model")
        proxy = reward(folder.texts(folder.at(start) / "texts.jsonl")).totals
        gold, kl = np.array(points["gold"]), np.array(points["kl"])
        for better, worse, kept, verdict in ((1.0, 0.5, 2, "worse"), (-1.0, -0.5, start, "better")):
            report: Any = SimpleNamespace(rewards=gold - worse, episode_kl=kl)
            found = _judge(folder, 2, reward, report, proxy + better)
            assert (found["kept"], found["verdict"]) == (kept, verdict)
        undecided: Any = SimpleNamespace(rewards=gold, episode_kl=kl)
        same = _judge(folder, 2, reward, undecided, proxy)
        assert (same["kept"], same["verdict"]) == (2, "same")  # a policy is given up only if it is worse


def test_rows_are_those_of_the_rounds_asked_for(done: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"round-{number}").mkdir()
        row = {"round": number, "gold": {"mean": None}, "gold_before": {"mean": 0.5}}
        (tmp_path / f"round-{number}" / "evaluation.json").write_text(json.dumps({"row": row}))
    assert [r["round"] for r in write_rows(tmp_path, 1)] == [1]
    found = write_rows(tmp_path, 2)
    assert math.isnan(found[0]["gold"]["mean"])  # JSON has no NaN
    assert found[0]["gold_before"] == {"mean": 0.5}
    assert [json.loads(x)["round"] for x in (tmp_path / "rounds.jsonl").read_text().splitlines()] == [1, 2]
