"""`text-gym sample` and `text-gym evaluate` let a policy write and measure what it writes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.evaluation import evaluate
from text_gym.agents.sampling.sampler import Sampling
from text_gym.cli.options.evaluate import EvaluateOptions, SampleOptions
from text_gym.data import Conversations, Data, prompts_from
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import Prompt
from text_gym.errors import ConfigError, DataError
from text_gym.runs.data import data_task, load_reward_source, with_settings
from text_gym.runs.judgement import judge_texts, rows_of
from text_gym.runs.origin import load_policy, load_start, origin_task
from text_gym.runs.saved_policy import policy_folder, read_origin
from text_gym.tasks.task import Task, load_task
from text_gym.transcripts import turn_rows, write_transcripts
from text_gym.utils.display import harmless, json_line
from text_gym.utils.json_files import write_json
from text_gym.utils.terminal import SafeConsole


def run_sample(options: SampleOptions) -> int:
    """Run `text-gym sample`."""
    sample(options)
    return 0


def run_evaluate(options: EvaluateOptions) -> int:
    """Run `text-gym evaluate`."""
    evaluate_policy(options)
    return 0


def sample(options: SampleOptions, console: Console | None = None) -> list[str]:
    """Print completions of the given texts, or of held-out prompts."""
    console = console or SafeConsole()
    asked = (options.task, data_of(options), options.policy, options.max_tokens)
    task, place = _task_and_policy(*asked, typed=bool(options.texts))
    policy = load_policy(place, options.device, task)
    prompts = _typed(options, task, policy) or list(islice(task.held_out, options.count))
    repeats = max(1, options.count // len(prompts)) if options.texts else 1
    reward = (lambda episodes: [0.0] * len(episodes)) if options.texts else task.reward
    talk = {} if options.texts else task.conversation()
    parts: Any = (prompts, policy.tokenizer, reward, task.max_tokens)
    env = TextVectorEnv(*parts, shuffle=False, stop=options.stop, **talk)
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.greedy)
    found = evaluate(policy, env, sampling=sampling, seed=options.seed, episodes_per_prompt=repeats)
    for episode, value in zip(found.episodes, found.rewards, strict=True):
        if options.json:
            row: dict[str, Any] = {"prompt": episode.prompt.text, "completion": episode.completion}
            row |= {"messages": episode.messages} if episode.messages else {}
            row |= {"turns": turn_rows(episode)} if episode.turns else {}
            if not options.texts and task.has_gold:
                row["gold"] = float(value) if value == value else None  # the source abstained
            print(json_line(row))
            continue
        console.print(Text(harmless(episode.prompt.text.strip(), newlines=True), style="dim"))
        mark = "" if options.texts or not task.has_gold else f" (gold {value:.2f})"
        console.print(Text.assemble("  ", harmless(episode.completion), (mark, "dim"), "\n"))
    return [e.completion for e in found.episodes]


def _typed(options: SampleOptions, task: Task, policy: Policy) -> list[Prompt]:
    """Make prompts of the texts that were typed: what a user says, if the policy learnt conversations."""
    if not (options.chat or options.system is not None or task.settings.get("chat")):
        return [Prompt(text) for text in options.texts]
    system = options.system if options.system is not None else task.settings.get("system")
    rows = [{"text": text} for text in options.texts]
    reader = Conversations(policy.tokenizer, system, texts=True)
    return prompts_from(rows, "text", chat=reader) if rows else []


def evaluate_policy(options: EvaluateOptions, console: Console | None = None) -> dict[str, Any]:
    """Print how good a policy's held-out texts are, and write the figures if asked to.

    Returns:
        The figures of `judge_texts`, with `policy`, `task` and `reference`: what KL is measured to, or None.
    """
    console = console or SafeConsole()
    data = data_of(options, reference=options.reference_column)
    task, place = _task_and_policy(options.task, data, options.policy, options.max_tokens)
    policy = load_policy(place, options.device, task)
    reward = None
    if options.reward is not None:
        reward = load_reward_source(options.reward, [*task.prompts, *task.held_out])
    reference, found_at = _reference(options, place, policy)
    env = TextVectorEnv(**task.env_kwargs(prompts=task.held_out), shuffle=False, stop=options.stop)
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.greedy)
    found = evaluate(policy, env, reference=reference, sampling=sampling, seed=options.seed)
    judged = judge_texts(found, task, reward)
    about = {"policy": str(place), "task": task.name, "reference": found_at if reference else None}
    summary = {**about, **judged.summary}
    _show(console, task, str(place), summary, found_at)
    if options.out:
        write_json(options.out, summary)
    if options.transcripts:
        gold = found.rewards.tolist() if task.has_gold else None
        rewards = gold if judged.proxy is None else judged.proxy.tolist()
        write_transcripts(options.transcripts, found.episodes, rewards, gold)
    return summary


def _reference(options: EvaluateOptions, place: str | Path, policy: Policy) -> tuple[Policy | None, str]:
    """Find the reference policy for the KL and where it was found, or None and the reason."""
    if options.reference is None:
        return load_start(place, policy, options.device)
    name = policy_folder(options.reference)
    own = (Path(name) / "tokenizer.json").is_file() or not Path(name).is_dir()
    reference = Policy.from_pretrained(name, None if own else policy.tokenizer, device=options.device)
    if reference.tokenizer.fingerprint != policy.tokenizer.fingerprint:
        raise ConfigError(
            f"reference {options.reference} reads and writes other tokens than the policy; the KL between "
            "them is not defined. Pass --reference FOLDER of one with the same tokenizer"
        )
    return reference, name


def _show(console: Console, task: Task, place: str, summary: Mapping[str, Any], reference: str) -> None:
    """Print what was measured on what, then one line per figure."""
    width = max(map(len, ["held-out prompts", *rows_of(summary)]))
    data = task.settings.get("data")
    prompts = f"task {task.name!r}"
    if data is not None:
        column, separator = task.settings["prompt"], task.settings["separator"]
        prompts = f"{data}, column {column!r}, separator {separator!r}"
    known = summary["reference"] is not None
    for name, text in (("policy", place), ("held-out prompts", f"{len(task.held_out)} of {prompts}")):
        console.print(Text(harmless(f"{name:{width}s} {text}")), soft_wrap=True)
    line = f"{'KL to' if known else 'KL':{width}s} {reference}"
    console.print(Text(harmless(line), style="" if known else "yellow"), soft_wrap=True)
    if not rows_of(summary):
        line = "these prompts have no reward of their own, so there is no gold; pass --gold, or --reward"
        console.print(Text(line, style="yellow"), soft_wrap=True)
    for name, value in rows_of(summary).items():
        low, high = value["ci95"]
        interval = f"95 % interval {low:.4f} to {high:.4f}"
        console.print(Text(harmless(f"{name:{width}s} {value['mean']:.4f}  {interval}")), soft_wrap=True)
    for name in ("kl_nats", "perplexity", "length_tokens", "terminated"):
        shown = "not known" if math.isnan(summary[name]) else f"{summary[name]:.4f}"
        console.print(Text(f"{name:{width}s} {shown}"))


def data_of(options: Data, **changes: Any) -> Data:
    """Return the part of a command's options that concerns data."""
    return Data(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Data)} | changes)


