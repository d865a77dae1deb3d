"""Any environment whose observations and actions are texts, as a task: its observations are the replies.

Such environments remember and draw as they like. Here each episode is played anew from its seed whenever the
environment at hand is not the one that heard the turns so far, so that a respondent remains a pure function.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from text_gym.episode import Episode, Prompt
from text_gym.errors import ConfigError, DataError, RespondentError, TextGymError, excerpt
from text_gym.respondents import Reply
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.tasks.classic import check_range
from text_gym.tasks.task import Task
from text_gym.tokenizer import ByteTokenizer, Tokenizer
from text_gym.utils.display import harmless

MOST_ALIVE = 256  # environments kept for their next turn
SEED = "env_seed"  # the column of prompts


class RepliesPay(RewardSource):
    """The reward of a task whose environment pays for turns: there is nothing to add to what replies paid."""

    name = "environment"

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Return 0 for every episode."""
        return Rewards(np.zeros(len(episodes)))


class StepOutcome(NamedTuple):
    """The result of a step.

    Args:
        observation: The environment's own.
        reward: Paid for the step.
        done: The episode is over.
    """

    observation: Any
    reward: float
    done: bool


class EnvironmentRespondent:
    """Plays a text environment: a turn of the agent is an action, and the next observation the reply.

    Args:
        make: Makes an environment: one of Gymnasium's (`reset(seed=…)` and `step(action)` with five values),
            or one of OpenEnv's (whose results have `observation`, `reward` and `done`).
        action: Makes an action of a turn's text; the text itself if None.
        text: Makes a text of an observation; if None it must be a text or have one in `text`, `message`,
            `content`, `prompt` or `observation`.
        separator: Written behind each observation.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        action: Callable[[str], Any] | None = None,
        text: Callable[[Any], str] | None = None,
        separator: str = "\n",
    ) -> None:
        self.make, self.action, self.text, self.separator = make, action, text, separator
        # By seed and turns so far, the environment that heard them, and the global generators it left behind.
        self._alive: OrderedDict[tuple[int, tuple[str, ...]], tuple[Any, Any]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_alive": OrderedDict()}

    def first(self, seed: int) -> str:
        """Return the text that the episode of a seed begins with."""
        with _Generators() as generators:
            env, observation = self._begin(seed, generators)
        text = self._text(observation)
        _close(env)
        return text

    def respond(self, episodes: Sequence[Episode], generators: Sequence[np.random.Generator]) -> list[Reply]:
        """Take each episode's last turn as an action of its environment."""
        return [self._reply(episode) for episode in episodes]

    def _reply(self, episode: Episode) -> Reply:
        seed = episode.prompt.columns.get(SEED)
        if not isinstance(seed, int):
            raise RespondentError(
                f"prompt {excerpt(episode.prompt.id)} has no whole number in its column {SEED!r}"
            )
        turns = tuple(turn.text for turn in episode.turns if turn.role == "assistant")
        with _Generators() as generators:
            env, state = self._alive.pop((seed, turns[:-1]), (None, None))
            if env is None:
                env, _ = self._begin(seed, generators)
                for turn in turns[:-1]:
                    self._step(env, turn)
            else:
                generators.restore(state)
            outcome = self._step(env, turns[-1])
            if not outcome.done:
                self._keep((seed, turns), (env, generators.state()))
        if outcome.done:
            _close(env)
        return Reply(self._text(outcome.observation), reward=outcome.reward, ends=outcome.done)

    def _begin(self, seed: int, generators: _Generators) -> tuple[Any, Any]:
        """Make an environment and reset it; returns it with its first observation."""
        generators.seed(seed)
        try:
            env = self.make()
            result = env.reset(seed=seed)
        except TextGymError:
            raise
        except Exception as error:
            raise RespondentError(
                f"the environment cannot be begun with seed {seed}: {type(error).__name__}: "
                f"{harmless(str(error).strip(), limit=300)}"
            ) from error
        observation = result[0] if isinstance(result, tuple) else getattr(result, "observation", result)
        return env, observation

    def _step(self, env: Any, turn: str) -> StepOutcome:
        return as_outcome(env.step(turn if self.action is None else self.action(turn)))

    def _keep(self, key: tuple[int, tuple[str, ...]], alive: tuple[Any, Any]) -> None:
        if key in self._alive:  # another episode has heard the same
            _close(self._alive[key][0])
        self._alive[key] = alive
        while len(self._alive) > MOST_ALIVE:
            _, (env, _) = self._alive.popitem(last=False)
            _close(env)

    def _text(self, observation: Any) -> str:
        text = observation_text(observation) if self.text is None else self.text(observation)
        if not isinstance(text, str):
            raise RespondentError(f"text= made {type(text).__name__} {excerpt(repr(text))}, which is no text")
        return text + self.separator


class _Generators:
    """Python's and NumPy's global generators, whose states come back when an environment has had its turn."""

    def __enter__(self) -> _Generators:
        self._before = self.state()
        return self

    def __exit__(self, *_: object) -> None:
        self.restore(self._before)

    def seed(self, seed: int) -> None:
        """Seed both."""
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  # environments of others draw from it

    def state(self) -> Any:
        """Return the state of both."""
        return random.getstate(), np.random.get_state()  # noqa: NPY002

    def restore(self, state: Any) -> None:
        """Put both back into a state."""
        random.setstate(state[0])
        np.random.set_state(state[1])  # noqa: NPY002


