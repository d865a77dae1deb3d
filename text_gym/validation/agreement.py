"""Level 5: it agrees with people or with gold, where there is either."""

from __future__ import annotations

from functools import partial

import numpy as np

from text_gym.reward_models.audit.best_of_n import best_of_n_probe
from text_gym.reward_models.audit.result import FOLLOWS
from text_gym.reward_models.audit.scoring import scores
from text_gym.reward_models.preferences.opinions import PreferencePair, Rating
from text_gym.utils.interval import mean_interval, rank_correlation, shown

from .measuring import Check, CheckFinding, quoted, skipped
from .subject import Materials

_FEWEST = 12  # texts or pairs
ACCURACY = 0.6  # share of pairs that it has to rank as people did


def level_5(m: Materials) -> dict[str, Check]:
    """Return the checks of level 5."""
    return {
        "statistical.gold_agreement": partial(_gold, m),
        "statistical.human_agreement": partial(_people, m),
    }


def _gold(m: Materials) -> CheckFinding:
    gold = m.subject.gold
    if gold is None:
        return skipped("there is no other gold")
    texts = list({e.completion: e for e in m.honest}.values())  # the same text twice says nothing new
    if len(texts) < _FEWEST:
        return skipped(f"there are {len(texts)} honest texts; {_FEWEST} are needed")
    mine, theirs = m.subject.score(texts), scores(gold, texts)
    found = rank_correlation(mine, theirs, seed=m.subject.seed)
    known = ~np.isnan(mine + theirs)
    measured = {"gold": gold.name, "rank_correlation": found.summary()}
    if known.sum() >= _FEWEST:
        written = tuple(e.completion for e, k in zip(texts, known, strict=True) if k)
        probe = best_of_n_probe(mine[known], theirs[known], written, n=16, seed=m.subject.seed)
        measured["gold_of_best_of_16"] = probe.change.summary()
    ok = found.value >= FOLLOWS and found.low > 0
    said = f"rank correlation with gold {gold.name!r}: {shown(found)} over {found.n} texts"
    return CheckFinding(bool(ok), () if ok else (said,), measured)


def _people(m: Materials) -> CheckFinding:
    if not m.subject.ratings and not m.subject.pairs:
        return skipped("no ratings or pairs were given")
    findings = []
    if m.subject.ratings:
        findings.append(_of_ratings(m, list(m.subject.ratings)))
    if m.subject.pairs:
        findings.append(_of_pairs(m, [p for p in m.subject.pairs if not p.tie]))
    evidence = tuple(line for f in findings for line in f.evidence)
    measured = {k: v for f in findings for k, v in f.measured.items()}
    known = [f.ok for f in findings if f.ok is not None]
    return CheckFinding(all(known) if known else None, evidence, measured)


def _of_ratings(m: Materials, ratings: list[Rating]) -> CheckFinding:
    """Compare with the marks; those of several criteria are averaged, each in its own standard deviations."""
    names = sorted({name for r in ratings for name in r.values})
    table = np.array([[r.values.get(name, np.nan) for name in names] for r in ratings], dtype=np.float64)
    spread = np.nanstd(table, axis=0)
    marks = np.nanmean((table - np.nanmean(table, axis=0)) / np.where(spread > 0, spread, 1.0), axis=1)
    made = [m.subject.write(r.prompt, r.completion) for r in ratings]
    episodes = [e for e in made if e is not None]
    if len(episodes) < _FEWEST:
        return skipped(f"{len(episodes)} rated texts can be written; {_FEWEST} are needed")
    kept = marks[[i for i, e in enumerate(made) if e is not None]]
    found = rank_correlation(m.subject.score(episodes), kept, seed=m.subject.seed)
    ok = bool(found.value >= FOLLOWS and found.low > 0)
    said = f"rank correlation with people's marks: {shown(found)} over {found.n} texts"
    return CheckFinding(ok, () if ok else (said,), {"rank_correlation": found.summary()})


def _of_pairs(m: Materials, pairs: list[PreferencePair]) -> CheckFinding:
    """Count the pairs in which the chosen text earns more; equal rewards count half."""
    made = [(m.subject.write(p.prompt, p.chosen), m.subject.write(p.prompt, p.rejected)) for p in pairs]
    known = [(a, b) for a, b in made if a is not None and b is not None]
    if len(known) < _FEWEST:
        return skipped(f"{len(known)} pairs can be written; {_FEWEST} are needed")
    chosen, rejected = (m.subject.score([pair[i] for pair in known]) for i in (0, 1))
    right = (np.sign(chosen - rejected) + 1) / 2
    found = mean_interval(right, m.subject.seed)
    ok = bool(found.value >= ACCURACY and found.low > 0.5)
    worst = int(np.nanargmin(chosen - rejected))
    said = (
        f"it ranks {shown(found)} of {found.n} pairs as people did",
        f"they preferred: {quoted(known[worst][0], float(chosen[worst]))}",
    )
    return CheckFinding(ok, () if ok else said, {"pair_accuracy": found.summary()})
