from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.rlhf_world import QUALITY, TOKENIZER, config, policy, task
from text_gym import Episode
from text_gym.reward_models import LabelStore
from text_gym.rlhf.folder import RLHFFolder, is_sealed
from text_gym.utils.sealed import write_sealed


@pytest.fixture
def folder(tmp_path: Path) -> RLHFFolder:
    for name in ("start", "round-1", "round-2"):
        (tmp_path / name).mkdir()
    return RLHFFolder(task(), config(), tmp_path, LabelStore(":memory:"), QUALITY, "cpu")


def test_rounds_have_folders(folder: RLHFFolder) -> None:
    assert [folder.at(n).name for n in (0, 1, 2)] == ["start", "round-1", "round-2"]
    assert list(folder.numbers()) == [1, 2]


def test_texts_come_back_as_they_were(folder: RLHFFolder) -> None:
    episodes = [Episode.of(task().prompts[i], text, TOKENIZER) for i, text in ((0, "good bad"), (1, "so"))]
    file = folder.at(1) / "candidates.jsonl"
    folder.save_texts(file, episodes, [0.5, float("nan")])
    found = folder.texts(file)
    assert [(e.prompt.text, e.completion, e.finish_reason) for e in found] == [
        ("so", "good bad", "eos"),
        ("very", "so", "eos"),
    ]
    assert [e.completion_ids.tolist() for e in found] == [e.completion_ids.tolist() for e in episodes]
    assert list(folder.at(1).iterdir()) == [file]  # nothing else is left


def test_marks_are_put_on_a_scale_from_0_to_1(folder: RLHFFolder) -> None:
    rows = [{"prompt": "so", "completion": "good", "quality": q, "rater": "human"} for q in (1, 3, 5, 2.5)]
    file = folder.at(1) / "opinions.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert [o.values["quality"] for o in folder.opinions(1)] == [0.0, 0.5, 1.0, 0.375]
    file.write_text("")  # everything was skipped
    assert folder.opinions(1) == []


def test_what_was_asked_before_a_round(folder: RLHFFolder) -> None:
    episodes = [Episode.of("so", text, TOKENIZER) for text in ("good", "bad", "so", "very")]
    for number, about in ((1, [2, 0]), (2, [[1, 3]])):
        folder.save_texts(folder.at(number) / "candidates.jsonl", episodes)
        (folder.at(number) / "questions.json").write_text(json.dumps({"about": about, "shared": 0}))
    assert list(folder.asked(1)) == []
    assert list(folder.asked(2)) == [("so", "so"), ("so", "good")]
    assert list(folder.asked(3)) == [("so", "so"), ("so", "good"), ("so", "bad"), ("so", "very")]


def test_policies_come_back_with_the_tasks_tokenizer(folder: RLHFFolder) -> None:
    write_sealed(folder.at(0) / "policy", policy().save)
    found = folder.policy(0)
    assert found.tokenizer.fingerprint == TOKENIZER.fingerprint
    for a, b in zip(found.parameters(), policy().parameters(), strict=True):
        assert a.equal(b)


def test_a_damaged_step_does_not_count_as_done(tmp_path: Path) -> None:
    target = tmp_path / "round" / "policy"
    assert not is_sealed(target)
    target.parent.mkdir()
    assert not is_sealed(target)

    def fill(part: Path) -> None:
        (part / "file").write_text("content")

    write_sealed(target, fill)
    assert is_sealed(target)
    (target / "file").write_text("altered")
    assert not is_sealed(target)
