"""One run of `stability.py`: a candidate learns in a world with a seed, and what it did is a JSON file.

Tables are made elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stability_candidates import SB3, TRL, Candidate, sb3_defaults
from stability_peers import run_sb3, run_trl
from stability_worlds import (
    BETA,
    RLHF,
    Row,
    Setting,
    World,
    before_file,
    judge,
    judged,
    open_world,
    quiet,
    read,
)

from text_gym import TextVectorEnv, load_task
from text_gym.agents import Policy, SB3Config
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.errors import ConfigError, NonFiniteError
from text_gym.reward_models.labels.questions import CRITERIA
from text_gym.rlhf import rlhf
from text_gym.rlhf.config import RLHFConfig
from text_gym.rlhf.people import simulated_people
from text_gym.utils.json_files import write_json

Curves = dict[str, list[float]]
# Columns of a run: a number an iteration each.
CURVES = ("reward", "kl", "explained_variance", "objective", "truncated", "updates", "episodes", "seconds")
GOAL = 0.96  # training reward, mean of 3 iterations
EARLY = 10  # iterations after which a critic should know something


@dataclass(frozen=True)
class Job:
    """One run."""

    world: World
    candidate: Candidate
    seed: int
    setting: Setting

    @property
    def where(self) -> str:
        """The world's name in tables; raters with a vice make another one."""
        biased = self.world == RLHF and self.setting.bias != "none"
        return f"{self.world}-{self.setting.bias}" if biased else self.world

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.where} · {self.candidate.text} · seed {self.seed}"

    @property
    def file(self) -> Path:
        """Where its row is."""
        return self.setting.out / "runs" / self.where / f"{self.candidate.slug}-{self.seed}.json"

    @property
    def policy(self) -> Path:
        """Where its policy is, if it is kept."""
        return self.setting.out / "policies" / self.where / f"{self.candidate.slug}-{self.seed}"

    @property
    def config(self) -> Any:
        """The algorithm's configuration; of TRL, what it is told beside its defaults."""
        setting, candidate = self.setting, self.candidate
        given: dict[str, Any] = {"seed": self.seed}
        if setting.iterations is not None:
            given["iterations"] = setting.iterations
        if self.world == RLHF:
            given |= {"rounds": setting.rounds, "episodes": setting.episodes, "overlap": 0.1}
            given |= {"labels_per_round": setting.labels, "algorithm": candidate.algorithm}
            return RLHFConfig(**(given | candidate.changes))
        given["kl_coef"] = BETA[self.world]
        if candidate.algorithm == SB3:
            return SB3Config(**(sb3_defaults() | {"num_envs": setting.episodes} | given | candidate.changes))
        if candidate.algorithm == TRL:
            return {"iterations": 100} | given | candidate.changes
        return load_algorithm(candidate.algorithm).config_class(**(given | candidate.changes))

    def settings(self) -> Row:
        """All that decides the run's result, as plain data; where a file has the same, nothing is to do."""
        names = ["episodes", "judge"]
        names += ["labels"] if self.world in ("ngrams", "transformer") else []
        names += ["data", "prompt", "reference"] if self.world == "slots" else []
        config = self.config
        own = config if isinstance(config, dict) else dataclasses.asdict(config)
        kept = {name: getattr(self.setting, name) for name in names}
        return dict(json.loads(json.dumps({**kept, "config": own})))

    def done(self) -> bool:
        """Whether its row is there.

        Raises:
            ConfigError: A row is there, of a run with other settings.
        """
        if not self.file.is_file():
            return False
        old, new = (flat["config"] | flat for flat in (read(self.file)["settings"], self.settings()))
        for key in sorted((old.keys() | new.keys()) - {"config"}):
            if old.get(key) != new.get(key):
                raise ConfigError(
                    f"{self.file} was made with {key}={old.get(key)!r}, not {new.get(key)!r}; choose another "
                    "--out, or delete it"
                )
        return not self.setting.keep_policy or self.world == RLHF or self.policy.is_dir()


def run(job: Job) -> Row:
    """Learn, judge, and write the row."""
    row = _run_rlhf(job) if job.world == RLHF else _run_agent(job)
    row = {
        "world": job.where,
        "candidate": job.candidate.text,
        "seed": job.seed,
        "settings": job.settings(),
        **row,
    }
    job.file.parent.mkdir(parents=True, exist_ok=True)
    write_json(job.file, row | (figures(row["curves"]) if "curves" in row else {}))
    return read(job.file)


