"""The server's environments, with stand-ins for OpenEnv's classes; `tests.interop` plays over its socket."""

from __future__ import annotations

import socket
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from text_gym import TextVectorEnv, load_task
from text_gym.bridges.openenv import openenv_app, openenv_classes, serve_task
from text_gym.bridges.session import TaskSession
from text_gym.bridges.text_envs import from_text_env
from text_gym.errors import ConfigError, EpisodeError, MissingLibraryError, RespondentError


class Model:
    """Fields by keyword, as pydantic's are."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Environment:
    pass


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for OpenEnv; what `create_app` was given."""
    given: dict[str, Any] = {}

    def create_app(make: Any, action: Any, observation: Any, **options: Any) -> str:
        given.update(make=make, action=action, observation=observation, **options)
        return "app"

    parts: dict[str, dict[str, Any]] = {
        "openenv.core.env_server.interfaces": {"Environment": Environment},
        "openenv.core.env_server.types": {"Action": Model, "Observation": Model, "State": Model},
        "openenv.core.env_server.http_server": {"create_app": create_app},
        "openenv.core.env_server": {},
        "openenv.core": {},
        "openenv": {},
    }
    for name, members in parts.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("interfaces", "types"):
        whole = sys.modules["openenv.core.env_server"]
        setattr(whole, name, sys.modules[f"openenv.core.env_server.{name}"])
    return given


def test_sessions_play_the_native_episodes_and_do_not_disturb_each_other(made: dict[str, Any]) -> None:
    task, rng = load_task("guess"), np.random.default_rng(0)
    assert openenv_app(task, sessions=3) == "app"
    assert (made["env_name"], made["max_concurrent_envs"]) == ("guess", 3)
    assert made["make"].SUPPORTS_CONCURRENT_SESSIONS
    here, other = made["make"](), made["make"]()
    for seed in range(20):
        env = TextVectorEnv(**task.env_kwargs(), num_envs=1, autoreset_mode="Disabled")
        env.reset(seed=seed)
        seen, done = here.reset(seed=seed, episode_id=f"e{seed}"), False
        assert (seen.text, seen.reward, seen.done) == ("?", 0.0, False)
        for turn in range(1, 4):
            said = str(rng.integers(1, 8))
            other.reset(seed=int(rng.integers(99)))
            other.step(SimpleNamespace(text="3"))
            _, reward, terminated, _, _ = env.step(task.tokenizer.encode(said))
            seen, done = here.step(made["action"](text=said)), bool(terminated[0])
            (episode,) = env.episodes(np.zeros(1, dtype=np.int64))
            assert (seen.text, seen.reward, seen.done) == (episode.turns[-1].text, float(reward[0]), done)
            assert (here.state.episode_id, here.state.step_count) == (f"e{seed}", turn)
            if done:
                break
        assert done


def test_a_session_that_vanishes_in_the_middle_leaves_the_others_unharmed(made: dict[str, Any]) -> None:
    """Players in threads; every second one leaves after its first message."""
    task = load_task("shop")
    openenv_app(task)
    found: dict[int, list[Any]] = {}

    def play(seed: int) -> None:
        env = made["make"]()
        seen = [env.reset(seed=seed), env.step(made["action"](text="colour"))]
        if seed % 2:
            return
        while not seen[-1].done:
            seen.append(env.step(made["action"](text="1")))
        found[seed] = [(s.text, s.reward, s.done) for s in seen]

    threads = [threading.Thread(target=play, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [0, 2, 4, 6]
    for seed, seen in found.items():
        session = TaskSession(task)
        answers = [session.reset(seed), session.step("colour")]
        while not answers[-1].done:
            answers.append(session.step("1"))
        assert seen == [(a.text, a.reward, a.done) for a in answers]


class Remote:
    """A client of a server; every call counts, and at the end the server is gone."""

    calls = 0

    def reset(self, seed: int | None = None) -> Any:
        return self.answer("hello", None, False)

    def step(self, action: str) -> Any:
        return self.answer(
            action.upper(), {"bad": "paid in kind", "late": float("inf")}.get(action, 0.5), False
        )

    def answer(self, text: str, reward: Any, done: bool) -> Any:
        type(self).calls += 1
        if type(self).calls > 7:
            raise ConnectionError("the server is gone")
        return SimpleNamespace(observation={"text": text}, reward=reward, done=done)


def test_a_server_that_vanishes_or_pays_in_kind_is_named() -> None:
    task = from_text_env(Remote, n_train=1, n_held_out=1)
    session = TaskSession(task)
    session.reset(0)
    assert session.say("one").text == "ONE\n"
    with pytest.raises(RespondentError, match=r"'paid in kind'.*no finite number"):
        session.say("bad")
    with pytest.raises(EpisodeError, match="reset first"):
        session.say("two")
    session.reset(0)
    with pytest.raises(RespondentError, match=r"inf.*no finite number"):
        session.say("late")
    with pytest.raises(RespondentError, match=r"seed 0.*ConnectionError: the server is gone"):
        from_text_env(Remote, n_train=1, n_held_out=1)


def test_a_missing_openenv_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openenv", None)
    with pytest.raises(MissingLibraryError, match=r"text-gym\[openenv\]"):
        openenv_classes(load_task("guess"))


def test_a_port_in_use_is_named_before_an_address_is_told(
    made: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    class Server:
        def __init__(self, config: Any) -> None:
            asked.append(config)

        def run(self, sockets: Any) -> None:
            asked.append(sockets[0].getsockname())

    uvicorn = ModuleType("uvicorn")
    uvicorn.__dict__.update(Config=lambda app, log_level: app, Server=Server)
    monkeypatch.setitem(sys.modules, "uvicorn", uvicorn)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"cannot listen at 127.0.0.1, port {port}: .*choose another port"
        ):
            serve_task(load_task("guess"), port=port)
        assert capsys.readouterr().out == ""
    serve_task(load_task("guess"), port=port)
    assert asked == ["app", ("127.0.0.1", port)]
    assert capsys.readouterr().out == f"guess at http://127.0.0.1:{port}; Ctrl-C ends it\n"
