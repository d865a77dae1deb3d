"""Attribution shows which words of a text a reward pays for.

Leave-one-out asks any source what the text would earn without each word. Integrated gradients need a learned
model with gradients. Both say what the source looks at, not whether it is right to do so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from text_gym.episode import Episode, FloatArray
from text_gym.errors import ConfigError
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards

from .probes import rewritten

if TYPE_CHECKING:
    from text_gym.reward_models.learned.model import RewardModel


_NO_TEXT = "[end]"  # shown for a token without text, usually EOS
_PIECE = re.compile(r"\s*\S+")


@dataclass(frozen=True)
class Attribution:
    """A text in pieces, with what each piece adds to its reward.

    Args:
        pieces: The pieces in order; joined they are the text (or the tokens that the model read,
            `[end]` for one that is no text).
        values: Name of a term (`reward` for the whole) -> `(pieces,)` float64 in units of that term, NaN
            where the source had no opinion.
        totals: What the whole text earned, by the same names.
        method: `leave-one-out` or `integrated gradients`.
    """

    pieces: tuple[str, ...]
    values: dict[str, FloatArray]
    totals: dict[str, float]
    method: str

    def summary(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        values = {name: values.tolist() for name, values in self.values.items()}
        return {"method": self.method, "pieces": list(self.pieces), "values": values, "totals": self.totals}


def leave_one_word_out(source: RewardSource, episodes: Sequence[Episode]) -> list[Attribution]:
    """Measure what each text's reward, and each term, loses when each word in turn is left out.

    One call of the source for all texts and all their variants.
    """
    split = [_PIECE.findall(e.completion) for e in episodes]
    variants: list[Episode] = []
    for episode, pieces in zip(episodes, split, strict=True):
        variants.append(episode)
        for i in range(len(pieces)):
            rest = "".join(pieces[:i] + pieces[i + 1 :])
            variants.append(rewritten(episode, rest if i else rest.lstrip()))
    named = named_values(source(variants))
    result, start = [], 0
    for pieces in split:
        end = start + 1 + len(pieces)
        values = {name: column[start] - column[start + 1 : end] for name, column in named.items()}
        totals = {name: float(column[start]) for name, column in named.items()}
        result.append(Attribution(tuple(pieces), values, totals, "leave-one-out"))
        start = end
    return result


def named_values(rewards: Rewards) -> dict[str, FloatArray]:
    """Return the totals as `reward` and every term under its name, NaN where the source abstains."""
    terms = {name: np.asarray(values, dtype=np.float64) for name, values in rewards.terms.items()}
    return {"reward": rewards.totals_or_nan, **{k: v for k, v in terms.items() if k != "reward"}}


def integrated_gradients(
    model: RewardModel, episodes: Sequence[Episode], steps: int = 64
) -> list[Attribution]:
    """Compute integrated gradients of the reward along the tokens' embeddings (Sundararajan et al. 2017).

    The path begins at the embedding of the padding token at every place. A token's value is the sum over its
    embedding's dimensions; all values together are the reward minus that of the beginning, up to the error of
    the `steps`-point sum. Prompt tokens take part, but only those of the completion are returned where the
    model reads prompt and completion one after the other.

    Raises:
        ConfigError: captum is missing.
    """
    try:
        from captum.attr import LayerIntegratedGradients
    except ImportError as error:
        raise ConfigError("integrated gradients need captum: pip install captum") from error
    import torch

    factor = torch.tensor(model.scales.factor) * torch.tensor(model.scales.weight) / sum(model.scales.weight)
    device = next(model.model.parameters()).device

    def reward(ids: Any) -> Any:
        # Every row is a whole text, so nothing is padded or masked.
        logits = model.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return logits @ factor.to(logits)

    method = LayerIntegratedGradients(reward, model.model.get_input_embeddings())
    totals = model(episodes).totals
    result = []
    for episode, total in zip(episodes, totals, strict=True):
        encoded = model.encode(episode.prompt, episode.completion)
        ids = torch.tensor([encoded.ids], device=device)
        found = method.attribute(
            ids,
            torch.full_like(ids, model.tokenizer.pad_id),
            n_steps=steps,
            internal_batch_size=model.batch_size,
        )
        values = found.sum(dim=-1)[0].double().cpu().numpy()
        own = [i for i, kind in enumerate(encoded.types) if kind == 1] or list(range(len(encoded.ids)))
        pieces = tuple(model.tokenizer.decode([encoded.ids[i]]) or _NO_TEXT for i in own)
        result.append(
            Attribution(pieces, {"reward": values[own]}, {"reward": float(total)}, "integrated gradients")
        )
    return result


def is_differentiable(source: RewardSource) -> bool:
    """Return True if `integrated_gradients` works on a source: a learned model over embeddings."""
    return all(hasattr(source, name) for name in ("model", "encode", "scales", "outputs"))
