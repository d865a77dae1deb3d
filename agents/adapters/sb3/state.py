"""Collects everything that decides how an algorithm of Stable-Baselines3 goes on, and puts it back.

Between two rollouts that is the policy with its optimizer, counters, the state of PyTorch's and NumPy's
random generators, a replay buffer, and the episodes that run. Those are played again, token by token, since
an episode is a function of its seed, its number and its tokens. Generators of a GPU are not saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnvWrapper, VecMonitor
from torch import Tensor

from text_gym.agents.adapters.kl_penalty import KLPenalty
from text_gym.envs.vector import TextVectorEnv
from text_gym.errors import CheckpointError, ConfigError

Tensors = dict[str, Tensor]
Data = dict[str, Any]

_COUNTERS = ("num_timesteps", "_episode_num", "_n_updates", "_current_progress_remaining", "_n_calls")
_BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
_STATISTICS = ("episode_returns", "episode_lengths", "prev_dones")


def collect_weights(model: BaseAlgorithm) -> tuple[Tensors, Data]:
    """Return what updates change: the policy, its optimizer's memory and a replay buffer."""
    tensors = {f"policy/{name}": t.detach().clone() for name, t in model.policy.state_dict().items()}
    plain: Data = {}
    for i, memory in model.policy.optimizer.state_dict()["state"].items():
        for name, value in memory.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{i}/{name}"] = value.clone()
            else:
                plain[f"{i}/{name}"] = value
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        return tensors, {"optimizer": plain}
    used = buffer.buffer_size if buffer.full else buffer.pos
    for name, array in _buffer_arrays(buffer):
        tensors[f"buffer/{name}"] = torch.from_numpy(array[:used].copy())
    return tensors, {"optimizer": plain, "buffer": {"pos": buffer.pos, "full": buffer.full}}


def restore_weights(model: BaseAlgorithm, tensors: Tensors, data: Data) -> None:
    """Put back what `collect_weights` returned.

    Raises:
        ConfigError: It is of another network.
    """
    own = model.policy.state_dict()
    saved = {name: tensors[f"policy/{name}"] for name in own if f"policy/{name}" in tensors}
    wrong = [name for name, t in own.items() if name not in saved or saved[name].shape != t.shape]
    if wrong or sum(name.startswith("policy/") for name in tensors) != len(own):
        raise ConfigError(
            f"the checkpoint is of another network: {min(wrong, default='it has more weights')}"
        )
    model.policy.load_state_dict(saved)
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *((f"optimizer/{k}", v) for k, v in data["optimizer"].items())]:
        if key.startswith("optimizer/"):
            _, i, name = key.split("/")
            state.setdefault(int(i), {})[name] = value.clone() if isinstance(value, Tensor) else value
    optimizer = model.policy.optimizer
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None:
        for name, array in _buffer_arrays(buffer):
            array[: len(tensors[f"buffer/{name}"])] = tensors[f"buffer/{name}"].numpy()
        buffer.pos, buffer.full = data["buffer"]["pos"], data["buffer"]["full"]


def collect_moment(model: BaseAlgorithm) -> tuple[Tensors, Data]:
    """Return what a rollout changes: counters, random generators, running episodes and their statistics."""
    # SB3 draws from NumPy's global generator.
    generator: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    recurrent = getattr(model, "_last_lstm_states", None) or ()
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(generator["state"].pop("key").astype(np.int64)),
        **{f"lstm/{i}/{j}": t.clone() for i, pair in enumerate(recurrent) for j, t in enumerate(pair)},
    }
    data = {
        "counters": {name: getattr(model, name) for name in _COUNTERS if hasattr(model, name)},
        "numpy": generator,
        "actions": model.action_space.np_random.bit_generator.state,
    }
    shown: Any = model._last_obs
    if shown is None:  # nothing was played yet
        return tensors, data
    env = _text_env(model)
    batch = env.batch
    starts, lengths, talk = batch.starts, batch.lengths, batch.conversation
    own = batch.attention_mask.astype(np.bool_) if talk is None else talk.agent
    tensors |= {f"observation/{key}": torch.from_numpy(np.array(value)) for key, value in shown.items()}
    tensors["started"] = torch.from_numpy(np.array(model._last_episode_starts))
    for i, statistics in enumerate(_statistics(model)):
        for name, array in statistics.items():
            tensors[f"statistics/{i}/{name}"] = torch.from_numpy(array.copy())
    data["env"] = {
        "seeds": batch.seeds.tolist(),
        "episode_index": batch.episode_index.tolist(),
        "prompts": [batch.tokens[i, :s].tolist() for i, s in enumerate(starts)],
        "completions": [  # what the agent wrote, to which the environment replies again
            batch.tokens[i, s:n][own[i, s:n]].tolist()
            for i, (s, n) in enumerate(zip(starts, lengths, strict=True))
        ],
        "reward": env.reward.state_dict(),
        "kl": [layer.state_dict() for layer in _layers(model) if isinstance(layer, KLPenalty)],
    }
    return tensors, data


