"""Options of `text-gym train`, and how they are read from the command line."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from text_gym.agents.adapters.sb3.config import SB3_ALGORITHMS, SB3Config
from text_gym.agents.algorithms.configs import CONFIGS, DPOConfig, settings_class
from text_gym.agents.own_algorithms import installed, short_name
from text_gym.data import Data
from text_gym.errors import ConfigError, DataError, MissingLibraryError, UnknownNameError
from text_gym.runs.folder import check_free, default_folder, read_config
from text_gym.runs.hub import check_push
from text_gym.runs.loggers import LogName, check_logs
from text_gym.runs.record import check_trust
from text_gym.runs.saved_policy import policy_folder
from text_gym.utils.display import is_first_process, processes_of_torchrun
from text_gym.utils.waiting import Waiting

from .checks import (
    at_least,
    check_code,
    check_data,
    check_device,
    check_learning,
    check_new_policy,
    check_out_folder,
    check_reward,
    check_sizes,
)
from .parsing import COLUMN, checked_fields, parse, value_of, with_recommended

DPO = "dpo"
# What people use first.
_FIRST = (
    "task", "data", "reward", "policy", "algorithm", "iterations", "episodes", "learning_rate",
    "out", "device",
)  # fmt: skip
_FIRST_OF_DPO = (
    "task", "data", "policy", "algorithm", "pairs", "epochs", "beta", "learning_rate", "out", "device",
)  # fmt: skip


@dataclass(frozen=True)
class TrainOptions(Data):
    """Improve a policy by reinforcement learning.

    Args:
        task: Task to learn, where no data is given.
        algorithm: ppo, grpo, rloo, reinforce, best_of_n; dpo, which learns from --pairs; one of
            Stable-Baselines3: sb3.ppo, sb3.a2c, sb3.dqn, sb3.maskable_ppo, sb3.recurrent_ppo; or your own:
            file.py:Class, module:Class, or the name that an installed package gives it. Its settings are
            further options.
        reward: Reward to optimise: a name, module:function, file.py:function, or the folder of a reward
            model. The task's own, which is gold, if left out; beside another one gold is shown too.
        policy: Policy to start from: a folder of a policy or of a run, a hub model such as Qwen/Qwen3-0.6B,
            or `new` for a small one with random weights (--model is the same). The task's own if left out.
        pairs: Preference pairs for dpo: a file or data set with columns prompt, chosen, rejected, or a label
            store (labels.db) with comparisons.
        layers: Layers of a new policy.
        width: Width of a new policy; a multiple of 4, its attention heads.
        lora: Rank of a LoRA adapter to train in place of the policy's weights, e.g. 8; needs much less memory
            for large models, and the extra `peft`.
        adapter_only: Save the adapter alone, not merged into the weights.
        dtype: float32; bfloat16, in which matrices are multiplied while the weights stay in float32, or, with
            --lora, the weights under the adapter are kept; auto is bfloat16 on GPUs that have it.
        gradient_checkpointing: Need less memory for a third more work in updates.
        generator: Who writes the texts: vllm, which is a package to install; the policy itself if left out.
        episodes: Episodes per iteration.
        max_tokens: Token limit of an episode; the task's own if left out.
        limit: What the limit means: end pays a text that it cuts as it stands, truncate learns nothing from
            it.
        out: Folder for the results; runs/TASK-ALGORITHM-TIME if left out.
        device: auto, cpu, cuda, cuda:1.
        sizes: Sizes that decide how fast it goes, as `text-gym tune` found them: a file, or `tuned` for that
            of this machine and model. They change last digits, and a run keeps them; defaults if left out.
        log: Where else the rows of metrics.jsonl go as it trains: tensorboard, wandb, trackio, several, or
            none of them if nothing follows; wandb and trackio are packages to install.
        push_to_hub: Upload the policy and its model card to the Hugging Face Hub in the end: OWNER/NAME, or
            NAME for one of your own; a repository that is not there is made, a private one.
        checkpoint_every: Iterations between two checkpoints; 0 takes none.
        keep_rollouts: Iterations whose episodes are kept token by token and shown in view.html, spread evenly
            over the run; 0 keeps none. `text-gym view` makes the page of a run that goes on.
        watch: Criteria to watch, which the reward does not contain: names as of --reward. An alarm is raised
            if one falls, or the texts change for good, while the reward rises.
        stop_on_alarm: Stop at such an alarm.
        reward_actors: Score on so many Ray actors, each with a copy of the reward; 0 scores in this process.
        engine: local is this process, or one of several that torchrun started; ray starts --workers of them
            by Ray Train (on the cluster of RAY_ADDRESS, or one on this machine), and again if one fails.
        workers: With --engine ray: processes that learn together.
        restarts: With --engine ray: times that all of them are started again, from the last checkpoint.
        shard: Divide the weights among the processes that torchrun starts (FSDP2): for a model that does not
            fit several times over. Checkpoints hold whole weights: any number of processes can go on.
        plan: Print what memory the run would need, against what the device has, and end; no weights are
            loaded. Runs of models of more than 100 million parameters begin with it.
        resume: Folder of an interrupted run to go on with, in place and with its own settings; no other
            option can be given but the next two.
        accept_changes: With --resume: go on although reward, data, settings or versions are not those the run
            was started with.
        trust: With --resume: the same folder once more, to run code that it names although the folder was
            made elsewhere.
    """

    task: str = "products"
    algorithm: str = "ppo"
    reward: str | None = None
    policy: str | None = None
    pairs: str | None = None
    layers: int = 2
    width: int = 64
    lora: int | None = None
    adapter_only: bool = False
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    gradient_checkpointing: bool = False
    generator: Literal["vllm"] | None = None
    episodes: int = 64
    max_tokens: int | None = None
    limit: Literal["end", "truncate"] = "end"
    out: str | None = None
    device: str = "auto"
    sizes: str | None = None
    log: tuple[LogName, ...] = ("tensorboard",)
    push_to_hub: str | None = None
    checkpoint_every: int = 10
    keep_rollouts: int = 0
    watch: tuple[str, ...] = ()
    stop_on_alarm: bool = False
    reward_actors: int = 0
    engine: Literal["local", "ray"] = "local"
    workers: int = 2
    restarts: int = 3
    shard: bool = False
    plan: bool = False
    resume: str | None = None
    accept_changes: bool = False
    trust: str | None = None


def read_train(argv: list[str]) -> tuple[TrainOptions, Any, str, float, Waiting]:
    """Read the options of `text-gym train`, and the settings of its algorithm.

    With them come the folder to go on with, if any, when the command began (`time.perf_counter`), and a
    display of the wait for PyTorch. The run's folder is decided and told here, before PyTorch is loaded.
    """
    started = time.perf_counter()
    resumed = value_of(argv, "--resume", "")
    if resumed and "-h" not in argv and "--help" not in argv:
        options, config = _settings_of_run(argv, resumed)
    else:
        algorithm = value_of(argv, "--algorithm", "ppo")
        options, config = parse(
            "train",
            with_recommended(argv, algorithm),
            TrainOptions,
            _config_class(algorithm),
            first=_FIRST_OF_DPO if algorithm == DPO else _FIRST,
            flags=COLUMN,
            settings=short_name(algorithm),
            give_way=("layers", "width"),
        )
        options = _checked(options, config)
    first = is_first_process()
    if first and not options.plan:
        print(f"folder: {resumed or options.out}", flush=True)
    doing = "planning" if options.plan else "measuring the start: loading PyTorch and the policy"
    waiting = Waiting(doing, show=first)
    return options, config, resumed, started, waiting


def _checked(options: TrainOptions, config: Any) -> TrainOptions:
    """Check what needs no PyTorch, and fill in the folders of the run and of its policy.

    Raises:
        TextGymError: An option is certainly wrong.
    """
    check_learning(options.task, options, options.policy)
    if options.accept_changes or options.trust is not None:
        raise ConfigError("--accept-changes and --trust go with --resume FOLDER")
    check_reward(options.reward)
    for spec in options.watch:
        check_reward(spec, "watch")
    _check_pairs(options)
    check_logs(options.log)
    if options.push_to_hub is not None:
        check_push(options.push_to_hub)
    check_device(options.device)
    check_sizes(options.sizes)
    if options.generator is not None:
        _check_generator(options)
    at_least(
        1,
        episodes=options.episodes,
        iterations=getattr(config, "iterations", None),
        max_tokens=options.max_tokens,
        lora=options.lora,
    )
    check_new_policy(options.policy, options.layers, options.width)
    at_least(0, checkpoint_every=options.checkpoint_every, keep_rollouts=options.keep_rollouts)
    at_least(0, reward_actors=options.reward_actors, restarts=options.restarts)
    at_least(1, workers=options.workers)
    _check_ray(options)
    if (options.watch or options.stop_on_alarm) and (
        options.algorithm == DPO or options.algorithm.startswith("sb3.")
    ):
        raise ConfigError(
            f"texts of {options.algorithm} are not watched; leave out --watch and --stop-on-alarm"
        )
    if options.keep_rollouts and (options.algorithm == DPO or options.algorithm.startswith("sb3.")):
        raise ConfigError(f"rollouts of {options.algorithm} cannot be kept; leave out --keep-rollouts")
    group = getattr(config, "group_size", 1)
    if options.episodes % group:
        raise ConfigError(
            f"--episodes is {options.episodes}; {short_name(options.algorithm)} needs a multiple of {group}, "
            "the episodes that share a prompt"
        )
    processes = options.workers if options.engine == "ray" else processes_of_torchrun()
    if options.algorithm != DPO and options.episodes < processes * group:
        raise ConfigError(
            f"--episodes is {options.episodes}; {processes} processes need at least {processes * group}"
        )
    out = options.out or str(default_folder(options.data or options.task, options.algorithm))
    check_out_folder(out)
    check_free(out)
    policy = None if options.policy is None else policy_folder(options.policy)
    return dataclasses.replace(options, out=out, policy=policy)


def _check_generator(options: TrainOptions) -> None:
    """Check that a generator is installed, and that the algorithm plays by one.

    Raises:
        ConfigError: It is not, or does not.
    """
    if options.algorithm == DPO or options.algorithm.startswith("sb3."):
        raise ConfigError(f"{options.algorithm} plays no texts by a generator; leave out --generator")
    if importlib.util.find_spec("vllm") is None:
        raise MissingLibraryError("--generator vllm", "vllm", "text-gym[vllm]")


def _check_ray(options: TrainOptions) -> None:
    """Check that Ray is installed where it is asked for, and that the algorithm can do with it.

    Raises:
        ConfigError: It is not, or cannot.
    """
    single = options.algorithm == DPO or options.algorithm.startswith("sb3.")
    if options.engine == "ray" and single:
        raise ConfigError(f"{options.algorithm} learns in one process; leave out --engine ray")
    if options.reward_actors and options.algorithm == DPO:
        raise ConfigError("dpo optimises no reward; leave out --reward-actors")
    for asked, what in (
        (options.engine == "ray", "--engine ray"),
        (options.reward_actors, "--reward-actors"),
    ):
        if asked and importlib.util.find_spec("ray") is None:
            raise MissingLibraryError(what, "ray", "text-gym[ray]")


def _check_pairs(options: TrainOptions) -> None:
    """Check that dpo has pairs to learn from and no reward to optimise, and that nothing else has pairs.

    Raises:
        TextGymError: Naming the option, and what to do.
    """
    if options.algorithm != DPO:
        if options.pairs is not None:
            raise ConfigError(
                f"{options.algorithm} learns from a reward, not from --pairs; pass --algorithm dpo"
            )
        return
    if options.pairs is None:
        raise ConfigError(
            "dpo learns from preference pairs: pass --pairs FILE, with columns prompt, chosen, rejected, or "
            "a label store (text-gym label --kind comparison)"
        )
    if options.reward is not None:
        raise ConfigError(
            "dpo optimises no --reward; leave it out, or make a reward model of the pairs: text-gym reward "
            f"train --pairs {options.pairs}"
        )
    if Path(options.pairs).suffix != ".db":
        check_data(options.pairs, "pairs")
    elif not Path(options.pairs).is_file():
        raise DataError(f"--pairs {options.pairs}: there is no such label store")


def _config_class(algorithm: str) -> type[Any]:
    """Return the class of an algorithm's settings.

    Raises:
        UnknownNameError: There is no such algorithm; the nearest name is suggested.
    """
    check_code("algorithm", algorithm)
    library = [f"sb3.{name}" for name in SB3_ALGORITHMS]
    known = [*CONFIGS, DPO, *library, *installed()]
    if ":" not in algorithm and algorithm not in known:
        raise UnknownNameError("algorithm", algorithm, known)
    if algorithm == DPO:
        return DPOConfig
    return SB3Config if algorithm in library else settings_class(algorithm)


@dataclass(frozen=True)
class _Resumption:
    """Go on with an interrupted run.

    Args:
        resume: As in `TrainOptions`, as are the others.
        accept_changes: Go on although something changed.
        trust: The folder once more.
    """

    resume: str
    accept_changes: bool = False
    trust: str | None = None


def _settings_of_run(argv: list[str], folder: str) -> tuple[TrainOptions, Any]:
    """Read the options and the algorithm's settings that a run was started with.

    Raises:
        ConfigError: There are other options, no such run, or settings that this version does not know.
        UntrustedRunError: The folder is from elsewhere and names code to run.
    """
    names = {word.partition("=")[0].replace("_", "-") for word in argv if word.startswith("--")}
    if names - {"--resume", "--accept-changes", "--trust"}:
        raise ConfigError(
            "a run is resumed with its own settings: leave out all options but --resume FOLDER, "
            "--accept-changes and --trust FOLDER"
        )
    (given,) = parse("train", argv, _Resumption)
    if given.trust is not None and Path(given.trust).resolve() != Path(folder).resolve():
        raise ConfigError(f"--trust {given.trust} is not the folder of --resume {folder}")
    found = read_config(folder)
    check_out_folder(folder, "resume")
    try:
        options = checked_fields(TrainOptions, found["options"])
        check_trust(
            folder,
            found["options"],
            trusted=given.trust is not None,
            accept_changes=given.accept_changes,
            sandbox=os.environ.get("TEXT_GYM_SANDBOX") != "0",
        )
        config_class = _config_class(options.algorithm)
        config = checked_fields(config_class, {f.name: found[f.name] for f in fields(config_class)})
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder}/config.json lacks what `text-gym train --resume` needs ({error}): it is from another "
            "version, or the run was started from Python; resume it there"
        ) from error
    return dataclasses.replace(options, accept_changes=given.accept_changes), config
