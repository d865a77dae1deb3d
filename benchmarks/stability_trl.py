"""TRL 1.12's PPO as a candidate of `stability.py`, run by an interpreter that need not know text-gym.

    PYTHON stability_trl.py FOLDER

`FOLDER/job.json` says what to do, `FOLDER/policy` is trained in place. It asks on standard output what texts
are worth, `{"prompts": ids, "completions": ids}`, reads `{"rewards": numbers}`, and writes `{"row": numbers}`
after each iteration. All settings are TRL's defaults but those that are the task's: temperature 1, EOS ends a
text, the token limit, the KL coefficient, and how many episodes are played.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

_REPLIES = os.fdopen(os.dup(1), "w")  # what libraries print goes elsewhere


def reply(**values: Any) -> None:
    """A line for whoever started this."""
    print(json.dumps(values), file=_REPLIES, flush=True)


class Asks(nn.Module):
    """A reward model as TRL calls it, that asks somebody else.

    Args:
        context: Tokens of a prompt with its padding.
        eos: Id of EOS.
    """

    base_model_prefix = "trunk"

    def __init__(self, context: int, eos: int) -> None:
        super().__init__()
        self.context, self.eos = context, eos
        self.trunk = self._trunk
        self.cut: list[bool] = []

    def _trunk(self, input_ids: Any, attention_mask: Any, **kwargs: Any) -> Any:
        def parts(columns: slice) -> list[list[int]]:
            pairs = zip(input_ids[:, columns], attention_mask[:, columns], strict=True)
            return [ids[there.bool()].tolist() for ids, there in pairs]

        completions = parts(slice(self.context, None))
        self.cut += [self.eos not in ids for ids in completions]
        reply(prompts=parts(slice(0, self.context)), completions=completions)
        rewards = torch.tensor(json.loads(sys.stdin.readline())["rewards"])
        states = rewards[:, None, None].expand(*input_ids.shape, 1)
        return type("Output", (), {"hidden_states": [states]})

    def score(self, states: Any) -> Any:
        """The rewards are there already."""
        return states


def reporter(asks: Asks) -> Any:
    """A callback that reports each iteration."""
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        started = 0.0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if not logs or "objective/kl" not in logs:
                return
            now = time.perf_counter()
            cut, asks.cut = asks.cut, []
            reply(
                row={
                    "reward": logs["objective/scores"],
                    "kl": logs["objective/kl"],
                    "objective": logs["objective/scores"] - args.kl_coef * logs["objective/kl"],
                    "truncated": sum(cut) / len(cut),
                    "updates": args.num_ppo_epochs * args.num_mini_batches,
                    "episodes": logs["episode"],
                    "seconds": now - self.started,
                }
            )
            self.started = now

    return Reporter()


def main(folder: Path) -> None:
    """Train and save the policy."""
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    policy = folder / "policy"
    tokenizer = AutoTokenizer.from_pretrained(policy, padding_side="left")
    context = max(map(len, job["prompts"]))
    asks = Asks(context, tokenizer.eos_token_id)
    config = PPOConfig(
        output_dir=str(folder / "trl"),
        seed=job["seed"],
        total_episodes=job["iterations"] * job["episodes"],
        response_length=job["max_tokens"],
        kl_coef=job["kl_coef"],
        **{
            "per_device_train_batch_size": job["episodes"],
            "temperature": 1.0,
            "stop_token": "eos",
            "num_sample_generations": 0,
            "report_to": [],
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "save_strategy": "no",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            **job["changes"],
        },
    )
    trainer = PPOTrainer(
        config,
        tokenizer,
        model=AutoModelForCausalLM.from_pretrained(policy),
        ref_model=AutoModelForCausalLM.from_pretrained(policy),
        reward_model=asks,
        value_model=AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1),
        train_dataset=Dataset.from_list([{"input_ids": ids} for ids in job["prompts"]]),
        data_collator=DataCollatorWithPadding(tokenizer, padding="max_length", max_length=context),
        callbacks=[reporter(asks)],
    )
    trainer.train()
    trainer.model.policy.save_pretrained(policy)


if __name__ == "__main__":
    sys.stdout = sys.stderr
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
