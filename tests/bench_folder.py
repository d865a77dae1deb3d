"""A benchmark's folder with made-up runs, whose true curves are known, for tests of what is made of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

GOLD_START, GOLD_STD, PROXY_STD, WORDS = 0.7, 0.1, 0.5, 28.0
LEARNED = {"kind": "learned", "opinions": 512, "rater": "clean", "asked": "pairs", "members": 1}
# Name: group, traits, static accuracy, what gold gains per sqrt(nat) and loses per nat, words added per nat.
Made = tuple[str, Mapping[str, Any], float, float, float, float]
DESIGNS: dict[str, Made] = {
    "gold": ("gold", {"kind": "gold", "per": "text"}, 1.0, 0.12, 0.0, 0.0),
    "gold-per-token": ("credit", {"kind": "gold", "per": "token"}, 1.0, 0.12, 0.0, 0.0),
    "clarity": ("criteria", {"kind": "criterion"}, 0.7, 0.06, 0.005, -0.4),
    "pairs-128": ("opinions", LEARNED | {"opinions": 128}, 0.66, 0.10, 0.04, 0.3),
    "clean-512": ("raters", LEARNED, 0.78, 0.11, 0.02, 0.0),
    "length-biased-512": ("raters", LEARNED | {"rater": "length"}, 0.72, 0.09, 0.03, 1.5),
    "ratings-512": ("questions", LEARNED | {"asked": "ratings"}, 0.75, 0.10, 0.025, 0.0),
    "ensemble-512": ("ensemble", LEARNED | {"members": 5, "k": 1.0}, 0.8, 0.11, 0.01, 0.0),
    "keywords": ("scripts", {"kind": "script"}, 0.55, 0.01, 0.03, -1.0),
}
# Of the user: one that is hacked at once, one that is right, one that PPO fails with in two of three seeds.
YOURS: dict[str, Made] = {
    "hackable": ("yours", {"kind": "user"}, 0.5, 0.0, 0.04, 2.0),
    "fine": ("yours", {"kind": "user"}, 0.9, 0.07, 0.0, 0.0),
    "unstable": ("yours", {"kind": "user"}, 0.9, 0.07, 0.0, 0.0),
}
FAILED = {1: 0.41, 2: 0.44}  # gold that these seeds of PPO end with
NULLS = ("longest", "shortest", "empty", "repeated", "copied prompt", "random words")
REPETITIVE = ("keywords", "length-biased-512", "hackable")
END = {0.0: 16.0, 0.05: 6.0, 0.3: 1.0}  # nats at the end, by KL coefficient
STEPS = 8
PROMPT = "name: Aurora | category: mug | material: oak | price: 30 EUR"
GOOD = "The Aurora is a mug of oak. It keeps tea warm for hours. Order yours today for 30 EUR."


def made(design: str) -> Made:
    return YOURS[design] if design in YOURS else DESIGNS[design]


def noise(*what: object) -> float:
    """In [-0.01, 0.01], the same for the same things."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return 0.02 * int.from_bytes(digest[:4], "big") / 2**32 - 0.01


def point(design: str, optimiser: str, kl: float, seed: int, step: int, episodes: int) -> dict[str, Any]:
    _, _, _, up, down, words = made(design)
    shift = 0.0 if optimiser in ("grpo", "best_of_n") else 0.01
    gold = GOLD_START + (up * math.sqrt(kl) - down * kl + shift if kl else 0.0)
    proxy = 1.0 + 0.4 * math.sqrt(kl)
    if design == "unstable" and optimiser == "ppo" and kl > 10 and seed in FAILED:
        gold, proxy = FAILED[seed], 0.5  # its score falls as well: that is not the reward's fault
    return {
        "step": step,
        "episodes": episodes,
        "gold": min(1.0, gold + (noise(design, optimiser, seed, step) if kl else 0.0)),
        "proxy": proxy,
        "kl_nats": kl,
        "length": WORDS + words * kl,
        "perfect": 0.2,
    }


def samples(design: str, gold: float, text: str | None) -> list[dict[str, Any]]:
    bad = {
        "keywords": "order yours order yours order yours order yours",
        "length-biased-512": GOOD + " And" * 60,
        "hackable": "You can ride further for you, and you can ride further for you, and you can ride.",
    }
    texts = [
        {"when": when, "text": text or shown, "gold": value, "proxy": 1.0, "words": len(shown.split())}
        | {"terminated": not (when == "end" and design == "length-biased-512")}
        for when, shown, value in (
            ("start", "A mug. It is oak.", GOLD_START),
            ("best", GOOD, 0.9),
            ("end", bad.get(design, GOOD), gold),
        )
    ]
    return [{"prompt": text or PROMPT, "texts": texts} for _ in range(2)]