def as_outcome(result: Any) -> StepOutcome:
    """Read what an environment's `step` returned.

    Raises:
        RespondentError: It is neither Gymnasium's five values nor a result of OpenEnv's.
    """
    if isinstance(result, tuple) and len(result) == 5:
        observation, reward, terminated, truncated, _ = result
        return StepOutcome(observation, _number(reward), bool(terminated or truncated))
    if hasattr(result, "done") and hasattr(result, "reward"):
        observation = getattr(result, "observation", result)
        return StepOutcome(observation, _number(result.reward), bool(result.done))
    raise RespondentError(
        f"step returned {type(result).__name__} {excerpt(repr(result))}; expected (observation, reward, "
        "terminated, truncated, info), or an object with observation, reward and done"
    )


def _number(reward: Any) -> float:
    """Return what a step paid; None, which OpenEnv says where nothing is paid, is 0."""
    try:
        number = 0.0 if reward is None else float(reward)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise RespondentError(f"step paid {excerpt(repr(reward))}, which is no finite number")
    return number


def observation_text(observation: Any) -> str:
    """Return the text of an observation.

    Raises:
        RespondentError: It is no text and has none under a usual name.
    """
    if isinstance(observation, str):
        return observation
    for name in ("text", "message", "content", "prompt", "observation"):
        value = observation.get(name) if isinstance(observation, dict) else getattr(observation, name, None)
        if isinstance(value, str):
            return value
    raise RespondentError(
        f"the observation is {type(observation).__name__} {excerpt(repr(observation))}, which is no text; "
        "pass text=, a function that makes one of it"
    )


def _close(env: Any) -> None:
    close = getattr(env, "close", None)
    if callable(close):
        close()


def from_text_env(
    make: Callable[[], Any],
    *,
    action: Callable[[str], Any] | None = None,
    text: Callable[[Any], str] | None = None,
    name: str = "text-env",
    tokenizer: Tokenizer | None = None,
    turn_stop: str = "\n",
    max_tokens: int = 256,
    max_turns: int = 32,
    max_context: int | None = None,
    n_train: int = 64,
    n_held_out: int = 16,
    seed: int = 0,
) -> Task:
    r"""Make a task of an environment whose observations and actions are texts.

    The first observation after `reset(seed=…)` is the prompt, a turn of the agent is an action, and what the
    environment pays is paid on the turn's last token. An episode is a function of its seed and its turns if
    the environment's are; its draws from Python's and NumPy's global generators are seeded, too.

    Args:
        make: Makes an environment, one of Gymnasium's or of OpenEnv's; see `EnvironmentRespondent`.
        action: Makes an action of a turn's text, where actions are no texts.
        text: Makes a text of an observation, where it is none.
        name: Of the task.
        tokenizer: Bytes if None.
        turn_stop: What ends a turn of the agent.
        max_tokens: Of the agent, in an episode.
        max_turns: Of the agent.
        max_context: Of prompt and conversation together; if None, each reply may be as long as the longest
            prompt.
        n_train: Seeds to learn on.
        n_held_out: Seeds to judge on, others than those to learn on.
        seed: The first of the seeds.

    Raises:
        ConfigError: `make` is no function that makes an environment.
        RespondentError: An observation is no text, or the environment cannot be made or reset.

    >>> class Echo:
    ...     def reset(self, seed=None):
    ...         return f"Say {seed}.", {}
    ...     def step(self, action):
    ...         return f"You said {action}.", 1.0, True, False, {}
    >>> task = from_text_env(Echo, n_train=2, n_held_out=1)
    >>> [prompt.text for prompt in task.prompts]
    ['Say 0.\n', 'Say 1.\n']
    """
    if not callable(make):
        raise ConfigError(
            f"make is {type(make).__name__}; pass a function or class that makes an environment"
        )
    check_range("n_train", n_train, 1)
    check_range("n_held_out", n_held_out, 1)
    tokenizer = ByteTokenizer() if tokenizer is None else tokenizer
    respondent = EnvironmentRespondent(make, action, text)
    seeds = range(seed, seed + n_train + n_held_out)
    prompts = [Prompt(respondent.first(s), {SEED: s}, f"{name}, seed {s}") for s in seeds]
    longest = max(len(tokenizer.encode(p.text)) for p in prompts)
    if max_context is None:
        max_context = longest + max_tokens + max_turns * max(longest, 64)
    if max_context <= longest:
        raise DataError(f"{name}: the first observations have up to {longest} tokens; raise max_context")
    return Task(
        name=name,
        prompts=prompts[:n_train],
        held_out=prompts[n_train:],
        tokenizer=tokenizer,
        reward=RepliesPay(),
        max_tokens=max_tokens,
        respondent=respondent,
        turn_stop=turn_stop,
        max_turns=max_turns,
        max_context=max_context,
    )
