"""The task `e2e` on a made-up table: what is read, how it is split, what gold says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench_e2e import write_table
from text_gym import Episode
from text_gym.bench.gold.e2e import e2e, slots_of
from text_gym.data import Data
from text_gym.episode import Prompt
from text_gym.errors import DataError, UnknownNameError
from text_gym.rewards.values import Rewards
from text_gym.tasks.task import Task


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return e2e(write_table(tmp_path_factory.mktemp("table")))


def gold(task: Task, mr: str, text: str, whole: bool = True) -> Rewards:
    episode = Episode.of(Prompt(mr + "\n"), text, task.tokenizer)
    return task.reward([episode if whole else replace(episode, finish_reason="length")])


MR = "name[Old Barn], food[Thai], area[riverside]"


def test_every_representation_is_on_one_side_with_all_its_texts(task: Task) -> None:
    assert len(task.prompts) + len(task.held_out) == 42
    assert task.held_out
    assert not {slots_of(p) for p in task.prompts} & {slots_of(p) for p in task.held_out}
    assert all(len(p.columns["references"]) == 4 for p in (*task.prompts, *task.held_out))
    assert task.corpus is not None
    learnt, judged = task.corpus()
    assert (len(learnt), len(judged)) == (4 * len(task.prompts), 4 * len(task.held_out))


def test_the_split_is_that_of_sft_on_the_same_file(task: Task, tmp_path: Path) -> None:
    train, _ = Data(data=str(write_table(tmp_path)), prompt="mr", reference="ref").load()
    assert [p.text for p in train] == [p.text for p in task.prompts]


def test_a_representation_in_another_order_does_not_leak(task: Task, tmp_path: Path) -> None:
    """All held-out representations but the last are added once more, their slots turned round."""
    turned = [", ".join(reversed(p.text.strip().split(", "))) for p in task.held_out[:-1]]
    more = "".join(f'"{mr}",The food is fine.\n' for mr in turned)
    both = e2e(write_table(tmp_path, more=more))
    learnt = {slots_of(p) for p in both.prompts}
    assert learnt & {slots_of(p) for p in task.held_out}  # some did go to the other side
    assert not learnt & {slots_of(p) for p in both.held_out}


def test_gold_is_accuracy_times_fluency(task: Task) -> None:
    found = gold(task, MR, "Old Barn serves Thai food by the river.")
    assert found.terms["accuracy"][0] == found.terms["exact"][0] == 1.0
    assert found.totals[0] == found.terms["fluency"][0] > 0.9
    wrong = gold(task, MR, "Old Barn serves Greek food by the river.")
    assert wrong.terms["fluency"][0] > 0.9
    assert wrong.terms["accuracy"][0] == pytest.approx(2 / 3)  # two of three slots, one wrong statement
    assert wrong.totals[0] == pytest.approx(2 / 3 * wrong.terms["fluency"][0])
    assert wrong.terms["exact"][0] == 0.0


def test_a_list_of_the_slots_is_accurate_and_not_fluent(task: Task) -> None:
    listed = gold(task, MR, "Old Barn Thai riverside")
    assert listed.terms["accuracy"][0] == 1.0
    assert listed.terms["fluency"][0] < 0.5
    assert listed.terms["exact"][0] == 0.0
    copied = gold(task, MR, MR)
    assert copied.totals[0] < 0.2


def test_a_text_that_was_cut_has_half_the_fluency(task: Task) -> None:
    text = "Old Barn serves Thai food by the river."
    assert gold(task, MR, text, whole=False).totals[0] == gold(task, MR, text).totals[0] / 2
    assert gold(task, MR, text, whole=False).terms["exact"][0] == 0.0


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'mr'"):
        e2e(write_table(tmp_path, header=("meaning", "ref")))
    with pytest.raises(DataError, match="no such file"):
        e2e(tmp_path / "absent.csv")
    plain = tmp_path / "plain.csv"
    plain.write_text("mr,ref\n" + "".join(f"restaurant {i},A place.\n" for i in range(40)))
    with pytest.raises(DataError, match=r"no slot\[value\]"):
        e2e(plain)
