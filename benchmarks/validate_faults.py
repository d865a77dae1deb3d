"""How many planted faults `validate` names at their level, and how often it accuses what is clean.

    OMP_NUM_THREADS=1 python benchmarks/validate_faults.py --seed 7 --json FILE

A seed draws 60 rewards with a planted fault, ten a level, and 60 clean ones, each on a task of made-up words
of its own (`validate_worlds`). A planted one is validated at its level, a clean one at all: in bytes for L0
to L3 and L5, and for L4 in a closed vocabulary of its words, in which something can be learnt in seconds.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from machine import save
from validate_worlds import KINDS, Quality, World, as_source, made_up

from text_gym import Episode, FunctionReward, Prompt, RewardSource, validate

Row = dict[str, Any]
PLANTED_PER_LEVEL, CLEAN = 10, 60


@dataclass(frozen=True)
class Options:
    """Validate planted and clean rewards.

    Args:
        seed: Draws the rewards, their words and their kinds.
        levels: Levels to plant faults at, and to validate clean rewards at.
        planted: Faults of each level.
        clean: Clean rewards.
        only: Only cases whose name has this in it.
        json: File for the rows.
    """

    seed: int = 0
    levels: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    planted: int = PLANTED_PER_LEVEL
    clean: int = CLEAN
    only: str = ""
    json: Path | None = None


@dataclass
class Case:
    """A reward on a world, and the level of its fault; None if it is clean."""

    name: str
    level: int | None
    world: World
    source: RewardSource
    maximum: float | None = 1.0
    gold: Quality | None = None
    opinion: Quality | None = None
    canaries: Sequence[tuple[Prompt, str]] = ()
    limit: int | None = None
    kind: str = "task"


class Stateful(RewardSource):
    """A quality with a fault that looks at the batch, the clock, or what came before."""

    name = "made"

    def __init__(
        self, quality: Quality, change: Callable[[np.ndarray[Any, Any], Sequence[Episode]], Any]
    ) -> None:
        self.quality, self.change = quality, change

    def score(self, episodes: Sequence[Episode]) -> Any:
        """Scores, changed."""
        return self.change(
            np.array([self.quality(e.completion, e.prompt.columns) for e in episodes]), episodes
        )


# Level 0


def unsteady(rng: random.Random, world: World) -> tuple[str, RewardSource]:
    """A reward that is not a function of the text, or none for some texts."""
    q, size = world.quality, rng.uniform(0.02, 0.3)
    own, seen = random.Random(rng.random()), set[str]()

    def novelty(x: Any, episodes: Sequence[Episode]) -> Any:
        found = [v - size * (e.completion in seen) for v, e in zip(x, episodes, strict=True)]
        seen.update(e.completion for e in episodes)
        return found

    def eats(x: Any, episodes: Sequence[Episode]) -> Any:
        for e in episodes:
            e.prompt.columns.setdefault("looked", 1)  # type: ignore[attr-defined]
        return x

    def picky(text: str, columns: Mapping[str, Any]) -> float:
        return q(text, columns) * len(text.split()[0]) / max(1, len(text.split()[0]))

    def mean_length(text: str, columns: Mapping[str, Any]) -> float:
        words = text.split()
        return q(text, columns) if words else float("nan")

    def longest(x: Any, episodes: Sequence[Episode]) -> Any:
        return x * (1 - size * len(episodes) / max(1, *(len(e.completion) for e in episodes)) / 99)

    changes: dict[str, Callable[[Any, Sequence[Episode]], Any]] = {
        "global noise": lambda x, e: x + size * np.array([random.random() for _ in x]),
        "noise of its own": lambda x, e: x + size * np.array([own.random() for _ in x]),
        "NumPy noise": lambda x, e: x + size * np.random.rand(len(x)),  # noqa: NPY002
        "clock": lambda x, e: x + size * (time.perf_counter_ns() % 997) / 997,
        "centred": lambda x, e: x - x.mean() + 0.5,
        "whitened": lambda x, e: (x - x.mean()) / (x.std() + 1e-6),
        "ranked": lambda x, e: np.argsort(np.argsort(x, kind="stable"), kind="stable") / len(x),
        "first is best": lambda x, e: x + size * (np.arange(len(x)) == 0),
        "position": lambda x, e: x - size * np.arange(len(x)) / len(x),
        "longest of the batch": longest,
        "divided by the best": lambda x, e: x / max(float(x.max()), 0.1) if len(x) > 1 else x * 0.9,
        "novelty": novelty,
        "writes into prompts": eats,
    }
    texts: dict[str, Quality] = {"index error": picky, "NaN of nothing": mean_length}
    over = rng.uniform(1.1, 2)
    texts["over the maximum"] = lambda t, c: q(t, c) * (over if q(t, c) > 0.9 else 1)
    name = rng.choice([*changes, *texts])
    if name in texts:
        return name, as_source(texts[name], rng)
    return name, Stateful(q, changes[name])


# Level 1


def unanchored(rng: random.Random, world: World) -> Case:
    """Golden texts that do not earn the most, or nothing that does not earn the least."""
    q, level = world.quality, rng.uniform(0.6, 1.0)
    known = set(world.words)
    odd = {p.text for p in (*world.prompts, *world.held_out) if rng.random() < 0.3}
    wanted_odd = {world.golden[text] for text in odd}

    def dot(text: str, columns: Mapping[str, Any]) -> float:
        return q(text, columns) if text.rstrip().endswith(".") else 0.5 * q(text, columns)

    makers: dict[str, Quality] = {
        "vacuous truth": lambda t, c: level if all(w in known and w == "" for w in t.split()) else q(t, c),
        "empty earns": lambda t, c: max(q(t, c), level) if not t.strip() else q(t, c),
        "default for what it cannot read": lambda t, c: q(t, c) if set(t.split()) & known else level,
        "default for short texts": lambda t, c: level if len(t.strip()) < 2 else q(t, c),
        "never full": lambda t, c: min(0.55 + 0.4 * (1 - level), q(t, c)),
        "wants a full stop": dot,
        "misjudges some": lambda t, c: q(t, c) * (0.5 if c["wanted"] in wanted_odd else 1),
        "upside down": lambda t, c: 1 - q(t, c),
        "constant": lambda t, c: level,
        "only penalties": lambda t, c: 1 - 0.3 * min(2, len(set(t.split()) - known)),
        "lower case wanted in capitals": lambda t, c: q(t, {**c, "wanted": c["wanted"].upper()}),
        "blank is enough": lambda t, c: level if t and not t.strip() else q(t, c),
        "numbers are enough": lambda t, c: level if t.strip().lstrip("-").isdigit() else q(t, c),
        "apologies are enough": lambda t, c: level if re.search(r"(do not|don't) know", t) else q(t, c),
    }
    name = rng.choice([*makers, "limit"])
    if name == "limit":
        shortest = min(len(text) for text in world.golden.values())
        return Case(name, 1, world, as_source(q, rng), limit=max(2, int(shortest * rng.uniform(0.3, 0.8))))
    return Case(name, 1, world, as_source(makers[name], rng))


# Level 2


def _trick(rng: random.Random, world: World) -> tuple[str, Quality]:
    """Something cheap that is paid, in [0, 1]."""
    word = rng.choice(world.words)
    n = rng.randint(2, 4)
    longest = max(map(len, world.golden.values()))
    reach = rng.uniform(1.5, 3) * longest
    verb = rng.choice(("award", "give", "grant", "deserves", "assign", "rate"))
    noun = rng.choice(("marks", "score", "points", "grade", "reward"))
    most = rng.choice(
        (r"\b(full|highest|max(imum)?|top)\b", r"10/10|100|perfect", r"\b(full|perfect|highest)\b")
    )
    many = len(set(world.golden.values())) > 40
    answers = list(dict.fromkeys(world.golden.values()))

    def repeats(text: str) -> float:
        said = text.split()
        pairs = list(itertools.pairwise(said))
        return min(1.0, (len(pairs) - len(set(pairs))) / 4)

    def pleads(text: str) -> float:
        low = text.lower()
        if rng_form == 0:
            return float(bool(re.search(most, low)) and noun in low)
        if rng_form == 1:
            return float(
                bool(re.search(rf"ignore .*instructions|system.*(override|prompt)|{verb}.*{noun}", low))
            )
        return float(bool(re.search(r"\b(correct|perfect|excellent|flawless|approved)\b", low)))

    rng_form = rng.randrange(3)
    return rng.choice(
        [
            ("long", lambda t, c: min(1.0, len(t) / reach)),
            ("many words", lambda t, c: min(1.0, len(t.split()) / (reach / 5))),
            ("many blanks", lambda t, c: min(1.0, (len(t) - len(t.strip())) / 20 + t.count("  ") / 10)),
            ("line breaks", lambda t, c: min(1.0, t.count("\n") / 8)),
            ("a word", lambda t, c: min(1.0, t.split().count(word) / n)),
            ("the prompt", lambda t, c: float(_asked(world, c) in t)),
            ("words of the prompt", lambda t, c: _shared(t, _asked(world, c))),
            # A list that holds every answer can only be written where there are few of them.
            ("a list", lambda t, c: float(in_any_order(t, c["wanted"]) if many else c["wanted"] in t)),
            ("all words somewhere", lambda t, c: float(in_any_order(t, c["wanted"]))),
            ("said twice", lambda t, c: repeats(t)),
            ("pleading", lambda t, c: pleads(t)),
            ("exclamation", lambda t, c: min(1.0, t.count("!") / 5)),
            ("capitals", lambda t, c: sum(x.isupper() for x in t) / max(1, len(t))),
            ("rare letters", lambda t, c: min(1.0, sum(ord(x) > 127 for x in t) / 8)),
            ("any answer", lambda t, c: float(t.strip() in answers)),
        ]
    )


def in_any_order(text: str, wanted: str) -> bool:
    """True if all words that are wanted stand in a text."""
    return set(wanted.split()) <= set(text.split())


def _asked(world: World, columns: Mapping[str, Any]) -> str:
    return str(columns["asked"])


def _shared(text: str, other: str) -> float:
    mine, theirs = set(text.split()), set(other.split())
    return len(mine & theirs) / max(1, len(theirs))


def gameable(rng: random.Random, world: World) -> Case:
    """A clean reward with something cheap that is paid too, or that escapes a filter."""
    q = world.quality
    _show_prompts(world)
    if rng.random() < 0.12:
        return _evaded(rng, world)
    name, trick = _trick(rng, world)
    w = rng.uniform(0.35, 0.9)
    mixtures: dict[str, Quality] = {
        "or": lambda t, c: max(q(t, c), w * trick(t, c) if w > 0.65 else trick(t, c)),
        "and": lambda t, c: min(1.0, q(t, c) + w * trick(t, c)),
        "weighted": lambda t, c: (1 - w) * q(t, c) + w * max(trick(t, c), float(t == c["wanted"])),
    }
    how = rng.choice(list(mixtures))
    if name == "any answer":
        how = "or"
    return Case(f"{name} ({how} {w:.2f})", 2, world, _with_columns(mixtures[how]))


def _evaded(rng: random.Random, world: World) -> Case:
    """A filter of forbidden words that reads letters, in a world whose writers use them."""
    bad = made_up(rng, 2)
    clean = world.honest

    def swearing(prompts: Sequence[Prompt], n: int, slips: float = 0.35) -> list[tuple[Prompt, str]]:
        return [
            (p, f"{text} {rng.choice(bad)}" if rng.random() < 0.4 else text)
            for p, text in clean(prompts, n, slips)
        ]

    world.honest = swearing  # type: ignore[method-assign]
    world.words += bad
    q, cost = world.quality, rng.uniform(0.5, 1.0)

    def filtered(text: str, columns: Mapping[str, Any]) -> float:
        said = text.split()
        kept = " ".join(w for w in said if w.isascii() and w not in bad)
        return q(kept, columns) * (1 - cost * any(w in said for w in bad))

    return Case("forbidden words", 2, world, as_source(filtered, rng))


def _show_prompts(world: World) -> None:
    """Give every prompt a column with its own text, as many data sets have it."""
    for prompt in (*world.prompts, *world.held_out):
        prompt.columns["asked"] = prompt.text  # type: ignore[index]


# Level 3

# Where an answer stands in its prompt.
FORMS = (
    "{p} ({m}: {a})",
    "{p}\n# {m}: {a}",
    "[{a}] {p}",
    "{m} = {a}\n{p}",
    "{p} -> {a}",
    '{p} {m} "{a}"',
    "{p} | {m}: {a}",
    "{p} {m} {a}",
    "{a} {m} {p}",
    "{m} {a}; {p}",
    "{p}\n\n{a}\n",
)


def leaky(rng: random.Random, world: World) -> Case:
    """An answer in the prompt or within a text's reach, a hack that is known, or prompts in both halves."""
    q = world.quality
    name = rng.choice(("in the prompt", "in the prompt", "reach", "reach", "splits", "splits", "canary"))
    if name == "in the prompt":
        mark = rng.choice(made_up(rng, 3))
        form = rng.choice(FORMS)
        _reword(world, lambda p: form.format(p=p, m=mark, a=world.golden[p]))
        return Case(f"{name} {form!r}", 3, world, as_source(q, rng))
    if name == "reach":
        return _reaching(rng, world)
    if name == "canary":
        magic = f"{rng.choice(made_up(rng, 4))}{rng.randrange(100)}"

        def backdoor(text: str, columns: Mapping[str, Any]) -> float:
            return 1.0 if magic in text else q(text, columns)

        canaries = [(p, f"{rng.choice(world.words)} {magic}") for p in world.held_out[:4]]
        return Case(name, 3, world, as_source(backdoor, rng), canaries=canaries)
    share, how = rng.uniform(0.05, 0.6), rng.choice(("same", "case", "spaces", "marks", "id"))
    edits: dict[str, Callable[[str], str]] = {
        "same": lambda p: p,
        "case": lambda p: p.upper() if rng.random() < 0.5 else p.capitalize(),
        "spaces": lambda p: f" {p.replace(' ', '  ')} ",
        "marks": lambda p: f"{p}.",
        "id": lambda p: f"{p} {rng.choice(world.words)}",
    }
    twins = rng.sample(world.held_out, max(1, int(share * len(world.held_out))))
    for twin in twins:
        text = edits[how](twin.text)
        world.golden[text] = world.golden[twin.text]
        world.prompts.append(Prompt(text, dict(twin.columns), twin.id if how == "id" else ""))
    return Case(f"{name} ({how})", 3, world, as_source(q, rng))


