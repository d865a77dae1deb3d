from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.rewards.test_compose import Fixed, PerToken, episodes, nan_equal
from text_gym import ByteTokenizer, Episode, Rewards, RewardSource, WordTokenizer, as_reward_source
from text_gym.errors import ConfigError, RewardError
from text_gym.rewards.cache import Cache
from text_gym.rewards.calls import Parallel, Retry, Timeout, concatenate


class Hostile(RewardSource):
    """Does to its process what the completion says."""

    name, abstains = "hostile", True

    def score(self, episodes: Sequence[Episode]) -> list[float | None]:
        if episodes[0].completion == "abstain":
            self._last_failure = "nobody is there"
            return [None] * len(episodes)
        for episode in episodes:
            if episode.completion == "hang":
                time.sleep(3600)
            if episode.completion == "die":
                os._exit(7)
            if episode.completion == "raise":
                raise ConnectionError("the line is dead")
        return [float(len(e.completion)) for e in episodes]


def text(completion: str) -> list[Episode]:
    return [Episode.of("Say:", completion, ByteTokenizer())]


def same(one: Rewards, two: Rewards) -> bool:
    return (
        one.values.tolist() == two.values.tolist()
        and one.abstained.tolist() == two.abstained.tolist()
        and str(one.per_token) == str(two.per_token)
        and list(one.terms) == list(two.terms)
        and all(nan_equal(one.terms[k].tolist(), two.terms[k].tolist()) for k in one.terms)
    )


@pytest.fixture(scope="module")
def hostile() -> Iterator[Timeout]:
    source = Timeout(Hostile(), seconds=1.0)
    source(text("start"))
    yield source
    source.close()


def test_timeout_passes_rewards_on(hostile: Timeout) -> None:
    assert hostile(text("four")).values.tolist() == [4]


def test_timeout_kills_a_hanging_worker_and_goes_on(hostile: Timeout) -> None:
    hostile(text("ok"))
    worker = hostile._process
    start = time.monotonic()
    with pytest.raises(RewardError, match=r"reward 'hostile' took longer than 1\.0 s") as caught:
        hostile(text("hang"))
    assert time.monotonic() - start < 2
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert worker is not None
    assert not worker.alive
    assert hostile(text("again")).values.tolist() == [5]


def test_a_worker_that_dies_or_raises_is_named(hostile: Timeout) -> None:
    with pytest.raises(RewardError, match=r"worker process died \(exit code 7\)"):
        hostile(text("die"))
    with pytest.raises(RewardError, match="raised ConnectionError: the line is dead") as caught:
        hostile(text("raise"))
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert hostile(text("still")).values.tolist() == [5]


def test_the_last_failure_comes_back_from_a_worker_process(hostile: Timeout) -> None:
    assert hostile.source.last_failure is None
    assert hostile(text("abstain")).abstained.tolist() == [True]
    assert hostile.last_failure == "nobody is there"
    hostile(text("well"))
    assert hostile.last_failure == "nobody is there"
    pool = Parallel(Hostile(), workers=1, worker="process")
    assert pool.last_failure is None
    pool(text("abstain"))
    assert (2 * pool).last_failure == "nobody is there"
    pool.close()


def test_timeout_refuses_what_cannot_travel() -> None:
    with pytest.raises(ConfigError, match="cannot be sent to a worker process"):
        Timeout(lambda completion: len(completion), 1)(text("x"))
    with pytest.raises(ConfigError):
        Timeout(Hostile(), 0)


def test_timeout_in_a_thread() -> None:
    def slow(completion: str) -> float:
        time.sleep(0.5 if completion == "slow" else 0)
        return len(completion)

    source = Timeout(slow, 0.1, worker="thread")
    assert source(text("fast")).values.tolist() == [4]
    with pytest.raises(RewardError, match="took longer"):
        source(text("slow"))
    for _ in range(7):
        with pytest.raises(RewardError, match="took longer"):
            Timeout._in_thread(source, text("slow"), "raise")
    with pytest.raises(RewardError, match="ConnectionError"):
        Timeout(Hostile(), 1, worker="thread")(text("raise"))


def test_hanging_threads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_gym.rewards.calls._HANGING_THREADS", 1)

    def slow(completion: str) -> float:
        time.sleep(0.3)
        return len(completion)

    source = Timeout(slow, 0.01, worker="thread")
    with pytest.raises(RewardError, match="took longer"):
        source(text("x"))
    with pytest.raises(RewardError, match="1 earlier calls still hang"):
        source(text("x"))


class Flaky(RewardSource):
    name = "flaky"

    def __init__(self, error: Exception, failures: int) -> None:
        self.error, self.failures = error, failures

    def score(self, episodes: Sequence[Episode]) -> list[float]:
        self.failures -= 1
        if self.failures >= 0:
            raise self.error
        return [1.0] * len(episodes)