def restore_moment(model: BaseAlgorithm, tensors: Tensors, data: Data) -> None:
    """Put back what `collect_moment` returned.

    Raises:
        CheckpointError: The episodes that ran begin with other prompts now.
    """
    for name, value in data["counters"].items():
        setattr(model, name, value)
    if "env" in data:
        model._last_obs = {
            key.removeprefix("observation/"): t.numpy().copy()
            for key, t in tensors.items()
            if key.startswith("observation/")
        }
        model._last_episode_starts = tensors["started"].numpy().copy()
        _play_again(model, data["env"])
        for i, statistics in enumerate(_statistics(model)):
            for name, array in statistics.items():
                array[:] = tensors[f"statistics/{i}/{name}"].numpy()
        penalties = [layer for layer in _layers(model) if isinstance(layer, KLPenalty)]
        for penalty, state in zip(penalties, data["env"]["kl"], strict=True):
            penalty.load_state_dict(state, model._last_obs)
    recurrent: Any = getattr(model, "_last_lstm_states", None)
    if recurrent is not None:
        pairs = [
            tuple(tensors[f"lstm/{i}/{j}"].clone() for j in range(len(pair)))
            for i, pair in enumerate(recurrent)
        ]
        model._last_lstm_states = type(recurrent)(*pairs)  # type: ignore[attr-defined]
    # Last, because what was done above may have drawn.
    model.action_space.np_random.bit_generator.state = data["actions"]
    generator = data["numpy"]
    state = {**generator["state"], "key": tensors["numpy"].numpy().astype(np.uint32)}
    np.random.set_state({**generator, "state": state})  # noqa: NPY002
    torch.set_rng_state(tensors["torch"])


def forget_references(model: BaseAlgorithm) -> None:
    """Have references read from the beginning, as they will be in a run that is resumed here.

    Keys and values computed a token at a time differ in their last digits from those of a whole text.
    """
    for layer in _layers(model):
        if isinstance(layer, KLPenalty):
            layer.forget()


def _play_again(model: BaseAlgorithm, state: Data) -> None:
    env, outermost = _text_env(model), next(_layers(model))
    seeds: Any = state["seeds"]
    outermost.reset(
        seed=seeds[0] if env.options.numbering == "global" else seeds,
        options={"episode_index": np.array(state["episode_index"])},
    )
    batch = env.batch
    if [batch.tokens[i, :s].tolist() for i, s in enumerate(batch.starts)] != state["prompts"]:
        raise CheckpointError(
            "the episodes of the checkpoint begin with other prompts now; resume with the task as it was"
        )
    counts = np.array([len(ids) for ids in state["completions"]])
    for t in range(counts.max(initial=0)):
        rows = np.flatnonzero(counts > t)
        batch.advance(rows, np.array([state["completions"][i][t] for i in rows.tolist()]))
        batch.pay_tokens(rows)
    env.reward.load_state_dict(state["reward"])


def _layers(model: BaseAlgorithm) -> Iterator[VectorEnv[Any, Any, Any]]:
    """Yield Gymnasium's environments inside SB3's, from the outermost wrapper to the `TextVectorEnv`."""
    vec_env: Any = model.get_env()
    while isinstance(vec_env, VecEnvWrapper):
        vec_env = vec_env.venv
    env = vec_env.env
    yield env
    while isinstance(env, VectorWrapper):
        env = env.env
        yield env


def _text_env(model: BaseAlgorithm) -> TextVectorEnv:
    env = next(_layers(model)).unwrapped
    assert isinstance(env, TextVectorEnv)
    return env


def _statistics(model: BaseAlgorithm) -> Iterator[dict[str, Any]]:
    """Yield the arrays of every wrapper that counts returns and lengths, to be read or written."""
    vec_env: Any = model.get_env()
    for layer in (vec_env, *_layers(model)):
        if isinstance(layer, (VecMonitor, RecordEpisodeStatistics)):
            yield {name: getattr(layer, name) for name in _STATISTICS if hasattr(layer, name)}


def _buffer_arrays(buffer: Any) -> Iterator[tuple[str, Any]]:
    """Yield the arrays of a replay buffer by name."""
    for name in _BUFFER:
        value = getattr(buffer, name)
        if isinstance(value, dict):
            yield from ((f"{name}/{key}", array) for key, array in value.items())
        else:
            yield name, value
