from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import ByteTokenizer, Episode, Prompt
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models import SlotCoverage
from text_gym.reward_models.scripted.slots import parse_slots

TOKENIZER = ByteTokenizer()
EAGLE = "name[The Eagle], eatType[coffee shop], area[riverside], familyFriendly[no], priceRange[cheap]"
MRS = [
    EAGLE,
    "name[Cotto], eatType[pub], area[city centre], familyFriendly[yes], near[Raja Indian Cuisine]",
    "name[The Mill], food[Indian], customer rating[5 out of 5], priceRange[more than £30]",
    "name[The Punter], food[Chinese], customer rating[low], near[Burger King]",
]
GOOD = "The Eagle is a cheap coffee shop by the river. It is not family-friendly."


FITTED, DEFAULT = SlotCoverage.fit(MRS), SlotCoverage()


def scores(mr: str, text: str, source: SlotCoverage | None = None) -> tuple[float, float, float, float]:
    """F1, precision, recall, perfect of one text."""
    rewards = (source or FITTED)([Episode.of(mr, text, TOKENIZER)])
    return (
        float(rewards.values[0]),
        *(float(rewards.terms[k][0]) for k in ("precision", "recall", "perfect")),
    )  # type: ignore[return-value]


def test_a_good_text_is_perfect() -> None:
    assert scores(EAGLE, GOOD) == (1, 1, 1, 1)


def test_a_missing_slot_costs_recall_only() -> None:
    f1, precision, recall, perfect = scores(EAGLE, "The Eagle is a cheap coffee shop by the river.")
    assert (precision, recall, perfect) == (1, 0.8, 0)
    assert f1 == pytest.approx(2 * 0.8 / 1.8)


def test_a_contradiction_costs_both() -> None:
    f1, precision, recall, perfect = scores(EAGLE, GOOD.replace("by the river", "in the city centre"))
    assert (precision, recall, perfect) == (0.8, 0.8, 0)
    assert f1 == pytest.approx(0.8)


def test_hedging_between_values_realises_neither() -> None:
    assert scores(EAGLE, GOOD + " It is in the city centre.")[1:3] == (0.8, 0.8)


def test_a_slot_nobody_asked_for_costs_precision_only() -> None:
    assert scores(EAGLE, GOOD + " They serve Chinese food.")[1:3] == (5 / 6, 1)
    assert scores("name[Cotto]", "Cotto is family friendly.")[1:3] == (1 / 2, 1)


def test_values_outside_the_lexicon_cost_nothing() -> None:
    assert scores(EAGLE, GOOD + " They serve Martian food.")[:3] == (1, 1, 1)


def test_nothing_said_is_worth_nothing() -> None:
    assert scores(EAGLE, "") == (0, 0, 0, 0)
    assert scores(EAGLE, "It is.")[0] == 0


def test_saying_everything_twice_does_not_pay() -> None:
    f1, precision, recall, perfect = scores(EAGLE, GOOD + " " + GOOD)
    # 10 statements where 5 were asked for and 7 are tolerated: 3 redundant.
    assert (precision, recall, perfect) == (5 / 8, 1, 0)
    assert f1 < 1
    assert scores(EAGLE, " ".join([GOOD] * 8))[0] < f1


def test_people_may_say_the_name_again() -> None:
    assert scores(EAGLE, GOOD + " The Eagle is by the river.") == (1, 1, 1, 1)


@pytest.mark.parametrize("ending", [" It is near the", " It is,", " and"])
def test_an_unfinished_text_is_not_perfect(ending: str) -> None:
    assert scores(EAGLE, GOOD + ending) == (1, 1, 1, 0)


def test_a_truncated_text_is_not_perfect() -> None:
    whole = Episode.of(EAGLE, GOOD, TOKENIZER)
    cut = Episode(
        whole.prompt, whole.prompt_ids, whole.completion_ids[:-1], TOKENIZER, finish_reason="length"
    )
    assert SlotCoverage.fit(MRS)([whole, cut]).terms["perfect"].tolist() == [1, 0]