def _run_agent(job: Job) -> Row:
    """Learn in a world of one reward; the last policy counts, whatever was better on the way."""
    setting, config = job.setting, job.config
    place = open_world(job.world, job.seed, setting)
    policy = Policy.from_pretrained(place.policy, device="cpu")
    reference = policy.frozen()
    failed: str | None = None
    declined: str | None = None
    columns: Curves
    if job.candidate.algorithm == SB3:
        columns, policy = run_sb3(place.task, place.reward, policy, config, setting.episodes)
    elif job.candidate.algorithm == TRL:
        if setting.trl112 is None:
            raise ConfigError("the candidate trl.ppo needs --trl112 PYTHON, an interpreter with TRL 1.12")
        columns, policy = run_trl(
            place.task, place.reward, place.policy, config, setting.episodes, setting.trl112
        )
    else:
        rows: list[Row] = []
        env = TextVectorEnv(
            **place.task.env_kwargs(reward=place.reward),
            num_envs=setting.episodes,
            numbering="global",
            context=policy.context,
        )
        agent = load_algorithm(job.candidate.algorithm)(policy, env, config, reference)
        try:
            agent.learn(callback=lambda _, metrics: rows.append(metrics))
        except NonFiniteError as error:  # the policy is the one before it
            failed = str(error)
        declined = agent.declined
        columns = {name: [float(r.get(name, math.nan)) for r in rows] for name in CURVES}
    if setting.keep_policy:
        policy.save(job.policy)
    return {
        "before": read(before_file(job.world, job.seed, setting)),
        "after": judged(judge(policy, reference, place.task, setting)),
        "failed": failed,
        "declined": declined,
        "curves": {name: [float(f"{x:.5g}") for x in column] for name, column in columns.items()},
    }


def _run_rlhf(job: Job) -> Row:
    """A whole cycle with simulated raters; its own folder goes on where it was interrupted."""
    setting, config = job.setting, job.config
    task = load_task("products")
    rows = rlhf(
        task,
        config,
        simulated_people(task.reward, CRITERIA, bias=setting.bias, seed=config.seed),
        setting.out / job.where / f"{job.candidate.slug}-{job.seed}",
        criteria=CRITERIA,
        device="cpu",
        console=quiet(),
        options={"bias": setting.bias},
    )
    kept = ("round", "gold", "gold_before", "verdict", "kept", "kl_nats", "cut", "proxy", "declined")
    return {"rounds": [{name: row[name] for name in kept} for row in rows]}


def figures(curves: Curves) -> Row:
    """What a run's columns come to.

    Returns:
        `reached_iteration`, `reached_episodes` and `reached_seconds`, when the mean reward of 3 iterations
        first was at least 0.96 (None: never); `reward_lowest`, `reward_highest`, `kl_lowest`, `kl_highest`;
        `ev_early`, explained variance at iteration 10, and `ev_lowest`, the lowest after it; `fall`, the
        lowest mean objective of 5 iterations less that of the first iteration; `cut_highest`. NaN where
        nothing is known.
    """
    reward, kl, ev, objective, cut = (
        np.array([math.nan if x is None else x for x in curves[name]], dtype=np.float64)
        for name in ("reward", "kl", "explained_variance", "objective", "truncated")
    )
    means = np.array([reward[i - 2 : i + 1].mean() for i in range(2, len(reward))])
    there = np.flatnonzero(means >= GOAL)
    at = int(there[0]) + 2 if len(there) else None
    recent = np.array([objective[i - 4 : i + 1].mean() for i in range(4, len(objective))])
    return {
        "reached_iteration": None if at is None else at + 1,
        "reached_episodes": None if at is None else curves["episodes"][at],
        "reached_seconds": None if at is None else float(np.sum(curves["seconds"][: at + 1])),
        "reward_lowest": _least(reward),
        "reward_highest": -_least(-reward),
        "kl_lowest": _least(kl),
        "kl_highest": -_least(-kl),
        "ev_early": float(ev[EARLY - 1]) if len(ev) >= EARLY else math.nan,
        "ev_lowest": _least(ev[EARLY:]),
        "fall": _least(recent - objective[0]) if len(recent) else math.nan,
        "cut_highest": -_least(-cut),
    }


def _least(x: Any) -> float:
    known = x[~np.isnan(x)]
    return float(known.min()) if len(known) else math.nan


def begin() -> None:
    """Set up a process that runs jobs."""
    torch.set_num_threads(1)
    logging.getLogger("text_gym").setLevel(logging.ERROR)  # what it would say is in the rows
    warnings.filterwarnings("ignore", "You have specified a mini-batch size")  # SB3; of no consequence


def told(row: Row) -> str:
    """A run in half a line."""
    if "rounds" in row:
        golds = [row["rounds"][0]["gold_before"], *(r["gold"] for r in row["rounds"])]
        return "gold " + " → ".join(f"{gold['mean']:.3f}" for gold in golds)
    after, reached = row["after"], row["reached_iteration"]
    when = f"never at {GOAL}" if reached is None else f"at {GOAL} after {reached} iterations"
    seconds = sum(row["curves"]["seconds"])
    high = math.nan if row["kl_highest"] is None else row["kl_highest"]
    low, up = after["ci95"]
    line = f"gold {row['before']['gold']:.3f} → {after['gold']:.3f} [{low:.3f}, {up:.3f}], "
    line += f"KL {after['kl']:.1f}, highest {high:.1f} nats, {when}, {seconds:.0f} s"
    return line + (f"; failed: {row['failed']}" if row["failed"] else "")
