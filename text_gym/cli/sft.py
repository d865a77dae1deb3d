"""`text-gym sft` makes a policy by supervised fine-tuning on written texts."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from text_gym.agents.algorithms.configs import SFTConfig
from text_gym.agents.algorithms.sft import SFT, completion_loss
from text_gym.agents.policies.policy import Policy
from text_gym.cli.options.sft import SFTOptions
from text_gym.cli.run_folder import push
from text_gym.data import Data, anchored, pairs_from
from text_gym.episode import Prompt
from text_gym.errors import ConfigError
from text_gym.models.loading import pick_device
from text_gym.models.runtime import pick_dtype
from text_gym.models.world import local_device, meeting
from text_gym.runs.model_card import ModelCard, write_model_card
from text_gym.runs.origin import Start, load_policy, write_origin
from text_gym.runs.saved_policy import policy_folder
from text_gym.tasks.task import load_task
from text_gym.tokenizer import PretrainedTokenizer, Tokenizer
from text_gym.utils.display import is_first_process, started_by_torchrun
from text_gym.utils.json_files import write_json
from text_gym.utils.terminal import SafeConsole


def run_sft(options: SFTOptions, config: SFTConfig, started: float) -> int:
    """Run `text-gym sft`."""
    sft(options, config, started=started)
    if options.push_to_hub is not None and is_first_process():
        push(options.out, options.push_to_hub)
    return 0


def sft(
    options: SFTOptions,
    config: SFTConfig,
    console: Console | None = None,
    started: float | None = None,
) -> dict[str, Any]:
    """Train a policy on written texts and save it, with how its data was read, in `options.out`.

    Of several processes each learns from its share of every batch; the first one writes and prints.

    Returns:
        What is written to `sft.json`: losses in nats per token, sizes, seconds. In another process than the
        first, nothing.
    """
    if options.shard and not started_by_torchrun():
        raise ConfigError("--shard divides weights among processes; start some by torchrun")
    console = console or SafeConsole()
    started = time.perf_counter() if started is None else started
    options = dataclasses.replace(options, device=local_device(options.device))
    dtype = pick_dtype(options.dtype, pick_device(options.device))
    texts = _written_texts(options)
    policy = _policy_for(options, texts.train, config.seed, texts.tokenizer)
    start = None if options.model is None else Start.of(policy, policy_folder(options.model))
    policy.use_less_memory(bf16=dtype == "bfloat16")
    longest = max(len(policy.tokenizer.encode(text)) for _, text in texts.train)
    with meeting(options.device) as world:
        quiet = world is not None and world.rank > 0
        learner = SFT(policy, texts.train, config)
        learner.world, learner.shard = world, options.shard
        _train(learner, SafeConsole(quiet=True) if quiet else console)
        policy = learner.policy
        if quiet:
            return {}
        result = {
            "loss": completion_loss(policy, texts.train[:1000]),
            "held_out_loss": completion_loss(policy, texts.held_out[:1000]),
            "steps": learner.steps,
            "pairs": len(texts.train),
            "held_out_pairs": len(texts.held_out),
            "parameters": sum(p.numel() for p in policy.model.parameters()),
            "vocab_size": policy.vocab_size,
            "dtype": dtype,
            **dataclasses.asdict(config),
        }
        out = Path(options.out)
        policy.save(out)
        write_origin(out, texts.settings, texts.max_tokens or longest + 1, start)
        write_json(out / "sft.json", result)
        write_model_card(out, ModelCard("sft", result))
    line = (
        f"{result['parameters']:,} parameters, {result['vocab_size']} token ids; "
        f"loss {result['loss']:.3f} nats/token, held out {result['held_out_loss']:.3f}; "
        f"{time.perf_counter() - started:.0f} s; saved in {out}"
    )
    console.print(Text(line))
    return result


class _Texts(NamedTuple):
    """Prompts with written completions, and what the policy's folder will record about them.

    `tokenizer` is None where a new one is made from the texts, `max_tokens` where they decide it.
    """

    train: Sequence[tuple[Prompt, str]]
    held_out: Sequence[tuple[Prompt, str]]
    settings: Mapping[str, Any]
    tokenizer: Tokenizer | None = None
    max_tokens: int | None = None


def _written_texts(options: SFTOptions) -> _Texts:
    """Load the texts of the task's corpus, or of the user's own file."""
    if options.data is None:
        task = load_task(options.task)
        if task.corpus is None:
            raise ConfigError(
                f"task {task.name!r} has no written texts to learn from; pass --data FILE --completion COLUMN"
            )
        # `train --task` will ask for the same tokenizer.
        return _Texts(*task.corpus(), task.settings, task.tokenizer, task.max_tokens)
    tokenizer = None
    if options.model is not None:
        tokenizer = PretrainedTokenizer.from_pretrained(policy_folder(options.model))
    train, held_out = (pairs_from(half) for half in options.load(tokenizer, every_reply=True))
    if not train or not held_out:
        raise ConfigError(
            f"{options.data} has no replies to learn from in column {options.prompt!r}; pass --completion "
            "COLUMN: the texts to learn from"
        )
    settings = {f.name: getattr(options, f.name) for f in dataclasses.fields(Data)}
    settings |= {"data": anchored(options.data), "gold": anchored(options.gold, reward=True)}
    return _Texts(train, held_out, settings | {"chat": bool(train[0][0].messages)})


def _train(learner: SFT, console: Console) -> None:
    """Fine-tune, showing the loss as it falls."""
    live = console.is_terminal
    with console.status("supervised fine-tuning …") if live else contextlib.nullcontext() as status:

        def report(metrics: dict[str, float]) -> None:
            step, steps = int(metrics["step"]), int(metrics["steps"])
            line = f"step {step}/{steps}  loss {metrics['loss']:.3f} nats/token"
            if status is not None:
                status.update(line)
            elif step % max(1, steps // 10) == 0:
                console.print(line, highlight=False)

        learner.learn(callback=report)


def _policy_for(
    options: SFTOptions, train: Sequence[tuple[Prompt, str]], seed: int, tokenizer: Tokenizer | None
) -> Policy:
    """Load the given model, or make a new one with the task's tokenizer or a new one."""
    if options.model is not None:
        return load_policy(options.model, options.device)
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
        context=max(128, -(-longest * 3 // 2 // 32) * 32),  # room for longer texts than those seen
        seed=seed,
        device=options.device,
    )
