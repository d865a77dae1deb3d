"""Policy is a causal language model with a value head; a frozen copy is the reference policy.

Sequences are right-padded, prompt and completion without a gap, so causal attention needs no mask
and positions count from 0; log-probabilities are over the tokenizer's `V` ids only, however far the
model's own vocabulary is padded. How tokens are drawn is the sampler's business.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from text_gym.errors import ConfigError
from text_gym.models.cpu.fast_path import fast_path, fixed_linear
from text_gym.models.kv_cache import RolloutWeights
from text_gym.models.loading import (
    context_of,
    digest_of,
    load_model,
    pick_device,
    quietly,
    seeded_weights,
    small_gpt2,
    usable,
    with_fused_gelu,
    with_trunk,
)
from text_gym.models.runtime import check_finite, layers_in_training, on_host, upload
from text_gym.models.sizes import sizes_of
from text_gym.tokenizer import PretrainedTokenizer, Tokenizer
from text_gym.utils.sealed import remove_unfinished

from .columns import ends_of, own_states
from .heads import check_output_head, load_value_head, logit_options, save_value_head
from .memory import Splitter, log_probs_of_logits, plain_head, token_log_probs

FUSED = ("cpu", "cuda")  # devices with a fused AdamW


class Evaluation(NamedTuple):
    """A policy's evaluation of given completions; entries past a completion's end are 0."""

    log_probs: Tensor  # (B, T), nats, of the tokens taken
    values: Tensor  # (B, T), of the state before each token
    entropy: Tensor  # (B, T), nats


class Policy(nn.Module):
    """Any `transformers` causal LM with a linear value head on its last hidden state.

    Args:
        model: The causal LM.
        tokenizer: Its tokenizer; the model may have more rows than the tokenizer has ids.
        device: `"auto"` takes CUDA where there is one.

    Attributes:
        bf16: Whether matrix products are made in bfloat16, whatever the weights are (see `use_less_memory`).

    Raises:
        ConfigError: The model has fewer rows than the tokenizer has ids, or an unknown output head.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, device: str = "auto") -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size
        rows = model.get_output_embeddings().weight.shape[0]
        if rows < self.vocab_size:
            raise ConfigError(
                f"the tokenizer has {self.vocab_size} ids but the "
                f"{f'model {model.config.name_or_path}'.rstrip()} only {rows}; they do not belong together: "
                "save both again"
            )
        self.model = with_trunk(with_fused_gelu(model))
        self.bf16 = False
        # With a padding id in its config a model looks for it in every input and warns. We pad on
        # the right, where causal attention never looks; the id is put back when saving.
        self._pad_token_id = getattr(model.config, "pad_token_id", None)  # Gemma 3 may have none
        model.config.pad_token_id = None
        width = model.get_output_embeddings().weight.shape[1]  # OPT-350m's blocks are wider
        self.value_head = nn.utils.skip_init(nn.Linear, width, 1)  # do not draw from the global generator
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self._head_options = logit_options(model)  # looked up once because configurations are slow
        self.to(pick_device(device))
        self.value_head.to(torch.promote_types(next(model.parameters()).dtype, torch.float32))
        self.eval()  # dropout stays off in sampling, scoring and updates; only SFT turns it on
        check_output_head(model, lambda x: self.logits(self.hidden(x).last_hidden_state), self.vocab_size)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        tokenizer: Tokenizer | None = None,
        device: str = "auto",
        dtype: str = "float32",
    ) -> Policy:
        """Load a folder or hub model in safetensors, with its tokenizer and, if saved, its value head.

        Raises:
            DataError: There is no such model, it is broken, not in safetensors, or has another tokenizer.
        """
        model = load_model("AutoModelForCausalLM", name, "a causal language model", dtype=dtype)
        with usable(name):
            policy = cls(model, tokenizer or PretrainedTokenizer.from_pretrained(name), device)
        load_value_head(policy.value_head, Path(name), policy.tokenizer.fingerprint)
        return policy

    @classmethod
    def new(
        cls,
        tokenizer: Tokenizer,
        *,
        layers: int = 2,
        width: int = 64,
        heads: int = 4,
        context: int = 256,
        dropout: float = 0.0,
        seed: int = 0,
        device: str = "auto",
    ) -> Policy:
        """Make a small GPT-2 with random weights, to be trained from scratch; only SFT turns dropout on."""
        size = {"layers": layers, "width": width, "heads": heads, "context": context}
        with seeded_weights(seed):
            from transformers import GPT2LMHeadModel  # transformers is not imported by two threads at once

            config = small_gpt2(tokenizer, **size, dropout=dropout)
            return cls(GPT2LMHeadModel(config), tokenizer, device)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        weight: Tensor = self.value_head.weight
        return weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of logits, log-probabilities and values: at least float32, whatever the weights are."""
        return torch.promote_types(self.value_head.weight.dtype, torch.float32)

    @property
    def weights_dtype(self) -> str:
        """The name of the dtype of the model's weights; the value head has float32 at least."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    @property
    def token_bytes(self) -> int:
        """The estimated bytes the trunk keeps per token for a backward pass: 32 numbers a layer and unit."""
        config = self.model.config.get_text_config()
        return int(32 * config.num_hidden_layers * config.hidden_size * self.dtype.itemsize)

    @cached_property
    def context(self) -> int | None:
        """The largest number of tokens the model can read, or None; see `context_of`."""
        return context_of(self.model)

    def hidden(self, tokens: Tensor, **kwargs: Any) -> Any:
        """Run the trunk; `last_hidden_state` of its output is `(B, S, D)`.

        Args:
            tokens: `(B, S)` int64.
            **kwargs: `attention_mask`, `position_ids`, `past_key_values`, as in `transformers`.
        """
        with self._precision():
            return self.model.base_model(input_ids=tokens, **{"use_cache": False, **kwargs})

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute logits `(..., V)` of hidden states `(..., D)` over the tokenizer's ids, in `dtype`."""
        with self._precision():
            logits: Tensor = self.model.get_output_embeddings()(hidden)
        logits = logits[..., : self.vocab_size].to(self.dtype)
        times, divided_by, cap = self._head_options
        if times:
            logits = logits * times
        if divided_by:
            logits = logits / divided_by
        if cap:
            logits = cap * torch.tanh(logits / cap)
        return logits

    def logits_of_fixed_weights(self, weights: RolloutWeights = "float32") -> Callable[[Tensor], Tensor]:
        """Return a function like `logits` for `(n, D)` states, valid while the weights stay as they are."""
        head = plain_head(self.model, self.vocab_size, self._head_options)
        if head is None or head.weight.dtype != self.dtype or head.scale != 1 or head.cap is not None:
            return self.logits
        if self.bf16 or head.weight.device.type != "cpu":
            return self.logits
        return fixed_linear(head.weight, head.bias, weights)

    def values(self, hidden: Tensor) -> Tensor:
        """Compute values `(...)` of hidden states `(..., D)`, in `dtype`."""
        hidden = hidden.to(self.value_head.weight.dtype)
        return self.value_head(hidden).squeeze(-1).to(self.dtype)  # type: ignore[no-any-return]

    def evaluate(
        self,
        tokens: Tensor,
        starts: Tensor,
        lengths: Tensor,
        *,
        temperature: float = 1.0,
        entropy: bool = False,
        action_masks: Tensor | None = None,
    ) -> Evaluation:
        """Compute log-probabilities and values of completions in one pass through the trunk.

        Args:
            tokens: `(B, S)` int64, right-padded.
            starts: `(B,)` int64, prompt lengths `P_i` (at least 1); best on the host, as the next ones, since
                it has to read them. Or `(B, >= T)` int64 on the host, the column of each token, where others
                that are only read stand between them.
            lengths: `(B,)` int64, completion lengths `T_i`.
            temperature: The distribution is softmax(logits / temperature), as it was sampled from.
            entropy: Compute the entropy too (zeros if not).
            action_masks: `(B, >= T, V)` bool, tokens that could be drawn; None means all.

        Returns:
            Tensors `(B, T)`, `T` the longest completion.
        """
        trunk = self.model.base_model
        starts, lengths = starts.cpu(), lengths.cpu()
        states, embedding = states_before(trunk, tokens, starts, lengths, self.hidden, bf16=self.bf16)
        shape, rows, steps, at = places(starts, lengths, tokens.device)
        taken = tokens[rows, at]
        head = plain_head(self.model, self.vocab_size, self._head_options, temperature, embedding)
        if head is not None and action_masks is None:
            with self._precision():
                said, h = token_log_probs(states, taken, head, entropy=entropy)
        else:
            allowed = None if action_masks is None else action_masks[rows, steps]
            said, h = log_probs_of_logits(self.logits(states) / temperature, taken, allowed, entropy=entropy)
        zeros, where = said.new_zeros(shape), (rows, steps)
        log_probs, values = (zeros.index_put(where, x) for x in (said, self.values(states)))
        return Evaluation(log_probs, values, zeros.index_put(where, h) if entropy else zeros)

    @torch.no_grad()
    def score(
        self,
        tokens: Tensor,
        starts: Tensor,
        lengths: Tensor,
        *,
        temperature: float = 1.0,
        action_masks: Tensor | None = None,
        rows: int | None = None,
    ) -> Tensor:
        """Compute completions' log-probabilities `(B, T)` in nats without gradients, some rows at a time."""
        starts, lengths = on_host(starts, lengths)
        result = torch.zeros(len(tokens), int(lengths.max()), dtype=self.dtype, device=tokens.device)

        def fill(parts: list[Tensor]) -> None:
            for part in parts:
                here = upload(part, tokens.device)
                given = tokens[here], starts[part], lengths[part]
                masks = None if action_masks is None else action_masks[here]
                said = self.evaluate(*given, temperature=temperature, action_masks=masks).log_probs
                result[here, : said.shape[1]] = said

        ends = starts + lengths if starts.ndim == 1 else ends_of(starts, lengths)
        Splitter(self.device, rows or sizes_of(self.device).scored_rows).run(ends, fill)
        return result

    def use_less_memory(self, *, bf16: bool = False, gradient_checkpointing: bool = False) -> Policy:
        """Trade precision or time for memory, and return the policy.

        Args:
            bf16: Make matrix products in bfloat16 (autocast), which is also faster where the hardware has
                instructions for it. Weights, their gradients and log-probabilities stay what they are.
            gradient_checkpointing: Keep what enters a layer only, and compute the rest again in the backward
                pass: a third more work, the same gradient.

        Raises:
            ConfigError: The model's architecture has no gradient checkpointing.
        """
        self.bf16 = bf16
        if gradient_checkpointing:
            old = self.model.gradient_checkpointing_enable  # what transformers 4 calls it
            enable = getattr(self.model, "activation_checkpointing_enable", old)
            try:
                enable({"use_reentrant": False})
            except ValueError as error:
                raise ConfigError(f"gradient checkpointing is impossible here: {error}") from error
        return self

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.value_head.weight.device.type, torch.bfloat16, enabled=self.bf16)

    def check_finite(self) -> None:
        """Raise `NonFiniteError`, which names the tensor, if a weight is NaN or infinite."""
        check_finite(self)

    def frozen(self) -> Policy:
        """Return a copy whose weights cannot be trained, to serve as the reference policy."""
        reference = copy.deepcopy(self)
        reference.requires_grad_(False)
        return reference

    def digest(self) -> str:
        """Hash the weights and buffers with their names, shapes and dtypes (SHA-256, 64 hex digits).

        Policies with the same digest give every text the same probability, also after saving and loading; the
        tokenizer is not part of it.
        """
        return digest_of(self)

    def save(self, folder: str | Path) -> None:
        """Write a Hugging Face folder (`AutoModelForCausalLM` loads it) and the value head in a subfolder.

        Raises:
            NonFiniteError: A weight is NaN or infinite; nothing was written.
        """
        self.check_finite()
        self._save_beside(folder)
        if self._pad_token_id is not None:
            self.model.config.pad_token_id = self._pad_token_id
        try:
            with quietly():
                self.model.save_pretrained(folder, state_dict=self.weights())
        finally:
            self.model.config.pad_token_id = None

    def weights(self) -> dict[str, Tensor]:
        """Return the model's weights by the names that Hugging Face gives them, tied ones twice."""
        state: dict[str, Tensor] = self.model.state_dict()
        return state

    def _save_beside(self, folder: str | Path) -> None:
        """Write everything but the model: value head and tokenizer."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        save_value_head(self.value_head, folder, self.tokenizer.fingerprint)
        if isinstance(self.tokenizer, PretrainedTokenizer):
            self.tokenizer.save(folder)


def places(
    starts: Tensor, lengths: Tensor, device: torch.device
) -> tuple[torch.Size, Tensor, Tensor, Tensor]:
    """Return the positions of the completions' tokens.

    Args:
        starts: `(B,)` int64 on the host, prompt lengths, or `(B, >= T)`, the tokens' columns.
        lengths: `(B,)` int64 on the host, completion lengths, `T` the longest and `N` their sum.
        device: Where the positions are wanted.

    Returns:
        The shape `(B, T)`; of every token its row, its place in the completion, and its column in the text,
        `(N,)` each.
    """
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    rows, steps = mask.nonzero(as_tuple=True)
    at = starts[rows] + steps if starts.ndim == 1 else starts[rows, steps]
    rows, steps, at = upload(torch.stack((rows, steps, at)), device)
    return mask.shape, rows, steps, at


def states_before(
    trunk: nn.Module,
    tokens: Tensor,
    starts: Tensor,
    lengths: Tensor,
    hidden: Callable[[Tensor], Any],
    *,
    bf16: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the trunk's states from which the completions' tokens are drawn, `(N, D)`, ordered as `places`.

    With them come the embedding's weights, which an output layer that has the same ones is to use, or None.

    Args:
        trunk: Any model's.
        tokens: `(B, S)` int64, right-padded.
        starts: `(B,)` int64 on the host, prompt lengths, or `(B, >= T)`, the tokens' columns.
        lengths: `(B,)` int64 on the host, completion lengths; `N` is their sum.
        hidden: Reads `(B, S)` tokens through the trunk, as `transformers` does.
        bf16: It does so in bfloat16.
    """
    gaps = starts.ndim > 1
    ends = ends_of(starts, lengths) if gaps else starts + lengths
    tokens = tokens[:, : int(ends.max()) - 1]  # nobody needs the states from the last token on
    path = None if bf16 else fast_path(trunk)
    if path is not None and path.can_update:
        if not gaps:
            return path.states(tokens, starts, lengths)
        firsts, spans, own = own_states(starts, lengths)
        states, weights = path.states(tokens, firsts, spans)
        return states[own], weights
    _, rows, _, at = places(starts, lengths, tokens.device)
    with layers_in_training(trunk):
        hidden_states: Tensor = hidden(tokens).last_hidden_state
    return hidden_states[rows, at - 1], None
