"""What surrounds a model's work in every run: checks of what must hold, CPU threads, memory, the device.

Checks stop a run before harm is done; advice never changes anything. Numbers that are not finite are refused
where they arise: logits by the sampler, losses and gradients by the step, weights before each iteration.

Of CPU threads PyTorch takes as many as the machine has cores. Small models lose by that: their operators are
over before many threads have woken up, and where a container allows fewer cores than the machine has, threads
wait for each other. Nothing here raises a number of threads that somebody chose.

An accelerator works through a queue, and the host may run ahead of it. Whatever the host has to know of a
result makes it wait until the queue is empty, and so does a copy from ordinary memory. So copies there are
made without waiting, and many numbers are read at once.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from text_gym.errors import ConfigError, GuardError, NonFiniteError
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import unique

from .sharding import MARK, local, total_norm
from .sizes import sizes_of

LOG = logging.getLogger("text_gym")
HOST = torch.device("cpu")
SWITCH = "TEXT_GYM_TF32"  # this environment variable set to 0 leaves products of matrices in true float32
DTYPES = ("auto", "float32", "bfloat16")
_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_before_iteration(
    networks: Mapping[str, nn.Module], reference: nn.Module, rewards: Mapping[str, nn.Module]
) -> None:
    """Check what must hold before an agent plays and learns.

    Args:
        networks: Those that are trained, by name.
        reference: The reference policy.
        rewards: The networks of the reward source, by what an error calls them.

    Raises:
        NonFiniteError: A trained weight is not finite.
        GuardError: Dropout is on somewhere.
    """
    for what, network in networks.items():
        check_finite(network)
        check_dropout_off(network, f"the {what}")
    check_dropout_off(reference, "the reference policy")
    for what, model in rewards.items():
        check_dropout_off(model, what)


def check_finite(model: nn.Module) -> None:
    """Raise an error if a weight is not finite; outputs may hide it (CPU attention kernels swallow NaN).

    Raises:
        NonFiniteError: A weight is NaN or infinite; its tensor is named.
    """
    weights = list(model.parameters())
    divided = any(hasattr(weight, MARK) for weight in weights)
    if torch.isfinite(total_norm(weights) if divided else nn.utils.get_total_norm(weights)):
        return
    for name, weight in model.named_parameters():
        if not torch.isfinite(local(weight)).all():
            raise NonFiniteError(f"{name} holds NaN or infinity; it can be neither trained nor saved")
    if divided:
        raise NonFiniteError("weights of another process hold NaN or infinity; they cannot be trained")


def clip_each(networks: Sequence[nn.Module], most: float, iteration: int) -> float:
    """Clip each network's gradient to a norm separately; an accelerator is waited for once.

    Args:
        networks: The policy first.
        most: Their norm afterwards, at most.
        iteration: Its number, for the error.

    Returns:
        The norm of the policy's gradient before clipping.

    Raises:
        NonFiniteError: A gradient is not finite; there are no gradients any more.
    """
    device = next(networks[0].parameters()).device
    norms = []
    for network in networks:
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        divided = any(hasattr(gradient, MARK) for gradient in gradients)
        norm = total_norm(gradients) if divided else nn.utils.get_total_norm(gradients)
        norms.append(upload(norm, device))
    read = read_numbers(norms)
    for network, norm, known in zip(networks, norms, read, strict=True):
        if not math.isfinite(known):
            found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
            bad = [name for name, gradient in found.items() if not local(gradient).isfinite().all()]
            for each in networks:
                each.zero_grad(set_to_none=True)
            what = f"the gradient of {bad[0]}" if bad else "the norm of the gradient"
            raise NonFiniteError(f"{what} is not finite in iteration {iteration}; nothing was updated")
        if known > most - 1e-6:  # scaling by 1 would only cost time
            scale_gradients(network.parameters(), most, norm)
    return read[0]


def scale_gradients(parameters: Iterable[Tensor], most: float, norm: Tensor) -> None:
    """Scale gradients of this norm down to one of `most`."""
    found = list(parameters)
    mixed = any(hasattr(p, MARK) for p in found)  # which no fused kernel takes
    torch.nn.utils.clip_grads_with_norm_(found, most, norm, foreach=False if mixed else None)


def check_dropout_off(model: nn.Module, what: str) -> None:
    """Refuse a model with dropout on, whose log-probabilities would belong to no policy.

    Training mode as such is harmless (gradient checkpointing needs it); dropout in it is not.

    Raises:
        GuardError: A module in training mode has dropout; it is named.
    """
    for name, module in model.named_modules():
        if module.training and _dropout_rate(module) > 0:
            raise GuardError(
                f"dropout is on in {what} ({name or type(module).__name__}): its log-probabilities change "
                "from call to call; call .eval() on it before you learn"
            )


def _dropout_rate(module: nn.Module) -> float:
    """Return the largest dropout rate a module applies in training mode, as a layer or in its attention."""
    rates = [value for name, value in vars(module).items() if "dropout" in name and isinstance(value, float)]
    parts = [module, *module.children()]  # GPT-2's attention reads the rate from its dropout layer
    return max([*rates, *(part.p for part in parts if isinstance(part, nn.modules.dropout._DropoutNd)), 0.0])


def fingerprint(module: nn.Module) -> list[int]:
    """Return one number per parameter, which changes when its bits do."""
    slices = (local(p.detach()) if hasattr(p, MARK) else p.detach() for p in module.parameters())
    sums = [p.contiguous().view(-1).view(_INTEGER[p.element_size()]).sum(dtype=torch.int64) for p in slices]
    return torch.stack(sums).tolist() if sums else []


@contextmanager
def unchanged(models: Mapping[str, nn.Module]) -> Iterator[None]:
    """Check that models leave the block as they entered it.

    Args:
        models: What they are called -> the models.

    Raises:
        GuardError: A parameter of one has another value; it is named.
    """
    before = {what: fingerprint(model) for what, model in models.items()}
    yield
    for what, model in models.items():
        check_unchanged(model, before[what], what)


def check_unchanged(model: nn.Module, before: list[int], what: str) -> None:
    """Refuse a model whose parameters no longer have their fingerprint.

    Raises:
        GuardError: A parameter has another value; it is named.
    """
    for (name, _), old, new in zip(model.named_parameters(), before, fingerprint(model), strict=True):
        if old != new:
            raise GuardError(
                f"{what} changed while the policy learnt: {name} has other values. It must stay as it "
                "is; give it weights of its own (Policy.frozen() makes such a copy)"
            )


def reward_modules(source: RewardSource) -> dict[str, nn.Module]:
    """Find the networks inside a reward source and its parts, by the name an error gives them."""
    found: dict[int, tuple[str, nn.Module]] = {}

    def search(source: RewardSource) -> None:
        for value in [*vars(source).values(), *vars(source).get("parts", {}).values()]:
            if isinstance(value, nn.Module):
                found.setdefault(id(value), (f"the model of reward {source.name!r}", value))
            elif isinstance(value, RewardSource):
                search(value)

    search(source)
    names = unique(what for what, _ in found.values())
    return dict(zip(names, (model for _, model in found.values()), strict=True))


def check_separate(policy: nn.Module, others: Mapping[str, nn.Module]) -> None:
    """Refuse models that share trained parameters with the policy.

    Raises:
        GuardError: One does; model and parameter are named.
    """
    trained = {id(p) for p in policy.parameters() if p.requires_grad}
    for what, model in others.items():
        shared = [name for name, p in model.named_parameters() if id(p) in trained]
        if shared:
            raise GuardError(
                f"{what} shares {shared[0]} with the policy and would be trained along; load it anew or "
                "copy it (Policy.frozen() makes a copy that cannot be trained)"
            )


def memory_mib(device: torch.device) -> dict[str, Any]:
    """Return the peak memory in MiB, of the accelerator or else of the process, where known."""
    if device.type == "cuda":
        return {"memory_mib": torch.cuda.max_memory_allocated(device) / 2**20}
    try:
        import resource
    except ImportError:  # Windows
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory_mib": peak / (2**20 if sys.platform == "darwin" else 2**10)}


# Environment variables with which a user tunes glibc's allocator, and the numbers of its options in malloc.h.
ALLOCATOR_CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 2**30  # of freed memory, at most
LARGEST_BLOCK = 2**25  # the most that glibc allows: larger blocks are returned to the system at once


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep the memory that a minibatch frees for the next one; return True if it does from now on.

    By default it returns the end of the heap to the system as soon as some megabytes are free, and each
    minibatch faults the same pages in anew. Other C libraries are left alone, and so is the choice of a user
    who has tuned glibc.
    """
    if sys.platform != "linux" or any(name in os.environ for name in ALLOCATOR_CHOICES):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # Setting one of the two ends their adjustment to what is freed, so both are set.
    return bool(
        library.mallopt(_MMAP_THRESHOLD, LARGEST_BLOCK) and library.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
    )


