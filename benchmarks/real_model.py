"""Rollouts of a real model against `model.generate` and CTranslate2, in tokens per CPU second of one thread.

    OMP_NUM_THREADS=1 python benchmarks/real_model.py FOLDER [--ctranslate2 PYTHON] [--json FILE]

FOLDER is SmolLM2-135M's, which `python -m tests.real` makes, or another model's with a fast tokenizer. The
model "gpt2" has GPT-2's 124M shape, random weights and the same tokenizer. Every contestant writes 24 tokens
after each prompt of some 6, in batches of 16 and 64 rows: all of one prompt, as a group of GRPO is played, or
of different ones. EOS is a token like another, so that all do the same work. A rollout also steps the
environment and keeps log-probabilities and values, `generate` and CTranslate2 return tokens alone. With
weights of 8 bits a rollout reads its texts once more, unrounded, for log-probabilities and values; "int8
draws" is what comes before that. PYTHON is that of an environment with `ctranslate2`, `transformers` and
`torch`, in which the model is read. Contestants take turns; figures are medians of five, and a ratio is the
median of the turns' with the bootstrap's interval (95 %).
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import tyro
from machine import Row, interval_of_median, machine
from rich.console import Console
from rich.table import Table

from text_gym import PretrainedTokenizer, TextVectorEnv
from text_gym.agents import Policy, rollout
from text_gym.agents.sampling.decoder import Decoder
from text_gym.agents.sampling.sampler import draw, uniform
from text_gym.utils.json_files import write_json

NEW_TOKENS, TURNS = 24, 5
PLACES = ("London", "Paris", "Rome", "Berlin", "Madrid", "Vienna", "Dublin", "Oslo")
PEER = """
import sys, time, json, ctranslate2
from ctranslate2.converters import TransformersConverter
folder, out = sys.argv[1:]
TransformersConverter(folder).convert(out, quantization="int8", force=True)
model = ctranslate2.Generator(out, device="cpu", compute_type="int8", intra_threads=1)
for line in sys.stdin:
    prompts, tokens = json.loads(line)
    began = time.process_time()
    found = model.generate_batch(prompts, max_length=tokens, min_length=tokens, sampling_topk=0,
                                 include_prompt_in_result=False, max_batch_size=len(prompts))
    seconds = time.process_time() - began
    print(json.dumps([sum(len(r.sequences_ids[0]) for r in found), seconds]), flush=True)
"""
Play = Callable[[], tuple[int, float]]  # plays a batch; returns its tokens, and CPU seconds


@dataclass(frozen=True)
class Options:
    """Compare rollouts of a real model.

    Args:
        folder: The model's.
        rows: Of a batch.
        models: "real" is the folder's, "gpt2" has random weights.
        ctranslate2: Interpreter of an environment with CTranslate2, transformers and torch.
        json: File for the rows.
    """

    folder: tyro.conf.Positional[Path]
    rows: tuple[int, ...] = (16, 64)
    models: tuple[str, ...] = ("real", "gpt2")
    ctranslate2: Path | None = None
    json: Path | None = None


def main() -> None:
    """Print a table, and write the rows."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    found: list[Row] = []
    for model in options.models:
        with tempfile.TemporaryDirectory() as place:
            folder = options.folder if model == "real" else gpt2_shaped(options.folder, Path(place) / "gpt2")
            policy = Policy.from_pretrained(folder, device="cpu")
            with peer(options.ctranslate2, folder, Path(place) / "ctranslate2") as ask:
                for rows in options.rows:
                    for prompts in ("one", "different"):
                        measured = {"model": model, "rows": rows, "prompts": prompts}
                        found += [measured | row for row in measure(policy, rows, prompts, ask)]
    table = Table("model", "rows", "prompts", "what", "tokens/s", "× generate", "95 %")
    for row in found:
        shown = [str(row[name]) for name in ("model", "rows", "prompts", "what")]
        table.add_row(
            *shown,
            f"{row['tokens_per_second']:.0f}",
            f"{row['ratio']:.2f}",
            "{:.2f} to {:.2f}".format(*row["ci95"]),
        )
    Console().print(table)
    if options.json is not None:
        write_json(options.json, {"machine": machine(), "load": os.getloadavg()[0], "rows": found})


