"""Writes and reads the value head that stands in a policy's folder beside the language model.

It has a folder of its own: vLLM takes every `*.safetensors` beside a model's `config.json` for its weights.
Folders of text-gym up to 0.2 have it beside them, and are read as well.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from text_gym.models.loading import check_tokenizer, load_into

FILE = "value_head.safetensors"
FOLDER = "value_head"


def save_value_head(head: nn.Linear, folder: Path, fingerprint: str) -> None:
    """Write a value head into a policy's folder, with the fingerprint of the policy's tokenizer."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
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