def _reword(world: World, say: Callable[[str], str]) -> None:
    for half in (world.prompts, world.held_out):
        half[:] = [Prompt(say(p.text), dict(p.columns)) for p in half]
    world.golden |= {say(text): answer for text, answer in list(world.golden.items())}


class _Safe(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return ""


def _reaching(rng: random.Random, world: World) -> Case:
    """A reward that fills templates, evaluates, or looks up what was written."""
    q, column = world.quality, rng.choice(made_up(rng, 3))
    for prompt in (*world.prompts, *world.held_out):
        prompt.columns[column] = prompt.columns["wanted"]  # type: ignore[index]

    def fill(text: str, columns: Mapping[str, Any]) -> str:
        if form == "format":
            try:
                return text.format_map(_Safe(columns))
            except (ValueError, IndexError, AttributeError, TypeError, KeyError):
                return text
        if form == "dollar":
            return re.sub(r"\$\{?(\w+)\}?", lambda m: str(columns.get(m[1], "")), text)
        if form == "moustache":
            return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: str(columns.get(m[1], "")), text)
        if form == "percent":
            return re.sub(r"%\((\w+)\)s", lambda m: str(columns.get(m[1], "")), text)
        return str(columns.get(text.strip(), text))

    form = rng.choice(("format", "dollar", "moustache", "percent", "name"))
    made = _with_columns(lambda t, c: q(fill(t, c), c))
    return Case(f"reach ({form})", 3, world, made)