SMALL_WEIGHTS = 30_000_000  # a model with at most this many parameters is small
CHOICES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # environment variables with which a user chooses
_QUOTAS = Path("/sys/fs/cgroup")


@cache
def cores() -> int:
    """Return the number of CPU cores this process may use, within its container's limit."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, _quota(_QUOTAS) or usable))


def _quota(folder: Path) -> int | None:
    """Return the cores a control group allows, rounded up; None if it sets no limit."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (folder / "cpu" / f"cpu.cfs_{what}_us").read_text(encoding="ascii")
                for what in ("quota", "period")
            )
        return -(-int(quota) // int(period)) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such files, or the word "max"
        return None


def worthwhile_threads(models: Iterable[nn.Module]) -> int:
    """Return the number of threads up to which the largest of some models gets faster on this CPU."""
    largest = max((sum(p.numel() for p in model.parameters()) for model in models), default=0)
    return cores() if largest > SMALL_WEIGHTS else min(cores(), sizes_of(HOST).small_threads)


@contextmanager
def limited_threads(*models: nn.Module) -> Iterator[None]:
    """Within the block, PyTorch uses no more CPU threads than pay off for the largest of some models."""
    before = torch.get_num_threads()
    now = min(before, worthwhile_threads(models))
    if now < before:
        torch.set_num_threads(now)
    try:
        yield
    finally:
        if now < before:
            torch.set_num_threads(before)


def threads_are_chosen() -> bool:
    """Return True if the environment says how many threads to use."""
    return any(name in os.environ for name in CHOICES)


def upload(values: npt.NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Copy an array or tensor of the host to a device, without waiting for it; on the CPU nothing is copied.

    >>> upload(torch.tensor([1, 2]), torch.device("cpu"))
    tensor([1, 2])
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def free_bytes(device: torch.device) -> int:
    """Return the free bytes of a CUDA device; what PyTorch keeps of it for later is counted as free."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def on_host(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors of one shape and dtype on the host; the host waits once for all of them, if at all."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return tensors
    return torch.stack(tensors).to(HOST).unbind()


def read_numbers(numbers: Sequence[Tensor]) -> list[float]:
    """Read tensors of one number each; the host waits once for all of them.

    >>> read_numbers([torch.tensor(1.5), torch.tensor(2)])
    [1.5, 2.0]
    """
    return [float(x) for x in torch.stack([x.detach() for x in numbers]).tolist()] if numbers else []


def allow_tf32(device: torch.device) -> None:
    """Let CUDA multiply float32 matrices in TF32, some times as fast, with 10 bits of mantissa; log it once.

    A precision that somebody has lowered already is left alone, and so is all where `TEXT_GYM_TF32` is 0.
    """
    if device.type != "cuda" or os.environ.get(SWITCH) == "0":
        return
    if torch.get_float32_matmul_precision() == "highest":
        torch.set_float32_matmul_precision("high")
        LOG.info("on %s float32 matrices are multiplied in TF32; %s=0 keeps true float32", device, SWITCH)


def pick_dtype(dtype: str, device: torch.device) -> str:
    """Return the dtype for a model's matrices on a device: that of this name, or for `"auto"` the usual one.

    `"auto"` is float32 on a CPU and bfloat16 on a GPU that has it.

    Raises:
        ConfigError: The name is another one, or the device has no bfloat16.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; choose {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    able = device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())
    if dtype == "bfloat16" and not able:
        raise ConfigError(f"dtype bfloat16: {device} does not have it; choose float32 or auto")
    if dtype == "auto":
        return "bfloat16" if able and device.type == "cuda" else "float32"
    return dtype


@contextmanager
def layers_in_training(model: nn.Module) -> Iterator[None]:
    """Put layers, which checkpoint in training mode only, into it, but leave all dropout off.

    OPT's layers drop out in their own forward pass and ask the same flag: it is down before that begins.
    """
    asked = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False) and not m.training]
    layers: dict[nn.Module, Any] = {m: m._gradient_checkpointing_func for m in asked if _checkpoints(m)}

    def calm(layer: nn.Module, checkpoint: Callable[..., Any], *args: Any) -> Any:
        layer.training = False
        return checkpoint(*args)

    for layer, checkpoint in layers.items():
        layer.training = torch.is_grad_enabled()
        layer._gradient_checkpointing_func = partial(calm, layer, checkpoint)  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer, checkpoint in layers.items():
            layer.training, layer._gradient_checkpointing_func = False, checkpoint


def _checkpoints(module: nn.Module) -> bool:
    """Return True for a layer, False for a whole model, which has the same attributes."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return isinstance(module, GradientCheckpointingLayer)
