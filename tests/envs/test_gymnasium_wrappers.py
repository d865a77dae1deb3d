"""Every wrapper of Gymnasium, on environments of text: it works, or it is listed here with the reason.

The names are read from Gymnasium, so that a wrapper that is new there is missed here.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import gymnasium.wrappers.vector as vector_wrappers
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

import text_gym  # noqa: F401  (registers the ids)
from text_gym import TextVectorEnv

ID = "text_gym/Reverse-v0"
STEPS = 12
RECENT = tuple(map(int, gym.__version__.split(".")[:2])) >= (1, 4)  # refusals were assertions without words
REFUSALS = (TypeError, ValueError, AssertionError, gym.error.Error)

# Wrapper -> its arguments, and those of an environment that it suits (the default one where there is none).
Works = dict[str, tuple[dict[str, Any], dict[str, Any]]]
SAME: Any = lambda x: x  # noqa: E731
UNIT = {"min_obs": np.float32(0), "max_obs": np.float32(1)}
ONEHOT = {"observation": "onehot"}

SINGLE: Works = {
    "AddRenderObservation": ({}, {}),
    "AddWhiteNoise": ({"probability_of_noise_per_pixel": 0.1}, {}),
    "ArrayConversion": ({"env_xp": np, "target_xp": "torch"}, {}),
    "Autoreset": ({}, {}),
    "ClipReward": ({"min_reward": 0.0, "max_reward": 0.5}, {}),
    "DelayObservation": ({"delay": 1}, {"observation": "ids"}),
    "DiscretizeObservation": ({"bins": 2}, {"observation": "onehot", "length": 1, "symbols": "xy"}),
    "DtypeObservation": ({"dtype": np.float64}, ONEHOT),
    "FilterObservation": ({"filter_keys": ["tokens", "remaining"]}, {}),
    "FlattenObservation": ({}, {}),
    "FrameStackObservation": ({"stack_size": 3}, {}),
    "HumanRendering": ({}, {}),
    "JaxToNumpy": ({}, {}),
    "JaxToTorch": ({}, {}),
    "MaxAndSkipObservation": ({"skip": 2}, ONEHOT),
    "NormalizeObservation": ({}, ONEHOT),
    "NormalizeReward": ({}, {}),
    "NumpyToTorch": ({}, {}),
    "ObstructView": ({"obstructed_pixels_ratio": 0.1, "obstruction_width": 3}, {}),
    "OrderEnforcing": ({}, {}),
    "PassiveEnvChecker": ({}, {}),
    "RecordEpisodeStatistics": ({}, {}),
    "RecordVideo": ({"video_folder": "videos", "episode_trigger": lambda episode: episode == 0}, {}),
    "RenderCollection": ({}, {}),
    "RepeatAction": ({"num_repeats": 2}, {}),
    "RescaleObservation": (UNIT, ONEHOT),
    "ReshapeObservation": ({"shape": (9, 4)}, ONEHOT),
    "StickyAction": ({"repeat_action_probability": 0.2}, {}),
    "TimeAwareObservation": ({}, {"max_episode_steps": 5}),  # of the token limit, so that it cuts nothing
    "TimeLimit": ({"max_episode_steps": 5}, {}),
    "TransformAction": ({"func": SAME, "action_space": None}, {}),
    "TransformObservation": ({"func": SAME, "observation_space": None}, {}),
    "TransformReward": ({"func": SAME}, {}),
}
MANY: Works = {
    "ArrayConversion": ({"env_xp": np, "target_xp": "torch"}, {"info_texts": False}),
    "ClipReward": ({"min_reward": 0.0, "max_reward": 0.5}, {}),
    "DictInfoToList": ({}, {}),
    "DtypeObservation": ({"dtype": np.float64}, ONEHOT),
    "FilterObservation": ({"filter_keys": ["tokens", "remaining"]}, {}),
    "FlattenObservation": ({}, {}),
    "HumanRendering": ({}, {}),
    "JaxToNumpy": ({}, {"infos": "none"}),
    "JaxToTorch": ({}, {"infos": "none"}),
    "NormalizeObservation": ({}, ONEHOT),
    "NormalizeReward": ({}, {}),
    "NumpyToTorch": ({}, {"info_texts": False}),
    "RecordEpisodeStatistics": ({}, {}),
    "RecordVideo": (
        {"video_folder": "videos", "video_length": 5, "step_trigger": lambda step: step == 0},
        {},
    ),
    "RescaleObservation": (UNIT, ONEHOT),
    "ReshapeObservation": ({"shape": (9, 4)}, ONEHOT),
    "TransformAction": ({"func": SAME}, {}),
    "TransformObservation": ({"func": SAME}, {}),
    "TransformReward": ({"func": SAME}, {}),
    "VectorizeTransformAction": (
        {"wrapper": gym.wrappers.TransformAction, "func": SAME, "action_space": gym.spaces.Discrete(4)},
        {},
    ),
    "VectorizeTransformObservation": (
        {"wrapper": gym.wrappers.FlattenObservation},
        {},
    ),
    "VectorizeTransformReward": ({"wrapper": gym.wrappers.TransformReward, "func": SAME}, {}),
}
# Wrapper -> arguments, what it says, and why text cannot have it.
BOX: dict[str, Any] = {"min_action": np.float32(0), "max_action": np.float32(1)}
Refused = dict[str, tuple[dict[str, Any], str, str]]
NO_SINGLE: Refused = {
    "AtariPreprocessing": ({}, "frame-skipping", "text has no frames to skip"),
    "ClipAction": ({}, "requires a Box action space", "tokens are not numbers to be clipped"),
    "DiscretizeAction": ({"bins": 2}, "only compatible with Box", "tokens are discrete"),
    "GrayscaleObservation": ({}, "requires a Box", "text is no image; use AddRenderObservation below it"),
    "RescaleAction": (BOX, "requires a Box action space", "tokens are not numbers to be scaled"),
    "ResizeObservation": ({"shape": (8, 8)}, "requires a Box", "text is no image, as above"),
}
NO_MANY: Refused = {
    "ClipAction": ({}, "requires a Box action space", "as above"),
    "GrayscaleObservation": ({}, "requires a Box", "as above"),
    "RescaleAction": (BOX, "requires a Box action space", "as above"),
    "ResizeObservation": ({"shape": (8, 8)}, "requires a Box", "as above"),
}
NEEDS = {
    "AtariPreprocessing": "cv2",
    "ArrayConversion": "array_api_compat",
    "GrayscaleObservation": "cv2",
    "HumanRendering": "pygame",
    "JaxToNumpy": "jax",
    "JaxToTorch": "jax",
    "NumpyToTorch": "array_api_compat",
    "RecordVideo": "moviepy",
    "ResizeObservation": "cv2",
}
ALL = [name for name in gym.wrappers.__all__ if name != "vector"]


def skip_if_missing(name: str) -> None:
    if NEEDS.get(name) is not None and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{name} needs {NEEDS[name]}")


def wrap(place: Any, name: str, env: Any, arguments: dict[str, Any], tmp_path: Path) -> Any:
    skip_if_missing(name)
    arguments = dict(arguments)
    if arguments.get("target_xp") == "torch":
        arguments["target_xp"] = pytest.importorskip("torch")
    if "video_folder" in arguments:
        arguments["video_folder"] = str(tmp_path / "videos")
    return getattr(place, name)(env, **arguments)


def as_actions(name: str, actions: Any) -> Any:
    """Actions as the outside of a wrapper that converts arrays wants them."""
    if name in ("NumpyToTorch", "ArrayConversion", "JaxToTorch"):
        return pytest.importorskip("torch").as_tensor(actions)
    return pytest.importorskip("jax.numpy").asarray(actions) if name == "JaxToNumpy" else actions


def test_every_wrapper_is_listed() -> None:
    assert sorted(ALL) == sorted({*SINGLE, *NO_SINGLE} & set(ALL))
    assert sorted(vector_wrappers.__all__) == sorted({*MANY, *NO_MANY} & set(vector_wrappers.__all__))
    assert not set(SINGLE) & set(NO_SINGLE)
    assert not set(MANY) & set(NO_MANY)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(set(SINGLE) & set(ALL)))
def test_wrappers_of_one_environment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    arguments, kwargs = SINGLE[name]
    env = wrap(gym.wrappers, name, gym.make(ID, render_mode="rgb_array", **kwargs), arguments, tmp_path)
    observation, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    size = gym.make(ID, **{k: v for k, v in kwargs.items() if k != "max_episode_steps"}).action_space.n  # type: ignore[attr-defined]
    ends = 0
    for _ in range(STEPS):
        observation, reward, terminated, truncated, _ = env.step(as_actions(name, rng.integers(size)))
        assert np.isfinite(float(reward))
        if name not in ("NumpyToTorch", "ArrayConversion", "JaxToNumpy", "JaxToTorch"):
            assert observation in env.observation_space
        if terminated or truncated:
            ends += 1
            if name != "Autoreset":
                env.reset()
    assert ends
    env.close()
    if name == "RecordVideo":
        assert (tmp_path / "videos" / "rl-video-episode-0.mp4").stat().st_size > 500


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(set(MANY) & set(vector_wrappers.__all__)))
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_wrappers_of_many_environments(
    name: str, mode: AutoresetMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    skip_if_missing(name)
    arguments, kwargs = MANY[name]
    made: Any = gym.make_vec(ID, num_envs=3, render_mode="rgb_array", autoreset_mode=mode, **kwargs)
    kind = getattr(vector_wrappers, name)
    if mode is AutoresetMode.SAME_STEP and issubclass(kind, gym.vector.VectorObservationWrapper):
        with pytest.raises(REFUSALS):
            wrap(vector_wrappers, name, made, arguments, tmp_path)
        return
    env = wrap(vector_wrappers, name, made, arguments, tmp_path)
    env.reset(seed=0)
    if mode is AutoresetMode.SAME_STEP and name in ("NumpyToTorch", "ArrayConversion"):
        # Gymnasium's `final_obs` is an array of objects, which it cannot convert itself.
        with pytest.raises(BufferError, match="DLPack"):
            env.step(as_actions(name, np.full(3, 3)))
        return
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        _, rewards, *_ = env.step(as_actions(name, rng.integers(4, size=3)))
        assert tuple(rewards.shape) == (3,)
    env.close()


@pytest.mark.parametrize("name", sorted(set(NO_SINGLE) & set(ALL)))
def test_wrappers_that_text_cannot_have(name: str, tmp_path: Path) -> None:
    if name == "AtariPreprocessing":
        pytest.importorskip(NEEDS[name])  # it asks for the library before it looks at the environment
    arguments, says, _ = NO_SINGLE[name]
    with pytest.raises(REFUSALS, match=re.escape(says) if RECENT else None):
        wrap(gym.wrappers, name, gym.make(ID), arguments, tmp_path)


@pytest.mark.parametrize("name", sorted(set(NO_MANY) & set(vector_wrappers.__all__)))
def test_vector_wrappers_that_text_cannot_have(name: str, tmp_path: Path) -> None:
    arguments, says, _ = NO_MANY[name]
    with pytest.raises(REFUSALS, match=re.escape(says) if RECENT else None):
        wrap(vector_wrappers, name, gym.make_vec(ID, num_envs=2), arguments, tmp_path)


# The three ways to make many environments


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize(
    "kwargs",
    [
        {"observation": "tokens"},
        {"observation": "ids", "infos": "constant"},
        {"observation": "onehot", "infos": "none"},
        {"observation": "text"},
    ],
    ids=lambda kwargs: kwargs["observation"],
)
def test_native_async_and_sync_environments_are_identical(
    kwargs: dict[str, Any], mode: AutoresetMode
) -> None:
    shared = {"shared_memory": False} if kwargs["observation"] == "text" else {}
    vectors: list[VectorEnv[Any, Any, Any]] = [
        gym.make_vec(ID, num_envs=2, autoreset_mode=mode, **kwargs),
        *(
            gym.make_vec(
                ID,
                num_envs=2,
                vectorization_mode=how,
                vector_kwargs={"autoreset_mode": mode, **more},
                **kwargs,
            )
            for how, more in (("sync", {}), ("async", shared))
        ),
    ]
    assert [type(v) for v in vectors] == [TextVectorEnv, SyncVectorEnv, AsyncVectorEnv]
    rng = np.random.default_rng(0)

    def same(results: list[tuple[Any, ...]]) -> tuple[Any, ...]:
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                assert data_equivalence(a, b, exact=True), (a, b)
        return results[0]

    try:
        same([v.reset(seed=3) for v in vectors])
        for _ in range(300):
            actions = rng.integers(4, size=2)
            _, _, terminated, truncated, _ = same([v.step(actions) for v in vectors])
            over = terminated | truncated
            if mode is AutoresetMode.DISABLED and over.any():
                same([v.reset(options={"reset_mask": over.copy()}) for v in vectors])
    finally:
        for v in vectors:
            v.close()


def test_text_in_shared_memory_is_refused_since_it_would_never_change() -> None:
    with pytest.raises(ValueError, match="shared_memory"):
        gym.make_vec(ID, num_envs=2, observation="text", vectorization_mode="async")
