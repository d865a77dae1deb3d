"""Do the algorithms find the optimum of a conversation? Distances to it in closed form, on fresh seeds.

    python benchmarks/dialogue_exact.py --seeds 10 --json benchmarks/results/dialogue_exact.json

The enumerable dialogue has two turns and four tokens; a seed decides its replies and rewards, the policy's
weights and what is drawn. Unless they are given, the seeds come from the system's entropy when the command
begins, so that nobody can have chosen settings by them. The optimum of reward − β·KL is found by backward
induction over what the agent has written, from the starting policy's probabilities alone; the distance to it
is the total variation of all conversations' probabilities, computed by plain forward passes. Exit status 1 if
one of them is above 0.01. Under `torchrun` all processes learn together. With `--single-turn` the texts are
those of the enumerable task, whose optimum is π_ref · e^(reward / β), normalised.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from machine import save

from text_gym import Episode, TextVectorEnv, load_task
from text_gym.agents import Policy, trajectory_log_probs
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.episode import FloatArray
from text_gym.models.world import World, meeting
from text_gym.tasks.conversations.enumerable_dialogue import dialogue_returns, dialogues
from text_gym.tasks.enumerable import optimal_policy, total_variation, trajectories
from text_gym.tasks.task import Task

BETA, LIMIT = 1.0, 0.01
COMMON: dict[str, Any] = {
    "iterations": 400,
    "learning_rate": 3e-3,  # falling to 0
    "warmup": 0,
    "kl_coef": BETA,
    "episodes": 64,  # of an iteration
    "epochs": 2,
    "minibatches": 2,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {"whiten_advantages": False, "value_clip": None, "target_kl": None},
    "grpo": {"episodes": 128, "kl_in": "reward", "kl_estimator": "k1"},
    "rloo": {"group_size": 8},
    "reinforce": {"epochs": 1, "baseline": "critic", "iterations": 600, "learning_rate": 3e-3},
}


@dataclass(frozen=True)
class Options:
    """Train every algorithm on every seed.

    Args:
        algorithms: Their names.
        seeds: How many seeds are drawn.
        given: Seeds to use instead.
        max_tokens: The most tokens that the agent writes in a conversation.
        single_turn: Texts in place of conversations.
        longer: Factor on the numbers of iterations.
        json: File for the rows, written after every run.
    """

    algorithms: tuple[str, ...] = tuple(SETTINGS)
    seeds: int = 10
    given: tuple[int, ...] = ()
    max_tokens: int = 3
    single_turn: bool = False
    longer: float = 1.0
    json: Path | None = None


def optimum(task: Task, episodes: Sequence[Episode], reference: FloatArray, beta: float) -> FloatArray:
    """Return the probabilities of all conversations under the optimal policy, by soft backward induction.

    At what the agent has written, `V = β log Σ_a π_ref(a) exp(Q(a) / β)` and `π*(a) = π_ref(a) exp((Q(a) - V)
    / β)`, where `Q(a)` is what the token is paid and the value of what it leads to. The replies are a
    function of what the agent has written, so there is nothing to average over them.

    Args:
        task: An enumerable dialogue.
        episodes: Its `N` conversations.
        reference: `(N,)` float64, their probabilities under the reference policy.
        beta: Weight of the KL, in reward per nat.
    """
    finals = task.reward(episodes).values
    paid: list[list[float]] = []  # of each conversation and each of the agent's tokens
    for episode, final in zip(episodes, finals.tolist(), strict=True):
        own = [turn for turn in episode.turns if turn.role == "assistant"]
        rewards = [reward for turn in own for reward in [0.0] * (len(turn.ids) - 1) + [turn.reward]]
        rewards[-1] += final
        paid.append(rewards)
    best = np.ones(len(episodes))

    def value(members: list[int], step: int) -> float:
        """The value of the state that they share; what is best from there on is multiplied into `best`."""
        ways: dict[int, list[int]] = {}
        for i in members:
            ways.setdefault(int(episodes[i].agent_ids[step]), []).append(i)
        shares, worth = [], []
        for after in ways.values():
            ends = len(episodes[after[0]].agent_ids) == step + 1
            shares.append(reference[after].sum() / reference[members].sum())
            worth.append(paid[after[0]][step] + (0.0 if ends else value(after, step + 1)))
        weights = np.log(shares) + np.array(worth) / beta
        total = np.logaddexp.reduce(weights)
        for after, weight in zip(ways.values(), weights, strict=True):
            best[after] *= np.exp(weight - total)
        return float(beta * total)

    value(list(range(len(episodes))), 0)
    return best


def run(algorithm: str, seed: int, options: Options, world: World | None = None) -> dict[str, Any]:
    """Train once, with the other processes if there are any, and say how far from the optimum that led."""
    task = load_task(
        "enumerable" if options.single_turn else "enumerable-dialogue",
        max_tokens=options.max_tokens,
        seed=seed,
    )
    policy = Policy.new(task.tokenizer, width=32, layers=2, heads=2, context=12, seed=seed, device="cpu")
    every = trajectories(task) if options.single_turn else dialogues(task)
    returns = task.reward(every).values if options.single_turn else dialogue_returns(task, every)

    def distribution() -> FloatArray:
        with torch.no_grad():
            found: FloatArray = trajectory_log_probs(policy, every).double().exp().numpy()
        return found

    start = distribution()
    best = optimal_policy(start, returns, BETA) if options.single_turn else optimum(task, every, start, BETA)
    kind = load_algorithm(algorithm)
    chosen = {**COMMON, **SETTINGS[algorithm], "seed": seed}
    chosen["iterations"] = max(1, round(chosen["iterations"] * options.longer))
    began = time.process_time()
    env = TextVectorEnv(task=task, num_envs=chosen.pop("episodes"))
    agent: Any = kind(policy, env, kind.config_class(**chosen))
    if world is not None:
        agent.join(world)
    agent.learn()
    return {
        "algorithm": algorithm,
        "seed": seed,
        "conversations": len(every),
        "expected_return": [float(p @ returns) for p in (start, best, distribution())],
        "began": total_variation(start, best),
        "reached": total_variation(distribution(), best),
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def main(options: Options, world: World | None) -> int:
    """Train and tell; 1 if an algorithm stays away from the optimum."""
    torch.set_num_threads(1)
    logging.getLogger("text_gym").setLevel(logging.ERROR)
    seeds = options.given or tuple(secrets.randbelow(10**6) for _ in range(options.seeds))
    if world is not None:
        seeds = world.gather(seeds)[0]
    ranks, first = (1, True) if world is None else (world.size, world.rank == 0)
    fixed = {"beta": BETA, "common": COMMON, "settings": SETTINGS, "processes": ranks}
    chosen = {k: v for k, v in vars(options).items() if k not in ("json", "given")} | {"seeds": list(seeds)}
    rows = []
    for seed in seeds:
        for algorithm in options.algorithms:
            rows.append(row := run(algorithm, seed, options, world))
            if not first:
                continue
            print(row, flush=True)
            if options.json is not None:
                save(options.json, rows, **fixed, options=chosen, load=os.getloadavg()[0])
    for algorithm in options.algorithms if first else ():
        found = [row["reached"] for row in rows if row["algorithm"] == algorithm]
        print(f"{algorithm}: the worst of {len(found)} seeds ends at a total variation of {max(found):.4f}")
    return int(any(row["reached"] > LIMIT for row in rows))


if __name__ == "__main__":
    with meeting("cpu") as together:
        status = main(tyro.cli(Options), together)
    raise SystemExit(status)
