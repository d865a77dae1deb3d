"""One trainer, ours or a peer's, that plays and learns when it reads a line: a contestant of `compare.py`.

    python benchmarks/trainers.py trl-ppo --layers 2 --width 128 --heads 4 --vocabulary 1024

Writes a line when ready and one after each iteration: `{"seconds": CPU seconds, "tokens": of the completions,
"added_bytes": most resident memory since it was ready}`. Everybody has the same model with random weights, a
GPT-2 or a Qwen3, 16 tokens of prompt, a constant reward, a reference policy, 4 epochs of 4 minibatches, and
AdamW in float32.
TRL's PPO trains a critic of its own; so does `ours-ppo-separate`, while that of `ours-ppo` is a head on the
policy's trunk. `ours-rollout` plays and does not learn; `ours-steps` only steps the environment.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

PROMPT_TOKENS, EPOCHS, MINIBATCHES, GROUP = 16, 4, 4, 8
STEPS = 4096  # of the environment, a turn
KL_COEF = 0.03
RATE = 1e-5
_REPLIES = os.fdopen(os.dup(1), "w")  # what libraries print goes elsewhere


def reply(**values: Any) -> None:
    """A line for whoever asks."""
    print(json.dumps(values), file=_REPLIES, flush=True)


class Turns:
    """Answers each line of standard input with what one iteration took."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._resident = self._started = 0.0

    def begin(self) -> None:
        """Say that all is ready, and wait for the first turn."""
        reply(ready=True)
        self._resident = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        self._wait()

    def end(self) -> None:
        """Report the iteration that just ended, and wait for the next turn."""
        seconds = time.process_time() - self._started
        reply(seconds=seconds, tokens=self._tokens, added_bytes=_memory("VmHWM") - self._resident)
        self._wait()

    def _wait(self) -> None:
        if not sys.stdin.readline():
            os._exit(0)  # the trainers know no other way to stop in time
        self._started = time.process_time()


def _memory(what: str) -> int:
    """Bytes of this process: `VmRSS`, resident now, or `VmHWM`, at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def model(options: argparse.Namespace, *, critic: bool = False) -> Any:
    """A causal language model of the family asked for; as a critic, with one output in place of the words."""
    import transformers

    last = options.vocabulary - 1  # EOS and padding
    ids = {"bos_token_id": None, "eos_token_id": last, "pad_token_id": last}
    if options.family == "qwen3":  # as wide and as deep, two heads to a group of keys and values
        config: Any = transformers.Qwen3Config(
            vocab_size=options.vocabulary,
            hidden_size=options.width,
            intermediate_size=3 * options.width,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            num_key_value_heads=options.heads // 2,
            head_dim=options.width // options.heads,
            max_position_embeddings=PROMPT_TOKENS + options.new_tokens,
            tie_word_embeddings=True,
            **ids,
        )
    else:
        config = transformers.GPT2Config(
            vocab_size=options.vocabulary,
            n_positions=PROMPT_TOKENS + options.new_tokens,
            n_embd=options.width,
            n_layer=options.layers,
            n_head=options.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **ids,
        )
    torch.manual_seed(0)
    if critic:
        config.num_labels = 1
        return transformers.AutoModelForSequenceClassification.from_config(config)
    return transformers.AutoModelForCausalLM.from_config(config)


def prompts(options: argparse.Namespace) -> list[list[str]]:
    """More than enough of them, all different."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, options.vocabulary - 1, (max(256, options.batch), PROMPT_TOKENS))
    return [[f"w{i}" for i in row] for row in ids]


def ours(options: argparse.Namespace) -> None:
    """PPO, GRPO, RLOO or a rollout of this repository."""
    from text_gym import TextVectorEnv, WordTokenizer
    from text_gym.agents import Policy, rollout
    from text_gym.agents.algorithms.by_name import load_algorithm

    tokenizer = WordTokenizer([f"w{i}" for i in range(options.vocabulary - 1)], pad=False)
    tokenizer.eos_ids = ()  # all write to the end
    policy = Policy(model(options), tokenizer, device="cpu")
    texts = [" ".join(words) for words in prompts(options)]
    env = TextVectorEnv(
        texts,
        tokenizer,
        lambda episodes: np.ones(len(episodes)),
        options.new_tokens,
        num_envs=options.batch,
        numbering="global",
    )
    _, algorithm, *critic = options.contestant.split("-")
    plays = 8 if algorithm == "rollout" and options.width < 512 else 1  # short ones are counted together
    turns = Turns(plays * options.batch * options.new_tokens)
    if algorithm == "rollout":
        turns.begin()
        for first in itertools.count(step=options.batch):
            rollout(policy, env, np.arange(first, first + options.batch))
            if first // options.batch % plays == plays - 1:
                turns.end()
    kind = load_algorithm(algorithm)
    settings: dict[str, Any] = {"epochs": EPOCHS, "minibatches": MINIBATCHES, "kl_coef": KL_COEF}
    if algorithm == "ppo":  # every minibatch of every epoch, as TRL's
        settings |= {"critic": critic[0] if critic else "shared", "target_kl": None}
    else:
        settings |= {"group_size": GROUP}
    agent = kind(policy, env, kind.config_class(iterations=10**6, learning_rate=RATE, **settings))
    turns.begin()
    agent.learn(callback=lambda *_: turns.end())


