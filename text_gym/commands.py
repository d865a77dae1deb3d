"""What `text-gym sft`, `sample` and `evaluate` do; `train` and `play` have files of their own."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from .data import pairs_from
from .display import harmless
from .episode import Prompt, write_transcripts
from .errors import ConfigError, DataError
from .judgement import judge_texts, rows_of
from .origin import Start, load_start, policy_folder, read_origin, write_origin
from .report import write_json
from .task import Task, load_task
from .tokenizer import PretrainedTokenizer, Tokenizer
from .train import Data, anchored, data_task, load_reward_source, with_settings
from .vector import TextVectorEnv

if TYPE_CHECKING:
    from text_gym.agents import Policy, SFTConfig

    from .cli import EvaluateOptions, SampleOptions, SFTOptions


def sft(options: SFTOptions, config: SFTConfig, console: Console | None = None) -> dict[str, Any]:
    """Train a policy on written texts and save it, with how its data was read, in `options.out`.

    Returns:
        What is written to `sft.json`: losses in nats per token, sizes, seconds.
    """
    from text_gym.agents import SFT, completion_loss

    console = console or Console()
    started = time.perf_counter()
    if options.data is None:
        task = load_task(options.task)
        if task.corpus is None:
            raise ConfigError(
                f"task {task.name!r} has no written texts to learn from; pass --data FILE --reference COLUMN"
            )
        train, held_out = task.corpus()
        tokenizer: Tokenizer | None = task.tokenizer  # `train --task` will ask for the same
        settings: Mapping[str, Any] = task.settings
        max_tokens = task.max_tokens
    else:
        if options.reference is None:
            raise ConfigError("pass --reference COLUMN: the texts to learn from")
        train_prompts, held_out_prompts = options.load()
        train, held_out = pairs_from(train_prompts), pairs_from(held_out_prompts)
        tokenizer = None
        settings = {f.name: getattr(options, f.name) for f in dataclasses.fields(Data)} | {
            "data": anchored(options.data),
            "gold": anchored(options.gold, reward=True),
        }
        max_tokens = 0
    policy = _policy_for(options, train, config.seed, tokenizer)
    start = None if options.model is None else Start.of(policy, options.model)
    max_tokens = max_tokens or 1 + max(len(policy.tokenizer.encode(text)) for _, text in train)

    with console.status("supervised fine-tuning …") if console.is_terminal else _quiet() as status:

        def report(metrics: dict[str, float]) -> None:
            line = (
                f"step {int(metrics['step'])}/{int(metrics['steps'])}  loss {metrics['loss']:.3f} nats/token"
            )
            if status is not None:
                status.update(line)
            elif metrics["step"] % max(1, metrics["steps"] // 10) == 0:
                console.print(line, highlight=False)

        trainer = SFT(policy, train, config).learn(callback=report)
    result = {
        "loss": completion_loss(policy, train[:1000]),
        "held_out_loss": completion_loss(policy, held_out[:1000]),
        "steps": trainer.steps,
        "pairs": len(train),
        "held_out_pairs": len(held_out),
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "vocab_size": policy.vocab_size,
        **dataclasses.asdict(config),
    }
    out = Path(options.out)
    policy.save(out)
    write_origin(out, settings, max_tokens, start)
    write_json(out / "sft.json", result)
    console.print(
        Text(
            f"{result['parameters']:,} parameters, {result['vocab_size']} token ids; "
            f"loss {result['loss']:.3f} nats/token, held out {result['held_out_loss']:.3f}; "
            f"{time.perf_counter() - started:.0f} s; "
            f"saved in {out}"
        )
    )
    return result


def sample(options: SampleOptions, console: Console | None = None) -> list[str]:
    """Print completions of the given texts, or of held-out prompts."""
    from text_gym.agents import Policy, Sampling, evaluate

    console = console or Console()
    task, place = _task_and_policy(options.task, data_of(options), options.policy, options.max_tokens)
    policy = Policy.from_pretrained(place, device=options.device)
    prompts: list[Prompt] = [Prompt(t) for t in options.texts] or list(islice(task.held_out, options.count))
    repeats = max(1, options.count // len(prompts)) if options.texts else 1
    reward = (lambda episodes: [0.0] * len(episodes)) if options.texts else task.reward
    env = TextVectorEnv(prompts, policy.tokenizer, reward, task.max_tokens, shuffle=False)
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.greedy)
    found = evaluate(policy, env, sampling=sampling, seed=options.seed, episodes_per_prompt=repeats)
    for episode, value in zip(found.episodes, found.rewards, strict=True):
        if options.json:
            row: dict[str, Any] = {"prompt": episode.prompt.text, "completion": episode.completion}
            if not options.texts and task.has_gold:
                row["gold"] = float(value) if value == value else None  # the source had no opinion
            print(json.dumps(row, ensure_ascii=False))
            continue
        console.print(Text(harmless(episode.prompt.text.strip(), newlines=True), style="dim"))
        mark = "" if options.texts or not task.has_gold else f" (gold {value:.2f})"
        console.print(Text.assemble("  ", harmless(episode.completion), (mark, "dim"), "\n"))
    return [e.completion for e in found.episodes]


def evaluate(options: EvaluateOptions, console: Console | None = None) -> dict[str, Any]:
    """Print, and write if asked, what a policy's held-out texts are worth.

    Returns:
        The figures of `judge_texts`, with `policy`, `task` and `reference`: what KL is measured to, or None.
    """
    from text_gym.agents import Policy, Sampling
    from text_gym.agents import evaluate as measure

    console = console or Console()
    data = data_of(options, reference=options.reference_column)
    task, place = _task_and_policy(options.task, data, options.policy, options.max_tokens)
    policy = Policy.from_pretrained(place, device=options.device)
    reward = None
    if options.reward is not None:
        reward = load_reward_source(options.reward, [*task.prompts, *task.held_out])
    reference, found_at = _reference(options, place, policy)
    env = TextVectorEnv(**task.env_kwargs(prompts=task.held_out), shuffle=False)
    sampling = Sampling(temperature=options.temperature, greedy=options.greedy)
    found = measure(policy, env, reference=reference, sampling=sampling, seed=options.seed)
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
    """The policy that KL is measured to, and where it was found; or None, and why it is not known."""
    from text_gym.agents import Policy

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
    """Print what was measured on what, then a line a figure."""
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


def _policy_for(
    options: SFTOptions, train: Sequence[tuple[Prompt, str]], seed: int, tokenizer: Tokenizer | None
) -> Policy:
    """The policy to train: the given model, or a new one with the task's or a new tokenizer."""
    from text_gym.agents import Policy

    if options.model is not None:
        return Policy.from_pretrained(options.model, device=options.device)
    if tokenizer is None:
        texts = [part for p, text in train for part in (p.text, text)]
        tokenizer = PretrainedTokenizer.train(texts, options.vocab_size)
    longest = max(len(tokenizer.encode(p.text)) + len(tokenizer.encode(text)) + 1 for p, text in train)
    return Policy.new(
        tokenizer,
        layers=options.layers,
        width=options.width,
        heads=options.heads,
        dropout=options.dropout,
        context=max(128, -(-longest * 3 // 2 // 32) * 32),  # room for longer texts than were seen
        seed=seed,
        device=options.device,
    )


def data_of(options: Data, **changes: Any) -> Data:
    """The part of a command's options that is on data."""
    return Data(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Data)} | changes)


