"""The command line: the table of commands, and `main`, which reads the words of one and runs it.

Reading needs no PyTorch, so help and mistakes are shown at once; what a command needs is loaded when it runs.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from .errors import ConfigError, TextGymError, UnknownNameError
from .options import parse, value_of
from .report import read_config
from .train import Data, anchored

if TYPE_CHECKING:
    from text_gym.agents import SFTConfig

# A command of one word or two: the function that reads the words after it, the one that takes what was
# read (and returns the exit status), and its help.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "train": (
        "text_gym.cli:read_train",
        "text_gym.cli:run_train",
        "improve a policy by reinforcement learning",
    ),
    "sft": (
        "text_gym.cli:read_sft",
        "text_gym.cli:run_sft",
        "make a policy by supervised fine-tuning on written texts",
    ),
    "sample": (
        "text_gym.cli:read_sample",
        "text_gym.cli:run_sample",
        "let a policy write",
    ),
    "evaluate": (
        "text_gym.cli:read_evaluate",
        "text_gym.cli:run_evaluate",
        "measure a policy on held-out prompts",
    ),
    "play": (
        "text_gym.cli:read_play",
        "text_gym.cli:run_play",
        "be the policy yourself: type or pick tokens, see observation and reward",
    ),
    "reward train": (
        "text_gym.reward_models.reward_commands:read_reward_train",
        "text_gym.reward_models.reward_commands:run_reward_train",
        "make a reward model from preference pairs or ratings",
    ),
    "reward score": (
        "text_gym.reward_models.reward_commands:read_reward_score",
        "text_gym.reward_models.reward_commands:run_reward_score",
        "score stored transcripts again with another reward",
    ),
    "reward audit": (
        "text_gym.reward_models.audit_commands:read_audit",
        "text_gym.reward_models.audit_commands:run_audit",
        "find what a reward pays for that is not quality, as a page",
    ),
    "rlhf": (
        "text_gym.rlhf_command:read_rlhf",
        "text_gym.rlhf_command:run_rlhf",
        "the whole cycle: ask people, learn what they like, improve; again",
    ),
    "bench rewards": (
        "text_gym.bench.commands:read_rewards",
        "text_gym.bench.commands:run_rewards",
        "which reward, optimised hard, gives better text? A matrix of designs, with a report",
    ),
    "bench agents": (
        "text_gym.bench.commands:read_agents",
        "text_gym.bench.commands:run_agents",
        "compare algorithms on the same tasks",
    ),
    "bench compare": (
        "text_gym.bench.compare:read_compare",
        "text_gym.bench.compare:run_compare",
        "tell whether one benchmark's results differ from another's",
    ),
    "check": (
        "text_gym.cli:read_check",
        "text_gym.cli:run_check",
        "check an environment or a reward: what it breaks, and what to mend",
    ),
    "label": (
        "text_gym.reward_models.label_commands:read_label",
        "text_gym.reward_models.label_commands:run_label",
        "rate and compare texts; every answer is saved",
    ),
    "labels stats": (
        "text_gym.reward_models.label_commands:read_stats",
        "text_gym.reward_models.label_commands:run_stats",
        "agreement and bias of the raters",
    ),
    "labels verify": (
        "text_gym.reward_models.label_commands:read_verify",
        "text_gym.reward_models.label_commands:run_verify",
        "check that no label was changed",
    ),
    "labels export": (
        "text_gym.reward_models.label_commands:read_export",
        "text_gym.reward_models.label_commands:run_export",
        "write the labels to a file",
    ),
    "labels import": (
        "text_gym.reward_models.label_commands:read_import",
        "text_gym.reward_models.label_commands:run_import",
        "add the labels of a file",
    ),
}


@dataclass(frozen=True)
class TrainOptions(Data):
    """Improve a policy by reinforcement learning.

    Args:
        task: Task to learn, where no data is given.
        algorithm: ppo, grpo, rloo, reinforce, best_of_n, or one of Stable-Baselines3: sb3.ppo, sb3.a2c,
            sb3.dqn, sb3.maskable_ppo, sb3.recurrent_ppo. Its settings are further options.
        reward: Reward to optimise: a name, module:function, file.py:function, or the folder of a reward
            model. The task's own, which is gold, if left out; beside another one gold is shown too.
        policy: Policy to start from: a folder, or a hub model such as Qwen/Qwen3-0.6B (--model is the
            same). The task's own if left out.
        lora: Rank of a LoRA adapter to train in place of the policy's weights, e.g. 8; needs much less memory
            for large models, and the extra `peft`.
        adapter_only: Save the adapter alone, not merged into the weights.
        bf16: Make matrix products in bfloat16; weights stay what they are.
        gradient_checkpointing: Need less memory for a third more work in updates.
        episodes: Episodes per iteration.
        max_tokens: Token limit of an episode; the task's own if left out.
        limit: What the limit means: end pays a text that it cuts as it stands, truncate learns nothing from
            it.
        out: Folder for the results; runs/TASK-ALGORITHM-TIME if left out.
        device: auto, cpu, cuda, cuda:1, mps.
        checkpoint_every: Iterations between two checkpoints; 0 takes none.
        resume: Folder of an interrupted run to go on with, in place and with its own settings; no other
            option can be given.
    """

    task: str = "products"
    algorithm: str = "ppo"
    reward: str | None = None
    policy: str | None = None
    lora: int | None = None
    adapter_only: bool = False
    bf16: bool = False
    gradient_checkpointing: bool = False
    episodes: int = 64
    max_tokens: int | None = None
    limit: Literal["end", "truncate"] = "end"
    out: str | None = None
    device: str = "auto"
    checkpoint_every: int = 10
    resume: str | None = None


@dataclass(frozen=True)
class SFTOptions(Data):
    """Make a policy by supervised fine-tuning: a tokenizer and a small model from nothing, or a given model.

    Args:
        task: Task whose corpus to learn, where no data is given.
        model: Folder or hub model to start from; a small new GPT-2 if left out.
        vocab_size: Size of a new tokenizer.
        layers: Layers of a new model.
        width: Width of a new model.
        heads: Attention heads of a new model.
        dropout: Dropout of a new model, in [0, 1); helps where texts are few.
        out: Folder for the policy.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    task: str = "products"
    model: str | None = None
    vocab_size: int = 1024
    layers: int = 2
    width: int = 128
    heads: int = 4
    dropout: float = 0.1
    out: str = "policy"
    device: str = "auto"


