"""Every lab: its solution passes, stubs fail cleanly, and mutants fail with the words that explain them."""

from __future__ import annotations

import pytest

from course.labs import Lab, every_lab
from course.make import solution, stub
from course.mutants import Mutant, as_lab, failures, functions_of, mutants_of, mutated

LABS = every_lab()
HIDDEN_SEED = 2026  # of `course.grade`, if it is given no other
SAMPLE = 4  # mutants of a lab that are tried in the ordinary suite


def module_of(lab: Lab, which: str) -> str:
    return f"course.{lab.name}.test_{which}"


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_solutions_pass_public_and_hidden_tests(lab: Lab) -> None:
    module = as_lab(solution(lab.read("lab.py")))
    assert failures(module_of(lab, "lab"), module) == {}
    for seed in (0, HIDDEN_SEED):
        assert failures(module_of(lab, "hidden"), module, seed) == {}


@pytest.mark.nightly
@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_solutions_pass_whatever_the_seed(lab: Lab) -> None:
    module = as_lab(solution(lab.read("lab.py")))
    for seed in range(20):
        assert failures(module_of(lab, "hidden"), module, seed) == {}


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_stubs_fail_cleanly(lab: Lab) -> None:
    module = as_lab(stub(lab.read("lab.py")))
    found = failures(module_of(lab, "lab"), module)
    assert set(found) == set(functions_of(module_of(lab, "lab")))
    for name, message in found.items():
        assert message.startswith("NotImplementedError: "), name
        assert message.endswith("is not written yet"), name


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_there_are_enough_mutants(lab: Lab) -> None:
    mutants = mutants_of(lab)
    assert len(mutants) >= 10
    assert sum(mutant.public for mutant in mutants) >= 0.8 * len(mutants)
    assert len({mutant.name for mutant in mutants}) == len(mutants)
    for mutant in mutants:
        compile(mutated(lab.read("lab.py"), mutant), mutant.name, "exec")


CASES = [
    pytest.param(
        lab, mutant, id=f"{lab.name}-{mutant.name}", marks=[] if i < SAMPLE else [pytest.mark.nightly]
    )
    for lab in LABS
    for i, mutant in enumerate(mutants_of(lab))
]


@pytest.mark.parametrize(("lab", "mutant"), CASES)
def test_mutants_fail_with_the_concept_in_the_message(lab: Lab, mutant: Mutant) -> None:
    module = as_lab(mutated(lab.read("lab.py"), mutant))
    for which, seed in [("hidden", HIDDEN_SEED)] + [("lab", 0)] * mutant.public:
        found = failures(module_of(lab, which), module, seed)
        assert any(mutant.concept in message for message in found.values()), (which, found)


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_handouts_have_their_parts(lab: Lab) -> None:
    text = lab.read("README.md")
    for part in ("## The mathematics", "## Steps", "## Questions", "## What to hand in", "## Sources"):
        assert part in text, part
    assert f"pytest {lab.name}" in text


def test_a_mutant_whose_text_is_gone_is_noticed() -> None:
    with pytest.raises(ValueError, match="stands 2 times"):
        mutated("a\na\n", Mutant("x", "a", "b", "c"))


def test_a_test_of_a_lab_asks_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    module = as_lab("def test_x(lab, seed, tmp_path):\n    pass\n")
    monkeypatch.setattr("importlib.import_module", lambda name: module)
    with pytest.raises(ValueError, match="tmp_path"):
        functions_of("anything")