def test_retry_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("text_gym.rewards.calls.time.sleep", waits.append)
    source = Retry(Flaky(ConnectionError(), 4), attempts=5, wait=1, longest=7)
    assert source(text("x")).values.tolist() == [1]
    assert waits == [1, 2, 4, 7]


def test_retry_gives_up_and_spares_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_gym.rewards.calls.time.sleep", [].append)
    flaky = Flaky(TimeoutError("slow"), 9)
    with pytest.raises(RewardError, match="TimeoutError: slow"):
        Retry(flaky, attempts=3)(text("x"))
    assert flaky.failures == 6
    mistake = Flaky(ZeroDivisionError(), 9)
    with pytest.raises(RewardError, match="ZeroDivisionError"):
        Retry(mistake)(text("x"))
    assert mistake.failures == 8
    with pytest.raises(ConfigError):
        Retry(mistake, attempts=0)


@pytest.mark.parametrize("chunk", [None, 1, 2, 100])
def test_parallel_keeps_the_order(chunk: int | None) -> None:
    source = Fixed([1, None, 3, 4, 5, 6, 7]) + PerToken()
    assert same(Parallel(source, 3, chunk=chunk)(episodes(7)), source(episodes(7)))


def test_parallel_runs_at_the_same_time() -> None:
    def slow(completion: str) -> float:
        time.sleep(0.2)
        return float(completion)

    start = time.monotonic()
    assert Parallel(slow, 5)(episodes(5)).values.tolist() == [0, 1, 2, 3, 4]
    assert time.monotonic() - start < 0.6  # one after the other would be 1 s


def test_parallel_passes_errors_on() -> None:
    with pytest.raises(RewardError, match="reward 'hostile' raised ConnectionError"):
        Parallel(Hostile(), 2)(text("fine") + text("raise"))
    with pytest.raises(ConfigError):
        Parallel(Hostile(), 0)


def test_parallel_processes() -> None:
    source = Parallel(Hostile(), 2, worker="process")
    try:
        assert source(text("a") + text("four")).values.tolist() == [1, 4]
        with pytest.raises(RewardError, match="exit code 7"):
            source(text("a") + text("die"))
        assert source(text("abc")).values.tolist() == [3]
        assert pickle.loads(pickle.dumps(source)).workers == 2
    finally:
        source.close()


@pytest.mark.parametrize("guarded", [True, False])
def test_rewards_of_a_script_reach_worker_processes(guarded: bool, tmp_path: Path) -> None:
    program = """
        from text_gym import ByteTokenizer, Episode
        from text_gym.rewards.calls import Timeout
        from text_gym.rewards.source import FunctionReward

        def length(completion):
            return float(len(completion))

        GUARD
            source = Timeout(FunctionReward(length), 5)
            print(source([Episode.of("Say:", "four", ByteTokenizer())]).values)
    """
    guard = 'if __name__ == "__main__":' if guarded else "if True:"
    (tmp_path / "script.py").write_text(textwrap.dedent(program).replace("GUARD", guard))
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
    )
    assert done.stdout == ("[4.]\n" if guarded else "")
    assert guarded or "if __name__ == '__main__':" in done.stderr


def test_calls_change_no_reward_and_no_term() -> None:
    source = Fixed([1, None]) + PerToken()
    for wrapped in (Cache(source), Retry(source), Parallel(source), Timeout(source, 5, worker="thread")):
        assert same(wrapped(episodes(2)), source(episodes(2)))
        assert str(wrapped).splitlines()[-1].endswith("PerToken")


def test_what_passes_is_found_however_deep_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    asked = []

    def wrapped(completion: str) -> float:
        asked.append(completion)
        if len(asked) == 1:
            try:
                raise ConnectionError("the line is dead")
            except ConnectionError as error:
                raise RuntimeError("the client gave up") from error
        return 0.25

    assert Retry(as_reward_source(wrapped), attempts=2)(text("a")).values.tolist() == [0.25]
    assert asked == ["a", "a"]


def test_a_term_that_one_batch_lacks_is_not_a_number_there() -> None:
    found = concatenate(
        [
            Rewards(np.ones(2), terms={"wit": np.array([1.0, 2.0])}),
            Rewards(np.ones(1), terms={"style": np.array([3.0])}),
        ],
        [*text("a"), *text("b"), *text("c")],
    )
    assert nan_equal(found.terms["wit"].tolist(), [1.0, 2.0, math.nan])
    assert nan_equal(found.terms["style"].tolist(), [math.nan, math.nan, 3.0])


def test_a_worker_learns_of_a_second_tokenizer(hostile: Timeout) -> None:
    words = WordTokenizer(["so", "good"])
    assert hostile(text("good")).values.tolist() == [4.0]
    assert hostile([Episode.of("so", "so good", words)]).values.tolist() == [7.0]
    assert hostile([*text("a"), Episode.of("so", "so", words)]).values.tolist() == [1.0, 2.0]
