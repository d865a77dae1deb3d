"""Tasks of reasoning-gym, generated and judged by its own code: `load_task("reasoning_gym:leg_counting")`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import numpy as np

from text_gym.episode import Episode, Prompt
from text_gym.errors import ConfigError, MissingLibraryError, RewardError, SandboxError, UnknownNameError
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.tasks.classic import check_range
from text_gym.tasks.task import Pairs, Task
from text_gym.tokenizer import ByteTokenizer, Tokenizer
from text_gym.utils.display import harmless
from text_gym.utils.sandbox import Sandbox

INDEX = "index"  # the column of prompts: the number of the problem
_SECONDS, _SECONDS_ALONE = 60.0, 10.0  # for a batch, and for each of its texts where the batch took too long
_SECONDS_TO_IMPORT = 300.0


class ReasoningGymReward(RewardSource):
    """Scores answers as reasoning-gym does, in [0, 1].

    Some of its judges read an answer with `sympy`, which runs it as Python: they are called in a sandbox. A
    text that no judge can be had of, since it takes too long, is worth 0.

    Args:
        dataset: Name of the data set.
        config: Its parameters, as JSON.
        sandbox: Judge in a sandbox; None means that it is done unless `TEXT_GYM_SANDBOX` is 0.
    """

    def __init__(self, dataset: str, config: str, sandbox: bool | None = None) -> None:
        self.dataset, self.config, self.name = dataset, config, f"reasoning_gym:{dataset}"
        self.sandbox = os.environ.get("TEXT_GYM_SANDBOX") != "0" if sandbox is None else sandbox
        self._scorer: Sandbox | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scorer": None}

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Score each episode by its text and the number of its problem."""
        for episode in episodes:
            if not isinstance(episode.prompt.columns.get(INDEX), int):
                raise RewardError(
                    f"reward {self.name!r} needs the column {INDEX!r}; prompt {episode.prompt.id!r} lacks it"
                )
        pairs = [[e.prompt.columns[INDEX], e.completion.strip()] for e in episodes]
        if not self.sandbox:
            return Rewards(np.clip(judge_answers(self.dataset, self.config, pairs), 0.0, 1.0))
        try:
            scores = self._judged(pairs, _SECONDS)
        except SandboxError:  # one after the other, so that a text harms itself alone
            scores = [self._one(pair) for pair in pairs]
        return Rewards(np.clip(scores, 0.0, 1.0))

    def _one(self, pair: list[Any]) -> float:
        try:
            (score,) = self._judged([pair], _SECONDS_ALONE)
        except SandboxError as error:
            self._last_failure = str(error)
            return 0.0
        return score

    def _judged(self, pairs: list[list[Any]], seconds: float) -> list[float]:
        if self._scorer is None:
            self._scorer = Sandbox(judge_answers)
        if not self._scorer.alive:  # what has to be imported is not held against the first texts
            self._scorer(self.dataset, self.config, [], seconds=_SECONDS_TO_IMPORT)
        scores: list[float] = self._scorer(self.dataset, self.config, pairs, seconds=seconds)
        return scores


def judge_answers(dataset: str, config: str, pairs: list[list[Any]]) -> list[float]:
    """Score answers as reasoning-gym does; an answer that makes its judge raise is wrong.

    Args:
        dataset: Name of the data set.
        config: Its parameters as JSON.
        pairs: The number of a problem, and an answer, each.
    """
    problems = _problems(dataset, config)
    scores = []
    for index, answer in pairs:
        try:
            scores.append(float(problems.score_answer(answer=answer, entry=problems[index])))
        except Exception:
            scores.append(0.0)
    return scores


