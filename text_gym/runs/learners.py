"""How a run learns inside its folder: with an agent of ours, alone or beside other processes, or with SB3.

Of several processes that of rank 0 does all that one alone would do; the others follow it: they learn and
evaluate along, and write and print nothing.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Any

from text_gym.agents.adapters.sb3.evaluation import evaluate_sb3
from text_gym.agents.adapters.sb3.training import SB3Learner
from text_gym.agents.algorithms.agent import Agent
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.agents.policies.policy import Policy
from text_gym.agents.training.checkpoint import Checkpoints, Choice
from text_gym.agents.training.recorder import Recorder
from text_gym.agents.training.tensors import checked_tensors
from text_gym.agents.training.together import make_whole
from text_gym.envs.vector import TextVectorEnv
from text_gym.errors import ConfigError, NonFiniteError, RaterLeftError
from text_gym.models.world import World
from text_gym.utils.stopping import Stop, stop_signals
from text_gym.viewer.store import iterations_to_keep

from .folder import RunFolder
from .job import CHECKPOINTS, Learner, TrainingJob, TrainingOutcome
from .judgement import Judgement, judge_policy, judge_texts

LOG = logging.getLogger("text_gym")


def make_agent(job: TrainingJob) -> Agent[Any]:
    """Make the agent that learns with one of our own algorithms."""
    agent_class = load_algorithm(job.algorithm)
    assert job.policy is not None
    _check_end(job)
    env = TextVectorEnv(
        **job.task.env_kwargs(reward=job.reward),
        num_envs=job.episodes,
        limit=job.limit,
        numbering="global",
        context=job.policy.context,
    )
    agent: Agent[Any] = agent_class(job.policy, env, job.config)
    agent.generator = job.make_generator(env.batch.tokens.shape[1])
    return agent


def learn_with_agent(job: TrainingJob) -> Learner:
    """Return the function that learns with one of our own algorithms."""
    agent, world = make_agent(job), job.world

    def learner(
        run: RunFolder,
        stop: Stop,
        report: Callable[[dict[str, float]], bool],
        stage: Callable[[str], None],
    ) -> TrainingOutcome:
        stage(f"measuring the start on {len(job.task.held_out):,} held-out prompts")
        if world is not None:
            agent.join(world)

        def judge() -> Judgement:
            return judge_policy(agent.policy, agent.reference, job.task, job.reward, world)

        before, watch = judge(), job.gold_watch()
        agent.detector = detector = job.detector(before.sampled.episodes)
        checkpoints = Checkpoints(run.path / CHECKPOINTS)
        save = _go_on_and_save(agent, run, checkpoints, job.checkpoint_every)
        agent.recorder = job.recorder(run, agent.iteration)
        if world is not None:
            if job.shard and job.checkpoint_every:
                checkpoints.save_reference(agent)
            agent.join(world, shard=job.shard)  # from where rank 0 goes on

        def after_iteration(_: Agent[Any], metrics: dict[str, float]) -> bool:
            if world is not None:
                asked_to_stop(stop, world)
            if watch is not None and watch.due(agent.iteration):
                metrics = {**metrics, **watch.look(agent.policy, agent.reference)}
            go_on = report(metrics)
            if job.stop_on_alarm and detector is not None and detector.alarm is not None:
                LOG.info("stopping at the alarm, after iteration %d", agent.iteration)
                go_on = False
            if job.checkpoint_every and agent.iteration % job.checkpoint_every == 0:
                save()
            return go_on

        stage("training")
        with stop.patience():
            _learn_and_save(agent, job, run, stop, save, after_iteration)
        if agent.shards is not None:
            make_whole(agent)
        choice = Choice(agent.iteration, None)
        if stop.signal is None:  # an interrupted run can be resumed from the policy as it is
            choice = checkpoints.take_best(agent)
        if choice.reason is not None:
            LOG.info("%s", choice.reason)
            job.save_policy(run, agent.save)
        stage("measuring the result")
        if world is not None:
            take_policy(agent.policy, world)
        after = judge()
        first = None if watch is None else watch.first(before)
        return TrainingOutcome(
            before,
            after,
            agent.tokens_played,
            agent.iteration,
            choice,
            agent.declined,
            first,
            None if detector is None else detector.alarm,
        )

    return learner


def _check_end(job: TrainingJob) -> None:
    """Refuse texts that cannot end to a run that learns nothing from texts which the limit cuts.

    Raises:
        ConfigError: The tokenizer has no EOS id, and the limit truncates.
    """
    made = job.task.env_kwargs()
    if made["tokenizer"].eos_ids or made.get("stop"):
        return
    why = f"the tokenizer has no EOS id: every text runs to the limit of {made['max_tokens']} tokens"
    if job.limit == "truncate":
        raise ConfigError(
            f"{why}, and --limit truncate learns nothing from those; save the tokenizer with its eos_token, "
            "or pass --limit end"
        )
    LOG.warning("%s", why)


def _learn_and_save(
    agent: Agent[Any],
    job: TrainingJob,
    run: RunFolder,
    stop: Stop,
    save: Callable[[], None],
    after_iteration: Callable[[Agent[Any], dict[str, float]], bool],
) -> None:
    """Learn until all iterations are done or somebody stops it; save what was learnt, whatever happens.

    No process has all of sharded weights: after an error, which ends the others, the last checkpoint is left.
    """
    hopeless, together = False, agent.shards is None
    try:
        agent.learn(callback=after_iteration)
        together = True
    except NonFiniteError:  # the same settings would break it again
        hopeless = True
        raise
    except RaterLeftError as error:  # treated like Ctrl-C
        LOG.info("%s", error)
        if stop.signal is None:
            stop.handle(signal.SIGINT)
    finally:  # an error in the reward must not cost what was learnt so far
        try:
            if together:
                save()
        finally:
            if together:
                job.save_policy(run, agent.save)
        unfinished = agent.iteration < job.config.iterations and not agent.stopped
        if job.checkpoint_every and unfinished and not hopeless:
            LOG.info("to go on: text-gym train --resume %s", run.path)


def _go_on_and_save(
    agent: Agent[Any], run: RunFolder, checkpoints: Checkpoints, every: int
) -> Callable[[], None]:
    """Load the agent's last checkpoint, if there is one, and return a function that saves the next ones."""
    saved = checkpoints.load(agent)
    if saved is not None:
        LOG.info("resumed after iteration %d", saved)
    elif run.rows:
        LOG.warning("there is no checkpoint in %s: starting again", checkpoints.folder)
    run.rewind(agent.iteration)

    def save() -> None:
        nonlocal saved
        if every and agent.between_iterations and agent.iteration != saved:
            run.sync()
            average = agent.objective.average()
            if average is None or agent.iteration % every:
                # The point of an interruption must not decide which policy is the best.
                checkpoints.save(agent)
            else:
                checkpoints.save(agent, *average)
            saved = agent.iteration

    save()  # before the first iteration, too, so that the run keeps its starting policy
    return save


