"""A language model as the judge of texts: scores by a rubric, and comparisons of two texts.

Texts are passed as data between delimiters nobody can guess. A reply that is not exactly what was asked for
is no score: the judge abstains, it never pays 0. Whether its opinions are good is not said here; audit it.
How replies are read stands in `replies`; a judge on this machine, in `local`.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from text_gym.episode import Episode
from text_gym.errors import ConfigError, excerpt
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.utils.display import harmless

from .criteria import (
    REASON,
    RULES,
    Comparisons,
    Criterion,
    check_same_prompt,
    given_texts,
    named_criteria,
    read_rubric,
    rubric_rewards,
    tagged,
)
from .endpoint import BudgetError, ChatEndpoint, EndpointError, EndpointRefusedError
from .replies import Replies, parse_choice, parse_scores

_LOG = logging.getLogger(__name__)

OnSpent = Literal["raise", "abstain"]


class Judge(RewardSource):
    """A language model that scores texts by a rubric; `Σ weight · (score - low) / (high - low) / Σ weight`.

    In [0, 1]. Terms: each criterion's score on its own scale, NaN where there is none. It abstains where the
    endpoint fails or the reply is not one JSON object with a number in range for every criterion, and
    `last_failure` says what the endpoint answered then. One request a text, one after another: wrap it in
    `Parallel(judge, workers=8, chunk=1)` to have several under way.
    How it is hacked: by flattery, length, and orders to the judge; see `attack_report`.

    Args:
        endpoint: Who is asked.
        criteria: Name -> `Criterion`, or a question alone for a scale of 1 to 5.
        instructions: What the texts are for, in a sentence or two.
        columns: Prompt columns the judge may see, such as a reference.
        on_spent: Raise a `BudgetError` when the budget is spent, or abstain from there on.
        deterministic: Say so only if the endpoint gives equal answers to equal questions; then rewards may be
            cached.
        replies: `"strict"`, or `"reasoning"` for models that think aloud or write prose before a score; the
            grammar stands in `text_gym.reward_models.judge.replies`. Give them more `answer_tokens`.

    Raises:
        ConfigError: No criteria, a name that is not a word, or an option that there is not.
    """

    name = "judge"
    abstains = True
    batch_invariant = True  # each text is judged in a request of its own
    costly = True

    def __init__(
        self,
        endpoint: ChatEndpoint,
        criteria: Mapping[str, Criterion | str],
        *,
        instructions: str = "",
        columns: Sequence[str] = (),
        on_spent: OnSpent = "raise",
        deterministic: bool = False,
        replies: Replies = "strict",
    ) -> None:
        self.endpoint, self.instructions, self.columns = endpoint, instructions, tuple(columns)
        self.criteria = named_criteria(criteria)
        if replies not in get_args(Replies):
            raise ConfigError(f"replies is strict or reasoning, not {replies!r}")
        self.replies: Replies = replies
        if on_spent not in ("raise", "abstain"):
            raise ConfigError(f"on_spent is raise or abstain, not {on_spent!r}")
        self.on_spent, self.deterministic = on_spent, deterministic

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Ask the judge about each text; a question that fails is an abstention, not a score of 0.

        Raises:
            BudgetError: The budget is spent and `on_spent` is `"raise"`.
            EndpointRefusedError: The endpoint knows neither key, address nor model.
        """
        scores = np.full((len(episodes), len(self.criteria)), np.nan)
        for i, episode in enumerate(episodes):
            reply = self._ask(self.messages(episode), episode)
            found = None if reply is None else parse_scores(reply, self.criteria, self.replies)
            if found is not None:
                scores[i] = list(found.values())
            elif reply is not None:
                self._last_failure = f"{self.endpoint} replied without valid scores: {excerpt(reply, 120)}"
                _LOG.warning("judge: no valid scores in %s", harmless(reply, limit=200))
        return rubric_rewards(scores, self.criteria)

    def compare(self, pairs: Sequence[tuple[Episode, Episode]]) -> Comparisons:
        """Ask which text of each pair is better, in both orders.

        A text wins only if it does so in both orders, else it is a tie (Zheng et al. 2023, section 3.4). If
        either reply is missing, so is the comparison.

        Raises:
            ConfigError: The two texts of a pair answer different prompts.
        """
        check_same_prompt(pairs)
        preference, flipped = np.full(len(pairs), np.nan), np.zeros(len(pairs), dtype=np.bool_)
        for i, (first, second) in enumerate(pairs):
            asked = [self._ask(self.comparison(a, b), a) for a, b in ((first, second), (second, first))]
            one, two = (None if reply is None else parse_choice(reply, self.replies) for reply in asked)
            if one is not None and two is not None:
                preference[i] = one if one == 1 - two else 0.5
                flipped[i] = one == two != 0.5
        return Comparisons(preference, flipped)

    def messages(self, episode: Episode) -> list[dict[str, str]]:
        """Build the conversation that asks for scores; the delimiters are drawn anew each time."""
        lines = [
            f'- "{name}": a number from {c.low:g} to {c.high:g}. {c.question}'
            for name, c in self.criteria.items()
        ]
        form = ", ".join(f'"{name}": <number>' for name in self.criteria)
        task = "Score the answer by these criteria:\n" + "\n".join(lines)
        texts = self._texts(episode) | {"answer": episode.completion}
        return self._conversation(task, texts, f'{{"{REASON}": "<one sentence>", {form}}}')

    def comparison(self, a: Episode, b: Episode) -> list[dict[str, str]]:
        """Build the conversation that asks which of two answers is better."""
        lines = [f"- {name}: {c.question}" for name, c in self.criteria.items()]
        task = "Say which answer is better by these criteria. Order and length do not matter.\n" + "\n".join(
            lines
        )
        texts = self._texts(a) | {"answer_A": a.completion, "answer_B": b.completion}
        return self._conversation(
            task, texts, f'{{"{REASON}": "<one sentence>", "better": "A" or "B" or "tie"}}'
        )

    def _texts(self, episode: Episode) -> dict[str, str]:
        return given_texts(episode, self.columns, self.name)

    def _conversation(self, task: str, texts: Mapping[str, str], form: str) -> list[dict[str, str]]:
        mark = secrets.token_hex(16)  # 128 bits: what is judged cannot contain it
        how = "Reply with one JSON object and nothing else"
        if self.replies == "reasoning":
            how = "Think first if you need to. End with one JSON object, and say no score before it"
        system = "\n\n".join(
            part
            for part in (
                "You judge texts.",
                self.instructions,
                task,
                f"The material stands between tags that end in {mark}. {RULES}",
                f"{how}:\n{form}",
            )
            if part
        )
        return [{"role": "system", "content": system}, {"role": "user", "content": tagged(texts, mark)}]

    def _ask(self, messages: list[dict[str, str]], episode: Episode) -> str | None:
        try:
            return self.endpoint.ask(messages)
        except EndpointRefusedError:
            raise
        except BudgetError as error:
            if self.on_spent == "raise":
                raise
            self._last_failure = str(error)
            return None
        except EndpointError as error:
            self._last_failure = str(error)
            _LOG.warning("judge: no score for %s: %s", harmless(episode.prompt.id, limit=60), error)
            return None