def steps(options: argparse.Namespace) -> None:
    """Steps of the environment, with actions drawn beforehand; episodes that end begin anew by themselves."""
    from text_gym import ByteTokenizer, TextVectorEnv

    env = TextVectorEnv(
        ["Write something."] * 16,
        ByteTokenizer(),
        lambda episodes: np.ones(len(episodes)),
        options.new_tokens,
        num_envs=options.batch,
    )
    rng = np.random.default_rng(0)
    actions = rng.integers(97, 123, (64, options.batch))
    actions[rng.random(actions.shape) < 0.03] = 256  # EOS
    env.reset(seed=0)
    turns = Turns(STEPS * options.batch)
    turns.begin()
    for count, action in enumerate(itertools.cycle(actions), 1):
        env.step(action)
        if count % STEPS == 0:
            turns.end()


def word_tokenizer(options: argparse.Namespace) -> Any:
    """A tokenizer of `transformers` whose words are the ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(options.vocabulary)}
    last = f"w{options.vocabulary - 1}"
    inner = Tokenizer(models.WordLevel(words, unk_token=last))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=last, eos_token=last, unk_token=last)


def trl_callback(turns: Turns, steps: int) -> Any:
    """An iteration has so many optimizer steps."""
    from transformers import TrainerCallback

    class Turn(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            turns.begin()

        def on_step_end(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
            if state.global_step % steps == 0:
                turns.end()

    return Turn()


def trl_ppo(options: argparse.Namespace) -> None:
    """TRL's PPO; EOS does not end a text."""
    from datasets import Dataset
    from torch import nn
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    class Constant(nn.Module):
        """A reward model as TRL calls it, without the costs of one."""

        base_model_prefix = "trunk"

        def __init__(self) -> None:
            super().__init__()
            self.trunk = self._trunk

        def _trunk(self, input_ids: Any, **kwargs: Any) -> Any:
            states = torch.ones(*input_ids.shape, 1)
            return type("Output", (), {"hidden_states": [states]})

        def score(self, states: Any) -> Any:
            return states

    critic = model(options, critic=True)
    tokenizer = word_tokenizer(options)
    rows = [{"input_ids": tokenizer(" ".join(words))["input_ids"]} for words in prompts(options)]
    with tempfile.TemporaryDirectory() as folder:
        config = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=options.batch,  # with this each minibatch is one optimizer step
            gradient_accumulation_steps=1,
            num_mini_batches=MINIBATCHES,
            num_ppo_epochs=EPOCHS,
            total_episodes=10**6 * options.batch,
            local_rollout_forward_batch_size=64,
            num_sample_generations=0,
            response_length=options.new_tokens,
            temperature=1.0,
            kl_coef=KL_COEF,
            **_trainer_settings(),
        )
        PPOTrainer(
            config,
            tokenizer,
            model=model(options),
            ref_model=model(options),
            reward_model=Constant(),
            value_model=critic,
            train_dataset=Dataset.from_list(rows),
            callbacks=[trl_callback(Turns(options.batch * options.new_tokens), 1)],
        ).train()


def trl_groups(options: argparse.Namespace) -> None:
    """TRL's GRPO or RLOO; EOS, one id of the vocabulary, may end a text early, which is to its advantage."""
    import trl
    from datasets import Dataset

    name = options.contestant.removeprefix("trl-").upper()
    rows = [{"prompt": " ".join(words)} for words in prompts(options)]
    with tempfile.TemporaryDirectory() as folder:
        model(options).save_pretrained(folder)  # the reference is loaded from where the model comes from
        config = getattr(trl, f"{name}Config")(
            output_dir=folder,
            per_device_train_batch_size=options.batch // MINIBATCHES,
            steps_per_generation=MINIBATCHES,
            gradient_accumulation_steps=1,
            num_iterations=EPOCHS,
            num_generations=GROUP,
            max_completion_length=options.new_tokens,
            max_steps=10**6,
            temperature=1.0,
            top_k=0,
            beta=KL_COEF,
            **_trainer_settings(),
        )
        getattr(trl, f"{name}Trainer")(
            model=type(model(options)).from_pretrained(folder),
            reward_funcs=lambda completions, **kwargs: [1.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=word_tokenizer(options),
            callbacks=[trl_callback(Turns(options.batch * options.new_tokens), EPOCHS * MINIBATCHES)],
        ).train()


def _trainer_settings() -> dict[str, Any]:
    return {
        "learning_rate": RATE,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 0,
    }


CONTESTANTS: dict[str, Callable[[argparse.Namespace], None]] = {
    **dict.fromkeys(("ours-ppo", "ours-ppo-separate", "ours-grpo", "ours-rloo", "ours-rollout"), ours),
    "ours-steps": steps,
    **dict.fromkeys(("trl-ppo", "trl-ppo-separate"), trl_ppo),
    **dict.fromkeys(("trl-grpo", "trl-rloo"), trl_groups),
}


def main() -> None:
    """Be the contestant that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("contestant", choices=CONTESTANTS)
    for name, default in {"layers": 2, "width": 128, "heads": 4, "vocabulary": 1024}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--family", choices=("gpt2", "qwen3"), default="gpt2")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=48)
    options = parser.parse_args()
    sys.stdout = sys.stderr
    CONTESTANTS[options.contestant](options)


if __name__ == "__main__":
    main()