def follow(agent: Agent[Any], job: TrainingJob, world: World) -> dict[str, Any]:
    """Take every step of a run beside rank 0, and return whether it was interrupted.

    Args:
        agent: Made as rank 0's.
        job: The run's.
        world: The processes, of which this is not rank 0.
    """
    LOG.setLevel(logging.ERROR)  # rank 0 says it
    with stop_signals() as stop:
        agent.join(world)
        judge_policy(agent.policy, agent.reference, job.task, None, world)
        agent.join(world, shard=job.shard)
        if job.keep_rollouts:  # what is looked at are texts that all have, so all look
            wants = iterations_to_keep(job.keep_rollouts, job.iterations).__contains__
            agent.recorder = Recorder(wants, lambda _: None)
        with stop.patience():
            _learn_along(agent, job, stop, world)
        if agent.shards is not None:
            make_whole(agent)
        take_policy(agent.policy, world)
        judge_policy(agent.policy, agent.reference, job.task, None, world)
    return {"interrupted": stop.signal is not None}


def _learn_along(agent: Agent[Any], job: TrainingJob, stop: Stop, world: World) -> None:
    """Learn beside rank 0; give it this process's slices of sharded weights whenever it saves them."""
    saved = agent.iteration

    def give_slices() -> None:
        nonlocal saved
        if agent.shards is not None and job.checkpoint_every and agent.iteration != saved:
            saved = agent.iteration
            for _ in checked_tensors(agent):
                pass

    def after_iteration(*_: object) -> bool:
        going_on = not asked_to_stop(stop, world)
        if job.checkpoint_every and agent.iteration % job.checkpoint_every == 0:
            give_slices()
        return going_on

    agent.learn(callback=after_iteration)
    give_slices()
    if agent.shards is not None:
        agent.whole_policy()  # as rank 0 saves it


def asked_to_stop(stop: Stop, world: World) -> bool:
    """Return True if any process was asked to stop; all take it that they were."""
    number = int(world.largest(stop.signal or 0))
    if number and stop.signal is None:
        stop.signal = number
    return number > 0


def take_policy(policy: Policy, world: World) -> None:
    """Give every process the policy that rank 0 has."""
    world.broadcast(p.data for p in policy.parameters())


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
