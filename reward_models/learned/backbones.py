"""Loads the backbones of learned reward models, without pickles or foreign code, and adds a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from text_gym.errors import DataError
from text_gym.json_text import read_object
from text_gym.models.loading import load_model
from text_gym.tokenizer import PretrainedTokenizer

Form = Literal["plain", "pair", "chat"]
TEMPLATE = "chat_template.jinja"


def load_classifier(name: str | Path, *, new_head: bool = False, **changes: Any) -> Any:
    """Load a `transformers` sequence-classification model in float32, from safetensors only.

    Args:
        name: Folder or hub model.
        new_head: It may be a language model, of which the trunk is taken.
        changes: Changes of the configuration, e.g. `num_labels`.

    Raises:
        DataError: There is no such model, it is broken, not in safetensors, needs code from a hub, or its
            architecture has no form for sequence classification, or has an encoder and a decoder.
    """
    kind = "AutoModelForSequenceClassification"
    model = load_model(kind, name, "a reward model", new_head=new_head, **changes)
    if getattr(model.config, "is_encoder_decoder", False):
        raise DataError(
            f"cannot load a reward model from {str(name)!r}: models of type {model.config.model_type!r} "
            "have an encoder and a decoder; take one that has either"
        )
    return model


def read_template(name: str | Path) -> str | None:
    """Return the chat template of a folder's or hub model's tokenizer, or None."""
    folder = Path(name)
    if not folder.is_dir():
        from transformers import AutoTokenizer

        found = AutoTokenizer.from_pretrained(str(name)).chat_template
        return found if isinstance(found, str) else None
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    file = folder / "tokenizer_config.json"
    found = read_object(file).get("chat_template") if file.is_file() else None
    return found if isinstance(found, str) else None


def has_segments(name: str | Path) -> bool:
    """Return True if the tokenizer produces token types, with which the model was then trained."""
    from transformers import AutoTokenizer

    try:
        names = AutoTokenizer.from_pretrained(str(name), trust_remote_code=False).model_input_names
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot load the tokenizer of {str(name)!r}: {error}") from error
    return "token_type_ids" in names


def input_form(tokenizer: PretrainedTokenizer, template: str | None) -> Form:
    """Return the input format a tokenizer suggests."""
    if template:
        return "chat"
    joined = tokenizer.backend.encode("a", "b", add_special_tokens=True)
    return "pair" if len(joined.ids) > len(tokenizer.encode("a") + tokenizer.encode("b")) else "plain"


def shrink_head(model: Any, seed: int) -> None:
    """Shrink the output layer, so that an untrained model scores all texts nearly alike.

    (Stiennon et al. 2020, appendix B: standard deviation 1 / sqrt(width + 1).)
    """
    head = [
        m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == model.num_labels
    ]
    if not head:
        return
    layer = head[-1]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(
            torch.randn(layer.weight.shape, generator=generator) / (layer.in_features + 1) ** 0.5
        )
        if layer.bias is not None:
            layer.bias.zero_()
