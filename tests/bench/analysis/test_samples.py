from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench_folder import GOOD, write_benchmark
from text_gym.bench.analysis.results import CellResult, read_results
from text_gym.bench.analysis.samples import (
    RULES,
    broken,
    example,
    repeated,
    shared,
    telling,
    troubles,
    worst_run,
)

ROW = {"terminated": 1.0, "length": 20.0, "length_start": 20.0}
REPEATS = ("repeats itself",)
PROMPT = "a blue mug made of oak for cyclists"
OTHER = "a red lamp made of tin for painters"


def cell(
    ends: list[tuple[str, str]], start: str | None = None, row: dict[str, float] | None = None
) -> CellResult:
    samples = [
        {
            "prompt": prompt,
            "texts": [{"when": "start", "text": start or prompt[:6]}, {"when": "end", "text": end}],
        }
        for prompt, end in ends
    ]
    return CellResult({**ROW, **(row or {})}, [], samples)


def names(*cells: CellResult) -> list[str]:
    return [t.name for t in troubles(cells)]


def test_shares_of_sequences() -> None:
    assert repeated(["a", "b", "c", "d", "e"]) == 0
    assert repeated(["a", "b", "c", "a", "b", "c", "a", "b", "c"]) == pytest.approx(
        4 / 7
    )  # abc bca cab are new
    assert repeated(["a", "b"]) == 0
    assert shared(["a", "b", "c", "d"], ["a", "b", "c", "d", "e"]) == 1
    assert shared(["a", "b", "c", "d", "e", "f"], ["z", "b", "c", "d", "e", "f"]) == pytest.approx(2 / 3)
    assert shared([], ["a"]) == 0


def test_broken_sentences() -> None:
    assert not broken(GOOD)
    assert broken("It is is good.")
    assert not broken(("word and " * 19) + "end. " + ("word and " * 19) + "end.")
    assert broken("one two " * 21)


def test_good_texts_have_no_trouble() -> None:
    assert names(cell([(PROMPT, "A blue mug. Buy it now."), (OTHER, "Here is a fine lamp for you.")])) == []


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"terminated": 0.79}, ["never ends"]),
        ({"terminated": 0.81}, []),
        ({"length": 13.9}, ["says too little"]),
        ({"length": 26.1}, ["grows long"]),
        ({"length": 25.9}, []),
        ({"repetitive": 0.25, "repetitive_start": 0.04}, ["repeats itself"]),
        ({"repetitive": 0.19, "repetitive_start": 0.04}, []),
        ({"repetitive": 0.25, "repetitive_start": 0.2}, []),  # it was nearly so at the start
        ({"gold_clarity_start": 0.9, "gold_clarity": 0.8}, ["a criterion fell"]),
        ({"gold_clarity_start": 0.9, "gold_clarity": 0.86}, []),
        ({"gold_clarity": 0.1}, []),  # nothing is known of its start
    ],
)
def test_symptoms_of_measures(row: dict[str, float], expected: list[str]) -> None:
    assert names(cell([(PROMPT, "A blue mug.")], row=row)) == expected


def test_symptoms_of_samples() -> None:
    assert names(cell([(PROMPT, "Buy one now, buy one now, buy one now.")])) == ["repeats itself"]
    assert names(cell([(PROMPT, "A blue mug made of oak for you.")])) == ["copies the prompt"]
    assert names(cell([(PROMPT, "Buy one now and save."), (OTHER, "Buy one now and save.")])) == [
        "says the same to all"
    ]
    assert names(cell([(PROMPT, "you you")])) == ["lost its sentences"]


def test_texts_of_one_prompt_may_be_alike() -> None:
    text = "Buy one now and save."
    assert names(cell([(PROMPT, text)]), cell([(PROMPT, text)])) == []  # two seeds
    assert names(cell([(PROMPT, text)]), cell([(OTHER, text)])) == ["says the same to all"]


def test_a_repeated_phrase_is_quoted() -> None:
    text = "It is light so cyclists can ride further for so cyclists can ride further for so cyclists can."
    row = {"repetitive": 0.62, "repetitive_start": 0.04}
    found = next(
        t for t in troubles([cell([(PROMPT, "A mug."), (OTHER, text)], row=row)]) if t.name in REPEATS
    )
    assert found.evidence == (
        "62 % of the texts say a phrase of four words twice, 4 % at the start; "
        "e.g. “so cyclists can ride further for”"
    )
    (found,) = troubles([cell([(PROMPT, "A blue mug.")], row=row)])
    assert "e.g." not in found.evidence  # no sample shows it


def test_the_column_decides_where_there_is_one() -> None:
    text = "Buy one now, buy one now, buy one now."
    assert "repeats itself" not in names(
        cell([(PROMPT, text)], row={"repetitive": 0.1, "repetitive_start": 0.04})
    )


def test_texts_of_the_worst_run_with_what_is_wrong_in_them() -> None:
    good = [(f"{PROMPT} {i}", f"A blue mug, number {i}.") for i in range(8)]
    bad = [*good[:6], (good[6][0], "you you you you you you"), (good[7][0], "you you you you you you you")]
    cells = [cell(good, row={"gold": 0.9}), cell(bad, row={"gold": 0.4}), cell(good)]
    assert worst_run(cells) is cells[1]
    assert telling(cells[0]) == [0, 1, 2, 3]
    assert telling(cells[1]) == [0, 1, 2, 3, 6]  # what 7 shows was seen in 6
    assert example(cells) == ("you you you you you you", ["repeats itself", "lost its sentences"])
    assert example(cells[:1]) == ("A blue mug, number 0.", [])
    assert example([cell([])]) == ("", [])


def test_what_was_so_at_the_start_is_no_symptom() -> None:
    text = "Buy one now, buy one now, buy one now."
    assert names(cell([(PROMPT, text)], start=text)) == []


def test_the_made_up_benchmark(tmp_path: Path) -> None:
    results = read_results(write_benchmark(tmp_path))
    found = [t.name for t in troubles(results.trained("length-biased-512", 0.0)[0])]
    assert found == ["never ends", "grows long", "repeats itself", "lost its sentences", "a criterion fell"]
    assert all(name in RULES for name in found)
    evidence = dict(troubles(results.trained("length-biased-512", 0.0)[0]))
    assert evidence["grows long"] == "52 words, 28 at the start"
    assert evidence["a criterion fell"] == "persuasiveness from 0.50 to 0.30"
