"""The learning probe: why there is none is told; a fault of the program's own is no reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from text_gym.agents.sampling.evaluation import Measure, Report
from text_gym.errors import NonFiniteError
from text_gym.validation.learning import LearningProbe, _Trial
from text_gym.validation.subject import RewardRange


def test_only_our_own_errors_say_why_there_is_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = None
    for error in (NonFiniteError("too small"), RuntimeError("a slip")):

        def fail(_: _Trial, error: Exception = error) -> str:
            raise error

        monkeypatch.setattr(_Trial, "_probe", fail)
        if isinstance(error, NonFiniteError):
            assert _Trial(nothing, 1.0, 1).probe == "NonFiniteError: too small"
        else:
            with pytest.raises(RuntimeError, match="a slip"):
                _Trial(nothing, 1.0, 1).probe  # noqa: B018


def report(rewards: list[float]) -> Report:
    """Two texts for each prompt, one after another; of the evaluation only the rewards are looked at."""
    unknown: Any = None
    measure = Measure.of(np.array(rewards))
    return Report(measure, {}, unknown, 1.0, 1.0, 1.0, [], np.array(rewards), np.zeros(len(rewards)))


def rises(before: list[float], after: list[float], batches: list[float]) -> bool:
    """Whether a probe passes that earned this, before and after and on the way."""
    scale = RewardRange(0.0, 1.0, 1.0, 0.0, np.ones(1), np.ones(1))
    trial = _Trial(SimpleNamespace(scale=scale), 1.0, 60)  # type: ignore[arg-type]
    probe = LearningProbe("fitted", report(before), report(after), 60, 0.0, 1.0, tuple(batches))
    vars(trial)["probe"] = probe
    return bool(trial.rises().ok)


CLIMBING = [0.8 + 0.002 * i + 0.01 * (-1) ** i for i in range(60)]
FLAT = [0.8 + 0.01 * (-1) ** i for i in range(60)]


def test_a_gain_that_few_prompts_leave_open_counts_if_the_batches_are_sure_of_it() -> None:
    before = [0.0, 0.0, *[0.9] * 38]
    after = [1.0, 1.0, *[0.9] * 38]  # one prompt in twenty: the interval of the gain begins at 0
    assert rises(before, after, CLIMBING)
    assert not rises(before, after, FLAT)


def test_batches_that_climb_are_not_enough_where_held_out_prompts_gain_nothing() -> None:
    assert not rises([0.8] * 40, [0.8] * 40, CLIMBING)


def test_near_the_top_a_share_of_what_is_left_is_enough() -> None:
    assert rises([0.94] * 40, [0.955] * 40, FLAT)
    assert not rises([0.5] * 40, [0.515] * 40, FLAT)
    assert rises([0.97] * 40, [0.96] * 40, FLAT)  # nothing is left to learn
