"""Level 4: a policy learns from it, and learns what is meant.

A probe is at most a minute of GRPO from the task's policy, from one fitted to the task's texts for a moment,
or from nothing. It shows that something can be learnt, never how much.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from text_gym.agents.algorithms.configs import GRPOConfig, SFTConfig
from text_gym.agents.algorithms.grpo import GRPO
from text_gym.agents.algorithms.sft import SFT
from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.evaluation import Report, evaluate
from text_gym.agents.training.texts import overlap
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import Episode, FloatArray, Prompt, share_cut
from text_gym.errors import TextGymError
from text_gym.reward_models.audit.scoring import scores
from text_gym.utils.interval import Interval, mean_interval, shown

from .measuring import Check, CheckFinding, paid_text, skipped
from .subject import Materials, RewardRange

LOG = logging.getLogger("text_gym")
ITERATIONS, EPISODES, GROUP = 60, 64, 4
PATIENCE = 4  # times as many batches, where the reward has not risen yet and there is time
JUDGED = 48  # held-out prompts that the probe is judged on, twice each
RISE = 0.02  # of the range: what has to be gained at least, and near the top this share of what is left
RISE_OF_HEADROOM = 0.2
HOLLOW = 0.5  # of golden, by gold: texts that earn as much as golden ones should not be below
HEADROOM = 0.95  # of golden: from here on nothing is left to learn
# From the first gain on a criterion must not fall, from the second on it has to rise by a share of it.
ROSE, ROSE_MUCH, CRITERION_GAIN, CRITERION_FALL = 0.05, 0.15, 0.2, 0.05
_RATES = {"shipped": 3e-4, "fitted": 1e-3, "new": 3e-3}
_SFT_TEXTS, _SFT_STEPS = 4000, 300
_OPEN = 400  # a vocabulary of more ids is not learnt from nothing in a minute


@dataclass(frozen=True)
class LearningProbe:
    """A policy before and after a minute of policy gradient.

    Args:
        start: Where it started: `shipped`, `fitted` or `new`.
        before: Its evaluation on held-out prompts.
        after: The same afterwards.
        iterations: Batches that it learnt from.
        undecided: Share of the first batches' groups whose texts all earned the same.
        seconds: Of CPU time that it took.
        rewards: Mean reward of each batch, in order, in the reward's own units.
    """

    start: str
    before: Report
    after: Report
    iterations: int
    undecided: float
    seconds: float
    rewards: tuple[float, ...] = ()

    @property
    def climbed(self) -> bool:
        """True if the last fifth of its batches earned more than the first, by 2 standard errors."""
        fifth = len(self.rewards) // 5
        if fifth < 3:
            return False
        first, last = np.array(self.rewards[:fifth]), np.array(self.rewards[-fifth:])
        error = np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / fifth)
        return bool(last.mean() - first.mean() > 2 * error)


def level_4(m: Materials, seconds: float, iterations: int = ITERATIONS) -> dict[str, Check]:
    """Return the checks of level 4.

    Args:
        m: What they are for.
        seconds: CPU time that the probe may take, its start included; ten times as much by the clock.
        iterations: Batches that it learns from; `PATIENCE` times as many at most where nothing has risen.
    """
    trial = _Trial(m, seconds, iterations)
    checks = {
        "statistical.reward_reachability": trial.reachable,
        "statistical.training_signal": trial.rises,
        "statistical.headroom": trial.headroom,
        "statistical.reward_hacking": trial.hacked,
        "statistical.degeneration": trial.degenerate,
    }
    return {check_id: partial(_if_possible, m, check) for check_id, check in checks.items()}


def _if_possible(m: Materials, check: Check) -> CheckFinding:
    if np.isnan(m.scale.width):
        return skipped("it needs semantic.floor_gap")
    if m.subject.source.interactive:
        return skipped("people cannot be asked about a probe's texts")
    return check()


class _Clock:
    """Tells when a CPU time is over, so that a busy machine learns as much; or ten times it by the clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.cpu, self.wall = seconds, time.process_time(), time.perf_counter()

    @property
    def spent(self) -> float:
        return time.process_time() - self.cpu

    @property
    def over(self) -> bool:
        return self.spent > self.seconds or time.perf_counter() - self.wall > 10 * self.seconds