@dataclass(frozen=True)
class SampleOptions(Data):
    """Let a policy complete prompts.

    Args:
        texts: Prompts, one after another; held-out prompts of the task or data if there are none.
        task: Task the policy is for; if left out, what it was trained on, or products.
        policy: Folder or hub model; the task's own if left out (--model is the same).
        count: Number of texts.
        max_tokens: Token limit; the task's own if left out.
        temperature: Logits are divided by it.
        greedy: Take the likeliest token every time.
        top_k: Draw from the k likeliest tokens only; 0 means all.
        top_p: Draw from the smallest set of tokens with this probability only.
        json: Write JSON lines.
        seed: Decides the noise.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    texts: Positional[tuple[str, ...]] = ()
    task: str | None = None
    policy: str | None = None
    count: int = 5
    max_tokens: int | None = None
    temperature: float = 1.0
    greedy: bool = False
    top_k: int = 0
    top_p: float = 1.0
    json: bool = False
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class EvaluateOptions(Data):
    """Measure a policy on held-out prompts: text-gym evaluate FOLDER, of a policy or of a run.

    Gold is the task's own reward, and KL is measured to the policy that it started from. Task, data, columns
    and separator are those it was trained with, unless you say otherwise.

    Args:
        task: Task; if neither it nor data is given, what the policy was trained on, or products.
        policy: Folder or hub model; the task's own if left out (--model is the same).
        reference: Policy that KL and perplexity are measured against, instead of the one it started from.
        reference_column: Column of reference completions in the data.
        reward: Reward to measure beside gold: a name, module:function, file.py:function, or the folder of a
            reward model.
        max_tokens: Token limit; the task's own if left out.
        temperature: Logits are divided by it.
        greedy: Take the likeliest token every time.
        out: JSON file to write the result to, beside printing it.
        transcripts: JSON-lines file to write the texts and their rewards to.
        seed: Decides the noise.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    task: str | None = None
    policy: str | None = None
    reference: str | None = None
    reference_column: str | None = None
    reward: str | None = None
    max_tokens: int | None = None
    temperature: float = 1.0
    greedy: bool = False
    out: str | None = None
    transcripts: str | None = None
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class PlayOptions:
    """Be the policy yourself: type or pick tokens and see state, action, reward and end.

    Args:
        env: Gymnasium id, or the name of a task.
        seed: Of the environment.
    """

    env: str = "text_gym/Products-v0"
    seed: int = 0


