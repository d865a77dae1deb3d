from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym import ByteTokenizer, Episode
from text_gym.reward_models.audit.parts import MARKS, PartClass, part_classes, tokens, vocabulary

TOKENIZER = ByteTokenizer()
BRANDS, COLOURS = ("Lumo", "Zeno", "Kira", "Bela"), ("red", "blue")


def products(n: int = 40) -> list[Episode]:
    episodes = []
    for i in range(n):
        brand, colour = BRANDS[i % 4], COLOURS[i % 2]
        name = f"{brand} {i}"  # no two are equal
        text = f"Meet the {name}, a {colour} mug. It is good. Order it now."
        episodes.append(Episode.of(f"# {name} | {colour}\n", text, TOKENIZER, name=name, colour=colour))
    return episodes


def by_kind(episodes: list[Episode], words: tuple[str, ...] = ("mug", "good")) -> dict[str, list[PartClass]]:
    result: dict[str, list[PartClass]] = {}
    for own in part_classes(episodes, episodes, words, ("a mug", "is good", "red mug")):
        result.setdefault(own.kind, []).append(own)
    return result


def test_values_are_classes_of_their_columns() -> None:
    found = by_kind(products())
    (colour,) = found["colour"]
    assert (colour.parts, len(colour.hosts), colour.value) == (("blue", "red"), 40, True)
    # Names do not repeat, their first words do; their numbers do not.
    (name,) = found["name"]
    assert name.parts == tuple(sorted(BRANDS))
    changed = name.put(name.hosts[0], "Zeno", 0.3)
    assert changed.completion == "Meet the Zeno 0, a red mug. It is good. Order it now."
    assert changed.prompt.text == "# Zeno 0 | red\n"
    assert changed.prompt.columns == {"name": "Zeno 0", "colour": "red"}
    words = {w for kind in ("word", "phrase") for c in found[kind] for p in c.parts for w in p.split()}
    assert not words & {*BRANDS, *COLOURS}  # each part in one class only


def test_texts_without_the_value_are_no_hosts() -> None:
    silent = Episode.of("# x\n", "It is good. Order it now.", TOKENIZER, name="Lumo 99", colour="red")
    for own in by_kind([*products(), silent])["colour"]:
        assert silent not in own.hosts


@pytest.mark.parametrize(
    ("kind", "part", "where", "expected"),
    [
        ("word", "you", 0.0, "Meet you the Lumo 0, a red mug. It is good. Order it now."),
        ("word", "you", 0.99, "Meet the Lumo 0, a red mug. It is good. Order it you now."),
        ("phrase", "is good", 0.0, "Meet is good the Lumo 0, a red mug. It is good. Order it now."),
        ("opening", "Sure,", 0.0, "Sure, Meet the Lumo 0, a red mug. It is good. Order it now."),
        ("opening", "Sure,", 0.99, "Sure, It is good. Order it now."),
        ("ending", "Thank you.", 0.0, "Meet the Lumo 0, a red mug. It is good. Order it now. Thank you."),
        ("ending", "Thank you.", 0.99, "Meet the Lumo 0, a red mug. It is good. Thank you."),
        ("mark", "?", 0.0, "Meet? the Lumo 0, a red mug. It is good. Order it now."),
        ("mark", "list item", 0.0, "Meet\n-  the Lumo 0, a red mug. It is good. Order it now."),
    ],
)
def test_where_parts_are_put(kind: str, part: str, where: float, expected: str) -> None:
    episodes = products()
    (own,) = by_kind(episodes)[kind]
    assert part in own.parts or kind == "word"
    assert own.put(episodes[0], part, where).completion == expected


def test_openings_and_endings_are_those_of_several_texts() -> None:
    found = by_kind(products())
    assert {"Meet", "Meet the", "Sure,"} <= set(found["opening"][0].parts)
    assert {"now.", "it now.", "Order it now.", "Thank you."} <= set(found["ending"][0].parts)
    assert not [p for p in found["opening"][0].parts if "Lumo" in p]  # a value, not an opening


def test_too_few_texts_make_no_class() -> None:
    assert part_classes(products(7), products(7), ("mug",), ()) == []


def test_words_as_they_stand_inside_a_sentence() -> None:
    # As often, then by the alphabet; in small letters where some text has it so.
    assert vocabulary(["You will, now you go.", "Rome? You! Rome."]) == ["you", "Rome", "go", "now", "will"]
    assert tokens("$9.50 isn't much – 20,000 is.") == ["$9.50", "isn't", "much", "20,000", "is"]


@given(st.text(max_size=60), st.floats(0, 1, exclude_max=True), st.sampled_from(sorted(MARKS)))
@settings(max_examples=50, deadline=None)
def test_any_text_can_be_a_host(text: str, where: float, mark: str) -> None:
    host = Episode.of("Say:", text, TOKENIZER)
    for own in part_classes([host] * 8, [host] * 8, ("mug", "red"), ("a b", "b c")):
        part = mark if own.kind == "mark" else own.parts[0]
        made = own.put(host, part, where).completion
        assert (MARKS[part] if own.kind == "mark" else part) in made