@contextmanager
def _quiet() -> Iterator[None]:
    before = LOG.level
    LOG.setLevel(logging.ERROR)
    try:
        yield
    finally:
        LOG.setLevel(before)


class _Trial:
    """The probe, run once, and what it says."""

    def __init__(self, m: Materials, seconds: float, iterations: int) -> None:
        self.m, self.seconds, self.iterations = m, seconds, iterations

    @cached_property
    def probe(self) -> LearningProbe | str:
        """The probe; or why there is none."""
        try:
            return self._probe()
        except TextGymError as error:
            return f"{type(error).__name__}: {error}"

    def _probe(self) -> LearningProbe | str:
        m, subject, watch = self.m, self.m.subject, _Clock(self.seconds)
        policy, start = _starting_policy(self.m, self.seconds / 3)
        if policy is None:
            return start
        prompts = list(subject.task.held_out or subject.task.prompts)[:JUDGED]
        env = TextVectorEnv(
            **subject.task.env_kwargs(reward=subject.source),
            num_envs=EPISODES,
            numbering="global",
        )
        judge = partial(evaluate, policy, env, prompts, seed=subject.seed, episodes_per_prompt=2)
        before = judge()
        config = GRPOConfig(
            iterations=PATIENCE * self.iterations,
            learning_rate=_RATES[start],
            kl_coef=0.0 if start == "new" else 0.02 * max(m.scale.width, 1e-6),
            group_size=GROUP,
            anneal=False,
            seed=subject.seed,
        )
        undecided: list[float] = []
        rewards: list[float] = []
        probes: list[LearningProbe] = []

        def look() -> LearningProbe:
            first = float(np.mean(undecided[:5])) if undecided else 1.0
            earned = tuple(x for x in rewards if not np.isnan(x))
            return LearningProbe(start, before, judge(), agent.iteration, first, watch.spent, earned)

        def after_each(agent: Any, metrics: Any) -> bool:
            undecided.append(float(metrics.get("groups_without_preference", 1.0)))
            rewards.append(float(metrics["reward"]))
            if agent.iteration % self.iterations == 0:
                probes.append(look())
                return not (watch.over or self._rose(probes[-1]))
            return not watch.over

        agent = GRPO(policy, env, config)
        with _quiet():  # its advice is for those who train
            agent.learn(callback=after_each)
        looked = probes and probes[-1].iterations == agent.iteration
        return probes[-1] if looked else look()

    def _units(self, report: Report) -> FloatArray:
        return self.m.scale.unit(np.asarray(report.rewards, dtype=np.float64))

    def _gain(self, probe: LearningProbe) -> Interval:
        return mean_interval(_by_prompt(self._units(probe.after) - self._units(probe.before)))

    def reachable(self) -> CheckFinding:
        probe = self.probe
        if isinstance(probe, str):
            return CheckFinding(False, (probe,))
        measured = {"start": probe.start, "groups_without_preference": probe.undecided}
        ready = float(np.nanmean(self._units(probe.before))) >= HEADROOM
        ok = probe.undecided < 0.98 or ready
        said = f"{probe.undecided:.0%} of the groups of {GROUP} texts earned the same ({probe.start} policy)"
        return CheckFinding(ok, () if ok else (said,), measured)

    def _rose(self, probe: LearningProbe) -> bool:
        # Forty-eight prompts are few for a small gain; a thousand texts of its batches may be surer of it.
        gain, before = self._gain(probe), float(np.nanmean(self._units(probe.before)))
        enough = min(RISE, RISE_OF_HEADROOM * max(0.0, 1 - before))
        return (gain.value >= enough and (gain.low > 0 or probe.climbed)) or before >= HEADROOM

    def rises(self) -> CheckFinding:
        probe = self.probe
        if isinstance(probe, str):
            return skipped(probe)
        gain, ok = self._gain(probe), self._rose(probe)
        before, after = (float(np.nanmean(self._units(r))) for r in (probe.before, probe.after))
        measured = {
            "start": probe.start,
            "before": before,
            "after": after,
            "gain": gain.summary(),
            "iterations": probe.iterations,
            "seconds": round(probe.seconds, 1),
        }
        said = f"{before:.2f} → {after:.2f} of golden in {probe.iterations} batches, {shown(gain, sign=True)}"
        return CheckFinding(ok, () if ok else (said,), measured)

    def headroom(self) -> CheckFinding:
        probe = self.probe
        if isinstance(probe, str):
            return skipped(probe)
        before = float(np.nanmean(self._units(probe.before)))
        said = f"the {probe.start} policy earns {before:.0%} of golden already"
        return CheckFinding(before < HEADROOM, () if before < HEADROOM else (said,), {"before": before})

    def hacked(self) -> CheckFinding:
        probe = self.probe
        if isinstance(probe, str):
            return skipped(probe)
        gain = self._gain(probe)
        measured: dict[str, Any] = {"reward_gain": gain.summary()}
        gold = self._gold_units(probe.after)
        after = float(np.nanmean(self._units(probe.after)))
        if gold is not None and after >= HEADROOM and float(np.nanmean(gold)) < HOLLOW:
            said = f"the probe's texts earn {after:.0%} of golden, and {np.nanmean(gold):.0%} by gold"
            return CheckFinding(False, (said, self._best_of(probe)), measured)
        if not (gain.value >= ROSE and gain.low > 0):
            said = f"the reward rose by {gain.value:.2f} of the range only; nothing was optimised yet"
            return CheckFinding(None, (said,), measured)
        fallen = []
        for name, values in self._criteria(probe).items():
            criterion = mean_interval(values)
            measured[name] = criterion.summary()
            fell = criterion.value < -CRITERION_FALL and criterion.high < 0
            # From nothing there is nothing to fall from: what was not optimised has to rise along.
            stuck = name == "gold" and criterion.high < CRITERION_GAIN * gain.value
            stuck = stuck or (name != "gold" and probe.start == "new" and criterion.high < 0.01)
            if fell or (stuck and gain.value >= ROSE_MUCH):
                fallen.append(f"{name} {shown(criterion, sign=True)} as the reward rose by {shown(gain)}")
        evidence = (*fallen, self._best_of(probe)) if fallen else ()
        if len(measured) == 1:
            return skipped("there is neither gold nor a golden text to judge the probe's texts by")
        return CheckFinding(not fallen, evidence, measured)

    @staticmethod
    def _best_of(probe: LearningProbe) -> str:
        best = int(np.nanargmax(probe.after.rewards))
        return paid_text(probe.after.episodes[best], float(probe.after.rewards[best]))

    def _gold_units(self, report: Report) -> FloatArray | None:
        """Return what gold gives the texts, 0 at its floor and 1 at golden texts; None if there is none."""
        gold = self.m.subject.gold
        if gold is None:
            return None
        scale = self._gold_scale
        return None if np.isnan(scale.width) else scale.unit(scores(gold, list(report.episodes)))

    @cached_property
    def _gold_scale(self) -> RewardRange:
        gold = self.m.subject.gold or self.m.subject.source
        return Materials(dataclasses.replace(self.m.subject, source=gold, maximum=None)).scale

    def _criteria(self, probe: LearningProbe) -> dict[str, FloatArray]:
        """Return the gain of each criterion that was not optimised, by prompt, `(n,)`, in its own range."""
        m, found = self.m, {}
        before, after = probe.before.episodes, probe.after.episodes
        golds = [self._gold_units(report) for report in (probe.after, probe.before)]
        if golds[0] is not None and golds[1] is not None:
            found["gold"] = _by_prompt(golds[0] - golds[1])
        write = m.subject.golden
        if write is not None:
            wanted = [_ids_of(m, e.prompt, write(e.prompt)) for e in after]
            shares = [
                np.array([overlap(list(e.completion_ids), w) for e, w in zip(episodes, wanted, strict=True)])
                for episodes in (after, before)
            ]
            found["overlap with golden texts"] = _by_prompt(shares[0] - shares[1])
        return found

    def degenerate(self) -> CheckFinding:
        probe = self.probe
        if isinstance(probe, str):
            return skipped(probe)
        before, after = (_fresh(r.episodes) for r in (probe.before, probe.after))
        cut = [share_cut(r.episodes) for r in (probe.before, probe.after)]
        measured = {
            "distinct_before": before,
            "distinct_after": after,
            "cut_before": cut[0],
            "cut_after": cut[1],
        }
        said = []
        if after < 0.6 * before and after < 0.5:
            said.append(f"distinct tokens in a text: {before:.2f} → {after:.2f}")
        if cut[1] > 0.5 and cut[1] > cut[0] + 0.3:
            said.append(f"texts cut at the limit: {cut[0]:.0%} → {cut[1]:.0%}")
        return CheckFinding(not said, tuple(said), measured)


