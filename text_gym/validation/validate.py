"""`validate`: run the levels on a task, a reward or an installed package.

Code from elsewhere runs in a sandbox unless it is trusted: a reward's file by itself; a task or module of
another package with the whole validation, which such a package could therefore falsify.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from text_gym.episode import Prompt
from text_gym.errors import ConfigError
from text_gym.reward_models.preferences.opinions import PreferencePair, Rating
from text_gym.rewards.source import RewardSource, as_reward_source
from text_gym.tasks.task import Task, load_task
from text_gym.utils.display import harmless

from .adversarial import level_2
from .agreement import level_5
from .anchors import level_1
from .checks import LEVELS
from .laws import level_0
from .leaks import level_3
from .learning import ITERATIONS, level_4
from .measuring import Check, run_checks
from .result import CheckResult, ValidationReport
from .subject import GOLDEN_COLUMNS, Materials, Subject, Texts

Golden = Callable[[Prompt], str]


@dataclass(frozen=True)
class ValidationOptions:
    """How much a validation looks at.

    Args:
        levels: Those that are run, of 0 to 5.
        prompts: Prompts whose texts are looked at.
        seconds: CPU time of the learning probe of level 4.
        iterations: Batches that the probe learns from; up to four times as many while nothing has risen.
        seed: Decides prompts, tricks and the probe's noise.
    """

    levels: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    prompts: int = 24
    seconds: float = 60.0
    iterations: int = ITERATIONS
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.levels or set(self.levels) - set(LEVELS):
            raise ConfigError(f"levels are {list(self.levels)}; choose of 0 to 5")
        if self.prompts < 1 or self.iterations < 1 or not self.seconds > 0:
            raise ConfigError("prompts and iterations must be at least 1, and seconds above 0")


def validate(
    target: Task | RewardSource | Callable[..., Any] | str,
    task: Task | str | None = None,
    *,
    golden: Golden | str | None = None,
    honest: Texts | None = None,
    canaries: Texts = (),
    ratings: Sequence[Rating] = (),
    pairs: Sequence[PreferencePair] = (),
    gold: RewardSource | None = None,
    maximum: float | None = None,
    progress: Callable[[CheckResult], object] | None = None,
    **options: Any,
) -> ValidationReport:
    """Validate a task's reward, or a reward on a task's texts, in graded levels.

    L0: it loads, and a text's reward depends on the text alone. L1: golden texts earn the most, texts
    without any work the least. L2: tricks earn less than work. L3: nothing leaks. L4: a policy learns from
    it, and learns what is meant. L5: it agrees with people or gold. A level that fails stops none after it.

    Args:
        target: A task or the name of one that comes with text-gym; or a reward: a source or function. Other
            names (files, modules, packages) are taken by `text-gym validate`.
        task: Whose prompts and texts a reward is tried on; its own reward is gold then. Not for a task.
        golden: Writes a perfect completion of a prompt, or the column that holds one; by default the task's,
            or the first column of `answer`, `golden`, `solution`, `reference`, `target`, `completion`.
        honest: Written texts, good and bad ones, of any prompts; by default the task's held-out corpus.
        canaries: Texts that are known to be hacks.
        ratings: Texts that people marked, for L5.
        pairs: Texts that people compared, for L5.
        gold: What the reward should follow; by default the task's own reward, where another is validated.
        maximum: Largest reward there is; by default the task's optimum, where its own reward is validated.
        progress: Called with each result as it comes.
        options: Fields of `ValidationOptions`: `levels`, `prompts`, `seconds`, `iterations`, `seed`.

    Raises:
        ConfigError: An option makes no sense, or the task has several turns.
        UnknownNameError: There is no such task.

    >>> report = validate("reverse", levels=(0, 1, 2, 3))
    >>> report.grade, report.exit_status
    (3, 0)
    """
    given = ValidationOptions(**options)
    subject = _subject(target, task)
    if golden is not None:
        subject = dataclasses.replace(subject, golden=_writer(golden))
    found = dataclasses.replace(
        subject,
        honest=subject.honest if honest is None else honest,
        canaries=canaries,
        ratings=ratings,
        pairs=pairs,
        gold=gold or subject.gold,
        maximum=subject.maximum if maximum is None else maximum,
        prompts=given.prompts,
        seed=given.seed,
    )
    return validate_subject(found, given, progress)


def validate_subject(
    subject: Subject, options: ValidationOptions, progress: Callable[[CheckResult], object] | None = None
) -> ValidationReport:
    """Run the levels on a subject, lowest first."""
    m = Materials(subject)
    levels: list[Callable[[], dict[str, Check]]] = [
        lambda: level_0(m),
        lambda: level_1(m),
        lambda: level_2(m),
        lambda: level_3(m),
        lambda: level_4(m, options.seconds, options.iterations),
        lambda: level_5(m),
    ]
    results = []
    for level in sorted(set(options.levels)):
        for result in run_checks(levels[level]()):
            results.append(result)
            if progress is not None:
                progress(result)
            if result.check_id == "runtime.loads" and result.broken:  # nothing else can be asked
                return _report(subject, results, options)
    return _report(subject, results, options)


def _report(subject: Subject, results: list[CheckResult], options: ValidationOptions) -> ValidationReport:
    settings = {"task": subject.task.name, **dataclasses.asdict(options)}
    return ValidationReport(
        harmless(subject.name, limit=100), subject.kind, tuple(results), subject.digest, settings
    )


def _subject(target: Any, task: Task | str | None) -> Subject:
    if isinstance(target, (Task, str)):
        if task is not None:
            raise ConfigError("a task is validated with its own reward; pass task= for a reward")
        own = load_task(target) if isinstance(target, str) else target
        if not own.has_gold:
            raise ConfigError(f"task {own.name!r} has no reward of its own; validate the reward on the task")
        return _of_task(own, own.reward, "task", own.name)
    source = as_reward_source(target)
    own = load_task(task or "products") if not isinstance(task, Task) else task
    return _of_task(own, source, "reward", source.name)


def _of_task(task: Task, source: RewardSource, kind: str, name: str) -> Subject:
    if getattr(task, "respondent", None) is not None:
        raise ConfigError(f"task {task.name!r} has several turns; only tasks of one turn are validated")
    golden = task.golden
    if golden is None:
        columns = [c for c in GOLDEN_COLUMNS if all(c in p.columns for p in (*task.held_out, *task.prompts))]
        golden = _writer(columns[0]) if columns else None
    return Subject(
        name=name,
        kind=kind,
        task=task,
        source=source,
        golden=golden,
        honest=task.corpus()[1] if task.corpus is not None else (),
        gold=task.reward if kind == "reward" and task.has_gold and source is not task.reward else None,
        maximum=task.optimum if kind == "task" else None,
    )


def _writer(golden: Golden | str) -> Golden:
    """Return a writer of golden texts: itself, or one that reads a column."""
    if not isinstance(golden, str):
        return golden
    column = golden

    def read(prompt: Prompt) -> str:
        if column not in prompt.columns:
            raise ConfigError(f"prompt {prompt.id!r} has no column {column!r} with a golden text")
        return str(prompt.columns[column])

    return read