@dataclass(frozen=True)
class CheckOptions:
    """Check an environment or a reward: text-gym check WHAT. Exit status 2 if it breaks a law.

    Args:
        what: A Gymnasium id or task, or a reward: a name, module:function, or file.py:function.
        task: Task whose random texts a reward is tried on.
        steps: Random actions per law, for an environment.
        seed: Of the environment and the texts.
    """

    what: str
    task: str = "products"
    steps: int = 300
    seed: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (2 for bad input, 130 after Ctrl-C)."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in argv
    argv = [a for a in argv if a != "--debug"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(_help())
            return 0
        name, rest = _split(argv)
        read, run, _ = COMMANDS[name]
        return int(_load(run)(*_load(read)(rest)))
    except TextGymError as error:
        if debug:
            raise
        print(f"text-gym: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        if debug:
            raise
        print("text-gym: interrupted", file=sys.stderr)
        return 130


def _load(place: str) -> Any:
    """The function at `module:name`."""
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = "\n".join(f"  {name:{width}}{about}" for name, (_, _, about) in COMMANDS.items())
    return f"""usage: text-gym [--debug] COMMAND [OPTIONS]

Reinforcement learning in which generating tokens is the episode.

{lines}

text-gym COMMAND --help shows a command's options; --debug shows tracebacks."""


def _split(argv: Sequence[str]) -> tuple[str, list[str]]:
    """A command of one or two words, and the words after it."""
    for words in (2, 1):
        name = " ".join(argv[:words])
        if name in COMMANDS:
            return name, list(argv[words:])
    group = [name for name in COMMANDS if name.startswith(argv[0] + " ")]
    if (group and len(argv) == 1) or (group and argv[1] in ("-h", "--help")):
        print("\n".join(f"  text-gym {name:24}{COMMANDS[name][2]}" for name in group))
        raise SystemExit(0 if len(argv) > 1 else 2)
    raise UnknownNameError("command", " ".join(argv[: 2 if group else 1]), COMMANDS)


def read_train(argv: list[str]) -> tuple[TrainOptions, Any, str]:
    """Options of `text-gym train`, settings of its algorithm, and the folder to go on with, if any."""
    resumed = value_of(argv, "--resume", "")
    if resumed and "-h" not in argv and "--help" not in argv:
        options, config = _settings_of_run(argv, resumed)
    else:
        config_class = _config_class(value_of(argv, "--algorithm", "ppo"))
        options, config = parse("train", argv, TrainOptions, config_class)
    return options, config, resumed


def run_train(options: TrainOptions, config: Any, resumed: str) -> int:
    """Run `text-gym train`; the exit status is 130 where the run was interrupted."""
    from .train import resolve_task, train

    task, reward = resolve_task(options.task, options, options.reward, options.policy, options.max_tokens)
    summary = train(
        options.algorithm,
        config,
        task,
        reward=reward,
        policy=options.policy,
        lora=options.lora,
        adapter_only=options.adapter_only,
        bf16=options.bf16,
        gradient_checkpointing=options.gradient_checkpointing,
        episodes=options.episodes,
        limit=options.limit,
        out=resumed or options.out,
        device=options.device,
        checkpoint_every=options.checkpoint_every,
        resume=bool(resumed),
        options=read_config(resumed)["options"] if resumed else _anchored(asdict(options)),
    )
    return 130 if summary["interrupted"] else 0


def _config_class(algorithm: str) -> type[Any]:
    """Of an algorithm's settings."""
    from text_gym.agents import SB3Config, load_algorithm

    return SB3Config if algorithm.startswith("sb3.") else load_algorithm(algorithm).config_class


def _settings_of_run(argv: list[str], folder: str) -> tuple[TrainOptions, Any]:
    """Options and algorithm's settings that the run in a folder was started with."""
    if len(argv) > (1 if "=" in argv[0] else 2):
        raise ConfigError("a run is resumed with its own settings: leave out all options but --resume FOLDER")
    found = read_config(folder)
    try:
        options = TrainOptions(**found["options"])
        config_class = _config_class(options.algorithm)
        return options, config_class(**{f.name: found[f.name] for f in fields(config_class)})
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder}/config.json lacks what `text-gym train --resume` needs ({error}): it is from another "
            "version, or the run was started from Python; resume it there"
        ) from error