def _ids_of(m: Materials, prompt: Prompt, text: str) -> list[int]:
    episode = m.subject.write(prompt, text)
    return [] if episode is None else episode.completion_ids.tolist()


def _by_prompt(values: FloatArray) -> FloatArray:
    """Return the mean of each prompt's two texts."""
    return np.asarray(values.reshape(-1, 2).mean(axis=1), dtype=np.float64)


def _fresh(episodes: list[Episode]) -> float:
    """Return the mean share of distinct ids in a text."""
    ids = [e.completion_ids.tolist() for e in episodes]
    return float(np.mean([len(set(own)) / len(own) for own in ids if own]))


def _starting_policy(m: Materials, seconds: float) -> tuple[Policy | None, str]:
    """Return a policy to start from and where it comes from; or why there is none."""
    task = m.subject.task
    if task.policy is not None:
        return Policy.from_pretrained(task.policy, task.tokenizer, device="cpu"), "shipped"
    texts = list(task.corpus()[0][:_SFT_TEXTS]) if task.corpus is not None else []
    if task.tokenizer.vocab_size > _OPEN and not texts:
        return None, (
            f"a vocabulary of {task.tokenizer.vocab_size} is not learnt from nothing in a minute, and the "
            "task has neither a policy nor texts"
        )
    longest = max(len(p.encode(task.tokenizer)) for p in (*task.prompts[:512], *task.held_out[:JUDGED]))
    policy = Policy.new(
        task.tokenizer,
        width=48,
        layers=1,
        context=longest + task.max_tokens + 8,
        device="cpu",
        seed=m.subject.seed,
    )
    if not texts or _learns_from_nothing(m, policy):
        return policy, "new"
    # Texts to write like before any reward is seen: a moment only, so that there is something left to learn.
    clock = _Clock(seconds)
    steps = SFTConfig(epochs=_SFT_STEPS * 32 / len(texts), seed=m.subject.seed)
    SFT(policy, texts, steps).learn(lambda step: not clock.over)
    return policy, "fitted"


def _learns_from_nothing(m: Materials, policy: Policy) -> bool:
    """Return True if random texts earn different rewards often enough to learn from."""
    task = m.subject.task
    env = TextVectorEnv(**task.env_kwargs(reward=m.subject.source), num_envs=EPISODES, numbering="global")
    prompts = list(task.prompts)[:16]
    report = evaluate(policy, env, prompts, seed=m.subject.seed, episodes_per_prompt=8)
    rewards = report.rewards.reshape(-1, 8)
    return bool((np.ptp(np.nan_to_num(rewards), axis=1) > 1e-9).mean() >= 0.5)
