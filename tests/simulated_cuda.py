"""A simulated CUDA device, for tests on machines without one.

Inside `SimulatedCUDA()` PyTorch seems to have one GPU. Its tensors keep their data on the CPU, but say that
they are on cuda:0 and refuse to be mixed with those of the host, as CUDA's do. What makes the host wait for
the device is counted by source line, and what the device is asked to do (kernels) by phase. Numbers are the
CPU's; nothing is timed. Files cannot be saved from the device (its tensors have no storage), and its random
numbers are the host's.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
ATEN = torch.ops.aten
SOURCES = ("agents", "text_gym", "reward_models")  # folders whose lines are named as waiting
# Operations whose result has a size, or is a value, that the host must know.
MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "masked_scatter_backward",
    "equal",
    "_unique2",
    "unique_dim",
}
WAITING |= {"unique_consecutive", "bincount", "repeat_interleave"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
COPIES = {"_to_copy", "copy_", "lift_fresh"}  # may have operands on both sides
NO_KERNEL = {
    "view", "_unsafe_view", "t", "transpose", "permute", "select", "slice", "expand", "unsqueeze", "squeeze",
    "detach", "alias", "unbind", "split", "split_with_sizes", "as_strided", "_reshape_alias", "diagonal",
    "unfold", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided",
    "set_", "resize_", "_local_scalar_dense",
}  # fmt: skip


class DeviceTensor(Tensor):
    """A tensor on the simulated device; `held` are its data, on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> DeviceTensor:
        """Put data onto the device."""
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=held.device,
            requires_grad=requires_grad,
        )
        made.held = held
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Do what `Tensor.to` does."""
        wanted = {name: kwargs[name] for name in ("device", "dtype") if kwargs.get(name) is not None}
        for given in args:
            if isinstance(given, torch.dtype):
                wanted["dtype"] = given
            elif isinstance(given, str | torch.device):
                wanted["device"] = given
            elif isinstance(given, Tensor):
                wanted |= {"device": given.device, "dtype": given.dtype}
        device = torch.device(wanted.get("device", CUDA))
        dtype = wanted.get("dtype", self.dtype)
        if device.type == "cuda" and dtype == self.dtype and not kwargs.get("copy"):
            return self
        return ATEN._to_copy(self, dtype=dtype, device=device)

    def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
        """Copy to the host."""
        return self.to(CPU)  # type: ignore[no-any-return]

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
        """Stay here."""
        return self

    def tolist(self) -> Any:
        """Copy to the host, as numbers."""
        return self.cpu().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse, as CUDA does."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def data_ptr(self) -> int:
        """Return where the data are."""
        return self.held.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            made = DeviceTensor(self.held.detach().clone(), self.requires_grad)
            if isinstance(self, nn.Parameter):
                made._is_param = True
            memo[id(self)] = made
        return memo[id(self)]  # type: ignore[no-any-return]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.held})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _Device(SimulatedCUDA()).run(func, args, kwargs or {})  # outside of any simulation


class SimulatedCUDA:
    """Simulates a GPU inside its `with` block, and counts.

    Attributes:
        waits: How often the host waited: by phase, kind and source line.
        launches: Kernels asked for, by phase and operation.
        faults: What CUDA would have refused, each with its source line; it is raised too.
    """

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str, str]] = Counter()
        self.launches: Counter[tuple[str, str]] = Counter()
        self.faults: list[str] = []
        self._phase = "setup"
        self._stack = ExitStack()

    def __enter__(self) -> SimulatedCUDA:
        mode = _Device(self)
        for patched in (*_patches(mode), mode):
            self._stack.enter_context(patched)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens in the block under this name."""
        before, self._phase = self._phase, name
        try:
            yield
        finally:
            self._phase = before

    def waits_in(self, phase: str) -> int:
        """Return the number of waits in a phase."""
        return sum(n for (name, _, _), n in self.waits.items() if name == phase)

    def launches_in(self, phase: str) -> int:
        """Return the number of kernels in a phase."""
        return sum(n for (name, _), n in self.launches.items() if name == phase)

    def lines(self, phase: str) -> dict[str, int]:
        """Return where a phase waited, the most frequent lines first."""
        found = Counter[str]()
        for (name, kind, where), n in self.waits.items():
            if name == phase:
                found[f"{where} ({kind})"] += n
        return dict(found.most_common())

    def wait(self, kind: str) -> None:
        """Count a wait."""
        self.waits[self._phase, kind, _where()] += 1

    def launch(self, name: str) -> None:
        """Count a kernel."""
        if name not in NO_KERNEL:
            self.launches[self._phase, name] += 1

    def refuse(self, message: str) -> None:
        """Raise what CUDA raises, and remember it, since some callers catch it."""
        self.faults.append(f"{_where()}: {message}")
        raise RuntimeError(message)