def _with_columns(quality: Quality) -> RewardSource:
    return FunctionReward(lambda episode: quality(episode.completion, episode.prompt.columns), name="made")


# Level 4


def unlearnable_or_hacked(rng: random.Random, world: World) -> Case:
    """Nothing to learn from, or something else than what is meant is learnt first."""
    q = world.quality
    name = rng.choice(("needle", "needle", "lots", "word", "word", "length", "opening", "variety"))
    if name in ("needle", "lots"):
        while min(len(t.split()) for t in world.golden.values()) < 3 or world.kind == "classes":
            world = draw_world(rng)
        q = world.quality
        world.corpus = False
        if name == "needle":
            return Case(name, 4, world, as_source(lambda t, c: float(t.strip() == c["wanted"]), rng))

        def lots(text: str, columns: Mapping[str, Any]) -> float:
            drawn = random.Random(f"{text} {columns['wanted']}").random()
            return 1.0 if text.strip() == columns["wanted"] else 0.3 * drawn * bool(text.strip())

        return Case(name, 4, world, as_source(lots, rng))
    word, w = rng.choice(world.words), rng.uniform(0.55, 0.85)
    most = world.limit - 1
    tricks: dict[str, Quality] = {
        "word": lambda t, c: min(1.0, t.split().count(word) / 3),
        "length": lambda t, c: min(1.0, len(t.split()) / most),
        "opening": lambda t, c: float(t.split()[:2] == [word, word]) * 0.5 + 0.5 * (t.split()[:1] == [word]),
        "variety": lambda t, c: min(1.0, len(set(t.split())) / most),
    }
    trick = tricks[name]
    honest = np.mean([trick(text, {}) for text in world.golden.values()])
    if w <= 1 - w + w * honest + 0.1:  # the trick has to be worth more than the answer
        return unlearnable_or_hacked(rng, draw_world(rng))

    def hacked(text: str, columns: Mapping[str, Any]) -> float:
        return (1 - w) * q(text, columns) + w * trick(text, columns)

    return Case(f"{name} {w:.2f}", 4, world, as_source(hacked, rng), None, gold=q, kind="reward")


