"""The tables of paraphrases, tried with sentences as people write them."""

from __future__ import annotations

import pytest

from text_gym import ByteTokenizer, Episode
from text_gym.reward_models import SlotCoverage

SAID = [
    ("familyFriendly", "yes", "Children are welcome there."),
    ("familyFriendly", "yes", "It is a kid friendly place."),
    ("familyFriendly", "no", "It is not family-friendly."),
    ("familyFriendly", "no", "The pub is for adults only."),
    ("priceRange", "cheap", "The prices are cheap."),
    ("priceRange", "less than £20", "Meals cost less than £20."),
    ("customer rating", "5 out of 5", "It has a rating of 5 out of 5."),
    ("customer rating", "5 out of 5", "It has a five star rating."),
    ("customer rating", "low", "Customers gave it a low rating."),
    ("area", "riverside", "It lies by the river."),
    ("area", "city centre", "You find it in the center of the city."),
    ("food", "Chinese", "It serves Chinese food."),
    ("eatType", "coffee shop", "It is a coffee shop."),
]


def recall(slot: str, value: str, text: str) -> float:
    source = SlotCoverage()
    rewards = source([Episode.of(f"{slot}[{value}]", text, ByteTokenizer())])
    return float(rewards.terms["recall"][0])


@pytest.mark.parametrize(("slot", "value", "text"), SAID)
def test_a_value_is_found_in_peoples_words(slot: str, value: str, text: str) -> None:
    assert recall(slot, value, text) == 1


@pytest.mark.parametrize(
    ("slot", "value", "text"),
    [
        ("familyFriendly", "yes", "It is not family-friendly."),
        ("familyFriendly", "no", "Children are welcome there."),
        ("customer rating", "high", "Customers gave it a low rating."),
        ("area", "riverside", "You find it in the city centre."),
        ("priceRange", "high", "The prices are cheap."),
    ],
)
def test_the_opposite_is_not(slot: str, value: str, text: str) -> None:
    assert recall(slot, value, text) == 0