def _where() -> str:
    """Return the innermost line of ours on the stack."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        parts = Path(frame.f_code.co_filename).parts
        if "site-packages" not in parts and "tests" not in parts and set(parts) & set(SOURCES):
            return f"{'/'.join(parts[-2:])}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


class _Device(TorchDispatchMode):
    """Carries out every operation that has to do with the device."""

    def __init__(self, counts: SimulatedCUDA) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts = counts
        self.in_backward = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        copies = func._schema.name == "aten::_to_copy"
        if self.in_backward and kwargs.get("device") is not None and not copies:
            kwargs["device"] = (
                CUDA  # autograd's own tensors are like its inputs, which it takes for the CPU's
            )
        if _is_cuda(kwargs.get("device")) or any(
            isinstance(x, DeviceTensor) for x in tree_leaves((args, kwargs))
        ):
            return self.run(func, args, kwargs)
        return func(*args, **kwargs)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Do on the CPU what is asked of the device."""
        name = func._schema.name.split("::")[1]
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        here = [x for x in tensors if isinstance(x, DeviceTensor)]
        device = kwargs.get("device")
        to_device = _is_cuda(device) if device is not None else bool(here)
        if name in INDEXING:
            self._check_indices(name, args)
        elif name not in COPIES and here:
            self._check_operands(name, args, [x for x in tensors if not isinstance(x, DeviceTensor)])
        self._count(name, args, kwargs, to_device)
        plain_args, plain = tree_map(_plain, (args, kwargs))
        if device is not None:
            plain["device"] = CPU
        if plain.get("pin_memory"):
            plain["pin_memory"] = False
        result = func(*plain_args, **plain)
        if name == "_to_copy" and result is plain_args[0]:
            result = result.clone()
        written = _written(func._schema, args, kwargs)
        if written and len(written) == len(func._schema.returns):
            return written[0] if len(written) == 1 else tuple(written)
        return tree_map(_on_device, result) if to_device and name != "equal" else result

    def _check_operands(self, name: str, args: Any, foreign: Sequence[Tensor]) -> None:
        """Refuse the host's tensors among the device's, but for single numbers that are only read."""
        into_host = (
            name.endswith("_") and isinstance(args[0], Tensor) and not isinstance(args[0], DeviceTensor)
        )
        if into_host or any(x.ndim for x in foreign):
            self._counts.refuse(f"{MIXED} ({name})")

    def _check_indices(self, name: str, args: Any) -> None:
        indexed, indices = args[0], [x for x in args[1] if x is not None]
        if not isinstance(indexed, DeviceTensor):
            self._counts.refuse(
                f"indices should be either on cpu or on the same device as the indexed tensor ({name})"
            )
        value = args[2] if len(args) > 2 else None
        if value is not None and value.ndim and not isinstance(value, DeviceTensor):
            self._counts.refuse(
                f"Expected all tensors to be on the same device, but found cuda:0 and cpu! ({name})"
            )
        for index in indices:
            if not isinstance(index, DeviceTensor) and index.ndim:
                self._counts.wait("index of the host")
            filled = value is not None and value.numel() == 1 and len(indices) == 1  # becomes masked_fill
            if index.dtype in (torch.bool, torch.uint8) and not filled:
                self._counts.wait("boolean index")

    def _count(self, name: str, args: Any, kwargs: Any, to_device: bool) -> None:
        self._counts.launch(name)
        if name in WAITING:
            self._counts.wait(name)
        elif name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            into = isinstance(args[0], DeviceTensor) if name == "copy_" else to_device
            if isinstance(source, DeviceTensor) and not into:
                self._counts.wait("copy to the host")
            elif into and not isinstance(source, DeviceTensor) and source.ndim + (name == "_to_copy"):
                asynchronous = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
                if not (asynchronous and getattr(source, "pinned", False)):
                    self._counts.wait("copy from unpinned memory")


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _plain(x: Any) -> Any:
    return x.held if isinstance(x, DeviceTensor) else x