def _task_and_policy(
    name: str | None, data: Data, policy: str | None, max_tokens: int | None, *, typed: bool = False
) -> tuple[Task, str | Path]:
    """Load the task or data to evaluate a policy on, its own by default, and find the policy's folder.

    Prompts that are `typed` need no data: where the policy's own is gone, they are written as it was.

    Raises:
        ConfigError: There is no policy, or its data is gone, or it was trained on a task made in Python.
    """
    place: str | Path | None = None if policy is None else policy_folder(policy)
    origin = {} if place is None else read_origin(place)
    own = name is None and data.data is None
    if place is not None and (data.data is not None or (own and "data" in origin)):
        data = with_settings(data, origin)
        try:
            return data_task(data, str(place), max_tokens), place
        except DataError as error:
            if not own:
                raise
            if typed:
                task, settings = load_task("products"), {"chat": data.chat, "system": data.system}
                most = int(max_tokens or origin.get("max_tokens") or task.max_tokens)
                return dataclasses.replace(task, max_tokens=most, settings=settings), place
            raise DataError(
                f"the policy was trained on {data.data}, which cannot be read now ({error}); pass --data "
                "FILE (column and separator are known), or --task NAME"
            ) from error
    if data.gold is not None:
        raise ConfigError("a task has a reward of its own, which is gold; --gold is for --data")
    if own and "start_policy" in origin and "task" not in origin:
        raise ConfigError(
            f"{place} was trained on a task that was made in Python; pass --task NAME or --data FILE"
        )
    if own and place is not None and "task" in origin:
        task = origin_task(origin, place)
    else:
        task = load_task(name or "products")
    limit = max_tokens or (origin.get("max_tokens") if own else None)
    if limit:
        task = dataclasses.replace(task, max_tokens=int(limit))
    place = place or task.policy
    if place is None:
        raise ConfigError(f"task {task.name!r} ships no policy; pass --policy FOLDER")
    return task, place
