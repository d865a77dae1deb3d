"""A made-up table in the form of the E2E challenge's data, for tests: none of its rows comes from there."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path

NAMES = ("Blue Lantern", "Old Barn", "Copper Pot", "Quiet Fox", "Lantern", "Iron Kettle", "Green Door")
AREAS = {"riverside": "by the river", "city centre": "in the city centre"}
FOODS = ("Thai", "Greek", "Korean")
TEMPLATES = (
    "{name} serves {food} food {where} .",
    "{name} is a place for {food} food {where} .",
    "There is {food} food at {name} {where} .",
    "If you like {food} food , try {name} {where} .",
)


def rows() -> list[tuple[str, str]]:
    """Meaning representation and description: 42 of the former, each with four texts."""
    found = []
    for name, (area, where), food in product(NAMES, AREAS.items(), FOODS):
        mr = f"name[{name}], food[{food}], area[{area}]"
        for template in TEMPLATES:
            text = template.format(name=name, food=food, where=where)
            found.append((mr, text.replace(" .", ".").replace(" ,", ",")))
    return found


def write_table(folder: Path, header: tuple[str, str] = ("mr", "ref"), more: str = "") -> Path:
    """Write the table as a CSV file; `more` is appended as it is."""
    file = folder / "restaurants.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows())
        stream.write(more)
    return file
