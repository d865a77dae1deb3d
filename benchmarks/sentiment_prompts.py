"""Beginnings of reviews, written for `sentiment.py`: templates times what is reviewed, without sentiment."""

from __future__ import annotations

from text_gym import Prompt

# Kind -> beginnings; `{}` is what is reviewed. None ends on a negation, which would turn round what follows.
BEGINNINGS = {
    "film": (
        "I watched {} last night, and the story",
        "{} opens on a quiet street. The acting",
        "My review of {}: this film is",
        "We saw {} at the cinema on Friday and",
        "After two hours of {} I thought that",
        "The music in {} is",
        "The director of {} has made a film that",
        "If you are thinking of seeing {}, you should know that it",
    ),
    "book": (
        "I read {} on the train, and the writing",
        "The first chapter of {} made me",
        "My review of {}: this book is",
        "Our reading group talked about {}, and everyone",
        "The characters in {} are",
        "When I closed {}, I felt",
        "The author of {} writes in a way that",
        "{} is four hundred pages long, and it",
    ),
    "place": (
        "We had dinner at {} yesterday, and the food",
        "The people who work at {} were",
        "My review of {}: this place is",
        "We stayed near {} for three days, and our visit",
        "When you walk into {}, the first thing you see is",
        "I took my parents to {}, and they",
        "The prices at {} are",
        "I have been to {} twice this year because",
    ),
    "thing": (
        "I bought {} a month ago, and it",
        "{} arrived on Tuesday. The box",
        "My review of {}: this product is",
        "I use {} every day, and so far it",
        "My brother asked me about {}, and I told him that it",
        "The buttons on {} are",
        "Compared with the one I had before, {} is",
        "After a week with {} I can say that",
    ),
}
# The last two of each kind are in no prompt that is learnt from.
REVIEWED = {
    "film": (
        "The Orange Door",
        "Seven Miles North",
        "The Clockmaker",
        "A Room on Mill Street",
        "Paper Lanterns",
        "The Second Ferry",
        "Carbon Hill",
        "Letters to Ines",
        "The Salt Road",
        "Midday Train",
    ),
    "book": (
        "The Glass Orchard",
        "Winter Arithmetic",
        "The Cartographer",
        "Notes from the Harbour",
        "A Map of Elsewhere",
        "The Ninth Window",
        "Tin Weather",
        "The Baker of Lund",
        "Over the Viaduct",
        "The Long Tuesday",
    ),
    "place": (
        "the corner bakery",
        "the noodle bar on Fifth Street",
        "Hotel Meridian",
        "the Blue Lantern",
        "the museum café",
        "Casa Verde",
        "the station restaurant",
        "the hostel by the lake",
        "the rooftop bar",
        "the pizzeria in Elm Lane",
    ),
    "thing": (
        "the kettle",
        "these headphones",
        "the folding chair",
        "the new keyboard",
        "this backpack",
        "the desk lamp",
        "the coffee grinder",
        "this phone case",
        "the wall clock",
        "the camping stove",
    ),
}
HELD_OUT = 2  # of what is reviewed of each kind


def prompts() -> tuple[list[Prompt], list[Prompt]]:
    """Prompts to learn on and held-out ones, about films, books, places and things that the former lack."""
    sides: tuple[list[Prompt], list[Prompt]] = ([], [])
    for kind, beginnings in BEGINNINGS.items():
        for number, name in enumerate(REVIEWED[kind]):
            side = sides[number >= len(REVIEWED[kind]) - HELD_OUT]
            for beginning in beginnings:
                text = beginning.format(name)
                side.append(Prompt(text[0].upper() + text[1:], columns={"kind": kind}))
    return sides