def _task_and_policy(
    name: str | None, data: Data, policy: str | None, max_tokens: int | None
) -> tuple[Task, str | Path]:
    """The task or data a policy is to be tried on, its own if none is named, and the policy's folder.

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
            raise DataError(
                f"the policy was trained on {data.data}, which cannot be read now ({error}); pass --data "
                "FILE (column and separator are known), or --task NAME"
            ) from error
    if data.data is not None:
        raise ConfigError("--data needs a --policy that writes such texts")
    if data.gold is not None:
        raise ConfigError("a task has a reward of its own, which is gold; --gold is for --data")
    if own and "start_policy" in origin and "task" not in origin:
        raise ConfigError(
            f"{place} was trained on a task that was made in Python; pass --task NAME or --data FILE"
        )
    arguments = dict(origin.get("task_arguments", {})) if own else {}
    task = load_task(name or str(origin.get("task", "products")), **arguments)
    limit = max_tokens or (origin.get("max_tokens") if own else None)
    if limit:
        task = dataclasses.replace(task, max_tokens=int(limit))
    place = place or task.policy
    if place is None:
        raise ConfigError(f"task {task.name!r} ships no policy; pass --policy FOLDER")
    return task, place


class _quiet:  # noqa: N801
    """A status display for where there is no terminal: none."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None
