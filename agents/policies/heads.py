"""The two heads on a policy's trunk: the value head is kept in a file, the output head is tried out.

The value head has a folder of its own in the policy's: vLLM takes every `*.safetensors` beside a model's
`config.json` for its weights. Folders of text-gym up to 0.2 have it beside them, and are read as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from text_gym.errors import ConfigError
from text_gym.models.cpu.fast_path import try_fast_path
from text_gym.models.loading import check_tokenizer, context_of, load_into
from text_gym.utils.sealed import remove_unfinished

FILE = "value_head.safetensors"
FOLDER = "value_head"
# The names that configurations have for the bound of logits; the last two are RecurrentGemma's and xLSTM's.
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


def save_value_head(head: nn.Linear, folder: Path, fingerprint: str) -> None:
    """Write a value head into a policy's folder, with the fingerprint of the policy's tokenizer."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder / FOLDER)
    tensors = {name: tensor.contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / FOLDER / FILE, metadata={"tokenizer": fingerprint})
    (folder / FILE).unlink(missing_ok=True)  # where earlier versions wrote it


def load_value_head(head: nn.Linear, folder: Path, fingerprint: str) -> None:
    """Fill a value head from a policy's folder; it stays as it is where the folder has none.

    Raises:
        DataError: The file is broken, of another network, or was saved with another tokenizer.
    """
    for file in (folder / FOLDER / FILE, folder / FILE):
        if file.is_file():
            load_into(head, file)
            check_tokenizer(file, folder, fingerprint)
            return


def logit_options(model: Any) -> list[float | None]:
    """Return what a model does to its logits: a factor (Cohere), a divisor (Granite), a bound (Gemma 2)."""
    config = model.config.get_text_config()
    times, divided_by, *caps = (
        getattr(config, name, None) for name in ("logit_scale", "logits_scaling", *_CAPS)
    )
    return [times, divided_by, next(filter(None, caps), None)]


@torch.no_grad()
def check_output_head(model: Any, logits: Callable[[Tensor], Tensor], vocab_size: int) -> None:
    """Refuse a model that does something to its logits which `logits`, of tokens `(1, n)`, leaves out.

    Its fast path, if it has one, is tried on the same tokens. One that is not causal is refused as well.

    Raises:
        ConfigError: It does; the model's type is named.
    """
    tokens = torch.arange(min(4, context_of(model) or 4), device=model.device)[None] % vocab_size
    ours = logits(tokens)
    # A model that scales its logits rounds them once more than `logits` does.
    tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.05
    before = logits(torch.cat([tokens[:, :-1], (tokens[:, -1:] + 1) % vocab_size], dim=1))[:, :-1]
    if not torch.allclose(ours[:, :-1], before, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ConfigError(
            f'the model, of type "{model.config.model_type}", is not causal: what it says of a token depends '
            "on later ones; take a causal language model"
        )
    theirs = model(input_ids=tokens, use_cache=False).logits[..., :vocab_size]
    if not torch.allclose(ours, theirs.to(ours.dtype), rtol=tolerance, atol=tolerance):
        kind = model.config.model_type
        raise ConfigError(f'models of type "{kind}" change their logits in a way not supported yet')
    try_fast_path(model.base_model, tokens)
