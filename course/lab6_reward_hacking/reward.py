"""Your entry for the class's leaderboard: one function, `reward`; `README.md` says how it is judged.

This one is naive, and it is hacked: try it as it stands, look at the texts that it likes best, and mend it.
"""


def reward(completion: str, name: str, price: str) -> float:
    """Say how good a description of a product is; more is better.

    Args:
        completion: The text.
        name: Of the product. Other columns can be asked for by name: category, material, colour, feature,
            audience.
        price: Likewise, such as `"$84"`.
    """
    words = completion.lower().replace(",", " ").replace(".", " ").split()
    return float(name in completion) + float(price in completion) + 0.1 * words.count("you")