def _anchored(options: dict[str, Any]) -> dict[str, Any]:
    """Options with the files among them as absolute paths, so that a run can be resumed from anywhere."""
    files = {name: anchored(options[name]) for name in ("data", "policy")}
    return {**options, **files, **{name: anchored(options[name], True) for name in ("reward", "gold")}}


def read_sft(argv: list[str]) -> tuple[SFTOptions, SFTConfig]:
    """Options of `text-gym sft`, and settings of the training."""
    from text_gym.agents import SFTConfig

    options, config = parse("sft", argv, SFTOptions, SFTConfig)
    return options, config


def run_sft(options: SFTOptions, config: SFTConfig) -> int:
    """Run `text-gym sft`."""
    from .commands import sft

    sft(options, config)
    return 0


def read_sample(argv: list[str]) -> tuple[SampleOptions]:
    """Options of `text-gym sample`."""
    (options,) = parse("sample", argv, SampleOptions)
    return (options,)


def run_sample(options: SampleOptions) -> int:
    """Run `text-gym sample`."""
    from .commands import sample

    sample(options)
    return 0


def read_evaluate(argv: list[str]) -> tuple[EvaluateOptions]:
    """Options of `text-gym evaluate`; the policy may come first, without `--policy`."""
    if argv and not argv[0].startswith("-"):
        argv = ["--policy", *argv]
    (options,) = parse("evaluate", argv, EvaluateOptions)
    return (options,)


def run_evaluate(options: EvaluateOptions) -> int:
    """Run `text-gym evaluate`."""
    from .commands import evaluate

    evaluate(options)
    return 0


def read_play(argv: list[str]) -> tuple[PlayOptions]:
    """Options of `text-gym play`."""
    (options,) = parse("play", argv, PlayOptions)
    return (options,)


def run_play(options: PlayOptions) -> int:
    """Run `text-gym play`."""
    import gymnasium as gym
    from rich.console import Console

    from .env import TextEnv
    from .play import play
    from .task import ENV_IDS, TASKS

    if options.env in TASKS:
        env = TextEnv(task=options.env)
    elif options.env in gym.registry:
        made = gym.make(options.env).unwrapped
        if not isinstance(made, TextEnv):
            raise ConfigError(f"{options.env} is not a text environment")
        env = made
    else:
        raise UnknownNameError("environment", options.env, [*ENV_IDS, *TASKS])
    play(env, Console(), _typed_lines(), options.seed)
    return 0


def read_check(argv: list[str]) -> tuple[CheckOptions]:
    """Options of `text-gym check`; what to check comes first."""
    if argv and not argv[0].startswith("-"):
        argv = ["--what", *argv]
    (options,) = parse("check", argv, CheckOptions)
    return (options,)


def run_check(options: CheckOptions) -> int:
    """Run `text-gym check`."""
    import gymnasium as gym

    from .checker import check_reward_source, check_text_env
    from .env import TextEnv
    from .task import ENV_IDS, TASKS, load_task
    from .train import load_reward_source

    if options.what in TASKS or options.what in gym.registry:
        env_id = next((i for i, kwargs in ENV_IDS.items() if kwargs == {"task": options.what}), options.what)
        env = gym.make(env_id) if env_id in gym.registry else TextEnv(task=options.what)
        check_text_env(env, steps=options.steps, seed=options.seed)
    else:
        task = load_task(options.task)
        check_reward_source(load_reward_source(options.what, task.prompts), task, seed=options.seed)
    print(f"{options.what} breaks none of the laws")
    return 0


def _typed_lines() -> Iterator[str]:
    """Lines a person types, with a prompt on a terminal; ends at the end of the input."""
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
