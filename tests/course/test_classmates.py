"""The labels that come with lab 5: made by the committed recipe, merged with a student's, biased."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from course.lab5_people.classmates import ASKED, CLASSMATES, HERE, QUALITY, TEXTS, rate
from course.lab5_people.lab import length_bias, texts_and_shifts
from text_gym import load_task
from text_gym.cli.main import main
from text_gym.episode import Episode
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.formats import import_labels
from text_gym.reward_models.labels.merge import merge_labels
from text_gym.reward_models.labels.rows import Label

ROWS = [json.loads(line) for line in (HERE / "texts.jsonl").read_text(encoding="utf-8").splitlines()]


def labels_of(file: Path) -> list[Label]:
    with LabelStore(file) as store:
        import_labels(store, HERE / "classmates.jsonl")
        return list(store.labels())


def test_the_file_is_what_the_recipe_makes_of_the_texts(tmp_path: Path) -> None:
    task = load_task("products")
    assert [row["prompt"] for row in ROWS] == [p.text for p in task.prompts[:TEXTS]]
    texts = zip(task.prompts, ROWS, strict=False)
    episodes = [Episode.of(prompt, row["completion"], task.tokenizer) for prompt, row in texts]
    with LabelStore(tmp_path / "again.db") as store:
        rate(episodes, store)
        again = [(x.item, x.rater, dict(x.values), x.key, x.time) for x in store.labels()]
    shipped = labels_of(tmp_path / "shipped.db")
    assert [(x.item, x.rater, dict(x.values), x.key, x.time) for x in shipped] == again
    assert len(again) == ASKED * len(CLASSMATES)


def test_planted_manners_are_found(tmp_path: Path) -> None:
    labels = labels_of(tmp_path / "class.db")
    raters, texts = sorted(CLASSMATES), [row["completion"] for row in ROWS]
    marks = np.full((len(raters), len(texts)), np.nan)
    for x in labels:
        marks[raters.index(x.rater), texts.index(x.question.completions[0])] = x.values[QUALITY.name]
    _, shifts = texts_and_shifts(marks)
    assert raters[int(np.argmin(shifts))] == "ada"
    assert raters[int(np.argmax(shifts))] == "bob"

    def bias(row: int, of_text: np.ndarray) -> float:
        others = texts_and_shifts(np.delete(marks, row, axis=0))[0]
        seen = ~np.isnan(marks[row])
        return length_bias(marks[row][seen], others[seen], of_text[seen])

    words = np.array([len(text.split()) for text in texts], dtype=np.float64)
    hype = np.array([text.count("!") for text in texts], dtype=np.float64)
    assert raters[int(np.argmax([bias(row, words) for row in range(len(raters))]))] == "eve"
    assert raters[int(np.argmax([bias(row, hype) for row in range(len(raters))]))] == "fay"


def test_a_students_labels_are_of_the_same_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the handout says: label `texts.jsonl`, import the classmates, merge."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"4\n2\nq\n")))
    assert main(["labels", "import", str(HERE / "classmates.jsonl"), "--store", "classmates.db"]) == 0
    command = ["label", "--data", str(HERE / "texts.jsonl"), "--criteria", QUALITY.name, "--store", "me.db"]
    main([*command, "--rater", "me", "--overlap", "40"])
    merged = merge_labels(["me.db", "classmates.db"], "class.db")
    capsys.readouterr()
    assert merged.questions == TEXTS
    assert set(merged.raters) == {*CLASSMATES, "me"}
    assert merged.added == ASKED * len(CLASSMATES) + 2
