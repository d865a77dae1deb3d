"""What `overlap_scoring` saves: iterations of PPO whose texts are scored by a judge that takes 200 ms.

    python benchmarks/overlap.py [--json FILE]

The judge sleeps, so its time needs no core; playing does, so the machine should be idle. It takes 200 ms a
batch; or 200 ms a text, so many texts at a time: in threads, by HTTP (`Judge`), on Ray actors. Two kinds of
texts: those of the products task, of which none is short, and those of a policy with random weights under
stop strings, whose lengths are geometric.

Three agents that learn the same take turns: one whose judge answers at once, one that has everything scored
in the end, and one that overlaps. Their iterations are divided into what goes before the rewards are needed
and the update. Before it are `play`, the texts and what reference policy and critic say of them, with the
first agent; `score`, the time in which the judge scores a whole batch; and `overlapped`, both by the third.
`of_max` is `overlapped / max(play, score)`, which is to be at most 1.15; `of_max_iteration` is the same of
whole iterations, with the update on both sides.

Nothing can score a text before it has ended. `least` is the shortest that `overlapped` could be with the
times at which the first agent's texts ended, had all threads been used in the best order; where
`least_of_max` is above 1.15, no scheduling can hold the bar. Medians of turns.
"""

from __future__ import annotations

import heapq
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from machine import Row, machine
from rich.console import Console
from rich.table import Table

from text_gym import ByteTokenizer, Episode, RewardSource, TextVectorEnv, load_task
from text_gym.agents import PPO, Policy, PPOConfig
from text_gym.episode import IntArray
from text_gym.reward_models import ChatEndpoint, Judge
from text_gym.rewards.calls import Parallel
from text_gym.rewards.remote import RemoteReward
from text_gym.utils.json_files import write_json

SECONDS = 0.2
LIMIT = 1.15
STOP = tuple(chr(c) for c in range(33, 39))  # 6 of 257 ids: texts of 43 bytes on average
LONGEST = 400
SHOWN = ("play", "score", "in_turn", "overlapped", "of_max", "least_of_max", "of_least", "of_max_iteration")


class SleepingJudge(RewardSource):
    """Pays a text's number of letters e, and sleeps before it says so: once a text, or once a batch."""

    name, batch_invariant = "judge", True

    def __init__(self, seconds: float, per_text: bool) -> None:
        self.seconds, self.per_text = seconds, per_text

    def score(self, episodes: Sequence[Episode]) -> list[float]:
        """Sleep, and count."""
        time.sleep(self.seconds * (len(episodes) if self.per_text else 1))
        return [float(e.completion.count("e")) for e in episodes]


