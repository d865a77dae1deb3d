"""Worlds of `stability.py`: a task, the reward that is optimised, and a policy to start from.

What they begin with (learned rewards, first policies and how good these are) is made once and kept.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from text_gym import RewardSource, Task, TextVectorEnv, load_task
from text_gym.agents import Policy, SFTConfig, evaluate
from text_gym.agents.sampling.evaluation import Report
from text_gym.cli.options.sft import SFTOptions
from text_gym.cli.sft import sft
from text_gym.data import Data
from text_gym.errors import ConfigError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.questions import CRITERIA
from text_gym.reward_models.learned.loading import load_reward_model
from text_gym.rlhf.config import Bias, RLHFConfig
from text_gym.rlhf.cycle import STORE, Cycle
from text_gym.rlhf.folder import TEXTS
from text_gym.rlhf.people import simulated_people
from text_gym.runs.data import resolve_task
from text_gym.utils.json_files import write_json
from text_gym.utils.locking import FolderLock

Row = dict[str, Any]
World = Literal["gold", "gold0", "ngrams", "transformer", "slots", "rlhf"]
RLHF = "rlhf"  # the world that is a whole cycle; its settings are those of `RLHFConfig`
# Reward units per nat; of the others those of `text-gym train` and of `text-gym rlhf`.
BETA = {"gold": 0.03, "gold0": 0.0, "ngrams": 0.02, "transformer": 0.02, "slots": 0.03}


@dataclass(frozen=True)
class Setting:
    """What all runs of a command have in common.

    Args:
        out: Folder of all files.
        iterations: Of each run; 100, in a round of `rlhf` 40, if None.
        episodes: Per iteration.
        judge: Held-out prompts to judge on; all if None.
        labels: Ratings that a learned reward learns from, or that are given in a round of `rlhf`.
        rounds: Of `rlhf`.
        bias: The raters' vice in `rlhf`.
        data: File of the world `slots`.
        prompt: Its column of meaning representations.
        reference: Its column of texts.
        keep_policy: Keep the policy of each run.
        trl112: Interpreter with TRL 1.12, for the candidate `trl.ppo`.
    """

    out: Path
    iterations: int | None = None
    episodes: int = 64
    judge: int | None = None
    labels: int = 200
    rounds: int = 3
    bias: Bias = "none"
    data: str | None = None
    prompt: str = "mr"
    reference: str = "ref"
    keep_policy: bool = False
    trl112: str | None = None


@dataclass(frozen=True)
class Place:
    """A world that is ready.

    Args:
        task: Prompts and the gold reward.
        reward: What is optimised.
        policy: Folder of the policy to start from.
    """

    task: Task
    reward: RewardSource
    policy: Path


def start_of(world: World, seed: int) -> str:
    """Name of the policy that a run starts from."""
    return f"slots-{seed}" if world == "slots" else "products"


def prepare(world: World, seed: int, setting: Setting) -> None:
    """Learn the world's reward or first policy, and judge that policy; does nothing where that is done."""
    folder = setting.out / "worlds"
    folder.mkdir(parents=True, exist_ok=True)
    if world in ("ngrams", "transformer"):
        _learn_reward(world, setting)
    if world == "slots" and not (folder / start_of(world, seed)).is_dir():
        _learn_slots(seed, setting)
    before = before_file(world, seed, setting)
    if world != RLHF and not before.is_file():
        place = open_world(world, seed, setting)
        policy = Policy.from_pretrained(place.policy, device="cpu")
        write_json(before, judged(judge(policy, policy, place.task, setting)))


def open_world(world: World, seed: int, setting: Setting) -> Place:
    """A world that `prepare` made."""
    if world == "slots":
        policy = setting.out / "worlds" / start_of(world, seed)
        task, reward = resolve_task("products", _data(setting), None, str(policy), None)
        return Place(task, reward, policy)
    task = load_task("products")
    assert task.policy is not None
    reward = task.reward
    if world in ("ngrams", "transformer"):
        reward = load_reward_model(_reward_folder(world, setting) / "round-1" / "reward_model", device="cpu")
    return Place(task, reward, task.policy)


def _data(setting: Setting) -> Data:
    if setting.data is None:
        raise ConfigError("the world slots needs --data FILE, meaning representations with their texts")
    return Data(setting.data, setting.prompt, setting.reference, gold="slots")


def before_file(world: World, seed: int, setting: Setting) -> Path:
    count = "all" if setting.judge is None else setting.judge
    return setting.out / "worlds" / f"{start_of(world, seed)}-before-{count}.json"


def _reward_folder(world: World, setting: Setting) -> Path:
    return setting.out / "worlds" / f"{world}-{setting.labels}"


def _learn_reward(world: World, setting: Setting) -> None:
    """The reward model of the first round of `text_gym.rlhf.cycle`, by its own steps, seed 0."""
    folder, task = _reward_folder(world, setting), load_task("products")
    folder.mkdir(exist_ok=True)
    config = RLHFConfig(rounds=1, labels_per_round=setting.labels, overlap=0.1, model=world, seed=0)  # type: ignore[arg-type]
    lock = FolderLock(folder)
    try:
        with LabelStore(folder / STORE) as store:
            cycle = Cycle(task, config, folder, store, CRITERIA, "cpu")
            cycle.console = quiet()
            cycle.start(None)
            people = simulated_people(task.reward, CRITERIA, seed=config.seed)
            with people(store, cycle.texts(cycle.at(0) / TEXTS)) as asking:
                pool = cycle.write(1)
                cycle.ask(1, pool, cycle.choose(1, pool), asking(pool))
            cycle.fit(1)
    finally:
        lock.release()


def _learn_slots(seed: int, setting: Setting) -> None:
    """A tokenizer and a policy from nothing, as `text-gym sft` makes them."""
    folder = setting.out / "worlds" / start_of("slots", seed)
    partial = folder.with_name(f"{folder.name}-{os.getpid()}.partial")
    options = SFTOptions(**dataclasses.asdict(_data(setting)), out=str(partial), device="cpu")
    sft(options, SFTConfig(seed=seed), quiet())
    if folder.is_dir():  # another command was faster
        shutil.rmtree(partial)
    else:
        partial.rename(folder)


def judge(policy: Policy, reference: Policy, task: Task, setting: Setting) -> Report:
    """A policy's texts on held-out prompts, sampled; the same noise for every run."""
    prompts = task.held_out[: setting.judge]
    env = TextVectorEnv(**task.env_kwargs(prompts=prompts), shuffle=False)
    return evaluate(policy, env, reference=reference)


def judged(report: Report) -> Row:
    """What is kept of it."""
    return {
        "gold": report.reward.mean,
        "ci95": list(report.reward.ci95),
        "kl": report.kl.mean,
        "length": report.length,
        "cut": 1 - report.terminated,
    }


def read(file: Path) -> Row:
    """A JSON file."""
    return dict(json.loads(file.read_text(encoding="utf-8")))


def quiet() -> Console:
    """A console that prints nowhere."""
    return Console(file=io.StringIO())
