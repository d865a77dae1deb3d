"""Options of `text-gym sample`, `evaluate` and `view`, and how they are read from the command line."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from tyro.conf import Positional

from text_gym.data import Data
from text_gym.errors import ConfigError, DataError, excerpt
from text_gym.runs.saved_policy import holds_model, policy_folder

from .checks import (
    NEW,
    at_least,
    check_data,
    check_device,
    check_file,
    check_policy,
    check_reward,
    check_sampling,
    check_task,
)
from .parsing import COLUMN, parse

# What people use first.
_SAMPLE_FIRST = (
    "texts", "policy", "task", "data", "count", "max_tokens", "temperature", "greedy", "json", "seed",
    "device",
)  # fmt: skip
_EVALUATE_FIRST = (
    "policy", "task", "data", "reward", "reference", "temperature", "out", "transcripts", "seed", "device",
)  # fmt: skip


@dataclass(frozen=True)
class SampleOptions(Data):
    """Let a policy complete prompts: text-gym sample FOLDER "a prompt", of a policy or of a run.

    Args:
        texts: Prompts, one after another; held-out prompts of the task or data if there are none. They stand
            before options that take several values, such as --stop.
        task: Task the policy is for; if left out, what it was trained on, or products.
        policy: Folder or hub model; the task's own if left out (--model is the same).
        count: Number of texts.
        max_tokens: Token limit; the task's own if left out.
        temperature: Logits are divided by it.
        greedy: Take the likeliest token every time.
        top_k: Draw from the k likeliest tokens only; 0 means all.
        top_p: Draw from the smallest set of tokens with this probability only.
        stop: Strings that end a text as EOS does; the text leaves them out.
        json: Write JSON lines.
        seed: Decides the noise.
        device: auto, cpu, cuda, cuda:1.
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
    stop: tuple[str, ...] = ()
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
        top_k: Draw from the k likeliest tokens only; 0 means all.
        top_p: Draw from the smallest set of tokens with this probability only.
        stop: Strings that end a text as EOS does; the text leaves them out.
        out: JSON file to write the result to, beside printing it.
        transcripts: JSON-lines file to write the texts and their rewards to.
        seed: Decides the noise.
        device: auto, cpu, cuda, cuda:1.
    """

    task: str | None = None
    policy: str | None = None
    reference: str | None = None
    reference_column: str | None = None
    reward: str | None = None
    max_tokens: int | None = None
    temperature: float = 1.0
    greedy: bool = False
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    out: str | None = None
    transcripts: str | None = None
    seed: int = 0
    device: str = "auto"


def read_sample(argv: list[str]) -> tuple[SampleOptions]:
    """Options of `text-gym sample`; the folder of a policy may come first, without `--policy`."""
    unnamed = {word.partition("=")[0] for word in argv}.isdisjoint(("--policy", "--model"))
    if unnamed and argv and not argv[0].startswith("-"):
        if _is_policy(argv[0]):
            argv = ["--policy", *argv]
        else:
            _check_text(argv[0])
    (options,) = parse("sample", argv, SampleOptions, first=_SAMPLE_FIRST, flags=COLUMN)
    _check(options)
    at_least(1, count=options.count)
    return (options,)


def _is_policy(place: str | Path) -> bool:
    try:
        return holds_model(policy_folder(place))
    except OSError:  # a text, too long for a name
        return False


def _check_text(word: str) -> None:
    """Refuse a text that looks like the mistyped folder of a policy: another policy would complete it."""
    place, policies, is_path = Path(word), [], False
    if any(map(str.isspace, word)):
        return
    with suppress(OSError):  # too long for a name, or not ours to read
        is_path = place.name != word and place.parent.is_dir()
        for beside in place.parent.iterdir():
            with suppress(DataError):  # a run without a policy
                policies += [beside.name] if _is_policy(beside) else []
    near = get_close_matches(place.name, policies, n=1)
    if near or is_path:
        hint = f"; did you mean {excerpt(str(place.with_name(near[0])), 4096)}" if near else ""
        raise ConfigError(
            f"there is no policy in {excerpt(word, 4096)}{hint}. If it is a text to complete, name the "
            "policy with --policy"
        )


def read_evaluate(argv: list[str]) -> tuple[EvaluateOptions]:
    """Options of `text-gym evaluate`; the policy may come first, without `--policy`."""
    if argv and not argv[0].startswith("-"):
        argv = ["--policy", *argv]
    flags = {"reference_column": COLUMN["reference"]}
    (options,) = parse("evaluate", argv, EvaluateOptions, first=_EVALUATE_FIRST, flags=flags)
    _check(options)
    check_policy(options.reference, "reference")
    check_reward(options.reward)
    for option in ("out", "transcripts"):
        check_file(option, getattr(options, option))
    print("loading PyTorch and the policy …", flush=True)
    return (options,)


def _check(options: SampleOptions | EvaluateOptions) -> None:
    """Check what both commands have and what needs no PyTorch."""
    check_task(options.task)
    if options.data is not None and options.policy is None:
        raise ConfigError("--data needs a --policy that writes such texts")
    check_data(options.data)
    if options.policy == NEW:
        raise ConfigError("--policy new is a policy with random weights, for `text-gym train`; pass a folder")
    check_policy(options.policy)
    check_reward(options.gold, "gold")
    check_device(options.device)
    at_least(1, max_tokens=options.max_tokens)
    check_sampling(options.temperature, options.top_k, options.top_p)


@dataclass(frozen=True)
class ViewOptions:
    """Show the rollouts that a run kept token by token, as a page that needs no network.

    Its tokens are coloured by advantage, KL, ratio, value or entropy; it works while a run goes on, too.

    Args:
        run: Folder of a run of `text-gym train` or `text-gym rlhf` with --keep-rollouts.
        output: The page; view.html in that folder if left out.
    """

    run: Positional[str]
    output: str | None = None


def read_view(argv: list[str]) -> tuple[ViewOptions]:
    """Options of `text-gym view`."""
    (options,) = parse("view", argv, ViewOptions)
    check_file("output", options.output)
    if options.output is None and Path(options.run).is_dir():
        check_file("output", str(Path(options.run, "view.html")))
    return (options,)
