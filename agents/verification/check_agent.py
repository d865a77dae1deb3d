"""`check_agent`: try on tasks that can be listed what has to hold of any algorithm."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from text_gym.agents.algorithms.agent import Agent
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.agents.algorithms.configs import AgentConfig
from text_gym.agents.own_algorithms import short_name
from text_gym.errors import CheckError
from text_gym.utils.display import harmless

from .laws import Law, every_law
from .trial import Trial


@dataclass(frozen=True)
class AgentCheck:
    """The result of `check_agent`; `print` shows it as a table.

    Args:
        agent: The algorithm's name.
        laws: In the order in which they were tried.
    """

    agent: str
    laws: tuple[Law, ...]

    @property
    def broken(self) -> list[Law]:
        """The laws that do not hold."""
        return [law for law in self.laws if not law.holds]

    def __str__(self) -> str:
        broken = len(self.broken)
        verdict = f"breaks {broken} of {len(self.laws)} laws" if broken else "breaks none of the laws"
        lines = [f"{harmless(self.agent)} {verdict}"]
        for law in self.laws:
            head = f"  {'holds ' if law.holds else 'BROKEN'}  {law.name:<14} "
            said = harmless(law.said, limit=1000)
            lines += textwrap.wrap(head + said, 110, subsequent_indent=" " * len(head))
        return "\n".join(lines)


def check_agent(
    agent: type[Agent[Any]] | str, config: AgentConfig | None = None, *, seed: int = 0
) -> AgentCheck:
    """Check an algorithm: on tasks whose every text can be listed, try what has to hold of any of them.

    The laws: at learning rate 0 no weight changes; everything follows from `config.seed`, whatever the
    global random state and other agents; texts that were not judged teach nothing, nor does padding; a text
    that is paid more becomes likelier, it and no other; an agent that is saved and loaded goes on to the same
    bits; and learning climbs towards the optimum of reward − β·KL. How near it comes is said and is no law:
    the KL in the loss, for instance, has another fixed point. It takes some seconds, on the CPU.

    Args:
        agent: A class derived from `Agent`, or what `load_algorithm` takes.
        config: Settings to check it with; those of its `config_class` if None. Learning rate, warm-up and
            seed are the check's own.
        seed: Of tasks, weights and noise.

    Returns:
        What was found, law by law.

    Raises:
        CheckError: Laws are broken; all of them are named, with what to mend.
        ConfigError: The agent refuses its settings.
    """
    name = short_name(agent) if isinstance(agent, str) else agent.__name__
    agent_class = load_algorithm(agent) if isinstance(agent, str) else agent
    with _quiet():
        found = AgentCheck(name, tuple(every_law(Trial(agent_class, config, seed))))
    if found.broken:
        raise CheckError(str(found))
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Advice is for runs; here it would only repeat itself."""
    log = logging.getLogger("text_gym")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