def measure(policy: Policy, rows: int, prompts: str, ask: Callable[[list[str]], Play] | None) -> list[Row]:
    """Let all contestants play in turns; return a row for each."""
    texts = [
        f"The weather in {place} today is" for place in (PLACES if prompts == "different" else PLACES[:1])
    ]
    texts = (texts * rows)[:rows]
    plays = contestants(policy, texts)
    if ask is not None:
        plays["CTranslate2 int8"] = ask(texts)
    speeds: dict[str, list[float]] = {name: [] for name in plays}
    for turn in range(TURNS + 1):  # the first warms up
        for name, play in plays.items():
            tokens, seconds = play()
            if turn:
                speeds[name].append(tokens / seconds)
    return [row_of(name, found, speeds["generate"]) for name, found in speeds.items()]


def row_of(name: str, speeds: list[float], of_generate: list[float]) -> Row:
    """Sum up a contestant's turns, with the bootstrap's interval of their median ratio to `generate`."""
    ratios = [ours / theirs for ours, theirs in zip(speeds, of_generate, strict=True)]
    return {
        "what": name,
        "tokens_per_second": statistics.median(speeds),
        "ratio": statistics.median(ratios),
        "ci95": interval_of_median(ratios),
        "turns": speeds,
    }


def contestants(policy: Policy, texts: list[str]) -> dict[str, Play]:
    """Return what plays a batch after these prompts, by name."""
    endless: Any = copy.copy(policy.tokenizer)
    endless.eos_ids = ()
    env = TextVectorEnv(texts, endless, zero, NEW_TOKENS, num_envs=len(texts), shuffle=False)
    ids = [policy.tokenizer.encode(text) for text in texts]
    width = max(map(len, ids))
    tokens = np.array([row + [0] * (width - len(row)) for row in ids])
    lengths = np.array([len(row) for row in ids])
    left = torch.tensor([[0] * (width - len(row)) + row for row in ids])  # as `generate` wants it
    attended = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    noise = torch.from_numpy(uniform(0, np.arange(len(texts)), NEW_TOKENS).T.copy())

    def generate() -> int:
        settings = {"do_sample": True, "top_k": 0, "max_new_tokens": NEW_TOKENS, "eos_token_id": None}
        written = policy.model.generate(left, attention_mask=attended, pad_token_id=0, **settings)
        return int(written[:, left.shape[1] :].numel())

    @torch.no_grad()
    def draws() -> int:
        decoder = Decoder(policy, tokens, lengths, NEW_TOKENS, weights="int8")
        for step in range(NEW_TOKENS):
            drawn, _ = draw(decoder.logits(decoder.states), noise[step])
            if step < NEW_TOKENS - 1:
                decoder.step(drawn)
        return len(texts) * NEW_TOKENS

    def whole(weights: Any) -> int:
        return rollout(policy, env, np.arange(len(texts)), weights=weights).num_tokens

    return {
        "generate": timed(generate),
        "rollout": timed(lambda: whole("float32")),
        "rollout, int8": timed(lambda: whole("int8")),
        "int8 draws": timed(draws),
    }


def timed(play: Callable[[], int]) -> Play:
    """Return what also tells the CPU seconds."""

    def run() -> tuple[int, float]:
        began = time.process_time()
        return play(), time.process_time() - began

    return run


def zero(completion: str) -> float:
    """Pay nothing."""
    return 0.0


def gpt2_shaped(tokenizer: Path, folder: Path) -> Path:
    """Write a model of GPT-2's shape with random weights and another one's tokenizer; return its folder."""
    words = PretrainedTokenizer.from_pretrained(tokenizer)
    config = transformers.GPT2Config(
        vocab_size=words.vocab_size, n_positions=128, bos_token_id=None, eos_token_id=words.eos_ids[0]
    )
    Policy(transformers.GPT2LMHeadModel(config), words, device="cpu").save(folder)
    return folder


@contextmanager
def peer(python: Path | None, folder: Path, out: Path) -> Iterator[Any]:
    """Start CTranslate2 in a process of its own; yield what makes a contestant of prompts, or None."""
    if python is None:
        yield None
        return
    spelled = transformers.AutoTokenizer.from_pretrained(folder)
    command = [str(python), "-c", PEER, str(folder), str(out)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        to, answers = process.stdin, process.stdout

        def contestant(texts: list[str]) -> Play:
            asked = json.dumps([[spelled.tokenize(text) for text in texts], NEW_TOKENS])

            def run() -> tuple[int, float]:
                to.write(asked + "\n")
                to.flush()
                tokens, seconds = json.loads(answers.readline())
                return tokens, seconds

            return run

        yield contestant
        to.close()


if __name__ == "__main__":
    main()