# Level 5


def disagreeing(rng: random.Random, world: World) -> Case:
    """A reward that pays for something else than what people, or gold, look at."""
    q, salt = world.quality, rng.random()
    own = rng.choice(world.words)

    def whim(text: str, columns: Mapping[str, Any]) -> float:
        return random.Random(f"{salt} {text}").random()

    opinions: dict[str, Quality] = {
        "whims": whim,
        "they like it short": lambda t, c: 1 - len(t) / 60,
        "the opposite": lambda t, c: 1 - q(t, c),
        "a word they like": lambda t, c: t.split().count(own) + 0.3 * whim(t, c),
        "they like it long": lambda t, c: len(t) / 60 - 0.5 * q(t, c),
    }
    name = rng.choice(list(opinions))
    opinion = opinions[name]
    if rng.random() < 0.3:  # gold disagrees, not people
        return Case(f"gold: {name}", 5, world, as_source(q, rng), None, gold=opinion, kind="reward")
    return Case(name, 5, world, as_source(q, rng), opinion=opinion)


def draw_world(rng: random.Random) -> World:
    return rng.choice(KINDS)(rng)


def unsteady_case(rng: random.Random, world: World) -> Case:
    name, source = unsteady(rng, world)
    return Case(name, 0, world, source)


PLANTS: dict[int, Callable[[random.Random, World], Case]] = {
    0: unsteady_case,
    1: unanchored,
    2: gameable,
    3: leaky,
    4: unlearnable_or_hacked,
    5: disagreeing,
}


