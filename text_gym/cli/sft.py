"""`text-gym sft`: make a policy by supervised fine-tuning on written texts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from text_gym.agents.algorithms.configs import SFTConfig
from text_gym.agents.algorithms.sft import SFT, completion_loss
from text_gym.agents.policies.policy import Policy
from text_gym.cli.options.sft import SFTOptions
from text_gym.data import Data, anchored, pairs_from
from text_gym.episode import Prompt
from text_gym.errors import ConfigError
from text_gym.runs.origin import Start, write_origin
from text_gym.tasks.task import load_task
from text_gym.tokenizer import PretrainedTokenizer, Tokenizer
from text_gym.utils.json_files import write_json


def run_sft(options: SFTOptions, config: SFTConfig) -> int:
    """Run `text-gym sft`."""
    sft(options, config)
    return 0


def sft(options: SFTOptions, config: SFTConfig, console: Console | None = None) -> dict[str, Any]:
    """Train a policy on written texts and save it, with how its data was read, in `options.out`.

    Returns:
        What is written to `sft.json`: losses in nats per token, sizes, seconds.
    """
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


def _policy_for(
    options: SFTOptions, train: Sequence[tuple[Prompt, str]], seed: int, tokenizer: Tokenizer | None
) -> Policy:
    """The policy to train: the given model, or a new one with the task's or a new tokenizer."""
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


class _quiet:  # noqa: N801
    """A status display for where there is no terminal: none."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None