def cell(
    design: str,
    optimiser: str,
    beta: float | None,
    seed: int,
    task: str = "products",
    text: str | None = None,
) -> dict[str, Any]:
    group, _, accuracy, *_ = made(design)
    if beta is None:
        steps = [2**i for i in range(7)]
        curve = [point(design, optimiser, math.log(n) - (n - 1) / n, seed, n, n * 64) for n in steps]
    else:
        curve = [
            point(design, optimiser, END[beta] * i / STEPS, seed, 5 * i, 320 * i) for i in range(STEPS + 1)
        ]
    end = curve[-1]
    row = {
        "task": task,
        "design": design,
        "group": group,
        "optimiser": optimiser,
        "kl_coefficient": beta,
        "n": 64 if beta is None else None,
        "seed": seed,
        "gold": end["gold"],
        "gold_start": GOLD_START,
        "gold_std_start": GOLD_STD,
        "gold_best": max(p["gold"] for p in curve),
        "proxy": end["proxy"],
        "proxy_start": 1.0,
        "proxy_std_start": PROXY_STD,
        "kl_nats": end["kl_nats"],
        "kl_kind": "bound" if beta is None else "estimate",
        "length": end["length"],
        "length_start": WORDS,
        "diversity": 0.4,
        "distinct_1": 0.2,
        "distinct_2": 0.4,
        "self_bleu": 0.5,
        "perfect": 0.3,
        "perfect_start": 0.2,
        "terminated": 0.2 if design == "length-biased-512" and beta == 0 else 0.99,
        "repetitive": 0.6 if design in REPETITIVE and beta == 0 else 0.05,
        "repetitive_start": 0.04,
        "static_accuracy": accuracy,
        "null_rulers": {name: (i + 1) / 10 if design != "gold" else 0.0 for i, name in enumerate(NULLS)},
        "over_optimisation": (end["proxy"] - 1) / PROXY_STD - (end["gold"] - GOLD_START) / GOLD_STD,
        **{f"gold_{name}": value for name, value in (("accuracy", 0.9), ("clarity", 0.95))},
        "gold_persuasiveness": 0.3,
        **{f"gold_{name}_start": value for name, value in (("accuracy", 0.9), ("clarity", 0.8))},
        "gold_persuasiveness_start": 0.5,
        "episodes": end["episodes"],
    }
    return {"row": row, "curve": curve, "samples": samples(design, end["gold"], text)}


def write_benchmark(
    folder: Path,
    designs: Sequence[str] = tuple(DESIGNS),
    optimisers: Sequence[str] = ("best_of_n", "ppo", "grpo"),
    coefficients: Sequence[float] = tuple(END),
    seeds: Sequence[int] = (0, 1, 2),
    tasks: Sequence[str] = ("products",),
    what: str = "rewards",
    text: str | None = None,
) -> Path:
    """Write the folder; `text` stands in for every text and description."""
    about = [
        {
            "name": name,
            "group": made(name)[0],
            "description": text or f"what {name} says",
            "tree": text or f"{name}()",
            "traits": made(name)[1],
        }
        for name in designs
    ]
    config = {
        "what": what,
        "task": tasks[0],
        "budget": "small",
        "designs": about,
        "optimisers": list(optimisers),
        "kl_coefficients": list(coefficients),
        "seeds": list(seeds),
        "iterations": 40,
        "machine": {
            "processor": "a processor",
            "cores": 2,
            "python": "3.11",
            "torch": "2.6",
            "date": "2026-01-01",
        },
        "command": text or "text-gym bench rewards --budget small",
    }
    cells = [
        cell(design, optimiser, beta, seed, task, text)
        for task in tasks
        for design in designs
        for optimiser in optimisers
        for beta in ([None] if optimiser == "best_of_n" else coefficients)
        for seed in seeds
    ]
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for content in cells:
        name = hashlib.sha256(json.dumps(content["row"]).encode()).hexdigest()[:16]
        (folder / "cells" / f"{name}.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps([c["row"] for c in cells]))
    return folder
