"""Finds what the words after `text-gym validate` name, and runs what is not ours in a sandbox.

Such a worker holds the whole validation and answers with its report: a package that wants to can falsify it,
but has no network and writes no file of yours.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from text_gym.data import read_rows
from text_gym.episode import Prompt
from text_gym.errors import ConfigError, DataError, RewardError, SandboxError, UnknownNameError
from text_gym.reward_models.loading import load_reward
from text_gym.reward_models.names import REWARD_NAMES
from text_gym.reward_models.preferences.files import read_pairs, read_ratings
from text_gym.tasks.installed import GROUP, installed_tasks
from text_gym.tasks.task import TASKS, env_ids, load_task, one_hot_ids, task_names, unknown_task
from text_gym.utils.limits import SandboxLimits
from text_gym.utils.sandbox import Sandbox
from text_gym.utils.user_code import split_place

from .result import CheckResult, ValidationReport, report_from
from .validate import validate

LOG = logging.getLogger("text_gym")
_MEMORY, _SLACK = 16 << 30, 600.0  # bytes of address space, which PyTorch reserves; seconds beside the probe


@dataclasses.dataclass(frozen=True)
class ValidationRequest:
    """What to validate and with what, as plain data, so that it can be sent to a worker.

    Args:
        target: Name of a task, reward or installed package; `module:name`, `file.py:name` or a folder.
        task: Task whose texts a reward is tried on.
        golden: Column of golden texts.
        canaries: File of known hacks: rows of `prompt` and `completion`.
        ratings: File of texts that people marked.
        criteria: Columns of the marks.
        pairs: File of texts that people compared.
        maximum: Largest reward there is.
        options: Fields of `ValidationOptions`.
    """

    target: str
    task: str = "products"
    golden: str | None = None
    canaries: str | None = None
    ratings: str | None = None
    criteria: tuple[str, ...] = ("rating",)
    pairs: str | None = None
    maximum: float | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Progress = Callable[[CheckResult], object] | None


def validate_target(
    request: ValidationRequest, *, trust: bool = False, progress: Progress = None
) -> list[ValidationReport]:
    """Validate what a request names: one report, or one for each task of an installed package.

    Args:
        request: What to validate.
        trust: Run packages and modules of others in this process; a file's sandbox is `load_reward`'s.
        progress: Called with each result as it comes; from a sandbox, all at the end.

    Raises:
        UnknownNameError: Nothing has that name; the nearest is suggested.
        ConfigError: It has only tasks of several turns, which are not validated; beside others they are left
            out, with a warning.
        SandboxError: The package's code hit a limit or died.
    """
    reports, left_out = [], []
    for own in _requests(request):
        foreign = _is_foreign(own) and not trust
        report = _in_sandbox(own) if foreign else _validated(own, progress)
        if report is None:
            left_out.append(repr(own.target))
            continue
        for result in report.results if foreign and progress is not None else ():
            progress(result)  # type: ignore[misc]
        reports.append(report)
    if not reports:
        raise ConfigError(
            f"only tasks of one turn are validated, and these have several: {', '.join(left_out)}"
        )
    if left_out:
        LOG.warning("left out, since only tasks of one turn are validated: %s", ", ".join(left_out))
    return reports


def _requests(request: ValidationRequest) -> list[ValidationRequest]:
    """Return the request, or one for each task of the package that it names."""
    if _names_something(request.target):
        return [request]
    try:
        points = distribution(request.target).entry_points
    except (PackageNotFoundError, ValueError):
        if request.target in {**env_ids(), **one_hot_ids()}:
            raise unknown_task(request.target) from None
        known = [*task_names(), *REWARD_NAMES]
        raise UnknownNameError("task, reward or package", request.target, known) from None
    names = [point.name for point in points if point.group == GROUP]
    if not names:
        raise ConfigError(f"package {request.target} has no task (entry points of the group {GROUP})")
    return [dataclasses.replace(request, target=name) for name in names]


def _names_something(target: str) -> bool:
    if target in task_names() or target in REWARD_NAMES or target.startswith("human:"):
        return True
    return split_place(target) is not None or Path(target).is_dir() or target.endswith(".py")


def _is_foreign(request: ValidationRequest) -> bool:
    """Return True if code runs that neither is ours nor has a sandbox of its own."""
    if any(name in installed_tasks() and name not in TASKS for name in (request.target, request.task)):
        return True
    place = split_place(request.target)
    return place is not None and not place[0].endswith(".py") and place[0].split(".")[0] != "text_gym"


def _in_sandbox(request: ValidationRequest) -> ValidationReport | None:
    seconds = float(request.options.get("seconds", 60.0)) + _SLACK
    limits = SandboxLimits(seconds=seconds, memory=_MEMORY, output=None)
    with Sandbox(validated_here, limits) as worker:
        answer = worker(dataclasses.asdict(request))
    try:
        return None if answer is None else report_from(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SandboxError(f"the validation of {request.target} sent no report ({error})") from error


def validated_here(request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Validate in this process, which a sandbox limits; the report as plain data."""
    own = ValidationRequest(**{**request, "criteria": tuple(request["criteria"])})
    report = _validated(own, None)
    return None if report is None else report.summary()


def _validated(request: ValidationRequest, progress: Progress) -> ValidationReport | None:
    """Validate in this process; None if the target is a conversation."""
    is_task = request.target in task_names()
    try:
        task = load_task(request.target if is_task else request.task)
    except ConfigError as error:
        if not is_task:
            raise
        return _unloadable(request, "task", str(error), progress)
    if is_task and task.respondent is not None:
        return None
    target: Any = task
    if not is_task:
        try:
            target = load_reward(request.target, prompts=[*task.prompts, *task.held_out])
        except RewardError as error:
            return _unloadable(request, "reward", str(error), progress)
    report = validate(
        target,
        None if is_task else task,
        golden=request.golden,
        canaries=_texts(request.canaries),
        ratings=read_ratings(request.ratings, request.criteria) if request.ratings else (),
        pairs=read_pairs(request.pairs) if request.pairs else (),
        maximum=request.maximum,
        progress=progress,
        **request.options,
    )
    return dataclasses.replace(report, target=request.target)


def _unloadable(request: ValidationRequest, kind: str, why: str, progress: Progress) -> ValidationReport:
    """Return the report of a task or reward that cannot be made: it fails level 0."""
    failed = CheckResult("runtime.loads", "fail", {}, (why,))
    if progress is not None:
        progress(failed)
    return ValidationReport(request.target, kind, (failed,), "", {"task": request.task, **request.options})


def _texts(file: str | None) -> Sequence[tuple[Prompt, str]]:
    """Read rows of `prompt` and `completion`; the other columns are the prompts'."""
    if file is None:
        return ()
    found = []
    for number, row in enumerate(itertools.islice(read_rows(file), 10_000), 1):
        if not isinstance(row.get("prompt"), str) or not isinstance(row.get("completion"), str):
            raise DataError(f"{file}, row {number}: it needs texts in the columns prompt and completion")
        rest = {k: v for k, v in row.items() if k not in ("prompt", "completion")}
        found.append((Prompt(row["prompt"], rest), row["completion"]))
    return found
