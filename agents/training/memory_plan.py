"""A memory plan: what training a model will hold at its peak, computed from its configuration and shapes.

No weights are loaded: the model is made on PyTorch's meta device. Weights, gradients, optimizer state and
KV cache are exact; activations and logits are estimates, and each row says what is assumed. What a reward
model or PyTorch itself takes is not in the plan.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from text_gym.agents.policies.critic import StateCritic
from text_gym.errors import ConfigError
from text_gym.models.sizes import sizes_of

NUMBERS_A_TOKEN = 32  # that a layer keeps for its backward pass, in units of the model's width
LARGE = 100_000_000  # parameters from which on a run begins with its plan
_CGROUPS = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


class NotEnoughMemoryError(ConfigError):
    """Weights, gradients and optimizer state alone are more than the device has."""


@dataclass(frozen=True)
class Shapes:
    """The settings of a run that its memory depends on.

    Args:
        episodes: `B`, episodes an iteration.
        prompt_tokens: `P`, tokens of the longest prompt.
        max_tokens: `T`, tokens of a completion.
        minibatches: Parts that a batch is learnt from in.
        micro_batch_size: Episodes that go through the model at a time; None takes as many as are quick.
        critic: `"detached"`, `"separate"`, `"shared"`, or None for algorithms without one.
        lora: Rank of an adapter that is trained in place of the weights, if any.
        gradient_checkpointing: Only what enters a layer is kept for the backward pass.
        bf16: Matrix products are made in bfloat16 (autocast); weights stay what they are.
        dtype: Of the weights.
        device: `"cpu"` or `"cuda"`, whose updates are split differently.
    """

    episodes: int
    prompt_tokens: int
    max_tokens: int
    minibatches: int = 1
    micro_batch_size: int | None = None
    critic: str | None = None
    lora: int | None = None
    gradient_checkpointing: bool = False
    bf16: bool = False
    dtype: torch.dtype = torch.float32
    device: str = "cpu"


@dataclass(frozen=True)
class MemoryRow:
    """One row of a plan.

    Args:
        name: What takes the memory.
        bytes: How much.
        when: `"always"`, or the phase of an iteration in which it is held.
        exact: It follows from shapes alone; otherwise it is an estimate.
        note: What was assumed.
    """

    name: str
    bytes: int
    when: Literal["always", "rollout", "update"] = "always"
    exact: bool = True
    note: str = ""


@dataclass(frozen=True)
class MemoryPlan:
    """What training will hold, row by row.

    Args:
        rows: Of the plan.
        parameters: Weights of the policy.
        available: Bytes that the device has free now, if known.
        options: Command-line options that would need less memory, and the peak in bytes with each alone; the
            last one is all of them together.
    """

    rows: tuple[MemoryRow, ...]
    parameters: int
    available: int | None = None
    options: tuple[tuple[str, int], ...] = ()

    def __getitem__(self, name: str) -> int:
        return next(row.bytes for row in self.rows if row.name == name)

    @property
    def peak(self) -> int:
        """What is always held, and what the larger phase of an iteration adds, in bytes."""
        held = {when: sum(r.bytes for r in self.rows if r.when == when) for when in _WHEN}
        return held["always"] + max(held["rollout"], held["update"])

    @property
    def least(self) -> int:
        """Weights, gradients and optimizer state in bytes, which no number of rows changes."""
        return sum(row.bytes for row in self.rows if row.when == "always" and row.exact)

    @property
    def fits(self) -> bool:
        """True if the peak is within what is available, or that is unknown."""
        return self.available is None or self.peak <= self.available

    def check(self) -> None:
        """Refuse a run that certainly cannot fit.

        Raises:
            NotEnoughMemoryError: Weights, gradients and optimizer state exceed what is available.
        """
        if self.available is not None and self.least > self.available:
            helps = [f"{name} ({_size(peak)})" for name, peak in self.options if peak <= self.available]
            raise NotEnoughMemoryError(
                f"weights, gradients and optimizer state take {_size(self.least)}, and the device has "
                f"{_size(self.available)} free; {'pass ' + ' or '.join(helps) if helps else _SMALLER}"
            )

    def lines(self) -> Iterator[str]:
        """Yield the plan as lines of text."""
        yield f"memory plan of a model of {self.parameters:,} parameters"
        for row in self.rows:
            mark = " " if row.exact else "~"
            when = "" if row.when == "always" else f"in the {row.when}"
            yield f"  {row.name:24}{mark}{_size(row.bytes):>9}  {'; '.join(x for x in (when, row.note) if x)}"
        has = "unknown" if self.available is None else _size(self.available)
        yield f"  {'peak':24}~{_size(self.peak):>9}  free on the device: {has}"
        if not self.fits:
            yield "  That is more than is free. With each of these alone the peak would be:"
            for name, peak in self.options:
                fits = self.available is not None and peak <= self.available
                yield f"    {name:60}{_size(peak):>9}{'  fits' if fits else ''}"


_WHEN = ("always", "rollout", "update")
_SMALLER = "take a smaller model or another machine"


def plan_memory(config: Any, shapes: Shapes, available: int | None = None) -> MemoryPlan:
    """Plan the memory of training a causal language model.

    Args:
        config: The model's configuration of `transformers`, as `AutoConfig.from_pretrained` gives it.
        shapes: The run's settings.
        available: Bytes that the device has free, e.g. of `available_memory`.

    >>> from transformers import GPT2Config
    >>> plan = plan_memory(GPT2Config(), Shapes(episodes=64, prompt_tokens=32, max_tokens=64))
    >>> plan.parameters, plan["optimizer state"] == 2 * plan["gradients"] == 8 * 124_439_808
    (124440577, True)
    """
    model = _meta_model(config)
    found = MemoryPlan(tuple(_rows(model, shapes, available)), _weights(model) + _head(model), available)
    smaller = _smaller(shapes)
    plans = [(name, _rows(model, change, available)) for name, change in smaller]
    options = tuple((name, MemoryPlan(tuple(rows), 0).peak) for name, rows in plans)
    return replace(found, options=options)


def count_parameters(config: Any) -> int:
    """Count the parameters of a policy with this configuration, its value head included."""
    model = _meta_model(config)
    return _weights(model) + _head(model)


def _meta_model(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _rows(model: nn.Module, s: Shapes, available: int | None) -> Iterator[MemoryRow]:
    always = list(_of_run(model, s))
    yield from always
    yield from _of_rollout(model, s)
    left = None if available is None else max(0, available - sum(row.bytes for row in always))
    yield from _of_update(model, s, left)


def _of_run(model: nn.Module, s: Shapes) -> Iterator[MemoryRow]:
    size = s.dtype.itemsize
    head = _head(model)
    weights = _weights(model) + head
    adapter = 0 if s.lora is None else _adapter(model, s.lora)
    trained, apart = adapter or weights - head, 0
    yield MemoryRow("policy", (weights + adapter) * size)
    # A policy with an adapter is its own reference, with the adapter switched off.
    yield MemoryRow("reference policy", (weights if s.lora is None else head) * size)
    if s.critic == "shared":
        trained += head  # which nobody else has a use for
    elif s.critic == "separate":
        of_trunk = _weights(model.base_model)  # type: ignore[arg-type]
        yield MemoryRow("critic", (of_trunk + adapter + head) * size)
        trained += (adapter or of_trunk) + head
    elif s.critic == "detached":
        critic = _state_critic(model, s)
        own = sum(p.numel() for p in critic.parameters())
        yield MemoryRow("critic", 4 * own + sum(b.nbytes for b in critic.buffers()))
        apart = own  # trained in turn with the policy
    yield MemoryRow("gradients", max(trained * size, apart * 4))
    yield MemoryRow("optimizer state", 2 * (trained * size + apart * 4), note="AdamW, two moments")


def _of_rollout(model: nn.Module, s: Shapes) -> Iterator[MemoryRow]:
    config = _text_config(model)
    heads = getattr(config, "num_attention_heads", None)  # Mamba has none, and no keys and values
    if heads is not None:
        groups = getattr(config, "num_key_value_heads", None) or heads
        of_head = getattr(config, "head_dim", None) or config.hidden_size // heads
        width = s.prompt_tokens + s.max_tokens
        low = torch.bfloat16.itemsize if s.bf16 else s.dtype.itemsize
        cache = 2 * config.num_hidden_layers * s.episodes * width * groups * of_head * low
        yield MemoryRow("KV cache", cache, "rollout", note=f"{s.episodes} episodes of {width} tokens")
    logits = 3 * s.episodes * config.vocab_size * 4
    yield MemoryRow("logits of a step", logits, "rollout", exact=False, note="and two copies")
    if s.device == "cpu":
        matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2) * 4
        yield MemoryRow(
            "packed weights", matrices, "rollout", False, "where the CPU's kernels read the model"
        )
    if s.critic == "detached":
        states = s.episodes * s.max_tokens * config.hidden_size * s.dtype.itemsize
        yield MemoryRow(
            "states for the critic", states, note=f"{s.max_tokens} tokens an episode", exact=False
        )


def _of_update(model: nn.Module, s: Shapes, left: int | None) -> Iterator[MemoryRow]:
    config = _text_config(model)
    sizes = sizes_of(torch.device(s.device))
    width, trunks = s.prompt_tokens + s.max_tokens, 2 if s.critic == "separate" else 1
    unit = config.hidden_size * max(4, s.dtype.itemsize) * trunks
    of_token = NUMBERS_A_TOKEN * config.num_hidden_layers * unit
    rows = -(-s.episodes // s.minibatches)
    if s.micro_batch_size is not None:
        tokens = min(rows, s.micro_batch_size) * width
    else:  # as `Splitter` does
        room = sizes.pass_bytes if s.device == "cpu" or left is None else int(sizes.free_share * left)
        tokens = min(rows * width, max(width, room // of_token))
    note = f"{tokens:,} tokens at a time, {NUMBERS_A_TOKEN} numbers a layer and unit of width"
    kept = of_token * tokens
    if s.gradient_checkpointing:
        kept = (config.num_hidden_layers + NUMBERS_A_TOKEN) * unit * tokens
        note = f"{tokens:,} tokens at a time, of which one layer's are computed again"
    yield MemoryRow("activations", kept, "update", exact=False, note=note)
    whole = tokens * s.max_tokens // width * config.vocab_size * 4
    tile = sizes.tile_rows * sizes.tile_ids * 4
    yield MemoryRow("logits", 3 * (whole if whole <= sizes.whole_bytes else tile), "update", exact=False)
    if s.bf16:
        copies = _weights(model) * torch.bfloat16.itemsize
        yield MemoryRow("weights in bfloat16", copies, "update", exact=False, note="autocast keeps them")


def _smaller(s: Shapes) -> list[tuple[str, Shapes]]:
    """Return options that need less memory, each alone and then all of them."""
    width = s.prompt_tokens + s.max_tokens
    found: list[tuple[str, dict[str, Any]]] = []
    if s.lora is None:
        found.append(("--lora 8", {"lora": 8}))
    if s.critic == "separate":
        found.append(("--critic shared", {"critic": "shared"}))
    if s.micro_batch_size != 1:
        found.append(("--micro-batch-size 1", {"micro_batch_size": 1}))
    if not s.gradient_checkpointing:
        found.append(("--gradient-checkpointing", {"gradient_checkpointing": True}))
    if s.episodes > 8:
        found.append((f"--episodes {s.episodes // 2}", {"episodes": s.episodes // 2}))
    if width > 1 and s.max_tokens > 16:
        found.append((f"--max-tokens {s.max_tokens // 2}", {"max_tokens": s.max_tokens // 2}))
    every: dict[str, Any] = {key: value for _, change in found for key, value in change.items()}
    return [(name, replace(s, **change)) for name, change in found] + [
        (" ".join(name for name, _ in found), replace(s, **every))
    ]


def _weights(model: nn.Module) -> int:
    """Count a model's parameters; tied ones count once."""
    return sum(p.numel() for p in model.parameters())


