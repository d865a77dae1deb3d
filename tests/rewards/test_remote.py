"""Rewards on Ray actors: with a stand-in for Ray that runs actors here, and with Ray itself where it is."""

from __future__ import annotations

import os
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

from tests.rewards.test_calls import Hostile, same, text
from tests.rewards.test_compose import Fixed, PerToken, episodes
from text_gym import Episode, RewardSource
from text_gym.cli.main import main
from text_gym.errors import ConfigError, RewardError
from text_gym.rewards.remote import RemoteReward
from text_gym.rewards.transforms import RunningStandardize


class FakeRay(types.ModuleType):
    """As much of Ray as `RemoteReward` calls; `dies(n)` says if an actor dies in the n-th call of all."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.calls = self.started = self.busy = self.most = 0
        self.dies: Callable[[int], bool] = lambda n: False
        self.cloudpickle = cloudpickle
        errors: Any = types.ModuleType("ray.exceptions")
        errors.RayError = type("RayError", (Exception,), {})
        errors.RayTaskError = type("RayTaskError", (errors.RayError,), {})
        errors.RayActorError = type("RayActorError", (errors.RayError,), {})
        errors.GetTimeoutError = type("GetTimeoutError", (errors.RayError,), {})
        self.exceptions = errors
        self.lock, self.killed = threading.Lock(), set[int]()

    def is_initialized(self) -> bool:
        return True

    def remote(self, **options: Any) -> Callable[[type], Any]:
        return lambda kind: types.SimpleNamespace(remote=lambda: self.start(kind))

    def start(self, kind: type) -> Any:
        self.started += 1
        return _Handle(self, kind())

    def get(self, future: Future[Any], timeout: float | None) -> Any:
        try:
            return future.result(timeout)
        except Late:
            raise self.exceptions.GetTimeoutError("late") from None

    def kill(self, handle: Any) -> None:
        self.killed.add(id(handle))


class _Handle:
    def __init__(self, ray: FakeRay, server: Any) -> None:
        self.ray, self.server, self.pool = ray, server, ThreadPoolExecutor(1)
        self.serve = types.SimpleNamespace(remote=lambda *given: self.pool.submit(self.call, *given))

    def call(self, message: Mapping[str, Any], data: bytes) -> str:
        with self.ray.lock:
            scoring = "on_bad_reward" in message
            self.ray.calls += scoring
            number = self.ray.calls
            self.ray.busy += scoring
            self.ray.most = max(self.ray.most, self.ray.busy)
        try:
            if scoring and self.ray.dies(number):
                raise self.ray.exceptions.RayActorError("The actor died unexpectedly")
            return str(self.server.serve(message, data))
        finally:
            with self.ray.lock:
                self.ray.busy -= scoring


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


class Waits(RewardSource):
    """Pays the length, and takes longer for what comes first."""

    name = "waits"

    def score(self, episodes: Sequence[Episode]) -> list[float]:
        time.sleep(0.05 if episodes[0].completion == "" else 0.0)
        return [float(len(e.completion)) for e in episodes]


class Counts(RewardSource):
    """Pays the number of episodes it has seen."""

    name, deterministic = "counts", False

    def __init__(self) -> None:
        self.seen = 0

    def score(self, episodes: Sequence[Episode]) -> list[float]:
        first, self.seen = self.seen, self.seen + len(episodes)
        return [float(first + i) for i in range(len(episodes))]

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen} if self.seen else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = int(state.get("seen", 0))


@pytest.mark.parametrize("batch_size", [None, 1, 2, 100])
def test_rewards_are_those_of_the_source_in_the_order_of_the_episodes(
    ray: FakeRay, batch_size: int | None
) -> None:
    source = Fixed([1, None, 3]) + PerToken()  # abstains, and pays tokens
    assert same(RemoteReward(source, 3, batch_size=batch_size)(episodes(3)), source(episodes(3)))
    texts = [e for n in range(9) for e in text("x" * n)]
    assert RemoteReward(Waits(), 3, batch_size=batch_size)(texts).values.tolist() == list(range(9))


def test_no_more_chunks_than_actors_are_under_way_whoever_asks(ray: FakeRay) -> None:
    source = RemoteReward(Waits(), 2, batch_size=1)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(source, text("") * 3) for _ in range(3)]
        assert all(answer.result().values.tolist() == [0, 0, 0] for answer in asked)
    assert (ray.most, ray.started, ray.calls) == (2, 2, 9)


def test_a_dead_actor_is_replaced_and_its_chunk_asked_again(ray: FakeRay) -> None:
    ray.dies = lambda n: n in (2, 3)
    source = RemoteReward(Waits(), 1, batch_size=2)
    assert source([e for n in range(6) for e in text("x" * n)]).values.tolist() == list(range(6))
    assert (ray.started, ray.calls) == (3, 5)  # of three chunks one was asked three times
    ray.dies = lambda n: True
    with pytest.raises(RewardError, match="reward 'waits': its Ray actor died"):
        source(text("a"))
    assert ray.calls == 5 + 3  # restarts=2


def test_a_source_that_raises_is_not_asked_again_and_its_place_is_told(ray: FakeRay) -> None:
    source = RemoteReward(Hostile(), 1)
    with pytest.raises(RewardError, match="'hostile' raised ConnectionError: the line is dead") as caught:
        source(text("raise"))
    assert ray.calls == 1
    assert isinstance(caught.value.__cause__, ConnectionError)
    trace = str(caught.value.__cause__)
    assert "Traceback" in trace
    assert "test_calls.py" in trace
    assert "in score" in trace
    assert source(text("fine")).values.tolist() == [4]
    assert ray.started == 1  # it lives on


def test_abstentions_tell_their_reason(ray: FakeRay) -> None:
    source = RemoteReward(Hostile(), 2)
    assert source(text("abstain")).abstained.tolist() == [True]
    assert source.last_failure == "nobody is there"


def test_a_slow_chunk_is_given_up(ray: FakeRay) -> None:
    with pytest.raises(RewardError, match=r"took longer than 0.01 s for 1 episodes"):
        RemoteReward(Waits(), 1, seconds=0.01)(text(""))
    assert ray.calls == 1


def test_one_actor_keeps_its_memory_through_death_and_resumption(ray: FakeRay) -> None:
    source = RemoteReward(Counts(), 1)
    assert source(text("a") * 3).values.tolist() == [0, 1, 2]
    saved = source.state_dict()
    ray.dies = lambda n: n == 2
    assert source(text("a") * 2).values.tolist() == [3, 4]  # by another actor
    source.load_state_dict(saved)
    assert source(text("a")).values.tolist() == [3]
    other = RemoteReward(Counts(), 1)
    other.load_state_dict(saved)
    assert other(text("a")).values.tolist() == [3]


def test_several_actors_cannot_share_a_memory(ray: FakeRay) -> None:
    with pytest.raises(ConfigError, match=r"remembers its earlier calls, .* pass actors=1"):
        RemoteReward(RunningStandardize(Waits()), 2)(text("a"))


def test_what_makes_no_sense_is_refused(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ({"actors": 0}, {"batch_size": 0}, {"restarts": -1}, {"seconds": 0.0}, {"gpus": -1.0}):
        with pytest.raises(ConfigError, match="RemoteReward needs"):
            RemoteReward(Waits(), **wrong)
    unsendable = Waits()
    unsendable.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="'waits' cannot be sent to a Ray actor"):
        RemoteReward(unsendable)(text("a"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install .text-gym\[ray\]"):
        RemoteReward(Waits())


@pytest.mark.nightly
def test_a_command_has_its_reward_scored_on_actors(ray: FakeRay, tmp_path: Any) -> None:
    ray.__spec__ = types.SimpleNamespace(name="ray")  # type: ignore[assignment]
    run = ["train", "--algorithm", "reinforce", "--task", "reverse", "--policy", "new", "--width", "16"]
    run += ["--layers", "1", "--episodes", "8", "--iterations", "2", "--device", "cpu", "--log"]
    weights = []
    for name, more in (("here", []), ("far", ["--reward-actors", "2", "--overlap-scoring", "2"])):
        assert main([*run, *more, "--out", str(tmp_path / name)]) == 0
        weights.append((tmp_path / name / "policy" / "model.safetensors").read_bytes())
    assert ray.started == 2
    assert ray.calls >= 4
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def real() -> Iterator[None]:
    found = pytest.importorskip("ray")
    yield
    found.shutdown()


class Dies(RewardSource):
    """Ends its process the first time that it is asked, of all."""

    name = "dies"

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def score(self, episodes: Sequence[Episode]) -> list[float]:
        if not os.path.exists(self.mark):
            open(self.mark, "x").close()
            os._exit(7)
        return [float(os.getpid())] * len(episodes)


@pytest.mark.nightly
def test_ray_itself(real: None, tmp_path: Any) -> None:
    source = Fixed([1, None, 3]) + PerToken()
    remote = RemoteReward(source, 2)
    with ThreadPoolExecutor(1) as pool:  # a local cluster outlives the thread that needed it first
        assert same(pool.submit(remote, episodes(3)).result(), source(episodes(3)))
    remote.close()
    died = RemoteReward(Dies(str(tmp_path / "mark")), 1, batch_size=1)(text("a") * 2)
    assert os.getpid() not in died.values
    hostile = RemoteReward(Hostile(), 1, restarts=1, seconds=1.0)
    with pytest.raises(RewardError, match="raised ConnectionError: the line is dead") as caught:
        hostile(text("raise"))
    assert "in score" in str(caught.value.__cause__)
    with pytest.raises(RewardError, match=r"took longer than 1\.0 s"):
        hostile(text("hang"))
    with pytest.raises(RewardError, match="Ray actor died"):
        hostile(text("die"))
    local = RemoteReward(lambda completion: 2.0 * len(completion), 1)  # a lambda travels, too
    assert local(text("ab")).values.tolist() == [4]