class Answers(BaseHTTPRequestHandler):
    """A chat endpoint that takes its time and gives a text 1 to 5 by the length of the question."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Sleep, and answer."""
        size = int(self.headers["Content-Length"])
        self.rfile.read(size)
        time.sleep(SECONDS)
        content = json.dumps({"quality": 1 + size % 5})
        said = {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Options:
    """Measure what overlap saves.

    Args:
        texts: Kinds of texts, "products" and "geometric".
        judges: What takes 200 ms, and how many are under way: "batch:1", "text:16", "http:16", "actors:8".
        episodes: Episodes of an iteration, of products and of geometric lengths.
        turns: Times that each is measured, after a first that is not.
        json: File for the rows.
    """

    texts: tuple[str, ...] = ("products", "geometric")
    judges: tuple[str, ...] = ("batch:1", "text:16", "text:64", "http:16")
    episodes: tuple[int, int] = (512, 128)
    turns: int = 3
    json: Path | None = None


class Watched:
    """An agent whose iterations are taken apart.

    Attributes:
        ends: `(B,)` float64, seconds from the beginning of the last iteration to each text's end.
        read: Seconds in which the reference policy read them.
        scored: Seconds in which all of them were scored in the end, where they were.
        metrics: Those of the last iteration.
    """

    def __init__(self, kind: str, reward: RewardSource, episodes: int, overlap: int) -> None:
        self.agent = _products(reward, episodes) if kind == "products" else _geometric(reward, episodes)
        self.agent.config = replace(self.agent.config, overlap_scoring=overlap)
        self.ends, self.read, self.scored, self.began = np.zeros(episodes), 0.0, 0.0, 0.0
        self.metrics: dict[str, Any] = {}
        agent: Any = self.agent
        batch: Any = agent.env.batch
        advance, score, read = batch.advance, batch.score, agent.reference_log_probs

        def timed_advance(rows: IntArray, tokens: IntArray) -> Any:
            over = advance(rows, tokens)
            self.ends[rows[over]] = time.perf_counter() - self.began
            return over

        def timed_read(*given: Any) -> Any:
            began = time.perf_counter()
            found = read(*given)
            self.read += time.perf_counter() - began
            return found

        def timed_score(*given: Any) -> Any:
            began = time.perf_counter()
            found = score(*given)
            self.scored = time.perf_counter() - began
            return found

        batch.advance, batch.score, agent.reference_log_probs = timed_advance, timed_score, timed_read

    def iterate(self) -> None:
        """Play and learn once."""
        self.read, self.began = 0.0, time.perf_counter()
        self.agent.learn(1, callback=lambda _, metrics: self.metrics.update(metrics))

    @property
    def before(self) -> float:
        """Seconds of the last iteration before its rewards were needed, and all scored."""
        ahead = self.agent.config.overlap_scoring > 0
        return float(self.metrics["rollout_seconds"]) + (0.0 if ahead else self.read)


def _products(reward: RewardSource, episodes: int) -> PPO:
    task = load_task("products")
    assert task.policy is not None
    policy = Policy.from_pretrained(task.policy, device="cpu")
    env = TextVectorEnv(task=replace(task, reward=reward), num_envs=episodes, numbering="global")
    return PPO(policy, env, PPOConfig(iterations=100, epochs=1))


def _geometric(reward: RewardSource, episodes: int) -> PPO:
    tokenizer = ByteTokenizer()
    policy = Policy.new(tokenizer, width=256, layers=4, context=LONGEST + 8, device="cpu", seed=0)
    env = TextVectorEnv(
        ["Say:"], tokenizer, reward, LONGEST, num_envs=episodes, stop=STOP, numbering="global"
    )
    return PPO(policy, env, PPOConfig(iterations=100, learning_rate=1e-5, epochs=1))


def earliest(ends: Sequence[float], in_flight: int, seconds: float) -> float:
    """When texts that end at these times can all be scored, `in_flight` at a time, each in `seconds`.

    Calls alike are best made in the order in which the texts end, as soon as a thread is free.

    >>> earliest([0.0, 0.0, 0.0, 1.0], 2, 1.0)
    2.0
    """
    free = [0.0] * in_flight
    for end in sorted(ends):
        heapq.heapreplace(free, max(free[0], end) + seconds)
    return max(free)


def main() -> None:
    """Print a table, and write the rows."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    rows: list[Row] = []
    table = Table("texts", "judge", "in flight", *(name.replace("_", " ") for name in SHOWN))
    for kind, episodes in zip(("products", "geometric"), options.episodes, strict=True):
        for judge in options.judges if kind in options.texts else ():
            name, _, number = judge.partition(":")
            with ExitStack() as stack:
                source = _judge(name, int(number), stack)
                rows.append(row := _measure(kind, name, source, int(number), episodes, options.turns))
            table.add_row(kind, name, number, *(f"{row[k]:.2f}" for k in SHOWN))
            if options.json is not None:
                write_json(options.json, {**machine(), "limit": LIMIT, "turns": options.turns, "rows": rows})
    Console(width=160).print(table)


def _judge(name: str, in_flight: int, stack: ExitStack) -> Callable[[float], RewardSource]:
    """Return what makes a judge that takes so many seconds, asked from one thread at a time."""
    if name == "http":
        server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        endpoint = ChatEndpoint(f"http://127.0.0.1:{server.server_address[1]}/v1", "sleeps")
        stack.callback(endpoint.close)
        asked = Judge(endpoint, {"quality": "How good is it?"})
        return lambda seconds: asked if seconds else SleepingJudge(0.0, per_text=True)
    if name == "actors":
        remote = RemoteReward(SleepingJudge(SECONDS, per_text=True), in_flight, batch_size=1)
        stack.callback(remote.close)
        return lambda seconds: remote if seconds else SleepingJudge(0.0, per_text=True)
    return partial(SleepingJudge, per_text=name == "text")


def _measure(
    kind: str,
    name: str,
    judge: Callable[[float], RewardSource],
    in_flight: int,
    episodes: int,
    turns: int,
) -> Row:
    source = judge(SECONDS)
    whole = Parallel(source, in_flight, chunk=1) if name in ("text", "http") else source
    instant, in_turn = Watched(kind, judge(0.0), episodes, 0), Watched(kind, whole, episodes, 0)
    over = Watched(kind, source, episodes, in_flight)
    found: dict[str, list[float]] = {}
    for turn in range(turns + 1):
        for agent in (instant, in_turn, over):
            agent.iterate()
        assert over.metrics["reward"] == in_turn.metrics["reward"]
        last = float(instant.ends.max())
        calls = [last] if name == "batch" else instant.ends.tolist()
        bound = max(earliest(calls, in_flight, SECONDS), instant.before)
        update = over.metrics["seconds"] - over.before
        longer = max(instant.before, in_turn.scored)
        times = {
            "play": instant.before,
            "score": in_turn.scored,
            "in_turn": in_turn.before,
            "overlapped": over.before,
            "update": update,
            "first_end": float(instant.ends.min()),
            "last_end": last,
            "read": over.read,
            "least": bound,
            "iteration": over.metrics["seconds"],
            "of_max": over.before / longer,
            "least_of_max": bound / longer,
            "of_least": over.before / bound,
            "of_max_iteration": over.metrics["seconds"] / (longer + update),
        }
        for key, seconds in times.items() if turn else ():  # the first warms up, and learns what calls cost
            found.setdefault(key, []).append(seconds)
    medians = {key: round(statistics.median(seconds), 4) for key, seconds in found.items()}
    return {"texts": kind, "episodes": episodes, "judge": name, "in_flight": in_flight, **medians}


if __name__ == "__main__":
    main()
