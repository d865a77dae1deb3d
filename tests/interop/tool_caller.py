"""A small chat model that calls the tool `say` with a number; a user of TRL has a real one.

It knows Qwen's chat template, and nothing of the game: its numbers are drawn at random.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

NAME = "tool-caller"
QUESTION = "Find my number with the tool.?"  # the page's, and behind it the prompt of the task
STEPS = 240


def conversation(rng: random.Random) -> list[dict[str, Any]]:
    """Return three calls with random numbers, random answers, and a last word."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
    for _ in range(3):
        call = {"name": "say", "arguments": {"text": str(rng.randint(1, 7))}}
        messages.append(
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]}
        )
        messages.append({"role": "tool", "name": "say", "content": rng.choice("<>")})
    return [*messages, {"role": "assistant", "content": "Done."}]


def make(folder: Path) -> None:
    """Make the model and its tokenizer in a folder, if they are not there."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
    from transformers.utils.chat_template_utils import get_json_schema
    from trl.chat_template_utils import qwen2_5_chat_template

    from text_gym import load_task
    from text_gym.agents.adapters.trl import environment_factory

    if (folder / NAME).exists():
        return
    torch.manual_seed(0)
    rng = random.Random(0)
    tools: list[Any] = [get_json_schema(environment_factory(load_task("guess"))().say)]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    plain.decoder = decoders.ByteLevel()
    shown = json.dumps(tools) + qwen2_5_chat_template
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    plain.train_from_iterator([shown], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token=special[0],
        eos_token=special[2],
        chat_template=qwen2_5_chat_template,
    )
    texts = [
        tokenizer.apply_chat_template(conversation(rng), tools=tools, tokenize=False) for _ in range(512)
    ]
    rows = tokenizer(texts, padding=True, return_tensors="pt")
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config)
    labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
    first = tokenizer.convert_tokens_to_ids("<|im_start|>")
    starts = (rows["input_ids"] == first).int().cumsum(dim=1)
    labels = labels.masked_fill(starts < 3, -100)  # the system's and the user's words are not learned
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        at = torch.randint(len(texts), (8,))
        inputs = {name: values[at] for name, values in rows.items() if name != "token_type_ids"}
        model(**inputs, labels=labels[at]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / NAME)
    tokenizer.save_pretrained(folder / NAME)