def _head(model: nn.Module) -> int:
    """Count the parameters of a value head."""
    return int(_text_config(model).hidden_size) + 1


def _adapter(model: Any, rank: int) -> int:
    """Count the parameters of LoRA on every linear layer but the output layer."""
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not output]
    return sum(rank * sum(layer.weight.shape) for layer in layers)


def _state_critic(model: nn.Module, s: Shapes) -> StateCritic:
    with torch.device("meta"):
        return StateCritic(_text_config(model).hidden_size, s.max_tokens)


def _text_config(model: Any) -> Any:
    return model.config.get_text_config()


def available_memory(device: torch.device) -> int | None:
    """Return the free memory of a device in bytes, or None if it is unknown.

    Of a CPU it is what the system has left for programs, within the limit of the control group.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = [free for free in (_system_memory(_MEMINFO), _group_memory(_CGROUPS)) if free is not None]
    return min(found, default=None)


def _system_memory(file: Path) -> int | None:
    try:
        lines = file.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def _group_memory(folder: Path) -> int | None:
    """Return what a control group leaves; None if it sets no limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most, now = (int((folder / name).read_text(encoding="ascii")) for name in (limit, used))
        except (OSError, ValueError):  # no such files, or the word "max"
            continue
        if most < 2**60:  # version 1 writes a huge number where there is no limit
            return max(0, most - now)
    return None


def _size(count: int) -> str:
    """Write a number of bytes, e.g. `1.5 GB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
