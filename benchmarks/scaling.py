"""What training on many GPUs would hold and how fast it would be: a plan and a simulation, not a measurement.

    python benchmarks/scaling.py [--figure docs/scaling.png]

Memory is the plan of `text-gym train --plan` for the shapes of five published models; sharded, what an
update holds of policy and reference is divided and a whole copy is added (embeddings count as divided, which
is a little too good). Time is computed from the assumptions in `Machine` and `Run`, all of which are printed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

from text_gym.agents.training.memory_plan import MemoryPlan, Shapes, plan_memory
from text_gym.plot import Line, curves, panels, save


@dataclass(frozen=True)
class Machine:
    """One GPU and what joins it to others.

    Args:
        flops: Operations a second that matrix products reach in bfloat16.
        memory: Bytes a second that are read from its memory.
        inside: Bytes a second to and from a neighbour in the same machine.
        outside: The same between machines, for each GPU.
        gpus: GPUs of a machine.
        latency: Seconds that each step's exchange takes, however little is sent.
        size: Bytes of its memory.
    """

    flops: float = 3e14
    memory: float = 2e12
    inside: float = 2e11
    outside: float = 2.5e10
    gpus: int = 8
    latency: float = 1e-3
    size: float = 80e9


@dataclass(frozen=True)
class Run:
    """An iteration of GRPO.

    Args:
        episodes: An iteration's, all GPUs together.
        prompt: Tokens of a prompt.
        completion: Tokens of a completion.
        steps: Optimizer steps an iteration; one epoch.
        undivided: Seconds for each episode that all processes spend alike: replay of the tokens, advantages
            and metrics. 1 ms was measured for products on one core (T(1) = s + p, T(2) = s + p / 2).
    """

    episodes: int = 1024
    prompt: int = 256
    completion: int = 512
    steps: int = 16
    undivided: float = 1e-3


@dataclass(frozen=True)
class Options:
    """Plan and simulate.

    Args:
        figure: PNG for the share of N times one GPU's speed against the number of GPUs.
    """

    figure: Path | None = None


def qwen(width: int, layers: int, heads: int, groups: int, inner: int, tied: bool) -> PretrainedConfig:
    """Return the configuration of a Qwen2.5."""
    return Qwen2Config(
        vocab_size=151_936 if tied else 152_064,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=inner,
        tie_word_embeddings=tied,
    )


MODELS: dict[str, PretrainedConfig] = {
    "SmolLM2-135M": LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        tie_word_embeddings=True,
    ),
    "Qwen2.5-0.5B": qwen(896, 24, 14, 2, 4864, True),
    "Qwen2.5-1.5B": qwen(1536, 28, 12, 2, 8960, True),
    "Qwen2.5-7B": qwen(3584, 28, 28, 4, 18_944, False),
    "Qwen2.5-32B": qwen(5120, 64, 40, 8, 27_648, False),
}
GPUS = (1, 2, 4, 8, 16, 32, 64)
HELD = ("policy", "reference policy", "gradients", "optimizer state")


def plan(config: PretrainedConfig, run: Run, ranks: int) -> MemoryPlan:
    """Plan a GPU's memory: weights in float32, products in bfloat16, four episodes at a time."""
    shapes = Shapes(
        episodes=-(-run.episodes // ranks),
        prompt_tokens=run.prompt,
        max_tokens=run.completion,
        micro_batch_size=4,
        gradient_checkpointing=True,
        bf16=True,
        dtype=torch.float32,
        device="cuda",
    )
    return plan_memory(config, shapes)


def held(found: MemoryPlan, ranks: int, sharded: bool) -> float:
    """Return the bytes that a GPU holds at the peak."""
    if not sharded:
        return found.peak
    fixed = sum(found[name] for name in HELD)
    return found.peak - fixed * (1 - 1 / ranks) + found["policy"]


def seconds(weights: int, run: Run, machine: Machine, ranks: int, sharded: bool) -> float:
    """Return the seconds of an iteration."""
    mine = run.episodes / ranks
    tokens = mine * (run.prompt + run.completion)
    step = max(2 * weights / machine.memory, 2 * weights * mine / machine.flops)
    play = run.completion * step + 2 * weights * mine * run.prompt / machine.flops
    score, update = 2 * weights * tokens / machine.flops, 8 * weights * tokens / machine.flops
    speed = machine.inside if ranks <= machine.gpus else machine.outside
    around = (ranks - 1) / ranks / speed
    # Gradients are summed: scattered and gathered, 4 bytes a weight each. Sharded, weights are gathered in
    # bfloat16 for the forward and for the backward pass, and gradients are scattered; and two whole copies.
    sent = (4 + 4) * weights * run.steps
    if sharded:
        sent = (2 + 2 + 4) * weights * run.steps + 2 * 4 * weights
    wait = machine.latency * run.steps if ranks > 1 else 0.0
    return play + score + update + sent * around + wait + run.undivided * run.episodes


def main() -> None:
    """Print the assumptions, the plan and the simulation."""
    options, machine, run = tyro.cli(Options), Machine(), Run()
    console = Console(width=110)
    for assumed in (machine, run):
        console.print(type(assumed).__name__, asdict(assumed), markup=False)
    memory = Table("GB a GPU, whole / sharded", *(f"{n} GPUs" for n in GPUS))
    speed = Table("tokens/s (share of N × one)", *(f"{n} GPUs" for n in GPUS))
    lines = []
    for colour, (name, config) in enumerate(MODELS.items()):
        cells, speeds, known = [], [], {}
        for n in GPUS:
            found = plan(config, run, n)
            sizes = [held(found, n, sharded) for sharded in (False, True)]
            cells.append(" / ".join(f"{size / 1e9:.0f}" for size in sizes))
            fitting = [sharded for sharded, size in enumerate(sizes) if size <= machine.size]
            if not fitting:
                speeds.append("does not fit")
                continue
            took = seconds(found.parameters, run, machine, n, bool(fitting[0]))
            tokens = run.episodes * run.completion / took
            one = run.episodes * run.completion / seconds(found.parameters, run, machine, 1, False)
            mark = "*" if fitting[0] else ""
            known[n] = tokens / one / n
            speeds.append(f"{tokens:,.0f} ({known[n]:.2f}){mark}")
        memory.add_row(name, *cells)
        speed.add_row(name, *speeds)
        if known:
            lines.append(Line(list(known), list(known.values()), colour=colour, name=name, marks=True))
    console.print(memory)
    console.print(speed)
    console.print("* sharded; the share is of one GPU that had the memory")
    if options.figure is not None:
        figure, (ax,) = panels(1, columns=1, size=(8.0, 4.0))
        label = "simulated speed / (GPUs × that of one)"
        curves(lines, x_label="GPUs", y_label=label, reach=(0, 1), ax=ax)
        ax.set_xscale("log", base=2)
        ax.set_xticks(GPUS, [str(n) for n in GPUS])
        ax.minorticks_off()
        save(figure, options.figure)


if __name__ == "__main__":
    main()
