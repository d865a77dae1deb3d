"""LoRA (Hu et al. 2022) lets a policy learn in low-rank additions to its weights, through `peft`.

The weights themselves stay, so the reference policy is the same model with the additions switched off, and
there is no second one in memory. Quantised models are left to libraries.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from text_gym.errors import ConfigError
from text_gym.models.loading import seeded_weights
from text_gym.tokenizer import Tokenizer

from .policy import Policy

ADAPTER = "default"  # what peft calls an adapter without a name


class LoRAPolicy(Policy):
    """A policy of which only the adapter and the value head are trained.

    Every linear layer but the output layer gets an addition `2 B A` of low rank; `B` is 0 at the start, so
    that nothing changes until something is learnt.

    Args:
        policy: Whose model to take over: it is changed in place and must not be used any more.
        rank: Of the additions, at least 1.
        merge: Whether `save` adds them to the weights, which makes a folder like any other, or writes them
            alone, as an adapter of the model's own folder or hub name.
        seed: Of their random starting values.

    Raises:
        ConfigError: `peft` is not installed or cannot adapt such a model, or the rank is less than 1.
    """

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        tokenizer: Tokenizer | None = None,
        device: str = "auto",
        dtype: str = "float32",
        **settings: Any,
    ) -> LoRAPolicy:
        """Load a policy as `Policy.from_pretrained` does and put additions into it.

        Args:
            name: Folder or hub model.
            tokenizer: If it is not the folder's.
            device: As for `Policy`.
            dtype: Of the weights.
            settings: `rank`, `merge` and `seed`.

        Raises:
            DataError: As `Policy.from_pretrained`.
            ConfigError: As `LoRAPolicy`.
        """
        return cls(Policy.from_pretrained(name, tokenizer, device, dtype), **settings)

    def __init__(self, policy: Policy, rank: int = 8, *, merge: bool = True, seed: int = 0) -> None:
        if rank < 1:
            raise ConfigError(f"the rank of LoRA is {rank}; it must be at least 1")
        try:
            import peft
        except ImportError as error:
            raise ConfigError("LoRA needs peft; pip install peft") from error
        origin = policy.model.config.name_or_path
        if origin and Path(origin).is_dir():
            origin = str(Path(origin).resolve())
        settings = peft.LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            base_model_name_or_path=origin,
            fan_in_fan_out=policy.model.config.model_type
            == "gpt2",  # the prefix of an adapted layer's own weights
        )
        device = policy.device
        policy.model.requires_grad_(False)
        with seeded_weights(seed):
            try:
                peft.inject_adapter_in_model(settings, policy.model)
            except ValueError as error:  # Mamba's layers
                raise ConfigError(
                    f"LoRA is impossible with models of type {policy.model.config.model_type!r}: {error}"
                ) from error
        for weight in policy.model.parameters():
            if weight.requires_grad:  # the adapter's, which small steps would not change in bfloat16
                weight.data = weight.data.to(torch.promote_types(weight.dtype, torch.float32))
        super().__init__(policy.model, policy.tokenizer, str(device))
        self.value_head.load_state_dict(policy.value_head.state_dict())
        self._pad_token_id = policy._pad_token_id
        self.bf16 = policy.bf16
        self._settings, self._merge = settings, merge

    def frozen(self) -> Policy:
        """Return the policy without its adapter; it shares the model and copies the value head."""
        return _WithoutAdapter(self)

    def save(self, folder: str | Path) -> None:
        """Write a Hugging Face folder, merged or with the adapter alone, and the value head in a subfolder.

        `AutoModelForCausalLM` loads either; an adapter needs `peft`, and the model where it was.

        Raises:
            NonFiniteError: A weight is NaN or infinite; nothing was written.
            ConfigError: An adapter is to be written of a model that came from no folder and no hub.
        """
        if self._merge:
            super().save(folder)
            return
        if not self._settings.base_model_name_or_path:
            raise ConfigError(
                "an adapter alone could not be loaded again, since its base model is saved nowhere; merge it"
            )
        self.check_finite()
        self._save_beside(folder)
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(self.model, adapter_name=ADAPTER)
        named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
        save_file(named, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})
        self._settings.save_pretrained(str(folder))

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the model without an adapter that says the same."""
        return full_weights(self.model, merged=True)


class _WithoutAdapter(Policy):
    """A policy's frozen model with the adapter switched off and left out."""

    def __init__(self, policy: LoRAPolicy) -> None:
        nn.Module.__init__(self)
        self.tokenizer, self.vocab_size, self.bf16 = policy.tokenizer, policy.vocab_size, policy.bf16
        self._pad_token_id, self._head_options = policy._pad_token_id, policy._head_options
        self.model = policy.model
        self.value_head = copy.deepcopy(policy.value_head).requires_grad_(False)

    def hidden(self, tokens: Tensor, **kwargs: Any) -> Any:
        """Run `Policy.hidden` without the adapter."""
        with _switched_off(self.model):
            return super().hidden(tokens, **kwargs)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield all parameters but the adapter's."""
        return (found for found in super().named_parameters(*args, **kwargs) if not _of_adapter(found[0]))

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the state without the adapter's part."""
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if not _of_adapter(k)}

    def frozen(self) -> Policy:
        """Return the policy itself, which cannot be trained."""
        return self

    def weights(self) -> dict[str, Tensor]:
        """Return the model's weights as they are without the adapter."""
        return full_weights(self.model, merged=False)


def full_weights(model: nn.Module, *, merged: bool) -> dict[str, Tensor]:
    """Return a model's weights under the names they have without an adapter.

    Args:
        model: A model with an adapter.
        merged: With its additions added to them, or without.
    """
    additions: dict[str, Tensor] = {}
    for name, layer in _adapted(model) if merged else ():
        # Of a mixture of experts it is a parameter by another name, under one wrapper for each that there is.
        parameter = getattr(layer, "parameter_name", "weight")
        additions[f"{name.replace('.base_layer', '')}.{parameter}"] = layer.get_delta_weight(ADAPTER)
    weights = {}
    for name, tensor in model.state_dict().items():
        if _of_adapter(name):
            continue
        plain = name.replace(".base_layer", "")
        addition = additions.get(plain)
        weights[plain] = tensor if addition is None else tensor + addition.to(tensor.dtype)
    return weights


def _of_adapter(name: str) -> bool:
    return ".lora_" in name


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Return the adapted layers by name."""
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


@contextmanager
def _switched_off(model: nn.Module) -> Iterator[None]:
    layers = [layer for _, layer in _adapted(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
