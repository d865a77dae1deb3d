"""Learns from preference pairs by DPO inside a run's folder; the pairs come from a file or a label store."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from text_gym.agents.algorithms.dpo import DPO, Preference
from text_gym.agents.training.checkpoint import Choice
from text_gym.data import Conversations
from text_gym.episode import Prompt
from text_gym.errors import DataError, excerpt
from text_gym.models.world import World
from text_gym.reward_models.labels.formats import pairs, ratings
from text_gym.reward_models.labels.store import LabelStore
from text_gym.reward_models.preferences.files import read_pairs
from text_gym.reward_models.preferences.opinions import PreferencePair, pairs_from_ratings
from text_gym.tasks.task import Task
from text_gym.utils.stopping import Stop, stop_signals

from .folder import RunFolder
from .job import TrainingJob, TrainingOutcome
from .judgement import judge_policy
from .learners import asked_to_stop, take_policy

LOG = logging.getLogger("text_gym")


def read_preferences(
    source: str | Path,
    task: Task,
    *,
    prompt: str = "prompt",
    separator: str = "",
    chat: Conversations | None = None,
) -> list[Preference]:
    """Read the preference pairs that a policy is to learn, about prompts that it is not judged on.

    Ties, pairs of weight 0 and pairs about held-out prompts are left out; how many is logged.

    Args:
        source: A file of pairs (see `read_pairs`), or a label store (`.db`): its comparisons and best-of-n
            answers, and its ratings, two texts of one prompt and rater by their mean mark.
        task: Whose held-out prompts are kept apart.
        prompt: Column of the prompts in a file.
        separator: What stands after each of the task's prompts; added where a text of a pair lacks it.
        chat: How conversations are rendered; by the task's tokenizer if None.

    Raises:
        DataError: There is no such file, nothing in it to learn from, or a pair of whole conversations.
    """
    chat = chat or Conversations(task.tokenizer)
    by_people = Path(source).suffix == ".db"
    found = _from_store(source) if by_people else read_pairs(source, prompt=prompt, chat=chat)
    held_out = {p.text for p in task.held_out}
    kept: list[Preference] = []
    useless = judged = 0
    for pair in found:
        about = _prompt(pair, task, source)
        if not about.messages and not about.text.endswith(separator):
            about = type(about)(about.text + separator, about.columns, about.id)
        if pair.tie or not pair.weight or pair.chosen == pair.rejected:
            useless += 1
        elif about.text in held_out:
            judged += 1
        else:
            kept.append((about, pair.chosen, pair.rejected))
    left_out = f"{useless:,} without a preference, {judged:,} about held-out prompts"
    if not kept:
        alike = judged and {p.text for p in task.prompts} <= held_out
        why = f"; all prompts of task {task.name!r} read like one that it is judged on" if alike else ""
        raise DataError(f"{source} has no pair to learn from: of {len(found):,}, {left_out}{why}")
    if useless or judged:
        LOG.warning("%s pairs of %s left out: %s", f"{useless + judged:,}", source, left_out)
    return kept


def _prompt(pair: PreferencePair, task: Task, source: str | Path) -> Prompt:
    """Return the prompt of a pair; of a conversation as the policy's own chat template renders it.

    Raises:
        DataError: The pair is about several turns, of which the environment's are not the policy's to learn.
    """
    if any(len(talk) > 1 for talk in pair.turns[1:]):
        raise DataError(
            f"{source}: the pair about {excerpt(pair.prompt.id)} is of whole conversations, and dpo learns "
            "one reply at a time: ask with text-gym label --per-turn, or train a reward model on whole ones"
        )
    if not pair.turns or not pair.prompt.messages or getattr(task.tokenizer, "chat", None) is None:
        return pair.prompt
    return Prompt.from_messages(pair.prompt.messages, task.tokenizer, pair.prompt.columns, pair.prompt.id)


def _from_store(source: str | Path) -> list[PreferencePair]:
    with LabelStore(source, create=False) as store:
        labels = list(store.labels())
    means = [
        replace(r, values={"mean": math.fsum(r.values.values()) / len(r.values)}) for r in ratings(labels)
    ]
    found = pairs(labels) + pairs_from_ratings(means, "mean")
    if not found:
        raise DataError(
            f"{source} holds no comparison, and no two ratings of texts of one prompt by one rater; ask for "
            "some: text-gym label --kind comparison"
        )
    return found


def learn_from_pairs(
    job: TrainingJob,
) -> Callable[[RunFolder, Stop, Callable[[dict[str, float]], bool], Callable[[str], None]], TrainingOutcome]:
    """Return the function that learns by DPO; a row of metrics is an optimizer step."""
    assert job.policy is not None
    policy, world = job.policy, job.world

    def learner(
        run: RunFolder,
        stop: Stop,
        report: Callable[[dict[str, float]], bool],
        stage: Callable[[str], None],
    ) -> TrainingOutcome:
        stage(f"reading {len(job.pairs):,} pairs with the starting policy")
        if world is not None:
            take_policy(policy, world)
        reference = policy.frozen()
        dpo = DPO(policy, job.pairs, job.config, reference)
        dpo.world = world
        tokens = sum(map(len, dpo.sequences)) - sum(dpo.starts)
        per_step = tokens * job.config.epochs / job.iterations
        stage(f"measuring the start on {len(job.task.held_out):,} held-out prompts")
        before = judge_policy(policy, reference, job.task, job.reward, world)
        stage("training")
        clock = time.perf_counter()

        def after_step(metrics: dict[str, float]) -> bool:
            nonlocal clock
            if world is not None:
                asked_to_stop(stop, world)
            seconds, clock = time.perf_counter() - clock, time.perf_counter()
            row = {k: v for k, v in metrics.items() if k not in ("step", "steps")}
            times = {"seconds": seconds, "tokens_per_second": per_step / max(seconds, 1e-9)}
            return report({"iteration": metrics["step"], **row, **times})

        with stop.patience():
            try:
                dpo.learn(after_step)
            finally:
                job.save_policy(run, policy.save)
        stage("measuring the result")
        after = judge_policy(policy, reference, job.task, job.reward, world)
        played = round(per_step * dpo.steps)
        return TrainingOutcome(before, after, played, dpo.steps, Choice(dpo.steps, None))

    return learner


def follow_pairs(job: TrainingJob, world: World) -> dict[str, Any]:
    """Take every step of a run by DPO beside rank 0, and return whether it was interrupted.

    Args:
        job: The run's.
        world: The processes, of which this is not rank 0.
    """
    assert job.policy is not None
    LOG.setLevel(logging.ERROR)  # rank 0 says it
    with stop_signals() as stop:
        take_policy(job.policy, world)
        reference = job.policy.frozen()
        dpo = DPO(job.policy, job.pairs, job.config, reference)
        dpo.world = world
        judge_policy(job.policy, reference, job.task, None, world)
        with stop.patience():
            dpo.learn(lambda _: not asked_to_stop(stop, world))
        judge_policy(job.policy, reference, job.task, None, world)
    return {"interrupted": stop.signal is not None}