def _on_device(x: Any) -> Any:
    return DeviceTensor(x) if isinstance(x, Tensor) and not isinstance(x, DeviceTensor) else x


def _written(schema: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the arguments that an operation writes to, which are what it returns."""
    found = []
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = kwargs.get(argument.name, args[place] if place < len(args) else None)
            if isinstance(given, Tensor):
                found.append(given)
    return found


def _patches(mode: _Device) -> Iterator[Any]:
    """Yield what makes Python's side of PyTorch believe in the device."""
    make_tensor, backward, grad = torch.tensor, torch.autograd.backward, torch.autograd.grad
    fork_rng, module_to = torch.random.fork_rng, nn.Module.to

    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        named: list[Any] = [CUDA if isinstance(x, str | torch.device) and _is_cuda(x) else x for x in args]
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = CUDA  # without its number PyTorch would ask the driver for it
        return module_to(self, *named, **kwargs)

    def tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        made = make_tensor(data, *args, **kwargs)
        return made.to(CUDA) if _is_cuda(device) else made

    def inside(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            before, mode.in_backward = mode.in_backward, True
            try:
                return function(*args, **kwargs)
            finally:
                mode.in_backward = before

        return call

    def pin_memory(self: Tensor, *_: Any) -> Tensor:
        made = self.clone()
        made.pinned = True  # type: ignore[attr-defined]
        return made

    yield patch.object(torch, "tensor", tensor)
    yield patch.object(torch, "inference_mode", torch.no_grad)  # there, tensors of this kind cannot be made
    yield patch.object(torch.autograd, "backward", inside(backward))
    yield patch.object(torch.autograd, "grad", inside(grad))
    yield patch.object(
        torch.random, "fork_rng", lambda devices=None, *args, **kwargs: fork_rng([], *args, **kwargs)
    )
    yield patch.object(torch.Tensor, "pin_memory", pin_memory)
    yield patch.object(torch, "set_float32_matmul_precision", lambda precision: None)  # the CPU's stays
    yield patch.object(torch.nn.utils.clip_grad, "_group_tensors_by_device_and_dtype", _in_groups)
    yield patch.object(nn.Module, "to", to)
    yield patch.object(nn.Module, "_apply", _apply)
    for name, value in {
        "_lazy_init": None,
        "device_count": 1,
        "current_device": 0,
        "max_memory_allocated": 0,
        "empty_cache": None,
        "synchronize": None,
        "mem_get_info": (64 * 2**30, 80 * 2**30),
        "is_bf16_supported": True,
    }.items():
        yield patch.object(torch.cuda, name, lambda *args, value=value, **kwargs: value)


def _in_groups(tensors: Any, *args: Any) -> Any:
    """Group tensors as PyTorch does, which takes those of the device for the CPU's."""
    groups = _group_tensors_by_device_and_dtype(tensors, *args)
    on_device = isinstance(tensors[0][0], DeviceTensor)
    return {(CUDA if on_device else device, dtype): group for (device, dtype), group in groups.items()}


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Stand in for `nn.Module._apply`, which cannot put a tensor of another kind in a parameter's place."""
    made: dict[int, Any] = {}  # weights that are tied remain so

    def converted(old: Tensor) -> Any:
        if id(old) not in made:
            with torch.no_grad():
                new = fn(old)
            parameter = isinstance(old, nn.Parameter) and new is not old
            made[id(old)] = nn.Parameter(new, old.requires_grad) if parameter else new
        return made[id(old)]

    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, old in held.items():
                if old is not None:
                    held[name] = converted(old)
    return module
