"""Learns with an algorithm of Stable-Baselines3 inside a run's folder."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

from text_gym.agents.adapters.sb3.evaluation import evaluate_sb3
from text_gym.agents.adapters.sb3.training import SB3Learner
from text_gym.agents.policies.policy import Policy
from text_gym.agents.training.checkpoint import Choice
from text_gym.errors import RaterLeftError
from text_gym.runs.folder import RunFolder
from text_gym.runs.job import CHECKPOINTS, Learner, TrainingJob, TrainingOutcome
from text_gym.runs.judgement import Judgement, judge_texts
from text_gym.utils.stopping import Stop

LOG = logging.getLogger("text_gym")


def learn_with_sb3(job: TrainingJob) -> Learner:
    """Return the function that learns with an algorithm of Stable-Baselines3."""

    def learner(
        run: RunFolder,
        stop: Stop,
        report: Callable[[dict[str, float]], bool],
        stage: Callable[[str], None],
    ) -> TrainingOutcome:
        stage(f"measuring the start on {len(job.task.held_out):,} held-out prompts")
        library = SB3Learner(
            job.algorithm.removeprefix("sb3."),
            job.task,
            job.config,
            policy=job.policy,
            device=job.device,
            reward=job.reward,
            limit=job.limit,
        )
        reference = None if job.policy is None else job.policy.frozen()
        before = _judge_sb3(library, job, reference)
        if job.checkpoint_every:
            library.keep_in(run.path / CHECKPOINTS, job.checkpoint_every, before_save=run.sync)
        run.rewind(library.iteration)
        stage("training")
        with stop.patience():
            try:
                library.learn(report)
            except RaterLeftError as error:  # treated like Ctrl-C
                LOG.info("%s", error)
                if stop.signal is None:
                    stop.handle(signal.SIGINT)
            finally:
                job.save_policy(run, library.save_policy)
                if job.checkpoint_every and library.iteration < job.config.iterations:
                    LOG.info("to go on: text-gym train --resume %s", run.path)
        stage("measuring the result")
        after = _judge_sb3(library, job, reference)
        greedy = evaluate_sb3(library.model, job.task, greedy=True, reference=reference)
        after.summary["greedy"] = greedy.summary("gold" if job.task.has_gold else None)
        tokens, done = library.model.num_timesteps, library.iteration
        return TrainingOutcome(before, after, tokens, done, Choice(done, None))

    return learner


def _judge_sb3(library: SB3Learner, job: TrainingJob, reference: Policy | None) -> Judgement:
    """Judge the policy that a library trains on the held-out prompts."""
    found = evaluate_sb3(library.model, job.task, seed=job.config.seed, reference=reference)
    return judge_texts(found, job.task, job.reward)
