"""A process of rank 1 and up follows a run: it learns and evaluates along, and writes and prints nothing."""

from __future__ import annotations

import logging
from typing import Any

from text_gym.agents.algorithms.agent import Agent
from text_gym.agents.training.together import begin_alike
from text_gym.models.world import World
from text_gym.runs.job import TrainingJob
from text_gym.runs.judgement import judge_policy
from text_gym.utils.stopping import Stop, stop_signals

LOG = logging.getLogger("text_gym")


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
        begin_alike(agent, world)
        with stop.patience():
            agent.learn(callback=lambda *_: not asked_to_stop(stop, world))
        take_policy(agent, world)
        judge_policy(agent.policy, agent.reference, job.task, None, world)
    return {"interrupted": stop.signal is not None}


def asked_to_stop(stop: Stop, world: World) -> bool:
    """Return True if any process was asked to stop; all take it that they were."""
    number = int(world.largest(stop.signal or 0))
    if number and stop.signal is None:
        stop.signal = number
    return number > 0


def take_policy(agent: Agent[Any], world: World) -> None:
    """Give every process the policy that rank 0 has chosen."""
    world.broadcast(p.data for p in agent.policy.parameters())