def judge_from_environment() -> Judge:
    """Make the judge that `--reward judge` means; environment variables describe it.

    `TEXT_GYM_JUDGE_URL` and `TEXT_GYM_JUDGE_MODEL` are needed. `TEXT_GYM_JUDGE_KEY` holds the key, if the
    endpoint wants one; `TEXT_GYM_JUDGE_CALLS` the budget of calls (default 10,000);
    `TEXT_GYM_JUDGE_RUBRIC` the path of a file whose rows have `name`, `question` and, if wanted, `low`,
    `high` and `weight` (any format that data may have). The default rubric asks for a `quality` of 1 to 5.
    `TEXT_GYM_JUDGE_REPLIES` is `strict` (the default) or `reasoning`, for a model that thinks aloud.

    Raises:
        ConfigError: A variable is missing or malformed; it is named.
    """

    def variable(name: str, default: str | None = None) -> str:
        value = os.environ.get(f"TEXT_GYM_JUDGE_{name}", default)
        if not value:
            raise ConfigError(f"--reward judge needs the environment variable TEXT_GYM_JUDGE_{name}")
        return value

    calls = variable("CALLS", "10000")
    if not calls.isdecimal():
        raise ConfigError(f"TEXT_GYM_JUDGE_CALLS is {calls!r}, not a number of calls")
    endpoint = ChatEndpoint(
        variable("URL"),
        variable("MODEL"),
        key_variable="TEXT_GYM_JUDGE_KEY" if os.environ.get("TEXT_GYM_JUDGE_KEY") else None,
        max_calls=int(calls),
    )
    replies = variable("REPLIES", "strict")
    if replies not in get_args(Replies):
        raise ConfigError(f"TEXT_GYM_JUDGE_REPLIES is {excerpt(replies)}; it is strict or reasoning")
    rubric = os.environ.get("TEXT_GYM_JUDGE_RUBRIC")
    criteria: Mapping[str, Criterion | str] = (
        read_rubric(rubric)
        if rubric
        else {"quality": "How good is the answer? 1: useless. 5: as good as can be."}
    )
    return Judge(endpoint, criteria, replies="reasoning" if replies == "reasoning" else "strict")