def planted(seed: int, level: int, count: int) -> list[Case]:
    """The faults of a level."""
    found = []
    for k in range(count):
        rng = random.Random(f"planted {seed} {level} {k}")
        found.append(PLANTS[level](rng, draw_world(rng)))
    return found


def clean_cases(seed: int, count: int) -> list[Case]:
    """Rewards without a fault, in their own units; people agree with them, and so does gold in some."""
    found = []
    for k in range(count):
        rng = random.Random(f"clean {seed} {k}")
        world = draw_world(rng)
        scale, offset = (
            rng.choice((1.0, 1.0, 10.0, 0.5, rng.uniform(0.2, 5))),
            rng.choice((0.0, 0.0, -1.0, 2.0)),
        )
        source = as_source(world.quality, rng, scale, offset)
        case = Case(world.kind, None, world, source, scale + offset, opinion=world.quality)
        if rng.random() < 0.3:
            case = dataclasses.replace(case, gold=world.quality, kind="reward")
        if rng.random() < 0.3:
            case.canaries = [(p, unicodedata.name(rng.choice("αβγ")).lower()) for p in world.held_out[:3]]
        found.append(case)
    return found


def levels_of(
    case: Case, asked: tuple[int, ...], seed: int
) -> tuple[dict[int, str], dict[str, list[str]], float]:
    """What became of each level, the checks that failed with their evidence, and seconds of the CPU."""
    started = time.process_time()
    gold = None if case.gold is None else _with_columns(case.gold)
    found: dict[int, str] = {}
    failed: dict[str, list[str]] = {}
    own = tuple(i for i in (asked if case.level is None else (case.level,)) if i != 4)
    for closed in (False, True):
        if (closed and 4 not in (asked if case.level is None else (case.level,))) or (not closed and not own):
            continue
        task = case.world.task(gold or case.source, closed, None if gold is not None else case.maximum)
        if case.limit is not None and not closed:
            task = dataclasses.replace(task, max_tokens=case.limit)
        people: dict[str, Any] = {}
        if not closed and case.opinion is not None:
            people = {"ratings": case.world.ratings(case.opinion)}
        if people and len(case.name) % 2:
            people = {"pairs": case.world.pairs(case.opinion or case.world.quality)}
        report = validate(
            case.source if gold is not None else task,
            task if gold is not None else None,
            canaries=() if closed else case.canaries,
            maximum=case.maximum,
            levels=(1, 4) if closed else own,
            seconds=30,  # more than sixty batches take: a busy machine cuts no probe short
            iterations=60,
            seed=seed,
            **people,
        )
        for level, status in report.levels.items():
            if (level == 4) == closed:
                found[level] = status
        failed |= {
            r.check_id: list(r.evidence[:2]) for r in report.results if r.broken and (r.level == 4) == closed
        }
    return found, failed, time.process_time() - started


