"""Loads weights for policies and reward models, picks devices, and makes the small GPT-2.

Weights come from safetensors alone, and no code is run from a folder or hub. Tokenizers, heads and settings
are the models' own business. PyTorch and `transformers` are imported when a function is called.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text_gym.errors import ConfigError, DataError, TextGymError, did_you_mean, excerpt
from text_gym.json_text import read_object
from text_gym.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch


_SEEDED = threading.RLock()


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Draw random weights by a seed and leave PyTorch's generator, which all threads share, as it was."""
    import torch

    with _SEEDED, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def pick_device(device: str) -> torch.device:
    """Return the device of a name; `"auto"` is CUDA if available, else the CPU.

    Raises:
        ConfigError: PyTorch knows no such device, or it is a GPU of CUDA that is not there.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"unknown device {device!r}: {error}") from error
    if found.type == "mps":
        raise ConfigError("device 'mps' has no float64, in which tokens are drawn; pass 'cpu'")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {device!r}: PyTorch sees {torch.cuda.device_count()} GPUs; pass 'cpu' or 'auto'"
        )
    return found


def load_model(
    kind: str, name: str | Path, what: str, *, dtype: str = "float32", new_head: bool = False, **changes: Any
) -> Any:
    """Load a `transformers` model from a folder or hub, with weights from safetensors.

    Args:
        kind: The class of `transformers` that loads it, e.g. `"AutoModelForCausalLM"`.
        name: Folder or hub model.
        what: What it is called in errors, with its article.
        dtype: Type of the weights.
        new_head: The head may be new: what lies outside the trunk need not be there.
        changes: Changes of the configuration.

    Raises:
        DataError: There is no such model, it is broken, not in safetensors, needs code from a hub, lacks
            weights, which `transformers` would draw at random, or has some that nothing uses or that are NaN
            or infinite; or its architecture has no form of this kind.
    """
    import torch
    import transformers

    try:
        with quietly(bars=not Path(name).is_dir(), warnings=False):
            model, found = getattr(transformers, kind).from_pretrained(
                str(name),
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below, by name
                **changes,
            )
    except Exception as error:  # OSError, ValueError, KeyError, SafetensorError …, by version
        where = f"cannot load {what} from {str(name)!r}"
        if "Unrecognized configuration class" in str(error):  # and then the names of all there are
            kind = read_model_config(name).model_type
            raise DataError(f"{where}: models of type {kind!r} have no such form; take another") from error
        if not Path(name).is_dir():
            raise DataError(
                f"{where}: there is no such folder, and as a model of the hub: {excerpt_of(error)}"
                f"{did_you_mean(name)}"
            ) from error
        raise DataError(f"{where}: {excerpt_of(error)}; save it again") from error
    _check_names(model, found, f"{what} from {str(name)!r}", new_head)
    _check_adapter(model, Path(name), f"{what} from {str(name)!r}")
    check_finite_weights(dict(model.named_parameters()), f"{what} from {str(name)!r}")
    for weight in model.parameters():
        # A loaded weight lies in the mapped file: writing that file anew would pull it away, and where it
        # begins depends on its header, to which the last bits of matrix products are sensitive.
        weight.data = weight.data.clone()
    return model


def read_model_config(name: str | Path) -> Any:
    """Read the configuration of a `transformers` model from a folder or hub, and no weights.

    Of a folder that holds an adapter alone it is that of the adapter's base model.

    Raises:
        DataError: There is none, or it is broken.
    """
    from transformers import AutoConfig

    adapter = Path(name) / "adapter_config.json"
    try:
        if adapter.is_file() and not (Path(name) / "config.json").is_file():
            name = str(read_object(adapter, DataError, "save it again")["base_model_name_or_path"])
        return AutoConfig.from_pretrained(str(name), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot read the configuration of {str(name)!r}: {excerpt_of(error)}") from error


def context_of(model: Any) -> int | None:
    """Return the largest number of tokens that a `transformers` model reads, or None.

    LongRoPE (Phi-3 with 128k tokens) turns all positions otherwise once the longest text of a batch is longer
    than those of its first training. A token's probability would then depend on which texts stand beside it,
    and change as its own text grows; so that length is the most.
    """
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "max_seq_len")  # MPT has the second one
    limits = [getattr(config, name, None) for name in names]
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        limits.append(rope["original_max_position_embeddings"])
    known = [int(limit) for limit in limits if limit is not None]
    return min(known) if known else None


def load_into(network: torch.nn.Module, file: str | Path) -> None:
    """Fill a network with the tensors of a safetensors file, all of them by name.

    Raises:
        DataError: The file cannot be read, its names or shapes are those of another network, or it has
            tensors that are NaN or infinite.
    """
    tensors = load_tensors(file)
    check_finite_weights(tensors, str(file))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise DataError(f"{file} belongs to another network ({excerpt_of(error)}); save it again") from error


@contextmanager
def usable(name: str | Path) -> Iterator[None]:
    """Turn what a model raises as it is first used into an error that names it.

    Raises:
        DataError: Whatever was raised, if it was no error of ours.
    """
    try:
        yield
    except TextGymError:
        raise
    except Exception as error:  # a config.json may hold anything
        raise DataError(
            f"the model in {str(name)!r} cannot be used: {excerpt_of(error)}; its config.json or tokenizer "
            "does not fit its weights: save them again"
        ) from error


def check_tokenizer(file: Path, folder: Path, fingerprint: str) -> None:
    """Refuse a tokenizer other than the one that a safetensors file says it was saved with.

    Args:
        file: Of safetensors.
        folder: Whose it is, for the error.
        fingerprint: Of the tokenizer there is.

    Raises:
        DataError: It is another one; a file that says nothing is taken as it is.
    """
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        saved = (opened.metadata() or {}).get("tokenizer", fingerprint)
    if saved != fingerprint:
        raise DataError(
            f"{folder} was saved with another tokenizer ({excerpt(saved)}, now {fingerprint}), whose "
            "ids mean other texts; restore it, or save policy and tokenizer again"
        )


def load_tensors(file: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file by name.

    Raises:
        DataError: There is no such file, or it is broken.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file} cannot be read as safetensors ({error}); save it again") from error


def tensors_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Collect every weight and buffer of a network by name; tied weights once."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (name, tensor.detach()))
    return dict(found.values())


def digest_of(network: torch.nn.Module) -> str:
    """Hash the weights and buffers with their names, shapes and dtypes (SHA-256, 64 hex digits)."""
    import torch

    result = hashlib.sha256()
    for name, tensor in sorted(tensors_of(network).items()):
        result.update(f"{name} {(tuple(tensor.shape), tensor.dtype)}\n".encode())
        result.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return result.hexdigest()


def check_finite_weights(tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        DataError: The first of them is named.
    """
    for key, weight in tensors.items():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise DataError(
                f"cannot load {what}: the weight {excerpt(key)} has NaN or infinite numbers; take an earlier "
                "one"
            )


