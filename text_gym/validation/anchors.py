"""Level 1: golden texts at the maximum, texts without any work at the floor."""

from __future__ import annotations

from functools import partial

import numpy as np

from text_gym.errors import TokenError

from .measuring import Check, CheckFinding, mean, quoted, skipped
from .subject import Materials
from .tricks import null_kinds

TOLERANCE = 0.05  # of the range: how far below the maximum a golden text may be
MISSES = 0.05  # share of golden texts that may be
MARGIN = 0.5  # of the range: how far a text that ends at once has to be below golden ones
NULL = 0.4  # between floor 0 and golden 1: what a text that says nothing may earn
LUCK = 0.6  # what random tokens may: a small vocabulary is often right by luck, where parts are paid


def level_1(m: Materials) -> dict[str, Check]:
    """Return the checks of level 1."""
    return {
        "semantic.oracle_max": partial(_oracle_max, m),
        "semantic.oracle_fits": partial(_oracle_fits, m),
        "semantic.floor_gap": partial(_floor_gap, m),
        "semantic.null_floor": partial(_null_floor, m),
    }


def _oracle_max(m: Materials) -> CheckFinding:
    if m.subject.golden is None:
        return CheckFinding(False, ("there are no golden texts",))
    if not m.golden_episodes:
        return CheckFinding(False, ("no golden text can be written in the vocabulary",))
    scale = m.scale
    size = scale.top - scale.low
    golden = np.nan_to_num(scale.golden, nan=scale.low)
    below = golden < scale.top - TOLERANCE * size - 1e-9
    measured = {"oracle_reward": mean(golden), "maximum": scale.top, "share_below": float(below.mean())}
    ok = bool(below.mean() <= MISSES) and size > 0
    worst = int(np.argmin(golden))
    evidence = f"{quoted(m.golden_episodes[worst], golden[worst])} of {scale.top:.3g}"
    if not size > 0:
        evidence = f"all texts earn {scale.top:.3g}"
    return CheckFinding(ok, () if ok else (evidence,), measured)


def _oracle_fits(m: Materials) -> CheckFinding:
    if m.subject.golden is None:
        return skipped("there are no golden texts")
    limit, longest = m.subject.task.max_tokens, 0
    for prompt in m.prompts:
        text = m.golden[prompt.text]
        try:
            ids = prompt.encode_completion(text, m.subject.task.tokenizer)
        except TokenError as error:
            return CheckFinding(False, (str(error),))
        longest = max(longest, len(ids))
        if len(ids) - 1 > limit:  # EOS may be what is cut
            evidence = f"{quoted(m.subject.written([(prompt, text)])[0], np.nan)[: -len(' earns nan')]}"
            return CheckFinding(False, (f"{evidence}: {len(ids)} tokens, and the limit is {limit}",))
    return CheckFinding(True, (), {"longest": longest, "limit": limit})


def _floor_gap(m: Materials) -> CheckFinding:
    if not m.golden_episodes:
        return skipped("there are no golden texts")
    scale = m.scale
    measured = {"oracle_reward": scale.reached, "measured_floor": scale.floor, "declared_margin": MARGIN}
    size = scale.top - min(scale.low, scale.floor)
    ok = bool(scale.reached - scale.floor >= MARGIN * size) and size > 0
    gap = f"a text that ends at once earns {scale.floor:.3g}, golden texts {scale.reached:.3g}"
    return CheckFinding(ok, () if ok else (gap,), measured)


def _null_floor(m: Materials) -> CheckFinding:
    if np.isnan(m.scale.width):
        return skipped("it needs semantic.floor_gap")
    found, shown = {}, {}
    for name, episodes in null_kinds(m).items():
        kept = [e for e in episodes if not m.is_golden(e.prompt, e.completion)]
        rewards = m.subject.score(kept)
        found[name] = mean(m.scale.unit(rewards)) if len(kept) else np.nan
        if len(kept) and not np.isnan(rewards).all():
            i = int(np.nanargmax(rewards))
            shown[name] = quoted(kept[i], rewards[i])
    over = [n for n, value in found.items() if value > (LUCK if n.startswith("random") else NULL)]
    over.sort(key=lambda n: -found[n])
    worst = max((v for v in found.values() if not np.isnan(v)), default=float("nan"))
    evidence = tuple(f"{name}: {shown[name]}, {found[name]:.0%} of the way to golden" for name in over[:3])
    return CheckFinding(not over, evidence, {"worst": worst, "allowed": NULL, "kinds": len(found)})
