"""A worker process that holds a reward source and scores what it is sent, so that it can be stopped.

Episodes go to the worker pickled, made by the parent a moment ago; what comes back is plain data, which the
parent never unpickles. Nothing here decides when to call: see `calls`.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
import pickle
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from text_gym import errors
from text_gym.episode import Episode, turns_of
from text_gym.errors import ConfigError, RewardError, SandboxError, TextGymError, excerpt
from text_gym.tokenizer import Tokenizer
from text_gym.utils.confinement import described
from text_gym.utils.display import harmless
from text_gym.utils.limits import UNLIMITED, SandboxLimits, as_error
from text_gym.utils.processes import START_SECONDS
from text_gym.utils.sandbox import Sandbox

from .files import load_from_file
from .source import RewardSource
from .values import OnBadReward, Rewards

_LONGEST = 2000  # characters of a message, or names in a list, that a worker may send


class Process(Protocol):
    """A process that calls `serve`: a `Sandbox` on this machine, or an actor of a cluster."""

    limits: SandboxLimits

    @property
    def alive(self) -> bool:
        """True if it can take another call."""

    @property
    def missing(self) -> dict[str, str]:
        """The limits that cannot be enforced where it runs."""

    def __call__(self, *arguments: Any, data: bytes = b"", seconds: float | None = None) -> Any:
        """Call `serve` with JSON data, and return its answer.

        Raises:
            SandboxError: The process died, or took longer than `seconds`.
        """

    def close(self) -> None:
        """End it."""


class Worker:
    """A process that holds a source and scores what it is sent.

    Tokenizers travel once, by fingerprint, since one may be megabytes and every episode has it.

    Args:
        name: Of the source, for errors.
        job: How the worker gets its source: see `of_object` and `of_file`.
        limits: What it may use; `seconds` is given with each batch.
        data: Pickled, what belongs to the job.
        way_out: What to do after it ran into a limit; part of the error.
        process: Where it runs; None starts a process of this machine.

    Attributes:
        traits: Name and attributes of the source, as it says.
        last_failure: That of the source in the process, as it was after the last batch.

    Raises:
        TextGymError: The source could not be made there; the error that was raised there, where it is ours.
    """

    def __init__(
        self,
        name: str,
        job: Mapping[str, Any],
        limits: SandboxLimits,
        data: bytes,
        way_out: str = "",
        process: Process | None = None,
    ) -> None:
        self.name = name
        self.last_failure: str | None = None
        self.way_out = way_out
        self._known: set[str] = set()
        self._process: Process = process or Sandbox(f"{__name__}:serve", limits)
        self.traits: dict[str, Any] = self.ask(job, START_SECONDS, data)

    @classmethod
    def of_object(cls, source: RewardSource) -> Worker:
        """A worker with a copy of a source, without limits: it is the caller's own.

        Raises:
            ConfigError: The source cannot be pickled.
        """
        try:
            data = pickle.dumps(source)
            main = multiprocessing.spawn.get_preparation_data("worker")
        except Exception as error:
            raise ConfigError(
                f"reward {source.name!r} cannot be sent to a worker process ({error}); define it at the "
                "top of a module, or pass worker='thread'"
            ) from error
        main = {k: v for k, v in main.items() if k.startswith(("init_main", "sys_argv"))}
        return cls(source.name, {"main": main}, UNLIMITED, data)

    @classmethod
    def of_file(
        cls,
        file: Path,
        name: str,
        prompts: Any,
        kwargs: Mapping[str, Any],
        limits: SandboxLimits,
        way_out: str,
    ) -> Worker:
        """A worker that runs a file and makes a source of a name in it, under limits."""
        job = {"file": str(file), "name": name}
        return cls(name, job, limits, pickle.dumps((prompts, dict(kwargs))), way_out)

    @property
    def alive(self) -> bool:
        """True if the process can take another batch."""
        return self._process.alive

    @property
    def missing(self) -> dict[str, str]:
        """The limits that this machine cannot enforce."""
        return self._process.missing

    def score(
        self, episodes: Sequence[Episode], on_bad_reward: OnBadReward, seconds: float | None
    ) -> Rewards:
        """The source's rewards, not yet checked.

        Raises:
            RewardError: It raised, took longer than `seconds`, or its process died.
        """
        tokenizers = {e.tokenizer.fingerprint: e.tokenizer for e in episodes}
        new = {k: v for k, v in tokenizers.items() if k not in self._known}
        try:
            batch = pickle.dumps((new, _columns(episodes)))
        except Exception as error:
            raise RewardError(
                f"reward {self.name!r}: cannot send the batch to its worker: {error}"
            ) from error
        try:
            answer = self.ask({"on_bad_reward": on_bad_reward}, seconds, batch)
        except SandboxError as error:
            if error.limit == "time":
                raise too_slow(self.name, seconds, episodes) from TimeoutError(self.name)
            raise RewardError(f"reward {self.name!r}: {_without_place(error)}") from error
        self._known |= set(new)
        try:
            failure = answer["last_failure"]
            self.last_failure = None if failure is None else str(failure)
            return _rewards(answer)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise RewardError(f"reward {self.name!r}: its worker sent no rewards ({error})") from error

    def ask(self, message: Mapping[str, Any], seconds: float | None, data: bytes = b"") -> Any:
        """Send a message and return the answer; an error of the source is raised as it was there."""
        answer = self._process(message, data=data, seconds=seconds)
        if isinstance(answer, dict) and "failed" in answer:
            self._raise(answer)
        return answer

    def _raise(self, answer: Mapping[str, Any]) -> NoReturn:
        cause = as_error(self.name, answer.get("cause"), self._process.limits)
        names = answer.get("failed")
        names = names if isinstance(names, list) else []
        kind = next((getattr(errors, str(n)) for n in names if hasattr(errors, str(n))), None)
        arguments = answer.get("arguments")
        if isinstance(kind, type) and issubclass(kind, TextGymError) and isinstance(arguments, list):
            texts = [str(a)[:_LONGEST] for a in arguments if not isinstance(a, list)]
            if cause.hint and kind is RewardError:
                texts = [f"{'; '.join(texts)}; {cause.hint}{self.way_out}"]
            lists = [[str(x)[:_LONGEST] for x in a[:_LONGEST]] for a in arguments if isinstance(a, list)]
            try:
                error = kind(*texts, *lists)
            except TypeError:
                error = RewardError(f"reward {self.name!r}: {cause}")
            raise error from _with_trace(cause, answer)
        raise RewardError(f"reward {self.name!r}: {cause}") from _with_trace(cause, answer)

    def kill(self) -> None:
        """End the process."""
        self._process.close()


def _with_trace(cause: SandboxError, answer: Mapping[str, Any]) -> Exception:
    """Return the exception that was raised there, with the traceback that the worker sent."""
    trace = answer.get("traceback")
    if isinstance(trace, str):
        shown = harmless(trace, newlines=True, limit=4 * _LONGEST)
        cause = SandboxError(f"{cause}\n\nIn the worker:\n{shown}", cause.limit, cause.types, cause.hint)
    return cause.as_builtin() or cause


def _without_place(error: SandboxError) -> str:
    return str(error).removeprefix("serve: ").replace("its process died", "its worker process died")


def too_slow(name: str, seconds: float | None, episodes: Sequence[Episode]) -> RewardError:
    """The error for a batch that took too long."""
    return RewardError(
        f"reward {name!r} took longer than {seconds} s for {len(episodes)} episodes "
        f"(first prompt {excerpt(episodes[0].prompt.id)}); make it faster or raise the limit"
    )


def _columns(episodes: Sequence[Episode]) -> dict[str, Any]:
    """A batch by column: a few long arrays travel faster than many short ones."""
    empty = np.zeros(0, np.int64)
    masks = [e.agent_mask for e in episodes]
    return {
        "completions": [e.completion for e in episodes],
        "tokenizers": [e.tokenizer.fingerprint for e in episodes],
        "ids": np.concatenate([ids for e in episodes for ids in (e.prompt_ids, e.completion_ids)] or [empty]),
        "lengths": [(len(e.prompt_ids), len(e.completion_ids)) for e in episodes],
        "masks": masks if any(mask is not None for mask in masks) else None,
        "turns": [[(t.role, t.text, len(t.ids), t.reward) for t in e.turns] for e in episodes],
        "rest": [(e.prompt, e.finish_reason, e.stop, e.seed, e.index) for e in episodes],
    }


def _rewards(answer: Mapping[str, Any]) -> Rewards:
    per_token = answer["per_token"]
    return Rewards(
        np.array(answer["values"], dtype=np.float64),
        None if per_token is None else tuple(np.array(a, dtype=np.float64) for a in per_token),
        {str(name): np.array(term, dtype=np.float64) for name, term in answer["terms"].items()},
        np.array(answer["abstained"], dtype=np.bool_),
    )


# In the worker


class Server:
    """Holds a source and does with it what a `Worker` asks for."""

    def __init__(self) -> None:
        self.source: RewardSource | None = None
        self.tokenizers: dict[str, Tokenizer] = {}

    def __call__(self, message: Mapping[str, Any], data: bytes = b"") -> Any:
        """Take a source, score, save and load its memory; an error is an answer, too."""
        try:
            return self._answer(message, data)
        except Exception as error:
            ours = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, TextGymError)]
            arguments = [a if isinstance(a, list) else str(a) for a in error.args]
            cause, trace = described(error.__cause__ or error), traceback.format_exc()
            return {"failed": ours, "arguments": arguments, "cause": cause, "traceback": trace}

    def _answer(self, message: Mapping[str, Any], data: bytes) -> Any:
        # What is unpickled was made by the parent a moment ago; it is never a file, and never the other way.
        if "main" in message:
            _prepare(message["main"])
            return self._take(pickle.loads(data))
        if "file" in message:
            prompts, kwargs = pickle.loads(data)
            return self._take(load_from_file(Path(message["file"]), message["name"], prompts, kwargs))
        source = self.source
        assert source is not None
        if "state" in message:
            return source.load_state_dict(message["state"])
        if not data:
            return {"state": source.state_dict()}
        new, columns = pickle.loads(data)
        self.tokenizers |= new
        rewards = source(_episodes(columns, self.tokenizers), message["on_bad_reward"])
        return {
            "values": rewards.values.tolist(),
            "per_token": rewards.per_token and [tokens.tolist() for tokens in rewards.per_token],
            "terms": {name: np.asarray(term, np.float64).tolist() for name, term in rewards.terms.items()},
            "abstained": rewards.abstained.tolist(),
            "last_failure": source.last_failure,
        }

    def _take(self, source: RewardSource) -> dict[str, Any]:
        self.source, self.tokenizers = source, {}
        flags = ("deterministic", "abstains", "causal", "interactive", "costly")
        return {"name": str(source.name), **{flag: bool(getattr(source, flag)) for flag in flags}}


serve = Server()  # of this process, if it is a worker


def _prepare(main: dict[str, Any]) -> None:
    """Load the parent's script, as multiprocessing does, so that what it defines can be unpickled."""
    process: Any = multiprocessing.current_process()
    process._inheriting = True  # a script that starts workers when it is loaded is refused, by name
    try:
        multiprocessing.spawn.prepare(main)
    finally:
        del process._inheriting


def _episodes(columns: dict[str, Any], tokenizers: Mapping[str, Tokenizer]) -> list[Episode]:
    """The batch that `_columns` took apart."""
    ids, start = columns["ids"], 0
    masks = columns["masks"] or [None] * len(columns["rest"])
    names = ("rest", "lengths", "tokenizers", "completions", "turns")
    rows = zip(*(columns[name] for name in names), masks, strict=True)
    episodes = []
    for (prompt, finish_reason, stop, seed, index), (before, own), tokenizer, completion, turns, mask in rows:
        middle, end = start + before, start + before + own
        episode = object.__new__(Episode)  # its `__init__` takes three times as long, and checks nothing
        episode.__dict__.update(
            prompt=prompt,
            prompt_ids=ids[start:middle],
            completion_ids=ids[middle:end],
            tokenizer=tokenizers[tokenizer],
            finish_reason=finish_reason,
            stop=stop,
            agent_mask=mask,
            seed=seed,
            index=index,
            completion=completion,
            turns=turns_of(ids[middle:end], turns),
        )
        episodes.append(episode)
        start = end
    return episodes
