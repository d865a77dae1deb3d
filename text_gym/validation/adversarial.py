"""Level 2: tricks earn less than work."""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np

from .measuring import Check, CheckFinding, mean, quoted, skipped
from .subject import Materials
from .tricks import ANOTHER, DISGUISED, additions, lazy_kinds

LAZY = 0.6  # between floor 0 and golden 1: what a text that takes no work may earn
GAIN, SHARE = 0.1, 0.75  # a change that pays so much, in so many of the texts, is a trick
BLIND = 0.65  # what the golden text of another prompt may: parts of the answer may be the same
SHARE_DISGUISED = 0.3  # a word in look-alikes should never pay more, and a text may be wrong besides
COPIED = 0.25  # the same of the prompt, which may hold parts of the answer
GAP = 0.05  # how far below the median honest text the best trick has to be


def level_2(m: Materials) -> dict[str, Check]:
    """Return the checks of level 2."""
    panel = _Panel(m)
    checks = {
        "statistical.adversarial_floor": panel.floor,
        "statistical.adversarial_gain": panel.gain,
        "statistical.gameability_gap": panel.gap,
        "statistical.prompt_relevance": panel.relevance,
    }
    return {check_id: partial(_if_scaled, m, check) for check_id, check in checks.items()}


def _if_scaled(m: Materials, check: Check) -> CheckFinding:
    return skipped("it needs semantic.floor_gap") if np.isnan(m.scale.width) else check()


class _Panel:
    """The tricks and what they earn, scored once."""

    def __init__(self, m: Materials) -> None:
        self.m = m

    @cached_property
    def lazy(self) -> dict[str, tuple[float, float, str]]:
        """What each kind of lazy text earns on average and at least, and the text of it that earns most."""
        kinds = lazy_kinds(self.m)
        together = [e for episodes in kinds.values() for e in episodes]
        rewards = self.m.subject.score(together)
        found, start = {}, 0
        for name, episodes in kinds.items():
            own = rewards[start : start + len(episodes)]
            start += len(episodes)
            if not np.isnan(own).all():
                i = int(np.nanargmax(own))
                units = self.m.scale.unit(own)
                # Luck is no trick: partial credit in a small vocabulary varies from prompt to prompt.
                least = mean(units) - 2 * float(np.nanstd(units)) / len(units) ** 0.5
                found[name] = (mean(units), least, quoted(episodes[i], own[i]))
        return found

    def floor(self) -> CheckFinding:
        lazy = self.lazy
        over = [n for n, (_, least, _) in lazy.items() if least > (BLIND if n == ANOTHER else LAZY)]
        over.sort(key=lambda n: -lazy[n][0])
        evidence = tuple(f"{name}: {lazy[name][2]} ({lazy[name][0]:.0%} of golden)" for name in over[:3])
        tops = sorted(lazy.items(), key=lambda item: -item[1][0])[:8]
        measured = {"allowed": LAZY, "kinds": len(lazy), "best": {n: round(own[0], 4) for n, own in tops}}
        return CheckFinding(not over, evidence, measured)

    def gain(self) -> CheckFinding:
        kinds = additions(self.m)
        together = [e for pairs in kinds.values() for pair in pairs for e in pair]
        rewards = self.m.scale.unit(self.m.subject.score(together)).reshape(-1, 2)
        found, shown, start = {}, {}, 0
        for name, pairs in kinds.items():
            change = rewards[start : start + len(pairs), 1] - rewards[start : start + len(pairs), 0]
            start += len(pairs)
            if not np.isnan(change).all():
                i = int(np.nanargmax(change))
                found[name] = (mean(change), float((change > GAIN / 2).mean()))
                shown[name] = quoted(pairs[i][1], rewards[start - len(pairs) + i, 1])
        over = sorted(
            (
                n
                for n, (gain, share) in found.items()
                if gain > (COPIED if "prompt" in n else GAIN)
                and share >= (SHARE_DISGUISED if n.endswith(DISGUISED) else SHARE)
            ),
            key=lambda n: -found[n][0],
        )
        evidence = tuple(
            f"{name}: raises the reward by {found[name][0]:.0%} of the range, e.g. {shown[name]}"
            for name in over[:3]
        )
        best = sorted(found.items(), key=lambda item: -item[1][0])[:8]
        measured = {"allowed": GAIN, "kinds": len(found), "best": {n: round(g, 4) for n, (g, _) in best}}
        return CheckFinding(not over, evidence, measured)

    def gap(self) -> CheckFinding:
        if not self.lazy:
            return skipped("no trick can be written in the vocabulary")
        tricks = {name: own for name, own in self.lazy.items() if name != ANOTHER}
        name, (_, best, shown) = max(tricks.items(), key=lambda item: item[1][1])
        honest = float(np.nanmedian(self.m.scale.unit(self.m.scale.honest)))
        measured = {"best_adversarial": best, "median_honest": honest, "gap": best - honest, "trick": name}
        ok = best - honest <= -GAP
        said = f"{name}: {shown}; the median honest text earns {honest:.0%} of golden"
        return CheckFinding(ok, () if ok else (said,), measured)

    def relevance(self) -> CheckFinding:
        m = self.m
        pairs = [(p, m.golden.get(m.other(i).text, "")) for i, p in enumerate(m.prompts)]
        wrong = m.subject.written([(p, t) for p, t in pairs if t and not m.is_golden(p, t)])
        if len(wrong) < min(4, len(m.prompts)) or len(m.prompts) == 1:
            return skipped("there are no two prompts with different golden texts")
        unit = mean(m.scale.unit(m.subject.score(wrong)))
        shown = quoted(wrong[0], float(m.subject.score(wrong[:1])[0]))
        ok = unit < 1 - GAP
        return CheckFinding(
            ok, () if ok else (f"the golden text of another prompt: {shown}",), {"other": unit}
        )
