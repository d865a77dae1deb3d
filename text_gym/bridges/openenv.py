"""A task as an environment of OpenEnv, and the server that offers it: an action is a turn's text.

Each session has episodes of its own; a seed that comes with `reset` begins the stream of that seed, so that
an episode over the wire is the one that it would be in this process.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from text_gym.errors import ConfigError, MissingLibraryError
from text_gym.tasks.task import Task, as_task
from text_gym.utils.display import harmless

from .session import Answer, TaskSession

LOOPBACK = "127.0.0.1"


def openenv_classes(task: Task, held_out: bool = False) -> tuple[Callable[[], Any], Any, Any]:
    """Return what OpenEnv's `create_app` takes: a maker of environments, the action and the observation.

    An action has a `text`; an observation has a `text`, the prompt or the reply, beside `reward` and `done`.

    Args:
        task: What is played.
        held_out: Play the held-out prompts.

    Raises:
        MissingLibraryError: OpenEnv is not installed.
    """
    try:
        from openenv.core.env_server import interfaces, types
    except ImportError as error:
        raise MissingLibraryError("serving a task", "openenv", "text-gym[openenv]") from error
    lock = threading.Lock()  # sessions are played in threads, and share the task's reward and tokenizer

    class TextAction(types.Action):  # type: ignore[misc]
        text: str

    class TextObservation(types.Observation):  # type: ignore[misc]
        text: str

    class TaskEnvironment(interfaces.Environment):  # type: ignore[misc]
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self) -> None:
            super().__init__()
            with lock:
                self.session = TaskSession(task, held_out)
            self.steps = 0
            self.episode_id: str | None = None

        def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Any:
            with lock:
                answer = self.session.reset(seed)
            self.steps, self.episode_id = 0, episode_id
            return observed(answer)

        def step(self, action: Any, timeout_s: float | None = None, **_: Any) -> Any:
            with lock:
                answer = self.session.step(action.text)
            self.steps += 1
            return observed(answer)

        @property
        def state(self) -> Any:
            return types.State(episode_id=self.episode_id, step_count=self.steps)

    def observed(answer: Answer) -> Any:
        return TextObservation(text=answer.text, reward=answer.reward, done=answer.done)

    return TaskEnvironment, TextAction, TextObservation


def openenv_app(task: Task | str, *, held_out: bool = False, sessions: int = 64) -> Any:
    """Return the web application of a task, which any ASGI server can run.

    Args:
        task: What is played.
        held_out: Play the held-out prompts.
        sessions: At most so many at a time; a further one is refused.

    Raises:
        MissingLibraryError: OpenEnv is not installed.
    """
    task = as_task(task)
    make, action, observation = openenv_classes(task, held_out)
    from openenv.core.env_server.http_server import create_app

    return create_app(make, action, observation, env_name=task.name, max_concurrent_envs=sessions)


def serve_task(
    task: Task, *, host: str = LOOPBACK, port: int = 8000, held_out: bool = False, sessions: int = 64
) -> None:
    """Offer a task to OpenEnv's clients until the program is interrupted, and print where.

    Args:
        task: What is played.
        host: Where to listen; by default on this machine alone. There is no password.
        port: Where to listen.
        held_out: Play the held-out prompts.
        sessions: At most so many at a time.

    Raises:
        MissingLibraryError: OpenEnv, or uvicorn, is not installed.
        ConfigError: The port is in use, or the host is none of this computer's.
    """
    app = openenv_app(task, held_out=held_out, sessions=sessions)
    try:
        import uvicorn
    except ImportError as error:
        raise MissingLibraryError("serving a task", "uvicorn", "text-gym[openenv]") from error
    with _listening(host, port) as listening:
        print(f"{harmless(task.name)} at http://{host}:{port}; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """Open the socket before anything is printed, so that nobody is told of an address that is not theirs."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot listen at {host}, port {port}: {error}; choose another port") from error
