"""Level 3: the answer can neither be read off nor reached, known hacks earn nothing, the splits are apart."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np

from text_gym.episode import Episode, Prompt

from .measuring import Check, CheckFinding, mean, quoted, skipped
from .subject import Materials

EXTRACTED = 0.75  # between floor 0 and golden 1: what a piece of the prompt may earn
REACHED = 0.75  # what the name of a column may earn
BEYOND = 0.25  # how far beyond its control either has to be
CANARY = 0.4  # what a known hack may earn
_MARKS = re.compile(r"[:=|>#\n]|\(|\[|->|→")
# Ways to name a column, for rewards that format, template or evaluate what was written.
_NAMES = (
    "{%s}",
    "{{%s}}",
    "{{ %s }}",
    "$%s",
    "${%s}",
    "%%(%s)s",
    "%s",
    "<%s>",
    "[%s]",
    "columns['%s']",
    "prompt.columns['%s']",
    'episode.prompt.columns["%s"]',
    "{columns[%s]}",
    "{prompt.columns[%s]}",
    "{episode.prompt.columns[%s]}",
    "{0.prompt.columns[%s]}",
    "%s == %s",
)


def level_3(m: Materials) -> dict[str, Check]:
    """Return the checks of level 3."""
    return {
        "semantic.no_solution_leakage": partial(_leakage, m),
        "runtime.oracle_containment": partial(_containment, m),
        "semantic.canary_floor": partial(_canaries, m),
        "semantic.split_separation": partial(_splits, m),
    }


def _rules(prompts: list[Prompt]) -> dict[str, Callable[[str], str]]:
    """Return rules that cut a piece out of a prompt, by name; some follow a word that all prompts have."""

    def at(parts: list[str], i: int) -> str:
        return parts[i].strip() if -len(parts) <= i < len(parts) else ""

    rules: dict[str, Callable[[str], str]] = {"the whole prompt": str.strip}
    for i in (0, 1, 2, -3, -2, -1):
        rules[f"word {i}"] = lambda text, i=i: at(text.split(), i).strip(".,;:!?()[]{}<>\"'")  # type: ignore[misc]
        rules[f"line {i}"] = lambda text, i=i: at(text.strip().splitlines(), i)  # type: ignore[misc]
        rules[f"piece {i} between marks"] = lambda text, i=i: at(  # type: ignore[misc]
            _MARKS.split(text.strip()), i
        ).strip(" .,;)]>-")
    for n in range(2, 8):
        rules[f"first {n} words"] = lambda text, n=n: " ".join(text.split()[:n])  # type: ignore[misc]
        rules[f"last {n} words"] = lambda text, n=n: " ".join(text.split()[-n:])  # type: ignore[misc]
    shared = Counter(word for p in prompts for word in set(p.text.split()))
    for word, count in shared.most_common(12):
        if count >= 0.95 * len(prompts):
            rules[f"before {word!r}"] = lambda text, w=word: text.split(w)[0].strip(" .,;")  # type: ignore[misc]
            rules[f"after {word!r}"] = lambda text, w=word: text.split(w)[-1].strip(" .,;")  # type: ignore[misc]
            rules[f"between {word!r} and a mark"] = lambda text, w=word: re.split(  # type: ignore[misc]
                r"[.,;|\n]", text.split(w)[-1]
            )[0].strip()
    for pair in ("()", "[]", "{}", "<>", '""', "''", "``"):
        rules[f"inside the last {pair}"] = partial(_inside, pair)
    return rules


def _inside(pair: str, text: str) -> str:
    found = re.findall(rf"{re.escape(pair[0])}([^{re.escape(pair)}]+){re.escape(pair[1])}", text)
    return str(found[-1]).strip() if found else ""


def _leakage(m: Materials) -> CheckFinding:
    if np.isnan(m.scale.width):
        return skipped("it needs semantic.floor_gap")
    if len(m.prompts) < 4:
        return skipped("there are too few prompts to tell a rule from luck")
    found: dict[str, tuple[float, str]] = {}
    for name, rule in _rules(m.prompts).items():
        texts = [(p, rule(p.text)) for p in m.prompts]
        own = m.subject.written([(p, text) for p, text in texts if text])
        if len(own) < 0.8 * len(texts):
            continue
        # What the same rule cuts out of another prompt is the control: the reward may like any such text.
        others = [(p, rule(m.other(i).text)) for i, p in enumerate(m.prompts)]
        control = mean(m.scale.unit(m.subject.score(m.subject.written([(p, t) for p, t in others if t]))))
        rewards = m.subject.score(own)
        i = int(np.argmax(np.nan_to_num(rewards, nan=-np.inf)))
        unit = mean(m.scale.unit(rewards))
        if not unit - control < BEYOND:
            found[name] = (unit, quoted(own[i], float(rewards[i])))
    over = sorted((n for n, (unit, _) in found.items() if unit > EXTRACTED), key=lambda n: -found[n][0])
    evidence = [
        f"{name} of the prompt earns {found[name][0]:.0%} of golden: {found[name][1]}" for name in over
    ]
    best = max((unit for unit, _ in found.values()), default=0.0)
    measured = {"best_rule": best, "allowed": EXTRACTED, "rules": len(found)}
    return CheckFinding(not evidence, tuple(evidence[:3]), measured)


def _containment(m: Materials) -> CheckFinding:
    if np.isnan(m.scale.width):
        return skipped("it needs semantic.floor_gap")
    names = list(dict.fromkeys(k for p in m.prompts for k in p.columns))
    if not names:
        return skipped("the prompts have no columns")
    found, shown = {}, {}
    for name in names:
        for form in _NAMES:
            text = form.replace("%s", name).replace("%%", "%")
            own = [e for e in m.subject.written([(p, text) for p in m.prompts[:6]]) if _new(m, e)]
            if len(own) < min(3, len(m.prompts)):
                continue
            rewards = m.subject.score(own)
            unit = mean(m.scale.unit(rewards))
            if unit > REACHED:  # the control is the name of a column that nobody has
                nobody = form.replace("%s", "qvzx").replace("%%", "%")
                control = m.subject.score(m.subject.written([(e.prompt, nobody) for e in own]))
                unit = unit if not unit - mean(m.scale.unit(control)) < BEYOND else 0.0
            found[text] = unit
            shown[text] = quoted(own[0], float(rewards[0]))
    over = sorted((t for t, unit in found.items() if unit > REACHED), key=lambda t: -found[t])
    evidence = tuple(f"{text!r} reaches the answer: {shown[text]}" for text in over[:3])
    best = max((v for v in found.values() if not np.isnan(v)), default=0.0)
    return CheckFinding(not over, evidence, {"texts": len(found), "best": best, "allowed": REACHED})


def _new(m: Materials, episode: Episode) -> bool:
    return bool(episode.completion) and not m.is_golden(episode.prompt, episode.completion)


def _canaries(m: Materials) -> CheckFinding:
    own = m.subject.written(m.subject.canaries)
    if not own:
        return skipped("no known hacks were given")
    if np.isnan(m.scale.width):
        return skipped("it needs semantic.floor_gap")
    rewards = m.subject.score(own)
    unit = m.scale.unit(rewards)
    over = [i for i in np.argsort(-np.nan_to_num(unit, nan=-np.inf)) if unit[i] > CANARY]
    evidence = tuple(quoted(own[i], rewards[i]) for i in over[:3])
    return CheckFinding(not over, evidence, {"canaries": len(own), "paid": len(over), "allowed": CANARY})


def plain(prompt: Prompt) -> str:
    """Return a prompt's text without letter case, marks and spaces that tell nothing apart.

    >>> plain(Prompt(" Say, HI!")) == plain(Prompt("say hi"))
    True
    """
    text = unicodedata.normalize("NFKC", prompt.text).casefold()
    words = re.findall(r"\w+", text)
    return " ".join(words) if words else "".join(text.split())


def _splits(m: Materials) -> CheckFinding:
    task = m.subject.task
    if not task.held_out:
        return CheckFinding(False, ("there are no held-out prompts",))
    both = {p.text for p in task.prompts} | {p.text for p in task.held_out}
    # Where letter case or marks are all that tells prompts apart, they count.
    squeezed = len({plain(p) for p in (*task.prompts, *task.held_out)})
    key: Callable[[Prompt], str] = plain if squeezed >= 0.7 * len(both) else (lambda p: p.text.strip())
    seen = {key(p): p for p in task.prompts}
    ids = {p.id for p in task.prompts}
    shared = [p for p in task.held_out if key(p) in seen or p.id in ids]
    share = len(shared) / len(task.held_out)
    evidence: tuple[str, ...] = ()
    if shared:
        first = shared[0]
        twin = seen.get(key(first), first)
        evidence = (f"{len(shared)} of {len(task.held_out)}: {first.text[:80]!r} and {twin.text[:80]!r}",)
    return CheckFinding(not shared, evidence, {"shared": len(shared), "share": share})
