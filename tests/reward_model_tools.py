"""Small reward models with random weights, and opinions to teach them, shared by several files of tests."""

from __future__ import annotations

from typing import Any

import torch

from text_gym import Episode, PretrainedTokenizer, Prompt
from text_gym.reward_models import PreferencePair, Rating, RewardModel

WORDS = [
    "please",
    "do",
    "write",
    "me",
    "a",
    "good",
    "bad",
    "long",
    "short",
    "text",
    "about",
    "cats",
    "dogs",
    "and",
    "birds",
    "now",
]
TOKENIZER = PretrainedTokenizer.train([" ".join(WORDS)] * 3, 300)


def small_reward_model(*criteria: str, seed: int = 0, **settings: Any) -> RewardModel:
    """One layer, 16 wide; every weight random, so that scores differ by a lot."""
    size = {"layers": 1, "width": 16, "heads": 2, "context": 64, **settings}
    model = RewardModel.new(TOKENIZER, criteria or ("reward",), seed=seed, device="cpu", **size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.model.score.weight.copy_(torch.randn(model.model.score.weight.shape, generator=generator))
    return model


def episodes(*texts: str, prompt: str = "Write:") -> list[Episode]:
    """Completions of one prompt."""
    return [Episode.of(prompt, text, TOKENIZER) for text in texts]


def pairs(count: int = 24) -> list[PreferencePair]:
    """Whoever says "good" is better than who says "bad"."""
    return [
        PreferencePair(Prompt(f"text {i} about {WORDS[i % 4 + 10]}:"), "a good text", "a bad text")
        for i in range(count)
    ]


def ratings(count: int = 24) -> list[Rating]:
    """Marks from 1 to 3 for the number of the word "good", and from 3 to 1 for another criterion."""
    return [
        Rating(
            Prompt(f"text {i}:"),
            "a" + " good" * n + " text" * (3 - n),
            {"style": float(n + 1), "brevity": float(3 - n)},
        )
        for i in range(count)
        for n in range(3)
    ]


def weights_of(model: RewardModel) -> dict[str, torch.Tensor]:
    """A copy of every parameter."""
    return {name: p.detach().clone() for name, p in model.model.named_parameters()}


def same_bits(model: RewardModel, before: dict[str, torch.Tensor]) -> bool:
    """Whether no bit of a parameter has changed."""
    now = dict(model.model.named_parameters())
    return all(torch.equal(now[n].view(torch.uint8), b.view(torch.uint8)) for n, b in before.items())
