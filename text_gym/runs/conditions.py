"""Names and hashes what decides a run's results besides its settings: reward, data, code, versions, kernels.

Code is hashed file by file: that of a reward or an algorithm, not the modules that it imports. What text-gym
itself does is known by its version.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from text_gym.episode import Prompt
from text_gym.models.cpu.fast_path import has_kernels
from text_gym.models.loading import digest_of
from text_gym.models.runtime import reward_modules
from text_gym.reward_models.learned.ngrams import NgramModel
from text_gym.rewards.sandboxed import SandboxedReward
from text_gym.rewards.source import Composite, FunctionReward, RewardSource, describe_reward
from text_gym.tasks.task import Task

from .record import code_at, describe_file

_LIBRARIES = ("torch", "transformers", "text-gym")
_SETTLED = "text_gym.reward_models.scripted"  # sources whose attributes are their settings, and stay


def conditions(
    task: Task,
    reward: RewardSource,
    *,
    algorithm: Any = None,
    specs: Mapping[str, Any] | None = None,
    libraries: Sequence[str] = (),
) -> dict[str, str]:
    """Describe what a run's results depend on, by name.

    Args:
        task: What is learnt.
        reward: What is optimised.
        algorithm: The class that learns, if it may be a user's own.
        specs: How algorithm, reward and gold were named on a command line, whose files count too.
        libraries: Packages that learn, beside PyTorch and transformers.
    """
    specs = specs or {}
    found = {
        **reward_conditions("reward", reward, specs.get("reward")),
        **({} if reward is task.reward else reward_conditions("gold reward", task.reward, specs.get("gold"))),
        **task_conditions(task),
    }
    code = {*_code_of(algorithm)} | {*_code_of_spec(specs.get("algorithm"))}
    if code:
        found["code of the algorithm"] = ", ".join(sorted(code))
    return found | software(libraries)


def task_conditions(task: Task) -> dict[str, str]:
    """Hash a task's prompts and name what else plays its episodes."""
    return {
        "prompts": _digest_of_prompts(task.prompts),
        "held-out prompts": _digest_of_prompts(task.held_out),
        "tokenizer": task.tokenizer.fingerprint,
        "tokens of an episode, at most": str(task.max_tokens),
    }


def software(libraries: Sequence[str] = ()) -> dict[str, str]:
    """Name the versions of what computes, and whether text-gym's compiled kernels do."""
    found = {f"version of {name}": _version(name) for name in (*_LIBRARIES, *libraries)}
    return {**found, "compiled kernels": "on" if has_kernels() else "off"}


def reward_conditions(what: str, source: RewardSource, spec: Any = None) -> dict[str, str]:
    """Describe a reward source: its parts, their code, settings and weights.

    Args:
        what: What to call it.
        source: The source.
        spec: How it was named on a command line, if it was.
    """
    found = {what: describe_reward(source)}
    parts = list(_leaves(source))
    code = {c for part in parts for c in _code_of_source(part)} | {*_code_of_spec(spec)}
    settings = [s for part in parts if (s := _settings_of(part)) is not None]
    weights = [digest_of(module) for module in reward_modules(source).values()]
    weights += [_digest_of_ngrams(part) for part in parts if isinstance(part, NgramModel)]
    if code:
        found[f"code of the {what}"] = ", ".join(sorted(code))
    if settings:
        found[f"settings of the {what}"] = "; ".join(settings)
    if weights:
        found[f"weights of the {what}"] = ", ".join(f"sha256:{digest}" for digest in weights)
    return found


def _leaves(source: RewardSource) -> Iterator[RewardSource]:
    """Yield a source, if it is somebody's own or no composite, and all sources inside it."""
    yield source
    if isinstance(source, Composite):
        for part in source.parts.values():
            yield from _leaves(part)


def _code_of_source(source: RewardSource) -> list[str]:
    if isinstance(source, SandboxedReward):
        return [describe_file(source.file)] if source.file.is_file() else []
    if isinstance(source, FunctionReward):
        return _code_of(source.function)
    return _code_of(type(source))


def _code_of_spec(spec: Any) -> list[str]:
    code = code_at(spec) if isinstance(spec, str) else None
    return [] if code is None else [code]


def _code_of(value: Any) -> list[str]:
    """Name and hash the file of a function or class; its own text where the file is the program or none.

    A program is changed for other reasons, above all to say `resume=True`.
    """
    while isinstance(value, functools.partial):
        value = value.func
    value = inspect.unwrap(value) if callable(value) else value
    if value is None:
        return []
    target = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
    module = getattr(target, "__module__", None) or ""
    if module.partition(".")[0] in ("text_gym", "builtins"):
        return []
    try:
        file = Path(inspect.getsourcefile(target) or "")
        if module != "__main__" and file.suffix == ".py" and file.is_file():
            return [describe_file(file)]
        text = inspect.getsource(target)
    except (OSError, TypeError):
        return [f"{getattr(target, '__qualname__', module)}, whose text cannot be read"]
    return [f"{target.__qualname__} sha256:{hashlib.sha256(text.encode()).hexdigest()}"]


def _settings_of(source: RewardSource) -> str | None:
    """Render the settings of one of our scripted sources."""
    if not type(source).__module__.startswith(_SETTLED):
        return None
    own = {k: v for k, v in vars(source).items() if not k.startswith("_")}
    return json.dumps({k: v for k, v in own.items() if _is_plain(v)}, sort_keys=True)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float))


def _digest_of_ngrams(model: NgramModel) -> str:
    result = hashlib.sha256(json.dumps([model.vocabulary, model.scales.to_dict()]).encode())
    for numbers in (model.weights, model.intercept):
        result.update(np.ascontiguousarray(numbers).tobytes())
    return result.hexdigest()


def _digest_of_prompts(prompts: Sequence[Prompt]) -> str:
    result = hashlib.sha256()
    for p in prompts:
        row = [p.id, p.text, sorted((str(k), v) for k, v in p.columns.items())]
        result.update(json.dumps(row, default=_plainly).encode())
    return f"{len(prompts):,} sha256:{result.hexdigest()}"


def _plainly(value: Any) -> Any:
    """Render what JSON lacks, without addresses, which differ from process to process."""
    return value.tolist() if hasattr(value, "tolist") else type(value).__name__


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