def test_copying_the_prompt_earns_nothing() -> None:
    assert scores(EAGLE, EAGLE)[0] == 0
    assert scores(EAGLE, "A place. area[riverside] It is cheap.")[2] == 0.2


YES = ["kid friendly", "child-friendly", "family-friendly", "It welcomes children.", "Families are welcome."]
NO = [
    "not family-friendly",
    "non family friendly",
    "It isn't kid friendly",
    "It is not considered to be a very family friendly place",
    "adults only",
    "It is for adults.",
    "Children are not welcome.",
    "no children",
    "It does not welcome families",
    "unsuitable for children",
]


@pytest.mark.parametrize(("mr", "texts"), [("familyFriendly[yes]", YES), ("familyFriendly[no]", NO)])
def test_booleans_and_their_negations(mr: str, texts: list[str]) -> None:
    other = "familyFriendly[yes]" if "no" in mr else "familyFriendly[no]"
    for text in texts:
        assert scores(mr, text)[0] == 1, text
        assert scores(other, text)[0] == 0, text


def test_booleans_without_paraphrases_are_read_by_their_name() -> None:
    source = SlotCoverage(lexicon={})
    assert scores("hasWifi[yes]", "It has wifi.", source)[0] == 1
    assert scores("dogs_allowed[no]", "It is not dogs allowed", source)[0] == 1
    assert scores("dogs_allowed[no]", "dogs allowed", source)[0] == 0


@pytest.mark.parametrize(
    ("mr", "right", "wrong"),
    [
        ("customer rating[5 out of 5]", "It has five stars.", "It has three stars."),
        ("customer rating[5 out of 5]", "highly rated", "poorly rated"),
        ("customer rating[1 out of 5]", "a rating of 1 out of 5 stars", "a 5 star rating"),
        ("customer rating[low]", "It has a low customer rating", "It has an average customer rating"),
        ("customer rating[average]", "average ratings", "excellent reviews"),
        ("priceRange[cheap]", "low-priced food", "expensive food"),
        ("priceRange[moderate]", "mid-range prices in the moderate range", "a high price range"),
        ("priceRange[£20-25]", "meals cost £20-25", "more than £30"),
        ("priceRange[less than £20]", "under 20 pounds", "prices are high"),
        ("priceRange[more than £30]", "over £30", "less than £20"),
        ("priceRange[high]", "it is pricey", "cheap"),
        ("area[city centre]", "in the center of the city", "on the riverside"),
        ("area[riverside]", "near the river", "downtown"),
    ],
)
def test_paraphrases(mr: str, right: str, wrong: str) -> None:
    source = DEFAULT
    assert scores(mr, right, source)[0] == 1
    assert scores(mr, wrong, source)[:3] == (0, 0, 0)


def test_degrees_belong_to_the_right_slot() -> None:
    mr = "priceRange[high], customer rating[low]"
    assert scores(mr, "It has high prices and a low customer rating.", DEFAULT)[0] == 1
    assert scores(mr, "It has low prices and a high customer rating.", DEFAULT)[0] == 0


def test_a_phrase_inside_a_longer_one_says_nothing() -> None:
    mr = "name[Cotto], near[Raja Indian Cuisine]"
    assert scores(mr, "Cotto is near Raja Indian Cuisine.")[0] == 1  # Indian food is not meant
    assert scores("food[Indian]", "It is near Raja Indian Cuisine.")[2] == 0


def test_relative_places_are_no_areas() -> None:
    assert scores("area[riverside]", "by the river, north of the city centre", DEFAULT)[0] == 1


def test_case_accents_articles_and_word_boundaries() -> None:
    source = SlotCoverage(lexicon={})
    assert scores("near[Café Sicilia]", "NEAR CAFE SICILIA", source)[2] == 1
    assert scores("name[The Eagle]", "the coffee shop Eagle", source)[2] == 1
    assert scores("name[Cotto]", "Cotton fields", source)[2] == 0


