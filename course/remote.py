"""The side of the grader: a lab whose functions run in a sandbox and have no say in their grade.

The tests run here, in another process than the submission, and see nothing of it but numbers. As a plugin of
pytest (`-p course.remote`) it puts such labs in the place of the lab.py files that the tests would import.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from course.wire import decode, encode, wants_gradient
from text_gym.errors import SandboxError
from text_gym.utils.limits import SandboxLimits, installed_software
from text_gym.utils.sandbox import Sandbox

SOURCES = tuple(
    str(Path(__file__).with_name(name).resolve()) for name in ("__init__.py", "wire.py", "worker.py")
)
MOST_ENDED = 3  # a lab whose process had to be ended this often is asked nothing more


class RemoteLab:
    """The functions of a submitted lab.py, each call of which is one in the sandbox.

    Args:
        file: The lab.py; None if there is none.
        why: Why there is none.
        seconds: Of one call.
        budget: Seconds of all calls together.
        memory: Bytes of address space.
    """

    def __init__(
        self,
        file: Path | None,
        why: str = "",
        *,
        seconds: float = 60.0,
        budget: float = 180.0,
        memory: int = 4 << 30,
    ) -> None:
        self._file, self._why, self._left, self._ended = file, why, budget, 0
        self._sandbox: Sandbox | None = None
        if file is not None:
            limits = SandboxLimits(
                seconds=seconds,
                memory=memory,
                answer=4 << 20,
                files=64 << 20,
                output=1 << 16,
                reads=(*installed_software(), *SOURCES, str(file)),
            )
            self._sandbox = Sandbox("course.worker:answer", limits)
            self._sandbox.name = "your lab.py"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            __tracebackhide__ = True
            return self._call(name, arguments, keywords)

        return call

    def close(self) -> None:
        """End the submission's process."""
        if self._sandbox is not None:
            self._sandbox.close()

    def _call(self, name: str, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        inputs = [i for i, value in enumerate(arguments) if getattr(value, "requires_grad", False)]
        request = {
            "function": name,
            "arguments": [encode(value) for value in arguments],
            "keywords": {key: encode(value) for key, value in keywords.items()},
            "inputs": inputs,
            "cotangents": None,
        }
        found = self._ask(request)
        if not inputs:
            return self._decoded(found)
        return self._with_graph(request, found, [arguments[i] for i in inputs])

    def _with_graph(self, request: dict[str, Any], found: Any, inputs: list[Any]) -> Any:
        """Make what came back depend on the inputs: its gradient is asked for when somebody wants it."""
        import torch

        parts = (
            found["tuple"] if isinstance(found, dict) and isinstance(found.get("tuple"), list) else [found]
        )
        values = [self._decoded(part) for part in parts]
        places = [i for i, part in enumerate(parts) if wants_gradient(part)]
        outputs = [values[i] for i in places]
        ask, checked = self._ask, self._decoded

        class Call(torch.autograd.Function):
            @staticmethod
            def forward(_ctx: Any, *_: Any) -> Any:
                return tuple(outputs)

            @staticmethod
            def backward(_ctx: Any, *cotangents: Any) -> Any:
                gradients = ask({**request, "cotangents": [encode(item.contiguous()) for item in cotangents]})
                if not isinstance(gradients, list) or len(gradients) != len(inputs):
                    raise pytest.fail.Exception("your lab.py sent no gradient", pytrace=False)
                return tuple(_gradient(checked(g), x) for g, x in zip(gradients, inputs, strict=True))

        if places:
            for place, value in zip(places, Call.apply(*inputs), strict=True):  # type: ignore[no-untyped-call]
                values[place] = value
        return tuple(values) if isinstance(found, dict) and "tuple" in found else values[0]

    def _ask(self, request: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        if self._sandbox is None:
            pytest.fail(self._why, pytrace=False)
        if self._left <= 0 or self._ended >= MOST_ENDED:
            pytest.fail(self._why, pytrace=False)
        begun, most = time.monotonic(), self._sandbox.limits.seconds
        try:
            return self._sandbox(str(self._file), request, seconds=min(self._left, most or self._left))
        except SandboxError as error:
            said = str(error)
            if not self._sandbox.alive:
                self._ended += 1
                self._why = (
                    f"not asked any more, after its process had to be ended {self._ended} times: {said}"
                )
            pytest.fail(said, pytrace=False)
        finally:
            self._left -= time.monotonic() - begun
            if self._left <= 0:
                self._why = "not asked any more: all the time that a lab has is used up"

    def _decoded(self, data: Any) -> Any:
        __tracebackhide__ = True
        try:
            return decode(data)
        except (ValueError, RecursionError) as error:
            pytest.fail(f"your lab.py answered with {error}", pytrace=False)


def _gradient(found: Any, like: Any) -> Any:
    if found is None:
        return None
    if getattr(found, "shape", None) != like.shape:
        raise pytest.fail.Exception("your lab.py sent a gradient of another shape", pytrace=False)
    return found.to(like.dtype)


class Plugin:
    """Gives tests the labs of one submission.

    Args:
        find: The lab.py that was handed in for a lab, by the name of its folder; or why there is none.
        settings: Of each `RemoteLab`.
    """

    def __init__(self, find: Callable[[str], tuple[Path | None, str]], **settings: Any) -> None:
        self.find, self.settings = find, settings
        self.labs: dict[str, RemoteLab] = {}

    def load(self, file: Path) -> RemoteLab:
        """Return the submission's lab in the place of a lab.py; public and hidden tests share one."""
        name = file.parent.name
        if name not in self.labs:
            found, why = self.find(name)
            self.labs[name] = RemoteLab(found, why, **self.settings)
        return self.labs[name]

    def pytest_configure(self, config: pytest.Config) -> None:
        """Tell the course's conftest where labs come from."""
        config.load_lab = self.load  # type: ignore[attr-defined]

    def pytest_unconfigure(self) -> None:
        """End all processes."""
        for lab in self.labs.values():
            lab.close()
