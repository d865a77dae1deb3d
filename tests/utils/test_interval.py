from __future__ import annotations

import json

from text_gym.bench.analysis import statistics
from text_gym.reward_models.preferences import measures
from text_gym.utils.interval import Interval


def test_rewards_and_the_benchmark_speak_of_the_same_intervals() -> None:
    first = statistics.improvement([({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0})])
    second = measures.bootstrap_interval(lambda rows: float(len(rows)), 5)
    assert type(first) is type(second) is Interval
    assert json.loads(json.dumps(second.summary())) == {"value": 5.0, "ci95": [5.0, 5.0], "n": 5}
