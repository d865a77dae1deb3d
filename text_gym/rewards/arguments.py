"""The arguments that a plain function is given as a reward: the texts of an episode, and columns by name.

`prompt` and `completion` are the episode's wherever they stand, and whatever columns the data have.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from text_gym.episode import Episode
from text_gym.errors import RewardError
from text_gym.utils.user_code import signature_of


@dataclass(frozen=True)
class Plan:
    """Where arguments come from, for prompts with certain columns: a text, the episode, or `column:NAME`."""

    positional: tuple[str, ...]
    named: dict[str, str]

    def call(self, function: Callable[..., Any], episode: Episode) -> Any:
        """Call the function for one episode."""
        positional = [_argument(episode, source) for source in self.positional]
        if not self.named:
            return function(*positional)
        return function(*positional, **{k: _argument(episode, source) for k, source in self.named.items()})


JUST_THE_COMPLETION = Plan(("completion",), {})


def _argument(episode: Episode, source: str) -> Any:
    """Return one argument by where it comes from."""
    if source == "completion":
        return episode.completion
    if source == "prompt":
        return episode.prompt.text
    return episode if source == "episode" else episode.prompt.columns[source.removeprefix("column:")]


class Arguments:
    """What a function asks for, by its parameters.

    Args:
        function: Anything callable.
        name: The reward's, for errors.

    Attributes:
        batched: The function wants whole batches by name, `prompts` or `completions`.
        whole: It wants a whole batch as `episodes`, its first parameter.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.name = name
        parameters = signature_of(function).parameters.values()
        # What functools.partial has settled is no question to the episode.
        self._settled = set(function.keywords) if isinstance(function, functools.partial) else set()
        named = [
            p
            for p in parameters
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in self._settled
        ]
        self._names = [p.name for p in named]
        self._required = {p.name for p in named if p.default is p.empty}
        self._by_name = {p.name for p in named if p.kind is p.KEYWORD_ONLY}
        self._by_place = {p.name for p in named if p.kind is p.POSITIONAL_ONLY}
        self._takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._takes_rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.batched = bool({"prompts", "completions"} & set(self._names))
        self.whole = self._names[:1] == ["episodes"]
        self._plans: dict[tuple[str, ...], Plan] = {}

    def of_batch(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        """Return the lists that a batched function asks for, `None` where a prompt lacks a column.

        Raises:
            RewardError: No prompt has a column that the function cannot do without.
        """
        known = {k for e in episodes for k in e.prompt.columns}
        batch: dict[str, Any] = {k: [e.prompt.columns.get(k) for e in episodes] for k in sorted(known)}
        batch["prompts"] = [e.prompt.text for e in episodes]
        batch["completions"] = [e.completion for e in episodes]
        batch["completion_ids"] = [e.completion_ids.tolist() for e in episodes]
        self._complain(self._required - set(batch), sorted(batch))
        return {k: v for k, v in batch.items() if k in self._names or self._goes_along(k)}

    def plan(self, columns: tuple[str, ...]) -> Plan:
        """Decide where each argument comes from, for prompts with these columns.

        Raises:
            RewardError: A column is missing, or the function would never see what was written.
        """
        plan = self._plans.get(columns)
        if plan is None:
            plan = self._plans[columns] = self._plan(columns)
        return plan

    def _plan(self, columns: tuple[str, ...]) -> Plan:
        sources = {name: f"column:{name}" for name in self._names if name in columns} | self._texts(columns)
        self._complain(self._required - set(sources), sorted(columns))
        if not {"completion", "episode"} & set(sources.values()):
            if not self._names and self._takes_rest:
                return JUST_THE_COMPLETION
            raise RewardError(
                f"reward {self.name!r} would not see what was written: its parameters are "
                f"{', '.join(self._names) or '(none)'}; have one that is called completion"
            )
        positional: list[str] = []
        for name in self._names:
            by_name = name in self._by_name or sources.get(name, "column:").startswith("column:")
            if name not in sources or (by_name and name not in self._by_place):
                break
            positional.append(sources.pop(name))
        sources |= {k: f"column:{k}" for k in columns if k not in self._names and self._goes_along(k)}
        return Plan(tuple(positional), sources)

    def _texts(self, columns: tuple[str, ...]) -> dict[str, str]:
        """Say which parameters are texts: those called so, and else the first that are no columns."""
        if self._names[:1] == ["episode"]:
            return {"episode": "episode"}
        texts = {n: n for n in self._names if n in ("prompt", "completion")}
        free = [n for n in self._names if n in self._required - self._by_name - set(texts) - set(columns)]
        if not texts:
            return dict(
                zip(free, ("prompt", "completion") if len(free) > 1 else ("completion",), strict=False)
            )
        if "completion" not in texts:
            texts |= dict.fromkeys(free[:1], "completion")
        elif "prompt" not in texts and free and self._names.index(free[0]) < self._names.index("completion"):
            texts[free[0]] = "prompt"
        return texts

    def _goes_along(self, column: str) -> bool:
        """Return True if the function takes a column that none of its parameters names."""
        return self._takes_any and column not in self._settled

    def _complain(self, missing: set[str], columns: Sequence[str]) -> None:
        if missing:
            raise RewardError(
                f"reward {self.name!r} asks for {', '.join(sorted(missing))}, but the prompts have only "
                f"the columns {', '.join(columns) or '(none)'}"
            )
