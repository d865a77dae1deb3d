"""The side of a submission: runs in the sandbox, calls its functions, and answers with data.

Nothing here has a say in the grade: what a submission does to this process, it does to its own answers.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from course.wire import decode, encode

_LOADED: dict[str, ModuleType] = {}


def answer(file: str, request: dict[str, Any]) -> Any:
    """Call a function of a lab.py, or only load it if no function is named.

    Args:
        file: The lab.py.
        request: `function`; `arguments` and `keywords`, encoded; `inputs`, the positions of arguments that
            need a gradient; `cotangents`, if the gradient is wanted: encoded, one for each tensor that is
            returned and has one.

    Returns:
        What it returned, encoded; or the gradient by each input (None where it does not depend on it).
    """
    lab = _LOADED[file] if file in _LOADED else _load(Path(file))
    if request["function"] is None:
        return None
    function = getattr(lab, request["function"], None)
    if function is None:
        raise AttributeError(f"there is no function {request['function']} in lab.py")
    arguments = [decode(argument) for argument in request["arguments"]]
    keywords = {name: decode(argument) for name, argument in request["keywords"].items()}
    inputs = [arguments[place].requires_grad_() for place in request["inputs"]]
    found = function(*arguments, **keywords)
    if request["cotangents"] is None:
        return encode(found)
    return _gradients(found, inputs, [decode(item) for item in request["cotangents"]])


def _gradients(found: Any, inputs: list[Any], cotangents: list[Any]) -> list[Any]:
    import torch

    outputs = [item for item in (found if isinstance(found, tuple) else (found,)) if _has_graph(item)]
    gradients = torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True)
    return [encode(gradient) for gradient in gradients]


def _has_graph(item: Any) -> bool:
    return bool(getattr(item, "requires_grad", False))


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("lab", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["lab"] = module
    spec.loader.exec_module(module)
    _LOADED[str(file)] = module
    return module
