"""Phrases in which people express common slots: data for `slots.py`, which `paraphrases` extends.

`"(a|b|) c"` stands for "a c", "b c" and "c". A phrase that starts with `~` is vague: it can realise its value
but is no contradiction of another. Values without an entry are looked for literally.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


YES = frozenset({"yes", "true"})
NO = frozenset({"no", "false"})
# `t` is what is left of isn't, don't ...
NEGATIONS = _words("""not no non none never t isnt dont doesnt wasnt arent nor without hardly cannot un""")
# May stand between a negation and what it denies: "is *not* considered to be a very family friendly place".
LIGHT_WORDS = _words(
    """a all allow allows actually aimed amenities an any appropriate are as at atmosphere be been being bring
    bringing by cater caters catering conducive considered deemed described do does environment especially
    establishment exactly facilities for found good great has have ideal in is it its located necessarily of
    offer offers on oriented overly particularly permit place places quite really recommend recommended
    situated so suitable suited take taking targeted terribly that the to too venue very welcome welcomes
    welcoming your"""
)
# A text that stops on one of these stops in the middle of a sentence.
UNFINISHED_WORDS = _words(
    """, : ; a an and are as at be between by called for from had has have her his in into is its my named
    near nor of offering offers on or our out provides providing serves serving than that the their to very
    was were which who whose with without your"""
)
SPELLINGS = {
    "center": "centre", "centers": "centre", "centrally": "central", "kids": "kid", "child": "kid",
    "children": "kid", "childrens": "kid", "childs": "kid", "youngsters": "kid", "families": "family",
    "stars": "star", "points": "point", "pounds": "pound", "euros": "pound", "euro": "pound",
    "dollars": "pound", "ratings": "rating", "ranges": "range", "reviews": "review", "prices": "price",
    "costs": "cost", "customers": "customer", "costumer": "customer", "one": "1", "two": "2", "three": "3",
    "four": "4", "five": "5", "twenty": "20", "thirty": "30", "adults": "adult",
}  # fmt: skip


_RATERS = "customer|consumer|user|guest|overall|customer service|service|quality|customer satisfaction|"
_RATED = (
    "rating|rate|rated|ranked|ranking|review|reviewed|score|scored|satisfaction|approval|feedback|mark|marks|"
    "recommended"
)
_LINKS = (
    "is|are|of|at|as|being|a|an|is a|of a|has been|was|is an|with|is considered|service is|by customer|it|"
    "it very|very|them|is very|"
)


def _rating(degree: str, stars: str) -> list[str]:
    return [
        f"({degree}) ({_RATERS}) ({_RATED})",
        f"({_RATED}) ({_LINKS}) ({degree})",
        f"{stars} (out of|of|out|our of|in|to|) 5 (star|)",
        f"{stars} (star|point)",
        f"average ({_RATERS}) rating (is|of) {stars} (out of|out) 5 (star|)",
    ]


_LOW_RATING = _rating(
    "low|lower|lowest|lowly|poor|poorly|bad|badly|negative|below average|"
    "lower than average|very low|very poor",
    "1",
)
_AVERAGE_RATING = [
    *_rating(
        "average|averagely|medium|mediocre|moderate|moderately|ok|okay|decent|fair|mid|middle|mixed", "3"
    ),
    "~average",
]
_HIGH_RATING = _rating(
    "high|higher|highest|highly|good|great|excellent|excellently|top|positive|well|perfect|"
    "very good|very high",
    "5",
)

_PRICE = (
    "price|priced|pricing|cost|costing|price range|priced range|pricing range|price point|price bracket|"
    "menu price|price tag|price level|range price"
)
_COST_IS = (
    "is|are|can be|fall into the|of|at|in the|a|range is|range of|range from|range are|range in|is in the|"
    "from|ranging from|"
)


def _price(degree: str) -> list[str]:
    return [f"({degree}) ({_PRICE})", f"({_PRICE}) ({_COST_IS}) ({degree})"]


_CHEAP = [
    "(cheap|cheaply|cheaper|inexpensive|inexpensively|affordable|affordably|budget|bargain)",
    *_price(
        "low|lower|lowest|very low|below average|lower than average|less than average|reasonable|reasonably"
    ),
    "(less than|under|below|lower than|up to|less that|cheaper than) 20 (pound|)",
    "20 (pound|) (or|and) (less|under)",
]
_MODERATE = [
    "(moderate|moderately) (price|priced|pricing|cost|expensive|range|price range|)",
    *_price(
        "average|averagely|mid|medium|middle|mid range|midrange|fair|fairly|reasonable|reasonably|mid level"
    ),
    "(mid|medium) range",
    "20 (to|through|and|) 25 (pound|)",
]
_EXPENSIVE = [
    "(expensive|pricey|pricy|costly|upscale|high end|upmarket|overpriced)",
    *_price("high|higher|highest|highly|above average|higher than average|premium|top"),
    "(more than|more then|over|above|upwards of|starting at|higher than|at least|exceeding) 30 (pound|)",
    "30 (pound|) (plus|and up|and over|or more|and above|upwards)",
]

_FOR = "good|great|suitable|perfect|ideal|appropriate|fun|nice|best|friendly|place|recommended|okay|fine"
_FAMILY = (
    "kid|family|the kid|the family|all kid|all the family|the whole family|your family|your kid|a family"
)
_WELCOMES = (
    "welcomes|welcoming|welcome|allows|allow|accepts|accept|caters for|caters to|cater to|cater for|invites"
)
PARAPHRASES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "family friendly": {
        "yes": [
            "(kid|family|all ages) (friendly|friendliness|oriented|orientated|focused|welcoming|safe)",
            "family fun",
            f"({_FOR}) (for|to|towards) ({_FAMILY})",
            f"({_WELCOMES}) ({_FAMILY})",
            "(kid|family) (are|is) (very|more than|always|) (welcome|welcomed|allowed)",
            "(kid|family) (welcome|allowed|welcomed)",
            "~(kid|family|all ages)",
        ],
        "no": [
            "adult (only|oriented|orientated)",
            "only (for|) adult",
            "~adult",
            "~grown (up|ups)",
            "no (kid|family)",
            "(kid|family) (are|is|) (not|not really|never) (welcome|allowed|welcomed|permitted)",
            "(kid|family) (are|is|) (prohibited|banned|forbidden)",
            "(kid|family) (friendly|) (not|un) (welcome|allowed|friendly|permitted)",
            "(kid|family) (unfriendly|free|less)",
            f"(unfriendly|unsuitable|inappropriate|unwelcoming) (to|for|towards|) ({_FAMILY})",
            "(kid|family) friendly no",
            "~childless",
        ],
    },
    "area": {
        "city centre": [
            "(city|town) centre",
            "central",
            "centre of (the|) (city|town|cambridge)",
            "(heart|middle) of (the|) (city|town)",
            "(downtown|midtown)",
            "(centre|inner|central) city",
            "~(city|town|centre)",
        ],
        "riverside": [
            "(riverside|riversides|waterside|riverfront|waterfront|riverbank)",
            "river (side|front|bank|area)",
            "(by|near|beside|on|at|alongside|along|next to|close to|overlooking) (the|a|) river",
            "(side|banks|bank) of the river",
            "~river",
        ],
        "": ["(north|south|east|west|outside) (of|) (the|) (city|town|city centre|centre of the city|river)"],
    },
    "eat type": {
        "coffee shop": ["coffee (shop|shops|house|place|bar)", "coffeeshop", "~coffee", "~(cafe|cafes)"],
        "pub": ["(pub|pubs|bar|tavern)"],
        "restaurant": ["(restaurant|restaurants)", "~(eatery|diner|bistro)"],
    },
    "food": {
        "fast food": ["fast (food|foods)"],
        "english": ["(english|british)"],
        "": ["(english|british) (pound|pounds)"],
    },
    "price range": {
        "cheap": _CHEAP,
        "less than £20": _CHEAP,
        "moderate": _MODERATE,
        "£20-25": _MODERATE,
        "high": _EXPENSIVE,
        "expensive": _EXPENSIVE,
        "more than £30": _EXPENSIVE,
    },
    "customer rating": {
        "low": _LOW_RATING,
        "1 out of 5": _LOW_RATING,
        "average": _AVERAGE_RATING,
        "3 out of 5": _AVERAGE_RATING,
        "high": _HIGH_RATING,
        "5 out of 5": _HIGH_RATING,
    },
}
