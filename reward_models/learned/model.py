"""RewardModel: any `transformers` backbone with one output per criterion, as a reward source.

It reads text with a tokenizer of its own, whatever tokenizer wrote the episode. On disk it is an ordinary
sequence-classification folder (safetensors and JSON) with `reward_model.json` beside it. Weights in pickles
and code from a hub are refused. How it learns stands in `training`; it never sees whether an episode was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from text_gym.episode import Episode, FloatArray, Prompt
from text_gym.errors import ConfigError, DataError, RewardError, excerpt
from text_gym.models.loading import context_of, pick_device, quietly, seeded_weights, small_gpt2, usable
from text_gym.models.runtime import check_finite, upload
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.tokenizer import PretrainedTokenizer, Tokenizer
from text_gym.utils.sealed import remove_unfinished

from .backbones import (
    TEMPLATE,
    Form,
    has_segments,
    input_form,
    load_classifier,
    read_template,
    shrink_head,
)
from .scales import Scales
from .settings import read_settings, write_settings


class Encoded(NamedTuple):
    """A text as the ids the backbone reads."""

    ids: list[int]
    types: list[int]  # 0 for the prompt, 1 for the completion, where the backbone tells them apart


class RewardModel(RewardSource):
    """Scores `(prompt, completion)` by a sequence-classification model with one output a criterion.

    The reward is the weighted mean of the criteria; each of them is a term where there are several. The same
    text gets the same score alone and in any batch (up to rounding: 1e-5 in float32).

    Args:
        model: A `transformers` model for sequence classification; it is read with right padding.
        tokenizer: Its tokenizer.
        criteria: A name for each output.
        form: How prompt and completion become one text: `"plain"` one after the other with EOS at the end,
            `"pair"` as the tokenizer joins two texts (BERT and its kin), `"chat"` by its chat template, the
            prompt as user and completion as assistant.
        template: The chat template (Jinja; `transformers` runs it in a sandbox), for the form `"chat"`.
        segments: Tell prompt and completion apart by token types, for the form `"pair"` (BERT does).
        scales: Turns outputs into rewards; none by default.
        name: Shown in errors, logs and plots.
        batch_size: Texts per forward pass.
        device: `"auto"` takes CUDA where there is one.

    Attributes:
        bf16: Whether matrix products are made in bfloat16 (autocast); False until it is set. Weights, their
            gradients and what is computed from the outputs stay in float32.

    Raises:
        ConfigError: Outputs and criteria differ in number, the tokenizer has more ids than the model has
            rows, or the tokenizer cannot do what the form asks for.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        criteria: Sequence[str] = ("reward",),
        *,
        form: Form = "plain",
        template: str | None = None,
        segments: bool = False,
        scales: Scales | None = None,
        name: str = "learned",
        batch_size: int = 64,
        device: str = "auto",
    ) -> None:
        self.criteria = tuple(criteria)
        outputs = model.config.num_labels
        if outputs != len(self.criteria) or len(set(self.criteria)) != outputs:
            raise ConfigError(
                f"the model has {outputs} outputs, the criteria are {', '.join(self.criteria) or 'none'}; "
                "a reward model needs a name of its own for each output"
            )
        if form not in get_args(Form):
            raise ConfigError(f"form {form!r} is not one of {', '.join(get_args(Form))}")
        rows = model.get_input_embeddings().weight.shape[0]
        if tokenizer.vocab_size > rows:
            raise ConfigError(
                f"the tokenizer has {tokenizer.vocab_size} ids but the model {model.config.name_or_path} "
                f"only {rows} rows; they do not belong together: save both again"
            )
        if form != "plain" and not isinstance(tokenizer, PretrainedTokenizer):
            raise ConfigError(
                f"form {form!r} needs a tokenizer of Hugging Face, not {type(tokenizer).__name__}"
            )
        if form == "chat" and not template:
            raise ConfigError("form 'chat' needs the tokenizer's chat template, and it has none")
        self.tokenizer, self.form, self.name, self.batch_size = tokenizer, form, name, batch_size
        self.scales = scales or Scales.plain(len(self.criteria))
        # Models that pool over the last token find it by the padding id in their configuration.
        text_config = model.config.get_text_config()
        if text_config.pad_token_id is None:
            text_config.pad_token_id = model.config.pad_token_id = tokenizer.pad_id
        self._pad_id = int(text_config.pad_token_id)
        self.segments = segments
        self.bf16 = False
        self.model = model.to(pick_device(device)).eval()
        self.template = template
        self._chat: Any = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        form: Form | None = None,
        batch_size: int = 64,
        device: str = "auto",
    ) -> RewardModel:
        """Load a folder saved here, or any folder or hub model for sequence classification with one output.

        Args:
            name: The folder, or the model's name on a hub.
            form: See the class; if None, what was saved, else what the tokenizer suggests: a chat template,
                the joining of pairs, or neither.
            batch_size: Texts per forward pass.
            device: `auto`, `cpu`, `cuda`, …

        Raises:
            DataError: There is no such model, it is broken, not in safetensors, or needs code from a hub.
            ConfigError: It has several outputs and no names for them.
        """
        settings = read_settings(Path(name))
        model = load_classifier(name)
        tokenizer, template = PretrainedTokenizer.from_pretrained(name), read_template(name)
        count = model.config.num_labels
        if count != 1 and "criteria" not in settings:
            labels = ", ".join(str(label) for label in model.config.id2label.values())
            raise ConfigError(
                f"{str(name)!r} is a classifier of {count} labels ({labels}); a reward model has one output"
            )
        scales = Scales.from_dict(settings["scales"]) if "scales" in settings else None
        if settings.get("tokenizer", tokenizer.fingerprint) != tokenizer.fingerprint:
            raise DataError(
                f"{name} was saved with another tokenizer, whose ids mean other texts; restore it, or train "
                "the reward model again"
            )
        found = cls(
            model,
            tokenizer,
            settings.get("criteria", ("reward",)),
            form=form or settings.get("form") or input_form(tokenizer, template),
            template=template,
            segments=settings.get("segments", has_segments(name)),
            scales=scales,
            name=settings.get("name") or Path(name).name,
            batch_size=batch_size,
            device=device,
        )
        found.try_out(name)
        return found

    @classmethod
    def from_backbone(
        cls,
        name: str | Path,
        criteria: Sequence[str] = ("reward",),
        *,
        form: Form | None = None,
        seed: int = 0,
        batch_size: int = 64,
        device: str = "auto",
    ) -> RewardModel:
        """Make a model to train: the trunk of any folder or hub model, with a new head of small weights.

        Args:
            name: Folder or hub model; a language model's own policy folder is a good start for its texts.
            criteria: What the outputs are called.
            form: See the class; what the tokenizer suggests if None.
            seed: Decides the head's weights.
            batch_size: Texts per forward pass.
            device: `auto`, `cpu`, `cuda`, …

        Raises:
            DataError: There is no such model, or it is not in safetensors.
        """
        tokenizer, template = PretrainedTokenizer.from_pretrained(name), read_template(name)
        with seeded_weights(seed):
            labels = dict(enumerate(criteria))
            model = load_classifier(name, new_head=True, num_labels=len(criteria), id2label=labels)
        shrink_head(model, seed)
        return cls(
            model,
            tokenizer,
            criteria,
            form=form or input_form(tokenizer, template),
            template=template,
            segments=has_segments(name),
            batch_size=batch_size,
            device=device,
        )

    @classmethod
    def new(
        cls,
        tokenizer: Tokenizer,
        criteria: Sequence[str] = ("reward",),
        *,
        layers: int = 2,
        width: int = 64,
        heads: int = 4,
        context: int = 256,
        dropout: float = 0.0,
        seed: int = 0,
        device: str = "auto",
    ) -> RewardModel:
        """Make a small GPT-2 with random weights, to be trained from scratch."""
        from transformers import GPT2ForSequenceClassification

        config = small_gpt2(
            tokenizer,
            layers=layers,
            width=width,
            heads=heads,
            context=context,
            dropout=dropout,
            id2label=dict(enumerate(criteria)),
        )
        with seeded_weights(seed):
            model = GPT2ForSequenceClassification(config)
        shrink_head(model, seed)
        return cls(model, tokenizer, criteria, device=device)

    @property
    def context(self) -> int | None:
        """The largest number of tokens the backbone can read, or None."""
        return context_of(self.model)

    def encode(self, prompt: Prompt | str, completion: str) -> Encoded:
        """Encode a text for the backbone; a plain prompt that is too long loses its start.

        A conversation is rendered anew by the backbone's own chat template, if it has the form `"chat"`.

        Raises:
            RewardError: The text has no tokens, or the completion alone does not fit the context.
        """
        prompt = Prompt(prompt) if isinstance(prompt, str) else prompt
        if self.form == "plain":
            before, after = self.tokenizer.encode(prompt.text), self.tokenizer.encode(completion)
            after += self.tokenizer.eos_ids[:1]
            room = None if self.context is None else max(0, self.context - len(after))
            before = before if room is None else before[len(before) - min(room, len(before)) :]
            encoded = Encoded(before + after, [0] * len(before) + [1] * len(after))
        else:
            assert isinstance(self.tokenizer, PretrainedTokenizer)
            backend = self.tokenizer.backend
            if self.form == "pair":
                found = backend.encode(prompt.text, completion, add_special_tokens=True)
            else:
                found = backend.encode(self._render(prompt, completion), add_special_tokens=False)
            encoded = Encoded(list(found.ids), list(found.type_ids))
        if not encoded.ids or (self.context is not None and len(encoded.ids) > self.context):
            raise RewardError(
                f"reward {self.name!r}: prompt {excerpt(prompt.text)} with completion {excerpt(completion)} "
                f"has {len(encoded.ids)} tokens; the model reads 1 to {self.context or 'any number'}"
            )
        return encoded

    def outputs(self, texts: Sequence[Encoded]) -> Tensor:
        """Run the model on one padded batch and return `(n, criteria)` outputs, with gradients if enabled."""
        device = next(self.model.parameters()).device
        width = max(len(t.ids) for t in texts)

        def padded(rows: list[list[int]], fill: int) -> Tensor:
            return upload(torch.tensor([row + [fill] * (width - len(row)) for row in rows]), device)

        inputs = {
            "input_ids": padded([t.ids for t in texts], self._pad_id),
            "attention_mask": padded([[1] * len(t.ids) for t in texts], 0),
        }
        if self.segments and self.form == "pair":
            inputs["token_type_ids"] = padded([t.types for t in texts], 0)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            logits: Tensor = self.model(**inputs).logits
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @torch.no_grad()
    def raw_scores(self, texts: Sequence[tuple[Prompt | str, str]]) -> FloatArray:
        """Return the outputs before scaling, `(n, criteria)` float64."""
        encoded = [self.encode(*text) for text in texts]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))  # so that little is padded
        result = np.zeros((len(encoded), len(self.criteria)))
        for i in range(0, len(order), self.batch_size):
            rows = order[i : i + self.batch_size]
            result[rows] = self.outputs([encoded[j] for j in rows]).double().cpu().numpy()
        return result

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Weighted mean of the criteria, each of them as a term where there are several."""
        raw = self.raw_scores([(e.prompt, e.completion) for e in episodes])
        return self.scales.rewards(raw, self.criteria)

    def normalise(self, episodes: Sequence[Episode]) -> RewardModel:
        """Scale so that on these reference samples each criterion has mean 0 and standard deviation 1.

        It keeps the KL coefficient's meaning from one model to the next (Ziegler et al. 2019, section 2.2).

        Raises:
            ConfigError: There are fewer than two samples, or a criterion is the same for all of them.
        """
        raw = self.raw_scores([(e.prompt, e.completion) for e in episodes])
        self.scales = self.scales.standardised(raw, self.criteria)
        return self

    @torch.no_grad()
    def try_out(self, name: str | Path) -> None:
        """Score a few tokens, so that a `config.json` that does not fit shows before any text is scored.

        Raises:
            DataError: The model raised, or its score is no number.
        """
        with usable(name):
            ids = list(range(min(4, self.context or 4, self.tokenizer.vocab_size)))
            score = self.outputs([Encoded(ids, [0] * len(ids))])
        if not score.isfinite().all():
            raise DataError(f"the reward model in {name} gives NaN or infinity; train it again")

    def check_finite(self) -> None:
        """Raise an error if a weight is not finite.

        Raises:
            NonFiniteError: A weight is NaN or infinite; its tensor is named.
        """
        check_finite(self.model)

    def save(self, folder: str | Path) -> None:
        """Write the folder; `from_pretrained` and `AutoModelForSequenceClassification` read it.

        Raises:
            NonFiniteError: A weight is NaN or infinite; nothing was written.
            ConfigError: The tokenizer is not one of Hugging Face, so it cannot be saved.
        """
        self.check_finite()
        if not isinstance(self.tokenizer, PretrainedTokenizer):
            raise ConfigError(f"a {type(self.tokenizer).__name__} cannot be saved; use a PretrainedTokenizer")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        with quietly():
            self.model.save_pretrained(folder)
        self.tokenizer.save(folder)
        if self.template is not None:
            (folder / TEMPLATE).write_text(self.template, encoding="utf-8")
        content = {"name": self.name, "criteria": self.criteria, "form": self.form, "segments": self.segments}
        content["tokenizer"] = self.tokenizer.fingerprint
        write_settings(folder, "transformer", {**content, "scales": self.scales.to_dict()})

    def _render(self, prompt: Prompt, completion: str | None) -> str:
        """Render a conversation: the user says the prompt, the assistant the completion, or nothing yet."""
        if self._chat is None:
            from transformers import PreTrainedTokenizerFast

            assert isinstance(self.tokenizer, PretrainedTokenizer)
            backend, own = self.tokenizer.backend, self.tokenizer
            special = {"bos_token": own.bos_id, "eos_token": own.eos_ids[0] if own.eos_ids else None}
            names = {k: backend.id_to_token(i) for k, i in special.items() if i is not None}
            self._chat = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
        asked = prompt.messages or [{"role": "user", "content": prompt.text}]
        turns = [*asked, *([] if completion is None else [{"role": "assistant", "content": completion}])]
        how = {"chat_template": self.template, "add_generation_prompt": completion is None}
        return str(self._chat.apply_chat_template(turns, tokenize=False, **how))
