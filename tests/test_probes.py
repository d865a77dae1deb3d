from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import ByteTokenizer, Episode
from text_gym.reward_models.probes import PARAPHRASES, SURFACES, null_texts, sentences, swaps

TOKENIZER = ByteTokenizer()
TEXT = "Meet the mug. It is red, big and light, and it isn't dear. Order yours today."
BY_NAME = {surface.name: surface for surface in SURFACES}


def test_measures_of_the_surface() -> None:
    text = "WOW! The A-one mug is great!\n- one\n* two\n3) three\nnot - this"
    expected = {"length": 13, "list marks": 3, "capitals": 1 / 13, "praise": 2 / 13, "exclamation marks": 2}
    assert {name: s.measure(text) for name, s in BY_NAME.items()} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "edited"),
    [
        (
            "length",
            "Meet the mug. It is red, big and light, and it isn't dear. "
            "It is red, big and light, and it isn't dear. Order yours today.",
        ),
        (
            "list marks",
            "- Meet the mug.\n- It is red, big and light, and it isn't dear.\n- Order yours today.",
        ),
        ("capitals", "Meet THE mug. It is RED, big and light, AND it isn't dear. ORDER yours today."),
        ("praise", f"{TEXT} Amazing, fantastic, perfect."),
        ("exclamation marks", TEXT.replace(".", "!")),
    ],
)
def test_edits_add_more_of_their_property(name: str, edited: str) -> None:
    surface = BY_NAME[name]
    assert surface.more(TEXT) == edited
    assert surface.measure(edited) > surface.measure(surface.control(TEXT))


def test_praise_is_compared_with_a_text_of_the_same_length() -> None:
    length, praise = BY_NAME["length"], BY_NAME["praise"]
    assert length.measure(praise.more(TEXT)) == length.measure(praise.control(TEXT))
    assert praise.measure(praise.control(TEXT)) < praise.measure(praise.more(TEXT))


@pytest.mark.parametrize(
    ("name", "edited"),
    [
        ("lower case", TEXT.lower()),
        ("no final mark", TEXT[:-1]),
        ("no commas", "Meet the mug. It is red big and light and it isn't dear. Order yours today."),
        ("contractions", "Meet the mug. It's red, big and light, and it is not dear. Order yours today."),
        ("order of lists", "Meet the mug. It is big, red and light, and it isn't dear. Order yours today."),
        ("doubled spaces", TEXT.replace(" ", "  ")),
    ],
)
def test_paraphrases(name: str, edited: str) -> None:
    assert PARAPHRASES[name](TEXT) == edited


@given(st.text(max_size=80))
def test_no_text_breaks_a_probe(text: str) -> None:
    for edit in (*PARAPHRASES.values(), *(s.more for s in SURFACES)):
        assert isinstance(edit(text), str)
    assert all(s.measure(text) >= 0 for s in SURFACES)
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def product(name: str, price: str, text: str) -> Episode:
    return Episode.of(f"name: {name}, price: {price}\n", text, TOKENIZER, name=name, price=price)


def test_values_of_columns_are_swapped_everywhere() -> None:
    episodes = [
        product("Lumo", "$9", "Lumo, a mug for $9."),
        product("Zeno", "$90", "A chair, no name. $900."),
    ]
    by_kind = {s.kind: s for s in swaps(episodes) if s.before is episodes[0]}
    assert set(by_kind) == {"brand", "price"}
    brand = by_kind["brand"].after
    assert (brand.prompt.text, brand.completion) == ("name: Zeno, price: $9\n", "Zeno, a mug for $9.")
    assert brand.prompt.columns == {"name": "Zeno", "price": "$9"}
    assert by_kind["price"].after.completion == "Lumo, a mug for $90."
    assert not [s for s in swaps(episodes) if s.before is episodes[1]]  # $90 is not a part of $900


def test_words_are_swapped_where_there_is_no_column() -> None:
    episode = Episode.of("Tell:", "He sold his cheap Nike shoes in London.", TOKENIZER)
    found = {s.kind: s.after.completion for s in swaps([episode])}
    assert found == {
        "gender": "She sold her cheap Nike shoes in London.",
        "brand": "He sold his cheap Adidas shoes in London.",
        "place": "He sold his cheap Nike shoes in Lagos.",
        "price": "He sold his expensive Nike shoes in London.",
    }
    back = Episode.of("Tell:", "She likes her dog; the women left.", TOKENIZER)
    assert swaps([back])[0].after.completion == "He likes him dog; the men left."
    assert swaps([Episode.of("Tell:", "The helm, sonar, kingdom.", TOKENIZER)]) == []


def test_swaps_follow_from_the_seed() -> None:
    episodes = [product(f"N{i}", f"${i}", f"N{i} for ${i}.") for i in range(9)]
    one, again, two = ([s.new for s in swaps(episodes, seed)] for seed in (1, 1, 2))
    assert one == again != two
    assert all(s.new != s.old for s in swaps(episodes))


def test_null_texts() -> None:
    short, long = (
        Episode.of("One:", "A b. C.", TOKENIZER, colour="red"),
        Episode.of(" Two:\n", "A b c d. E f g h i j k.", TOKENIZER),
    )
    made = null_texts([short, long])
    texts = {name: [e.completion for e in episodes] for name, episodes in made.items()}
    assert texts["longest"] == [long.completion] * 2
    assert texts["shortest"] == [short.completion] * 2
    assert texts["empty"] == ["", ""]
    assert texts["repeated"] == ["A b. A b.", "A b c d. A b c d. A b c d."]
    assert texts["copied prompt"] == ["One:", "Two:"]
    vocabulary = set((short.completion + " " + long.completion).split())
    assert [len(t.split()) for t in texts["random words"]] == [3, 11]
    assert set(" ".join(texts["random words"]).split()) <= vocabulary
    assert all(episodes[0].prompt == short.prompt for episodes in made.values())
    assert null_texts([short, long], seed=1)["random words"][1].completion != texts["random words"][1]
