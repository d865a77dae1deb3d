"""All options of `TextVectorEnv` together, against single environments that play the same streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fuzz.effort import effort, tries
from text_gym import Episode, Rewards, RewardSource, TextEnv, TextVectorEnv, WordTokenizer
from text_gym.envs.masks import ActionMask, Prefixes
from text_gym.episode import BoolArray
from text_gym.errors import EpisodeError, TokenError

ABC = WordTokenizer("abc", separator="", pad=False)  # a 0, b 1, c 2, EOS 3
PROMPTS = ["a", "bc", "cab", "b"]
COMPARED = ("prompt", "completion", "episode_index", "reward_abstained", "redrawn", "inactive")


class NoTokenTwice(ActionMask):
    """Forbids to repeat a letter; EOS is always allowed."""

    def allowed(self, prefixes: Prefixes) -> BoolArray:
        found = np.ones((len(prefixes.rows), 4), dtype=np.bool_)
        for i, last in enumerate(prefixes.tokens[np.arange(len(prefixes.rows)), prefixes.lengths - 1]):
            found[i, last] = False
        found[:, 3] = True
        return found


class Fussy(RewardSource):
    """Pays each letter and each text, and has no opinion on texts with too many of one letter."""

    abstains = True

    def __init__(self, causal: bool, disliked: str) -> None:
        self.causal, self.disliked = causal, disliked

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        values = np.array([10.0 * len(e.completion) + (e.finish_reason == "eos") for e in episodes])
        out = np.array([e.completion.count(self.disliked) > 1 for e in episodes], dtype=np.bool_)
        paid = tuple(e.completion_ids.astype(np.float64) + 1 for e in episodes) if self.causal else None
        if paid is not None:
            paid = tuple(np.where(o, 0.0, p) for o, p in zip(out, paid, strict=True))
        return Rewards(np.where(out, 0.0, values), paid, {"length": values}, out)


OPTIONS = st.fixed_dictionaries(
    {
        "stop": st.lists(st.sampled_from(["ab", "c", "bb", "abc", "ca"]), max_size=2, unique=True),
        "limit": st.sampled_from(["end", "truncate"]),
        "masked": st.booleans(),
        "shuffle": st.booleans(),
        "group_size": st.integers(1, 3),
        "on_abstain": st.sampled_from(["pay_zero", "redraw"]),
        "on_masked": st.sampled_from(["raise", "allow"]),
        "observation": st.sampled_from(["tokens", "ids", "onehot", "text"]),
        "infos": st.sampled_from(["changing", "constant", "none"]),
        "info_texts": st.booleans(),
    }
)


class Envs(RuleBasedStateMachine):
    """A vector environment and as many single ones, stepped together."""

    begun = 0  # how many of them

    @initialize(
        options=OPTIONS,
        rows=st.integers(1, 4),
        size=st.integers(1, 5),
        mode=st.sampled_from(list(AutoresetMode)),
        causal=st.booleans(),
        disliked=st.sampled_from("abcd"),
        seed=st.integers(0, 1000),
    )
    def make(
        self, options: dict[str, Any], rows: int, size: int, mode: AutoresetMode, causal: bool,
        disliked: str, seed: int,
    ) -> None:  # fmt: skip
        type(self).begun += 1
        mask = NoTokenTwice if options.pop("masked") else lambda: None

        def kwargs() -> dict[str, Any]:
            return {**options, "mask": mask(), "reward": Fussy(causal, disliked), "max_tokens": size}

        self.mode, self.rows, self.options = mode, rows, options
        self.has_mask = mask is NoTokenTwice
        self.env = TextVectorEnv(PROMPTS, ABC, num_envs=rows, autoreset_mode=mode, **kwargs())
        self.singles = [TextEnv(PROMPTS, ABC, **kwargs()) for _ in range(rows)]
        self.over = np.zeros(rows, dtype=np.bool_)
        with pytest.raises(EpisodeError):
            self.env.step(np.zeros(rows, dtype=np.int64))
        self.reset(seed)

    def row(self, batch: Any, i: int) -> Any:
        return self.env.observer.one(batch, i)

    def same(self, observation: Any, info: dict[str, Any], i: int, alone: tuple[Any, dict[str, Any]]) -> None:
        assert data_equivalence(self.row(observation, i), alone[0], exact=True)
        self.same_info(info, i, alone[1])

    def same_info(self, info: dict[str, Any], i: int, alone: dict[str, Any]) -> None:
        """What a row of infos says is what the single environment's info says, in Gymnasium's form."""
        for key in COMPARED:
            there = key in info and bool(info["_" + key][i])
            assert there == (key in alone), (key, info, alone)
            if there:
                assert info[key][i] == alone[key]

    @rule(seed=st.integers(0, 1000))
    def reset(self, seed: int) -> None:
        observation, info = self.env.reset(seed=seed)
        self.over[:] = False
        for i, single in enumerate(self.singles):
            self.same(observation, info, i, single.reset(seed=seed + i))

    @precondition(lambda self: self.mode is AutoresetMode.DISABLED)
    @rule(data=st.data())
    def reset_some(self, data: st.DataObject) -> None:
        rows = np.array(data.draw(st.lists(st.booleans(), min_size=self.rows, max_size=self.rows)))
        rows |= self.over
        if not rows.any():
            return
        observation, info = self.env.reset(options={"reset_mask": rows})
        self.over[:] = False
        for i in np.flatnonzero(rows):
            self.same(observation, info, int(i), self.singles[i].reset())

    def actions(self, data: st.DataObject) -> np.ndarray[Any, np.dtype[np.int64]]:
        found = []
        for i, single in enumerate(self.singles):
            choices = np.flatnonzero(single.action_masks()) if not self.over[i] else np.arange(4)
            if self.options["on_masked"] == "allow" and data.draw(st.booleans()):
                choices = np.arange(4)
            found.append(int(data.draw(st.sampled_from(choices.tolist()))))
        return np.array(found)

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        if self.mode is AutoresetMode.DISABLED and self.over.any():
            with pytest.raises(EpisodeError):
                self.env.step(np.zeros(self.rows, dtype=np.int64))
            return
        actions = self.actions(data)
        observation, rewards, terminated, truncated, info = self.env.step(actions)
        for i, single in enumerate(self.singles):
            if self.over[i]:  # the row restarts in this step
                assert (rewards[i], terminated[i], truncated[i]) == (0.0, False, False)
                self.same(observation, info, i, single.reset())
                self.over[i] = False
                continue
            alone, reward, end, cut, about = single.step(np.int64(actions[i]))
            assert (rewards[i], terminated[i], truncated[i]) == (reward, end, cut)
            assert not (end and cut)
            if self.mode is AutoresetMode.SAME_STEP and (end or cut):
                assert data_equivalence(info["final_obs"][i], alone, exact=True)
                self.same_info(info["final_info"], i, about)
                beginning, about = single.reset()
                assert data_equivalence(self.row(observation, i), beginning, exact=True)
            else:
                assert data_equivalence(self.row(observation, i), alone, exact=True)
                self.same_info(info, i, about)
                self.over[i] = end or cut

    @rule(data=st.data(), bad=st.sampled_from([-1, 4, 2**40]))
    def a_bad_token_changes_nothing(self, data: st.DataObject, bad: int) -> None:
        running = np.flatnonzero(~self.over)
        if self.over.any() or not len(running):
            return
        actions = self.actions(data)
        actions[data.draw(st.sampled_from(running.tolist()))] = bad
        before = self.env.observer.all()
        with pytest.raises(TokenError):
            self.env.step(actions)
        assert data_equivalence(self.env.observer.all(), before, exact=True)

    @rule(data=st.data())
    def a_forbidden_token_changes_nothing(self, data: st.DataObject) -> None:
        if not self.has_mask or self.options["on_masked"] == "allow" or self.over.any():
            return
        actions = self.actions(data)
        i = data.draw(st.integers(0, self.rows - 1))
        actions[i] = int(np.flatnonzero(~self.singles[i].action_masks())[0])
        before = self.env.observer.all()
        with pytest.raises(TokenError):
            self.env.step(actions)
        assert data_equivalence(self.env.observer.all(), before, exact=True)

    @invariant()
    def observations_are_of_their_space(self) -> None:
        if hasattr(self, "env"):
            assert self.env.observation_space.contains(self.env.observer.all())


@tries(15, 2_000)
def test_a_vector_environment_is_its_single_ones(tries: int, tried: Callable[..., None]) -> None:
    Envs.begun = 0
    run_state_machine_as_test(Envs, settings=effort(tries, stateful_step_count=20))
    tried("a vector environment is its single ones, under all options together", Envs.begun, "histories")
