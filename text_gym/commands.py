"""What `text-gym sft`, `sample` and `evaluate` do; `train` and `play` have files of their own."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from .data import pairs_from
from .display import harmless
from .episode import Prompt, write_transcripts
from .errors import ConfigError
from .report import write_json
from .task import Task, load_task
from .tokenizer import PretrainedTokenizer, Tokenizer
from .train import SETTINGS, Data, read_settings, resolve_task
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
        settings: dict[str, Any] = {"task": task.name, "max_tokens": task.max_tokens}
    else:
        if options.reference is None:
            raise ConfigError("pass --reference COLUMN: the texts to learn from")
        train_prompts, held_out_prompts = options.load()
        train, held_out = pairs_from(train_prompts), pairs_from(held_out_prompts)
        tokenizer = None
        settings = {f.name: getattr(options, f.name) for f in dataclasses.fields(Data)}
    policy = _policy_for(options, train, config.seed, tokenizer)
    longest = max(len(policy.tokenizer.encode(text)) for _, text in train)
    settings.setdefault("max_tokens", longest + 1)

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
    write_json(out / SETTINGS, settings)
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
    task, policy = _task_and_policy(
        options.task, options, options.policy, None, options.max_tokens, options.device
    )
    assert isinstance(policy, Policy)
    prompts: list[Prompt] = [Prompt(t) for t in options.texts] or list(islice(task.held_out, options.count))
    repeats = max(1, options.count // len(prompts)) if options.texts else 1
    reward = (lambda episodes: [0.0] * len(episodes)) if options.texts else task.reward
    env = TextVectorEnv(prompts, policy.tokenizer, reward, task.max_tokens, shuffle=False)
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.greedy)
    found = evaluate(policy, env, sampling=sampling, seed=options.seed, episodes_per_prompt=repeats)
    for episode, value in zip(found.episodes, found.rewards, strict=True):
        if options.json:
            row: dict[str, Any] = {"prompt": episode.prompt.text, "completion": episode.completion}
            if not options.texts:
                row["reward"] = float(value) if math.isfinite(value) else None  # the source had no opinion
            print(json.dumps(row, ensure_ascii=False))
            continue
        console.print(Text(harmless(episode.prompt.text.strip(), newlines=True), style="dim"))
        mark = "" if options.texts else f" ({value:.2f})"
        console.print(Text.assemble("  ", harmless(episode.completion), (mark, "dim"), "\n"))
    return [e.completion for e in found.episodes]


def evaluate(options: EvaluateOptions, console: Console | None = None) -> dict[str, Any]:
    """Print, and write if asked, what a policy's held-out texts are worth."""
    from text_gym.agents import Policy, Sampling
    from text_gym.agents import evaluate as measure

    console = console or Console()
    task, policy = _task_and_policy(
        options.task, options, options.policy, options.reward, options.max_tokens, options.device
    )
    assert isinstance(policy, Policy)
    reference = (
        Policy.from_pretrained(options.reference, device=options.device) if options.reference else None
    )
    env = TextVectorEnv(**task.env_kwargs(prompts=task.held_out), shuffle=False)
    sampling = Sampling(temperature=options.temperature, greedy=options.greedy)
    found = measure(policy, env, reference=reference, sampling=sampling, seed=options.seed)
    summary = found.summary()
    for name, value in summary.items():
        line = f"{name:16s} {value['mean'] if isinstance(value, dict) else value:.4f}"
        if isinstance(value, dict):
            low, high = value["ci95"]
            line += f"  95 % interval {low:.4f} to {high:.4f}"
        console.print(Text(line))
    if options.out:
        write_json(options.out, summary)
    if options.transcripts:
        write_transcripts(options.transcripts, found.episodes, found.rewards.tolist())
    return summary


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


def _task_and_policy(
    name: str, data: Data, policy: str | None, reward: str | None, max_tokens: int | None, device: str
) -> tuple[Task, Policy]:
    from text_gym.agents import Policy

    if policy is not None and data.data is None and name == "products":
        settings = read_settings(policy)
        if "data" in settings:  # a policy made from data brings its data's settings along
            data = Data(
                **{k: v for k, v in settings.items() if k in {f.name for f in dataclasses.fields(Data)}}
            )
            reward = reward or "length"
    task, source = resolve_task(name, data, reward, policy, max_tokens)
    task = dataclasses.replace(task, reward=source)
    folder = policy or task.policy
    if folder is None:
        raise ConfigError(f"task {task.name!r} ships no policy; pass --policy FOLDER")
    return task, Policy.from_pretrained(folder, device=device)


class _quiet:  # noqa: N801
    """A status display for where there is no terminal: none."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None
