from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
import torch

import text_gym  # noqa: F401
from text_gym.agents.adapters.token_encoder import TokenEncoder
from text_gym.errors import ConfigError

KINDS = ["positions", "gru", "transformer"]


def observation() -> tuple[gym.spaces.Space[Any], dict[str, torch.Tensor]]:
    """A `Dict` space and a batch of one observation in it, as tensors."""
    env = gym.make("text_gym/Copy-v0")
    return env.observation_space, {k: torch.as_tensor(v)[None] for k, v in env.reset(seed=0)[0].items()}


def features(encoder: TokenEncoder, shown: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.as_tensor(encoder(shown["tokens"], shown["attention_mask"], shown["remaining"]))


@pytest.mark.parametrize("kind", KINDS)
def test_features_depend_on_all_tokens_and_on_nothing_past_the_end(kind: Any) -> None:
    space, shown = observation()
    encoder = TokenEncoder.of(space, kind, width=16)
    with torch.no_grad():
        base = features(encoder, shown)
        assert base.shape == (1, 16)
        assert base.dtype == torch.float32
        for place in range(int(shown["length"])):
            other = shown["tokens"].clone()
            other[0, place] = (other[0, place] + 1) % 3
            assert not torch.allclose(features(encoder, shown | {"tokens": other}), base, atol=1e-4)
        beyond = shown["tokens"].clone()
        beyond[0, int(shown["length"]) :] = 1
        assert torch.allclose(features(encoder, shown | {"tokens": beyond}), base)


def test_the_last_token_is_read_however_much_padding_follows() -> None:
    space, shown = observation()
    encoder = TokenEncoder.of(space, "gru", width=16)
    length = int(shown["length"])
    assert 1 < length < shown["tokens"].shape[1]
    with torch.no_grad():
        padded = encoder(shown["tokens"], shown["attention_mask"])
        alone, _ = encoder.gru(encoder.embedding(shown["tokens"][:, :length].long()))
        assert torch.allclose(padded, alone[:, -1], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_with_an_id_of_its_own_needs_no_mask(kind: Any) -> None:
    space, shown = observation()
    encoder = TokenEncoder.of(space, kind, width=16)
    ids = torch.where(shown["attention_mask"] > 0, shown["tokens"], encoder.padding)
    with torch.no_grad():
        masked = encoder(shown["tokens"], shown["attention_mask"])
        assert torch.equal(encoder(ids), masked)
        assert torch.equal(encoder(ids.float()[None, None]), masked[None, None])  # any dtype, any batch shape
    space = gym.spaces.MultiDiscrete([encoder.padding + 1] * shown["tokens"].shape[1])
    assert TokenEncoder.of(space, kind, width=16)(ids).shape == (1, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_the_clock_is_learnt(kind: Any) -> None:
    space, shown = observation()
    encoder = TokenEncoder.of(space, kind, width=16)
    later = shown | {"remaining": shown["remaining"] - 1}
    assert torch.equal(features(encoder, later), features(encoder, shown))  # at first it counts for nothing
    features(encoder, shown).sum().backward()
    assert encoder.clock is not None
    assert encoder.clock.grad is not None
    assert encoder.clock.grad.abs().max() > 0
    torch.nn.init.ones_(encoder.clock)
    assert not torch.allclose(features(encoder, later), features(encoder, shown))


def test_the_clock_goes_from_1_to_0_whatever_the_limit() -> None:
    encoder = TokenEncoder(4, 2, "gru", width=4, limit=20)
    assert encoder.clock is not None
    torch.nn.init.constant_(encoder.clock, 3.0)
    tokens, left = torch.tensor([[1, 2]] * 3), torch.tensor([[0], [5], [20]])
    with torch.no_grad():
        found = encoder(tokens, remaining=left) - encoder(tokens)
    assert torch.allclose(found, torch.tensor([[0.0], [0.75], [3.0]]).expand(3, 4), atol=1e-6)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose positions, gru or transformer"):
        TokenEncoder(4, 6, "lstm")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="multiple of 4"):
        TokenEncoder(4, 6, "transformer", width=30)
    with pytest.raises(ConfigError, match='observation="tokens"'):
        TokenEncoder.of(gym.spaces.Box(0, 1, (3,)))