@cache
def _problems(dataset: str, config: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(dataset, **json.loads(config))


def reasoning_gym_task(
    dataset: str,
    *,
    level: int | None = None,
    tokenizer: Tokenizer | None = None,
    max_tokens: int | None = None,
    n_train: int = 512,
    n_held_out: int = 64,
    seed: int = 0,
    **config: Any,
) -> Task:
    """Make a task of a data set of reasoning-gym: a question, and the answer that its own judge accepts.

    The corpus, for `text-gym sft`, is of the right answers, where the data set has one for each question.

    Args:
        dataset: Its name, such as `leg_counting`.
        level: Of the data set's curriculum, from 0, for all of its attributes; those that have no such level
            are at their last. None means the data set's own defaults.
        tokenizer: Bytes if None.
        max_tokens: Room for the longest right answer and as much again, if None.
        n_train: Problems to learn on; those that come twice or are held out are left out.
        n_held_out: Problems to judge on.
        seed: Of the problems.
        **config: Parameters of the data set, plain data.

    Raises:
        MissingLibraryError: reasoning-gym is not installed.
        UnknownNameError: There is no such data set; the nearest is suggested.
        ConfigError: The data set refuses its parameters, or it has no curriculum.
    """
    try:
        from reasoning_gym import factory
    except ImportError as error:
        raise MissingLibraryError(
            f"task 'reasoning_gym:{dataset}'", "reasoning_gym", "text-gym[reasoning-gym]"
        ) from error
    if dataset not in factory.DATASETS:
        raise UnknownNameError("data set of reasoning-gym", dataset, factory.DATASETS)
    if "size" in config:
        raise ConfigError("size is n_train and n_held_out together; pass these two instead")
    check_range("n_train", n_train, 1)
    check_range("n_held_out", n_held_out, 1)
    if level is not None:
        check_range("level", level, 0)
        config = _at_level(factory, dataset, level) | config
    config |= {"size": n_train + n_held_out, "seed": seed}
    try:
        written = json.dumps(config, sort_keys=True)
        entries = list(_problems(dataset, written))
    except Exception as error:
        raise ConfigError(
            f"reasoning_gym:{dataset} cannot be made: {type(error).__name__}: "
            f"{harmless(str(error), limit=300)}"
        ) from error
    prompts, answers = _distinct(entries)
    count = min(n_held_out, len(prompts) // 2)
    if not count:
        raise ConfigError(f"reasoning_gym:{dataset} has {len(prompts)} problem with these parameters")
    tokenizer = ByteTokenizer() if tokenizer is None else tokenizer
    known = all(answer is not None for answer in answers)
    pairs = [(p, str(a)) for p, a in zip(prompts, answers, strict=True)] if known else []
    longest = max((len(p.encode_completion(a, tokenizer)) for p, a in pairs), default=64)
    return Task(
        name=f"reasoning_gym:{dataset}",
        prompts=prompts[count:],
        held_out=prompts[:count],
        tokenizer=tokenizer,
        reward=ReasoningGymReward(dataset, written),
        max_tokens=2 * longest if max_tokens is None else max_tokens,
        corpus=partial(_halves, pairs, count) if known else None,
        optimum=1.0,
    )


def _at_level(factory: Any, dataset: str, level: int) -> dict[str, Any]:
    """Return the parameters of a level of a data set's curriculum."""
    if not factory.has_curriculum(dataset):
        raise ConfigError(f"reasoning_gym:{dataset} has no curriculum; leave level out")
    curriculum = factory.create_curriculum(dataset)
    for name in curriculum.attributes:
        curriculum.set_attr_level(name, min(level, len(curriculum.get_attribute(name).levels) - 1))
    own = asdict(curriculum.generate_configuration())
    return {name: value for name, value in own.items() if name not in ("seed", "size")}


def _distinct(entries: Sequence[Mapping[str, Any]]) -> tuple[list[Prompt], list[str | None]]:
    """Return the questions, each once and with a line's end behind it, and their answers."""
    found: dict[str, tuple[Prompt, str | None]] = {}
    for index, entry in enumerate(entries):
        text = f"{entry['question'].rstrip()}\n"
        answer = None if entry["answer"] is None else str(entry["answer"])
        found.setdefault(text, (Prompt(text, {INDEX: index, "answer": answer}, f"problem {index}"), answer))
    return [prompt for prompt, _ in found.values()], [answer for _, answer in found.values()]


def _halves(pairs: Pairs, count: int) -> tuple[Pairs, Pairs]:
    """Return the pairs to learn on, and the first `count`, which are held out."""
    return pairs[count:], pairs[:count]