def excerpt_of(error: Exception) -> str:
    """Return an exception's kind and the start of what it says, on one line."""
    return f"{type(error).__name__}: {excerpt(' '.join(str(error).split()), 300)}"


def _check_adapter(model: Any, folder: Path, what: str) -> None:
    """Refuse an adapter's file that lacks tensors, or has others, which `peft` would ignore."""
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        return
    from peft import get_peft_model_state_dict

    prefix = "base_model.model."
    stored = {key.removeprefix(prefix): value for key, value in load_tensors(file).items()}
    wanted = get_peft_model_state_dict(model, adapter_name=model.active_adapters()[0])
    shapes = {key.removeprefix(prefix): tuple(value.shape) for key, value in wanted.items()}
    lacking, unknown = sorted(shapes.keys() - stored.keys()), sorted(stored.keys() - shapes.keys())
    wrong = sorted(k for k in shapes.keys() & stored.keys() if tuple(stored[k].shape) != shapes[k])
    for keys, said in ((lacking, "lacks"), (unknown, "has unknown"), (wrong, "has other shapes of")):
        if keys:
            names = excerpt(", ".join(keys), 160)
            raise DataError(
                f"cannot load {what}: {file.name} {said} {len(keys)} tensors: {names}; save the adapter again"
            )


def _check_names(model: Any, found: dict[str, Any], what: str, new_head: bool) -> None:
    """Refuse weights that are not there, have other shapes, or are used by nothing."""
    trunk = f"{model.base_model_prefix}."
    saved = (getattr(model.config, "architectures", None) or [""])[0]
    other = "" if new_head or saved in ("", type(model).__name__) else f"it was saved as a {saved}"
    lacking = sorted(key for key in found["missing_keys"] if not new_head or key.startswith(trunk))
    unknown = excerpt(", ".join(sorted(found["unexpected_keys"])), 160)
    if lacking:
        also = f", and has others that it does not use: {unknown}" if found["unexpected_keys"] else ""
        names = excerpt(", ".join(lacking), 160)
        advice = f"{other}: take another model" if other else "save it again"
        raise DataError(f"cannot load {what}: it lacks {len(lacking)} weights: {names}{also}; {advice}")
    if found["mismatched_keys"]:
        key, stored, wanted = min(found["mismatched_keys"])
        raise DataError(
            f"cannot load {what}: the weight {excerpt(key)} has shape {tuple(stored)}, not {tuple(wanted)} "
            "as config.json says; save both again"
        )
    unused = sorted(key for key in found["unexpected_keys"] if not new_head or key.startswith(trunk))
    if unused:
        advice = other or "config.json describes another model: save both again"
        raise DataError(
            f"cannot load {what}: it has {len(unused)} weights that nothing uses: "
            f"{excerpt(', '.join(unused), 160)}; {advice}"
        )


@contextmanager
def quietly(*, bars: bool = False, warnings: bool = True) -> Iterator[None]:
    """Silence the progress bars of `transformers` and, if asked, its warnings.

    Args:
        bars: Leave progress bars on, which are for downloads.
        warnings: Leave warnings on.
    """
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    if not bars:
        logging.disable_progress_bar()
    if not warnings:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def small_gpt2(
    tokenizer: Tokenizer, *, layers: int, width: int, heads: int, context: int, dropout: float, **more: Any
) -> Any:
    """Return the configuration of a GPT-2 to be trained from scratch.

    Args:
        tokenizer: Gives vocabulary and special ids.
        layers: Of the trunk.
        width: `D`, size of the hidden states.
        heads: Of attention; a divisor of the width.
        context: Most tokens that it reads.
        dropout: Everywhere, in training alone.
        more: Other fields of `transformers.GPT2Config`.
    """
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        # GPT-2's 0.02 suits a width of 768; with it, small models do not learn to copy.
        initializer_range=width**-0.5,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_ids[0] if tokenizer.eos_ids else None,
        pad_token_id=tokenizer.pad_id,
        **more,
    )


def with_fused_gelu(model: Any) -> Any:
    """Replace GPT-2's activation, eight kernels, by PyTorch's single fused one."""
    import torch
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, torch.nn.GELU("tanh"))
    return model


def with_trunk(model: Any) -> Any:
    """Have a causal LM's `base_model` be its trunk; Llama 4's names a part that it does not have."""
    if model.base_model is model and hasattr(model, "model"):
        model.base_model_prefix = "model"
    return model
