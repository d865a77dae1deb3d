"""Options of `text-gym sample` and `text-gym evaluate`, and how they are read from the command line."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from text_gym.data import Data

from .parsing import parse


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


def read_sample(argv: list[str]) -> tuple[SampleOptions]:
    """Options of `text-gym sample`."""
    (options,) = parse("sample", argv, SampleOptions)
    return (options,)


def read_evaluate(argv: list[str]) -> tuple[EvaluateOptions]:
    """Options of `text-gym evaluate`; the policy may come first, without `--policy`."""
    if argv and not argv[0].startswith("-"):
        argv = ["--policy", *argv]
    (options,) = parse("evaluate", argv, EvaluateOptions)
    return (options,)
