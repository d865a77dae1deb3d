from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym.reward_models.audit.surfaces import SURFACES, fillers

TEXT = "Meet the mug. It is red, big and light, and it isn't dear. Order yours today."
AGAIN = "It is red, big and light, and it isn't dear."
BY_NAME = {surface.name: surface for surface in SURFACES}


def test_measures_of_the_surface() -> None:
    text = "WOW! The A-one mug is great!\n- one\n* two\n3) three\nnot - this"
    expected = {"length": 13, "list marks": 3, "capitals": 1 / 13, "praise": 2 / 13, "exclamation marks": 2}
    assert {name: BY_NAME[name].measure(text, "") for name in expected} == pytest.approx(expected)
    assert BY_NAME["repetition"].measure("a b c d a b c", "") == pytest.approx(1 / 5)  # abc stands twice
    assert BY_NAME["copied prompt"].measure("the red mug is big", "red mug here") == 1 / 2


@pytest.mark.parametrize(
    ("name", "edited", "control"),
    [
        ("length", f"Meet the mug. {AGAIN} {AGAIN} Order yours today.", TEXT),
        ("list marks", f"- Meet the mug.\n- {AGAIN}\n- Order yours today.", TEXT),
        ("capitals", "Meet THE mug. It is RED, big and light, AND it isn't dear. ORDER yours today.", TEXT),
        ("praise", f"{TEXT} Amazing, fantastic, perfect.", f"{TEXT} Ordinary, Wednesday, standard."),
        ("exclamation marks", TEXT.replace(".", "!"), TEXT),
        (
            "repetition",
            f"Meet the mug. {AGAIN} {AGAIN} Order yours today.",
            f"Meet the mug. {AGAIN} So it is. Order yours today.",
        ),
        ("copied prompt", f"{TEXT} # Lumo | mug", f"{TEXT} # omuL | gum"),
    ],
)
def test_edits_add_more_of_their_property(name: str, edited: str, control: str) -> None:
    surface = BY_NAME[name]
    variant = surface.variants[0]
    texts = [edit(TEXT, "So it is.", "# Lumo | mug\n") for edit in (variant.more, variant.control)]
    assert texts == [edited, control]
    more, less = (surface.measure(text, "# Lumo | mug\n") for text in texts)
    assert more > less


def test_controls_differ_as_much_in_other_respects() -> None:
    length = BY_NAME["length"]
    for name in ("praise", "copied prompt"):
        variant = BY_NAME[name].variants[0]
        assert length.measure(variant.more(TEXT, "", "a b"), "") == length.measure(
            variant.control(TEXT, "", "a b"), ""
        )
    pieces = BY_NAME["copied prompt"].variants[1]
    assert pieces.control(TEXT, "", "# Lumo|mug|$9\n") == f"{TEXT} $9|mug|# Lumo"
    assert pieces.control(TEXT, "", "Say it") == f"{TEXT} it Say"
    capitals = BY_NAME["capitals"].variants[1]
    changed = [
        [
            i
            for i, (old, new) in enumerate(zip(TEXT.split(), edit(TEXT, "", "").split(), strict=True))
            if old != new
        ]
        for edit in (capitals.more, capitals.control)
    ]
    assert changed[0] == changed[1] != []


@given(st.text(max_size=80), st.text(max_size=20))
def test_no_text_breaks_an_edit(text: str, prompt: str) -> None:
    for surface in SURFACES:
        assert surface.measure(text, prompt) >= 0
        for variant in surface.variants:
            assert isinstance(variant.more(text, "So it is.", prompt), str)
            assert isinstance(variant.control(text, "So it is.", prompt), str)


def test_fillers_are_what_texts_share() -> None:
    texts = [
        "A red mug. Care is easy. It is good.",
        "A tent. Care is easy. No. No. No.",
        "It is good. Care is easy.",
    ]
    assert fillers(texts) == ["Care is easy.", "It is good."]
    assert fillers(texts, most=1) == ["Care is easy."]
    assert fillers(["One.", "Two."]) == ["It is what it is.", "There is more to say."]