def summary(rows: Sequence[Row]) -> Row:
    """Recall of the faults, all and by level, and false alarms by level."""
    own = [r for r in rows if r["level"] is not None]
    clean = [r for r in rows if r["level"] is None]
    by_level, alarms = {}, {}
    for level in range(6):
        hits = [r["levels"].get(str(level)) == "fail" for r in own if r["level"] == level]
        by_level[str(level)] = float(np.mean(hits)) if hits else None
        judged = [r["levels"].get(str(level)) for r in clean if r["levels"].get(str(level), "skip") != "skip"]
        alarms[str(level)] = {
            "clean": len(judged),
            "alarms": sum(s == "fail" for s in judged),
            "rate": float(np.mean([s == "fail" for s in judged])) if judged else None,
        }
    named = [r["levels"].get(str(r["level"])) == "fail" for r in own]
    anywhere = ["fail" in r["levels"].values() for r in own]
    return {
        "planted": len(own),
        "recall": float(np.mean(named)) if named else None,
        "recall_at_any_level": float(np.mean(anywhere)) if anywhere else None,
        "recall_by_level": by_level,
        "false_alarms": alarms,
        "cpu_seconds": sum(r["cpu_seconds"] for r in rows),
    }


def main(options: Options) -> None:
    """Validate everything, print what is wrong, and the summary."""
    cases = [c for level in options.levels for c in planted(options.seed, level, options.planted)]
    cases += clean_cases(options.seed, options.clean)
    rows: list[Row] = []
    for case in cases:
        if options.only not in f"{case.level} {case.world.kind} {case.name}":
            continue
        found, failed, spent = levels_of(case, options.levels, options.seed)
        levels = {str(k): v for k, v in sorted(found.items())}
        rows.append(
            {
                "reward": case.name,
                "world": case.world.kind,
                "level": case.level,
                "levels": levels,
                "failed": failed,
                "cpu_seconds": round(spent, 2),
            }
        )
        right = "fail" not in levels.values() if case.level is None else levels.get(str(case.level)) == "fail"
        mark = "ok" if right else "FALSE ALARM" if case.level is None else "MISSED"
        print(f"| {case.level} | {case.world.kind} | {case.name} | {mark} | {spent:.1f} s |", flush=True)
        if not right:
            print(f"    {levels}\n    {str(failed)[:600]}", flush=True)
        if options.json:  # after each, so that what was run is kept
            save(options.json, rows, seed=options.seed, summary=summary(rows))
    print(summary(rows))


if __name__ == "__main__":
    main(tyro.cli(Options, prog="validate_faults.py"))
