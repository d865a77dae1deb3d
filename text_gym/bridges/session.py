"""A task played turn by turn in texts, as people, servers and other libraries' trainers play it.

The episodes are those of `TextEnv`, token by token; nothing is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from text_gym.encoding import encode_text
from text_gym.envs.single import TextEnv
from text_gym.episode import Episode
from text_gym.errors import ConfigError, EpisodeError, TextGymError, excerpt
from text_gym.tasks.task import Task, as_task


@dataclass(frozen=True)
class Answer:
    """The environment's side after a message.

    Args:
        text: The reply, or the prompt at the beginning; empty where nobody answers.
        reward: Paid for the message.
        done: The episode is over.
    """

    text: str
    reward: float = 0.0
    done: bool = False


class TaskSession:
    """One player's episodes of a task, in which an action is a whole turn and not a token.

    Args:
        task: Single turn or conversation, or its name.
        held_out: Play the held-out prompts.

    >>> from text_gym import load_task
    >>> session = TaskSession(load_task("guess"))
    >>> session.reset(seed=0).text
    '?'
    >>> session.step("4").text in "<=>"
    True
    """

    def __init__(self, task: Task | str, held_out: bool = False) -> None:
        self.task = task = as_task(task)
        prompts = task.held_out if held_out else task.prompts
        self.env = TextEnv(**task.env_kwargs(prompts=prompts))
        self._running, self._spoken = False, 0
        self._turn_stop = (task.turn_stop,) if isinstance(task.turn_stop, str) else tuple(task.turn_stop)

    def reset(self, seed: int | None = None) -> Answer:
        """Begin the next episode of the stream, or the first of stream `seed`."""
        self.env.reset(seed=seed)
        self._running, self._spoken = True, 0
        return Answer(self.env.prompt)

    def step(self, text: str) -> Answer:
        """Write a message as a model would: up to the stop string that it holds, or else to EOS behind it.

        What stands behind the stop string, or beyond the token limit, is not written.

        Raises:
            EpisodeError: No episode is running, or the message is no text.
            TokenError: The vocabulary has no tokens for the text; the episode is as it was.
            RespondentError: The environment's reply failed; the episode is over.
            ConfigError: There is no stop string in the text, and no EOS that could end it.
        """
        if not self._running:
            raise EpisodeError("no episode is running; reset first")
        if not isinstance(text, str):
            raise EpisodeError(f"a message is a text, not {type(text).__name__} {excerpt(repr(text))}")
        ids = encode_text(self.task.tokenizer, text)
        ends = list(self.task.tokenizer.eos_ids[:1])
        conversation = self.env.vector.batch.conversation
        total = 0.0
        for token in [*ids, *ends]:
            try:
                _, reward, terminated, truncated, _ = self.env.step(np.int64(token))
            except TextGymError:  # of the respondent or the reward: the episode is over
                self._running = False
                raise
            total += reward
            spoken = 0 if conversation is None else len(conversation.turns[0])
            if terminated or truncated:
                self._running = False
                return Answer(self._reply(), total, done=True)
            if spoken > self._spoken:
                self._spoken = spoken
                return Answer(self._reply(), total)
        raise ConfigError("nothing ends the message: write a stop string, since the tokenizer has no EOS")

    def say(self, text: str) -> Answer:
        """Write a chat message: `step`, with the blank stop string that chat programs strip put back.

        No other stop string is put back, since a message without one, such as an answer after the calls of a
        tool, ends the episode.

        Raises:
            TextGymError: As `step` does.
        """
        blank = next((stop for stop in self._turn_stop if not stop.strip()), "")
        whole = not isinstance(text, str) or any(stop in text for stop in self._turn_stop)
        return self.step(text if whole else text + blank)

    def leave(self) -> float:
        """Say nothing more: each turn that is left is empty, and what they are paid is returned."""
        total = 0.0
        while self._running:
            total += self.step("").reward
        return total

    @property
    def episode(self) -> Episode:
        """The episode as it stands."""
        (episode,) = self.env.vector.episodes(np.zeros(1, dtype=np.int64))
        return episode

    def _reply(self) -> str:
        turns = self.episode.turns
        return turns[-1].text if turns and turns[-1].role != "assistant" else ""