def test_any_slots_work_literally() -> None:
    source = SlotCoverage.fit(["colour[red], size[extra large]", "colour[blue], size[small]"])
    assert scores("colour[red], size[small]", "A small red coat.", source)[0] == 1
    assert scores("colour[red], size[small]", "A small blue coat.", source)[1:3] == (1 / 2, 1 / 2)


def test_denied_values_are_not_realised() -> None:
    assert scores("area[riverside]", "It is not by the river.", DEFAULT)[2] == 0


def test_paraphrases_are_extensible() -> None:
    source = SlotCoverage(
        paraphrases={"colour": {"red": ["(crimson|scarlet)"]}, "area": {"riverside": ["quay"]}}
    )
    for text in ("a red coat", "a crimson coat", "a scarlet coat"):
        assert scores("colour[red]", text, source)[0] == 1
    assert scores("area[riverside]", "on the quay", source)[0] == 1
    assert scores("area[riverside]", "by the river", source)[0] == 1
    with pytest.raises(ConfigError, match="list of phrases"):
        SlotCoverage(paraphrases={"colour": {"red": "crimson"}})


def test_reads_a_column() -> None:
    prompt = Prompt("Describe it:", {"mr": "area[riverside]"})
    source = SlotCoverage.fit([prompt], column="mr")
    assert source([Episode.of(prompt, "by the river", TOKENIZER)]).values.tolist() == [1]


def test_instructions_around_the_slots_do_not_matter() -> None:
    assert parse_slots("Describe: name[Cotto], customer rating[low]\nText:") == [
        ("name", "Cotto"),
        ("customer rating", "low"),
    ]


def test_prompts_without_slots_are_refused() -> None:
    with pytest.raises(DataError, match=r"'Hello' holds no slot\[value\]"):
        SlotCoverage()([Episode.of("Hello", "hi", TOKENIZER)])
    with pytest.raises(DataError, match="has only other"):
        SlotCoverage(column="mr")([Episode.of(Prompt("x", {"other": 1}), "hi", TOKENIZER)])
    with pytest.raises(DataError, match="no slot"):
        SlotCoverage.fit(["Hello"])


def test_explain_quotes_the_words() -> None:
    said = SlotCoverage.fit(MRS).explain(EAGLE, "A cheap place in the city centre, not for kids.")
    assert said["price range"] == [("cheap", "cheap")]
    assert said["area"] == [("city centre", "city centre")]
    assert said["family friendly"] == [("no", "kid")]


def test_the_hack_in_the_docstring_works() -> None:
    mr = "name[The Eagle], eatType[pub], area[riverside], priceRange[cheap]"
    assert scores(mr, SlotCoverage.hack) == (1, 1, 1, 1)


def test_pickles_and_stays_itself() -> None:
    source = SlotCoverage.fit(MRS)
    copy = pickle.loads(pickle.dumps(source))
    episodes = [Episode.of(mr, GOOD, TOKENIZER) for mr in MRS]
    assert copy(episodes).values.tolist() == source(episodes).values.tolist()


PIECES = [
    "The Eagle",
    "cheap",
    "by the river",
    "city centre",
    "not",
    "family friendly",
    "Indian",
    "the",
    ".",
    "pub",
]


@given(st.lists(st.tuples(st.sampled_from(MRS), st.lists(st.sampled_from(PIECES), max_size=12)), min_size=1))
def test_scores_are_bounded_and_do_not_depend_on_the_batch(rows: list[tuple[str, list[str]]]) -> None:
    episodes = [Episode.of(mr, " ".join(pieces), TOKENIZER) for mr, pieces in rows]
    rewards = FITTED(episodes)
    backwards = FITTED(episodes[::-1])
    assert rewards.values.tolist() == backwards.values[::-1].tolist()
    for term in (rewards.values, *rewards.terms.values()):
        assert ((term >= 0) & (term <= 1)).all()
    precision, recall = rewards.terms["precision"], rewards.terms["recall"]
    assert (rewards.values <= (precision + recall) / 2 + 1e-12).all()  # a harmonic mean is the smaller one


@given(st.text(max_size=80))
def test_any_text_is_scored(text: str) -> None:
    assert 0 <= scores(EAGLE, text)[0] <= 1
