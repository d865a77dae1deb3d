"""A conversation's rules as one function: respondent and reward read the same verdict from it.

The state is what was said; nothing is remembered between turns, so a verdict can be had at any time again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from text_gym.episode import Episode
from text_gym.errors import RewardError
from text_gym.respondents import Reply
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards


@dataclass(frozen=True)
class Verdict:
    """The environment's answer to a turn.

    Args:
        reply: What the agent reads.
        ends: The conversation is over.
        score: What the conversation is worth if it ends here, in [0, 1].
    """

    reply: str
    ends: bool = False
    score: float = 0.0


Rules: TypeAlias = "Callable[[Mapping[str, Any], Sequence[str]], Verdict]"


class RulesRespondent:
    """Answers each turn as the rules say.

    Args:
        rules: From a prompt's columns and the agent's turns so far, at least one, to the verdict.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def respond(self, episodes: Sequence[Episode], generators: Sequence[np.random.Generator]) -> list[Reply]:
        """Return the rules' reply to the last turn of each episode."""
        verdicts = [self.rules(e.prompt.columns, agent_turns(e)) for e in episodes]
        return [Reply(verdict.reply, ends=verdict.ends) for verdict in verdicts]


class RulesReward(RewardSource):
    """Pays a conversation's score at its end; the term `turns` counts the agent's turns.

    A turn that nobody answered, because the agent ended the text or a limit cut it, is no turn.

    Args:
        rules: As in `RulesRespondent`.
        name: Of the reward.
        columns: Columns that the rules need.
    """

    def __init__(self, rules: Rules, name: str, columns: Sequence[str]) -> None:
        self.rules, self.name, self.columns = rules, name, tuple(columns)

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Score each episode by its turns and its prompt's columns."""
        scores, counts = np.zeros(len(episodes)), np.zeros(len(episodes))
        for i, episode in enumerate(episodes):
            missing = [name for name in self.columns if name not in episode.prompt.columns]
            if missing:
                raise RewardError(
                    f"reward {self.name!r} needs the columns {', '.join(self.columns)}; "
                    f"prompt {episode.prompt.id!r} lacks {', '.join(missing)}"
                )
            answered = answered_turns(episode)
            counts[i] = len(answered)
            if answered:
                scores[i] = self.rules(episode.prompt.columns, answered).score
        return Rewards(scores, terms={"turns": counts})


def agent_turns(episode: Episode) -> list[str]:
    """Return the agent's turns as texts, with the stop string that ended each of them."""
    return [episode.tokenizer.decode(t.ids.tolist()) for t in episode.turns if t.role == "assistant"]


def answered_turns(episode: Episode) -> list[str]:
    """Return those of the agent's turns that the environment answered."""
    turns = episode.turns
    count = sum(a.role == "assistant" != b.role for a, b in pairwise(turns))
    return agent_turns(episode)[:count]
