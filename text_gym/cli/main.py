"""The command line: the table of commands, and `main`, which reads the words of one and runs it.

Reading needs no PyTorch, so help and mistakes are shown at once; what a command needs is loaded when it runs.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from importlib.metadata import version
from typing import Any

from text_gym.errors import ConfigError, TextGymError, UnknownNameError
from text_gym.utils.display import escaped_output, started_by_torchrun

# A command of one word or two: the function that reads the words after it, the one that takes what was
# read (and returns the exit status), and its help.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "train": (
        "text_gym.cli.options.train:read_train",
        "text_gym.cli.train:run_train",
        "improve a policy by reinforcement learning",
    ),
    "tune": (
        "text_gym.cli.options.tune:read_tune",
        "text_gym.cli.tune:run_tune",
        "measure which sizes (micro-batches, tiles, …) are fastest on this machine",
    ),
    "sft": (
        "text_gym.cli.options.sft:read_sft",
        "text_gym.cli.sft:run_sft",
        "make a policy by supervised fine-tuning on written texts",
    ),
    "sample": (
        "text_gym.cli.options.evaluate:read_sample",
        "text_gym.cli.evaluate:run_sample",
        "let a policy write",
    ),
    "evaluate": (
        "text_gym.cli.options.evaluate:read_evaluate",
        "text_gym.cli.evaluate:run_evaluate",
        "measure a policy on held-out prompts",
    ),
    "view": (
        "text_gym.cli.options.evaluate:read_view",
        "text_gym.cli.run_folder:run_view",
        "show the rollouts that a run kept token by token, as a page",
    ),
    "push": (
        "text_gym.cli.options.push:read_push",
        "text_gym.cli.run_folder:run_push",
        "upload a saved policy to the Hugging Face Hub",
    ),
    "play": (
        "text_gym.cli.options.play:read_play",
        "text_gym.cli.play.agent:run_play",
        "be the policy yourself, token by token, or the user that a policy talks to",
    ),
    "tasks": (
        "text_gym.cli.options.project:read_tasks",
        "text_gym.cli.project:run_tasks",
        "list the tasks there are, those of installed packages too",
    ),
    "serve": (
        "text_gym.cli.options.project:read_serve",
        "text_gym.cli.project:run_serve",
        "offer a task to other programs, as an environment of OpenEnv",
    ),
    "export": (
        "text_gym.cli.options.project:read_export_task",
        "text_gym.cli.project:run_export_task",
        "write a task and its reward as a project for TRL, verl or OpenRLHF",
    ),
    "init": (
        "text_gym.cli.options.project:read_init",
        "text_gym.cli.project:run_init",
        "write a small package with a task of your own, to be changed",
    ),
    "reward train": (
        "text_gym.cli.options.reward:read_reward_train",
        "text_gym.cli.reward:run_reward_train",
        "make a reward model from preference pairs, ratings or labels of steps",
    ),
    "reward score": (
        "text_gym.cli.options.reward:read_reward_score",
        "text_gym.cli.reward:run_reward_score",
        "score stored transcripts again with another reward",
    ),
    "reward audit": (
        "text_gym.cli.options.audit:read_audit",
        "text_gym.cli.audit:run_audit",
        "find what a reward pays for that is not quality, as a page",
    ),
    "rlhf": (
        "text_gym.cli.options.rlhf:read_rlhf",
        "text_gym.cli.rlhf:run_rlhf",
        "the whole cycle: ask people, learn what they like, improve; again",
    ),
    "bench rewards": (
        "text_gym.cli.options.bench:read_rewards",
        "text_gym.cli.bench:run_rewards",
        "which reward, optimised hard, gives better text? A matrix of designs, with a report",
    ),
    "bench agents": (
        "text_gym.cli.options.bench:read_agents",
        "text_gym.cli.bench:run_agents",
        "compare algorithms on the same tasks",
    ),
    "bench compare": (
        "text_gym.cli.options.bench:read_compare",
        "text_gym.cli.bench:run_compare",
        "tell whether one benchmark's results differ from another's",
    ),
    "bench findings": (
        "text_gym.cli.options.bench:read_findings",
        "text_gym.cli.bench:run_findings",
        "tell the findings that hold on two benchmarks from those that do not",
    ),
    "bench submit": (
        "text_gym.cli.options.bench:read_submit",
        "text_gym.cli.bench:run_submit",
        "make a verifiable folder of one reward's results, for a leaderboard",
    ),
    "bench leaderboard": (
        "text_gym.cli.options.bench:read_leaderboard_options",
        "text_gym.cli.bench:run_leaderboard",
        "check submissions and rank them, as a static site",
    ),
    "check": (
        "text_gym.cli.options.check:read_check",
        "text_gym.cli.check:run_check",
        "check an environment, a reward or an algorithm: what it breaks, and what to mend",
    ),
    "validate": (
        "text_gym.cli.options.check:read_validate",
        "text_gym.cli.check:run_validate",
        "judge a task, a reward or a package before it is optimised: graded levels, a page, a badge",
    ),
    "label": (
        "text_gym.cli.options.labels:read_label",
        "text_gym.cli.labels:run_label",
        "rate and compare texts; every answer is saved",
    ),
    "labels stats": (
        "text_gym.cli.options.labels:read_stats",
        "text_gym.cli.labels:run_stats",
        "agreement and bias of the raters",
    ),
    "labels verify": (
        "text_gym.cli.options.labels:read_verify",
        "text_gym.cli.labels:run_verify",
        "check that no label was changed",
    ),
    "labels export": (
        "text_gym.cli.options.labels:read_export",
        "text_gym.cli.labels:run_export",
        "write the labels to a file",
    ),
    "labels import": (
        "text_gym.cli.options.labels:read_import",
        "text_gym.cli.labels:run_import",
        "add the labels of a file",
    ),
    "labels merge": (
        "text_gym.cli.options.labels:read_merge",
        "text_gym.cli.labels:run_merge",
        "join the stores of several people",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (2 for bad input, 130 after Ctrl-C)."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in argv
    if "--no-sandbox" in argv:
        with _environment("TEXT_GYM_SANDBOX", "0"):  # worker processes of a benchmark inherit it
            return main([a for a in argv if a != "--no-sandbox"])
    argv = [a for a in argv if a != "--debug"]
    _escape_what_cannot_be_shown()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with escaped_output():
        return _run(argv, debug)


def _run(argv: list[str], debug: bool) -> int:
    try:
        for word in argv:  # a system hands over none with such a character, but a program may
            if "\0" in word:
                raise ConfigError(f"an option holds a NUL character, which no path or text may: {word!r}")
        if not argv or argv[0] in ("-h", "--help"):
            print(_help())
            return 0
        if argv[0] in ("-V", "--version"):
            print(f"text-gym {version('text-gym')}")
            return 0
        name, rest = _split(argv)
        read, run, _ = COMMANDS[name]
        # Read the options before loading what runs: help and mistakes need no PyTorch.
        found = _load(read)(rest)
        with ExitStack() as opened:
            for part in found:
                if isinstance(part, AbstractContextManager):  # a display of the wait for what is loaded now
                    opened.enter_context(part)
            return int(_load(getattr(found[0], "run_by", run))(*found))
    except TextGymError as error:
        if debug:
            raise
        print(f"text-gym: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(started_by_torchrun())  # torchrun ends the others, who would wait for this one
    except KeyboardInterrupt:
        if debug:
            raise
        print("text-gym: interrupted", file=sys.stderr)
        return 130


def _escape_what_cannot_be_shown() -> None:
    """Escape characters that an output's encoding lacks: on Windows a pipe has the encoding of the region."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):  # not a text stream, or one that cannot be reconfigured
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _load(place: str) -> Any:
    """Import the function at `module:name`."""
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = "\n".join(f"  {name:{width}}{about}" for name, (_, _, about) in COMMANDS.items())
    return f"""usage: text-gym [--version] [--debug] [--no-sandbox] COMMAND [OPTIONS]

Reinforcement learning in which generating tokens is the episode.

{lines}

text-gym COMMAND --help shows a command's options; --debug shows tracebacks.
A reward from a file (--reward file.py:function) runs in a sandbox, without network and without writing to
your files; --no-sandbox runs it as part of the program: for a file of your own that needs more."""


def _split(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Split the arguments into a command of one or two words and the words after it."""
    for words in (2, 1):
        name = " ".join(argv[:words])
        if name in COMMANDS:
            return name, list(argv[words:])
    group = [name for name in COMMANDS if name.startswith(argv[0] + " ")]
    if (group and len(argv) == 1) or (group and argv[1] in ("-h", "--help")):
        print("\n".join(f"  text-gym {name:24}{COMMANDS[name][2]}" for name in group))
        raise SystemExit(0 if len(argv) > 1 else 2)
    raise UnknownNameError("command", " ".join(argv[: 2 if group else 1]), COMMANDS)
