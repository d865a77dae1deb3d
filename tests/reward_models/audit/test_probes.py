from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import ByteTokenizer, Episode
from text_gym.reward_models.audit.probes import PARAPHRASES, null_texts, sentences, swaps

TOKENIZER = ByteTokenizer()
TEXT = "Meet the mug. It is red, big and light, and it isn't dear. Order yours today."


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
    for edit in PARAPHRASES.values():
        assert isinstance(edit(text), str)
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


def test_long_and_short_null_texts_take_turns() -> None:
    texts = [Episode.of(f"P{i}", "a " * (i + 1) + "b", TOKENIZER) for i in range(64)]
    made = null_texts(texts)
    assert {e.completion for e in made["longest"]} == {e.completion for e in texts[-4:]}
    assert {e.completion for e in made["shortest"]} == {e.completion for e in texts[:4]}
