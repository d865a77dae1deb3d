"""What each part of the CPU's fast path is worth, and what threads are worth with it.

    python benchmarks/kernel_parts.py parts --json benchmarks/results/kernel_parts.json
    python benchmarks/kernel_parts.py threads --json benchmarks/results/kernel_threads.json

`parts` leaves out one part of the kernels at a time, and all of them, on one thread, in CPU time. `threads`
asks for 1, 2, 4 and 16 threads, in wall-clock time: the machine must be idle. Both play a rollout of 64
episodes of 48 tokens and make PPO's update of it (4 epochs of 4 minibatches, critic on the policy's trunk);
contestants take turns in one process, each round makes pairs with the first one, and figures are medians
of rounds. With `--shapes tiny products small large-vocabulary` and the default rounds, `parts` takes about 16
minutes and `threads` (tiny, small) about 5 on two idle cores.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
import tyro
from machine import Row, save
from rich.console import Console
from rich.table import Table
from torch import Tensor

from text_gym import TextVectorEnv, WordTokenizer, load_task
from text_gym.agents import PPO, Policy, PPOConfig
from text_gym.agents.policies import memory
from text_gym.agents.policies import policy as policy_module
from text_gym.agents.sampling import sampler
from text_gym.models.cpu import fast_path, gpt2, gpt2_cache, kernels
from text_gym.models.runtime import limited_threads

PROMPT_TOKENS, NEW_TOKENS, EPISODES = 16, 48, 64
SHAPES = {  # GPT-2 shapes; products is the policy that is shipped
    "tiny": {"layers": 2, "width": 128, "heads": 4, "vocabulary": 1024},
    "small": {"layers": 6, "width": 256, "heads": 8, "vocabulary": 4096},
    "large-vocabulary": {"layers": 2, "width": 128, "heads": 4, "vocabulary": 50257},
}
ROUNDS = {"tiny": 9, "products": 9, "small": 5, "large-vocabulary": 3}
THREADS = (1, 2, 4, 16)


@dataclass(frozen=True)
class Options:
    """Measure the CPU's fast path.

    Args:
        what: What to leave out or change from turn to turn.
        shapes: Models; all for `parts`, tiny and small for `threads`, if none is named.
        rounds: Turns of each contestant, after one to warm up; as suits each model if 0.
        json: File for the rows.
    """

    what: tyro.conf.Positional[Literal["parts", "threads"]]
    shapes: tuple[str, ...] = ()
    rounds: int = 0
    json: Path | None = None


def without(*_: Any) -> None:
    """In place of `kernels_for`: there are none."""


def plain_matmul(
    a: Tensor, b: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None, add: bool = False
) -> Tensor:
    """In place of `fast_path.matmul`."""
    with mock.patch.object(fast_path, "kernels_for", without):
        return fast_path.matmul(a, b, bias, out=out, add=add)


def plain_linear(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """In place of `fast_path.fixed_linear`."""
    with mock.patch.object(fast_path, "kernels_for", without):
        return fast_path.fixed_linear(weight, bias)


def plain_gelu(x: Tensor) -> Tensor:
    """In place of `gpt2.gelu`."""
    return torch.nn.functional.gelu(x, approximate="tanh")


PARTS: dict[str, list[tuple[Any, str, Any]]] = {
    "with all": [],
    "without reading (rollout)": [(gpt2_cache, "kernels_for", without)],
    "without the output layer's product (rollout)": [(policy_module, "fixed_linear", plain_linear)],
    "without the drawing of tokens (rollout)": [(sampler, "fast_draw", without)],
    "without attention (update)": [(gpt2, "attend", gpt2.attend_by_operators)],
    "without GELU (update)": [(gpt2, "gelu", plain_gelu)],
    "without the loss head's products (update)": [(memory, "matmul", plain_matmul)],
    "without any": [(kernels, "_kernels", without)],
}


@contextmanager
def left_out(part: str) -> Iterator[None]:
    """A block without one part of the kernels."""
    with ExitStack() as stack:
        for patch in PARTS[part]:
            stack.enter_context(mock.patch.object(*patch))
        yield


@contextmanager
def asked_for(threads: int) -> Iterator[None]:
    """A block for which a user has asked for a number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def agent_of(shape: str) -> PPO:
    """PPO on random prompts; all texts are written to the end."""
    if shape == "products":
        model: Any = Policy.from_pretrained(str(load_task("products").policy), device="cpu").model
        vocabulary = model.config.vocab_size
    else:
        size = dict(SHAPES[shape])
        vocabulary = size.pop("vocabulary")
    words = [f"w{i}" for i in range(vocabulary - 1)]
    tokenizer = WordTokenizer(words, pad=False)
    tokenizer.eos_ids = ()
    if shape == "products":
        policy = Policy(model, tokenizer, device="cpu")
    else:
        policy = Policy.new(tokenizer, context=PROMPT_TOKENS + NEW_TOKENS, device="cpu", **size)
    rng = np.random.default_rng(0)
    prompts = [" ".join(rng.choice(words, PROMPT_TOKENS)) for _ in range(256)]
    env = TextVectorEnv(
        prompts,
        tokenizer,
        lambda episodes: [1.0] * len(episodes),
        NEW_TOKENS,
        num_envs=EPISODES,
        numbering="global",
    )
    config = PPOConfig(
        iterations=10**6, learning_rate=1e-5, epochs=4, minibatches=4, target_kl=None, critic="shared"
    )
    return PPO(policy, env, config)


