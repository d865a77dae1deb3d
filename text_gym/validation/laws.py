"""Level 0: it loads, and the reward of a text depends on the text alone."""

from __future__ import annotations

from functools import partial

import numpy as np

from text_gym.envs.checker import check_text_env, random_episodes
from text_gym.envs.reward_checker import reward_laws
from text_gym.envs.single import TextEnv
from text_gym.episode import Episode
from text_gym.errors import CheckError, RewardError

from .measuring import Check, CheckFinding, paid_text, skipped
from .subject import Materials
from .tricks import look_alike

# Names of the laws of `reward_laws`, and the checks that they are.
_LAWS = {
    "side effects": "runtime.episode_isolation",
    "deterministic": "semantic.verifier_determinism",
    "order": "runtime.order_invariance",
    "batch": "runtime.batch_invariance",
    "causal": "runtime.token_rewards",
}
_ODD = (
    "",
    " ",
    "\n\n",
    "\t",
    "0",
    "-1",
    "1e999",
    "nan",
    "{",
    "}",
    "[[",
    '{"a": }',
    "</answer>",
    "%s {0}",
    "\\",
)
_ODD_LETTERS = ("é", "\u200b", "\ufeff", "漢字", "🙂🙂", "a\u0301", "\u202eabc", "\x00", "Ω" * 50, "x" * 400)


def level_0(m: Materials) -> dict[str, Check]:
    """Return the checks of level 0."""
    found: dict[str, CheckError | None] | RewardError | None = None

    def laws(name: str) -> CheckFinding:
        nonlocal found
        if found is None:
            try:
                found = dict(reward_laws(m.subject.source, _episodes(m), seed=m.subject.seed))
            except RewardError as error:
                found = error
        if isinstance(found, RewardError):
            return skipped(f"it refuses texts: {found}")
        if name not in found:
            why = "is not causal" if name == "causal" else "says that it is not deterministic"
            return skipped(f"the reward {why}")
        broken = found[name]
        return CheckFinding(broken is None, () if broken is None else (str(broken),))

    def well_formed() -> CheckFinding:
        finding = _well_formed(m)
        if finding.ok and isinstance(found, RewardError):  # it is no single text that it refuses
            return CheckFinding(False, (f"texts that it takes one by one, as a batch: {found}",))
        return finding

    return {
        "runtime.loads": partial(_loads, m),
        # Before anything else is scored: a reward may remember what it saw.
        **{check_id: partial(laws, name) for name, check_id in _LAWS.items()},
        "runtime.reward_well_formed": well_formed,
        "runtime.environment_laws": partial(_environment, m),
    }


def _episodes(m: Materials) -> list[Episode]:
    """Return random, golden and honest texts that the reward takes."""
    own = [*random_episodes(m.subject.task, m.subject.seed)[:24], *m.golden_episodes[:8], *m.honest[:24]]
    own += m.nothing[:2]
    return own if len(own) > 1 else own * 2


def _loads(m: Materials) -> CheckFinding:
    # One golden or honest text, which any reward has to take.
    some = (m.golden_episodes or m.honest or _episodes(m))[:1]
    rewards = m.subject.source(some)
    return CheckFinding(True, (), {"reward": float(rewards.totals[0])})


def _well_formed(m: Materials) -> CheckFinding:
    texts = [*_ODD, *_ODD_LETTERS, *(look_alike(e.completion) for e in m.golden_episodes[:2])]
    odd = m.subject.written([(m.prompts[i % len(m.prompts)], text) for i, text in enumerate(texts)])
    episodes = [*_episodes(m), *odd]
    rewards = []
    for episode in episodes:  # one by one, to name the text
        try:
            rewards.append(float(m.subject.source([episode]).totals_or_nan[0]))
        except RewardError as error:
            return CheckFinding(False, (f"{paid_text(episode, np.nan)[: -len(' earns nan')]}: {error}",))
    known = np.array([r for r in rewards if not np.isnan(r)])
    measured: dict[str, float] = {"texts": len(episodes), "abstained": len(rewards) - len(known)}
    if not len(known):
        return CheckFinding(False, ("it abstained on every text",), measured)
    measured |= {"smallest": float(known.min()), "largest": float(known.max())}
    top = m.subject.maximum
    if top is not None and known.max() > top + 1e-6:
        i = int(np.nanargmax(rewards))
        evidence = f"{paid_text(episodes[i], rewards[i])}, more than the maximum of {top:g}"
        return CheckFinding(False, (evidence,), measured)
    return CheckFinding(True, (), measured)


def _environment(m: Materials) -> CheckFinding:
    if m.subject.kind != "task":
        return skipped("a reward alone makes no environment")
    task = m.subject.task
    longest = max((len(p.text) for p in task.prompts), default=0)
    check_text_env(TextEnv(task=task), steps=100 if longest < 2000 else 20, seed=m.subject.seed)
    return CheckFinding(True)
