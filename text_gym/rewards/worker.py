"""A worker process that calls a reward source, so that one that hangs can be stopped.

Workers are spawned, never forked. Nothing here decides when to call: see `calls`.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from text_gym.episode import Episode
from text_gym.errors import ConfigError, RewardError, excerpt
from text_gym.tokenizer import Tokenizer

from .source import RewardSource
from .values import OnBadReward, Rewards

_START_SECONDS = 120.0  # a spawned worker imports text_gym and whatever the source needs


class _Worker:
    """A spawned process that holds a source and scores what it is sent.

    Tokenizers travel once, by fingerprint, since one may be megabytes and every episode has it.

    Attributes:
        last_failure: That of the source in the process, as it was after the last batch.
    """

    def __init__(self, source: RewardSource) -> None:
        self.name = source.name
        self.last_failure: str | None = None
        self._known: set[str] = set()
        try:
            payload = pickle.dumps(source)
        except Exception as error:
            raise ConfigError(
                f"reward {source.name!r} cannot be sent to a worker process ({error}); define it at the "
                "top of a module, or pass worker='thread'"
            ) from error
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, payload), daemon=True, name="reward worker"
        )
        self._process.start()
        theirs.close()
        self._answer(_START_SECONDS, f"reward {self.name!r}: the worker process did not start")

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def send(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> None:
        tokenizers = {e.tokenizer.fingerprint: e.tokenizer for e in episodes}
        new = {k: v for k, v in tokenizers.items() if k not in self._known}
        self._known |= set(new)
        try:
            self._pipe.send((new, [_packed(e) for e in episodes], on_bad_reward))
        except Exception as error:
            self.kill()
            raise RewardError(
                f"reward {self.name!r}: cannot send the batch to its worker: {error}"
            ) from error

    def receive(self, seconds: float | None, episodes: Sequence[Episode]) -> Rewards:
        rewards: Rewards
        rewards, self.last_failure = self._answer(seconds, str(_too_slow(self.name, seconds, episodes)))
        return rewards

    def _answer(self, seconds: float | None, slow: str) -> Any:
        try:
            if not self._pipe.poll(seconds):
                raise RewardError(slow) from TimeoutError(self.name)
            message, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(1.0)
            code = self._process.exitcode
            self.kill()
            raise RewardError(
                f"reward {self.name!r}: its worker process died (exit code {code}); if it never started, the "
                'script lacks `if __name__ == "__main__":`'
            ) from None
        except (
            BaseException
        ):  # a timeout or Ctrl-C: the answer may still come, so the pipe cannot be used again
            self.kill()
            raise
        if message:
            raise RewardError(message) from answer
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Any, payload: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    tokenizers: dict[str, Tokenizer] = {}
    try:
        # Made by the parent a moment ago and sent over its own pipe, as multiprocessing does; never a file.
        source: RewardSource = pickle.loads(payload)
        pipe.send(("", None))
    except BaseException as error:
        pipe.send((f"the worker process could not load the reward: {error!r}", _sendable(error)))
        return
    while True:
        try:
            new, rows, on_bad_reward = pipe.recv()
        except EOFError:
            return
        tokenizers |= new
        try:
            rewards = source([_unpacked(row, tokenizers) for row in rows], on_bad_reward)
            answer: tuple[str, Any] = ("", (rewards, source.last_failure))
        except Exception as error:
            answer = (str(error) or repr(error), _sendable(error.__cause__ or error))
        pipe.send(answer)


def _sendable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    return error


def _packed(episode: Episode) -> tuple[str, str, dict[str, Any]]:
    rest = {f.name: getattr(episode, f.name) for f in fields(Episode) if f.name != "tokenizer"}
    return episode.tokenizer.fingerprint, episode.completion, rest


def _unpacked(row: tuple[str, str, dict[str, Any]], tokenizers: Mapping[str, Tokenizer]) -> Episode:
    fingerprint, completion, rest = row
    episode = Episode(tokenizer=tokenizers[fingerprint], **rest)
    episode.__dict__["completion"] = completion
    return episode


def _too_slow(name: str, seconds: float | None, episodes: Sequence[Episode]) -> RewardError:
    return RewardError(
        f"reward {name!r} took longer than {seconds} s for {len(episodes)} episodes "
        f"(first prompt {excerpt(episodes[0].prompt.id)}); make it faster or raise the limit"
    )