def turn(agent: PPO, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds of one rollout and of its update."""
    started = clock()
    batch = agent.collect()
    played = clock()
    agent._set_learning_rate()
    with limited_threads(agent.policy):  # as in `Agent.learn`
        agent.update(batch)
    ended = clock()
    agent.iteration += 1
    agent.episodes_played += EPISODES
    return played - started, ended - played


def measure(
    shape: str,
    contestants: Mapping[str, Callable[[], Any]],
    clock: Callable[[], float],
    rounds: int,
) -> Iterator[Row]:
    """A row for each contestant, a function that makes the block in which its turns are taken."""
    agent = agent_of(shape)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, block in contestants.items():
            with block():
                seconds = turn(agent, clock)
            if number:
                seen[name].append(seconds)
    first = next(iter(seen.values()))
    for name, turns in seen.items():
        ratios = {
            what: [part(mine) / part(theirs) for mine, theirs in zip(turns, first, strict=True)]
            for what, part in PHASES.items()
        }
        yield {
            "model": shape,
            "contestant": name,
            **{f"{what}_seconds": statistics.median(map(part, turns)) for what, part in PHASES.items()},
            **{f"{what}_ratio": statistics.median(ratios[what]) for what in PHASES},
            **{f"{what}_ratios": sorted(ratios[what]) for what in PHASES},
        }


PHASES: dict[str, Callable[[tuple[float, float]], float]] = {
    "rollout": lambda seconds: seconds[0],
    "update": lambda seconds: seconds[1],
    "iteration": sum,
}


def show(rows: list[Row]) -> None:
    """Print the table: milliseconds, and times the first contestant's."""
    table = Table("model", "contestant", *(f"{what}, ms" for what in PHASES), *PHASES, box=None)
    for row in rows:
        milliseconds = (f"{1e3 * row[f'{what}_seconds']:,.0f}" for what in PHASES)
        ratios = (
            f"{row[f'{what}_ratio']:.2f} ({row[f'{what}_ratios'][0]:.2f}–{row[f'{what}_ratios'][-1]:.2f})"
            for what in PHASES
        )
        table.add_row(row["model"], row["contestant"], *milliseconds, *ratios)
    Console(width=160).print(table)


def main(options: Options) -> None:
    """Measure, print the table, and write the rows."""
    contestants: dict[str, Callable[[], Any]]
    if options.what == "parts":
        torch.set_num_threads(1)
        clock = time.process_time
        contestants = {name: lambda name=name: left_out(name) for name in PARTS}  # type: ignore[misc]
        shapes = options.shapes or tuple(ROUNDS)
    else:
        clock = time.perf_counter
        contestants = {f"{n} threads": lambda n=n: asked_for(n) for n in THREADS}  # type: ignore[misc]
        shapes = options.shapes or ("tiny", "small")
    if kernels.kernels_for(torch.zeros(1)) is None:
        raise SystemExit("there are no kernels here; the log says why")
    rows: list[Row] = []
    for shape in shapes:
        rows += measure(shape, contestants, clock, options.rounds or ROUNDS[shape])
        show(rows[-len(contestants) :])
    if options.json is not None:
        save(options.json, rows, load=os.getloadavg()[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
