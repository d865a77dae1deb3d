"""What replies cost: CPU time of a rollout per token of the agent's, next to one without replies.

    python benchmarks/turn_cost.py --sizes 2x128 4x256 --tasks guess --pairs 24 --json turn_cost.json

Both play the same GPT-2 with random weights, and their agents write equally many tokens. In one, a token of
eight ends a turn, at random, and is answered by a reply of so many tokens; in the other as many tokens as the
replies have on average stand in the prompts instead. So equally many tokens are read and written, and
contexts are of equal length at the end; before that those of the conversation are shorter. No two prompts are
the same, unless `--repeat` draws them with replacement: equal prompts are read once for all their rows, which
no reply can be, so that the rollout without replies then reads only 63 % of its prompts' tokens.

A pair is one rollout of each, which goes first alternates; the interval is the bootstrap's of the pairs'
median ratio (95 %). Tasks are played with a policy of random weights, and their rows say how many tokens a
CPU second its agent writes. The shipped conversations are learnt from 256 or 512 episodes at a time.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import tyro
from machine import save
from scipy.stats import bootstrap

from text_gym import Episode, Reply, TextVectorEnv, WordTokenizer, load_task
from text_gym.agents import Policy, rollout

PROMPT, WRITTEN, TURN, VOCABULARY = 16, 32, 8, 1024  # tokens; a turn on average


@dataclass(frozen=True)
class Options:
    """Compare a rollout with replies to one without.

    Args:
        replies: Tokens of a reply, one row of the table each …
        sizes: … for each of these models, layers and width, 32 to a head.
        tasks: Conversations to play as they are.
        pairs: Rollouts of each kind, after one to warm up.
        batches: Episodes of a rollout, one row each.
        repeat: Draw prompts with replacement.
        json: File for the rows.
    """

    replies: tuple[int, ...] = (1, 4, 16)
    sizes: tuple[str, ...] = ("2x128",)
    tasks: tuple[str, ...] = ()
    pairs: int = 12
    batches: tuple[int, ...] = (256, 64)
    repeat: bool = False
    json: Path | None = None


class Says:
    """Replies the same tokens to everything."""

    def __init__(self, tokens: int) -> None:
        self.ids = list(range(tokens))

    def respond(self, episodes: Sequence[Episode], generators: Sequence[Any]) -> list[Reply]:
        """Implement `Respondent`."""
        assert all(e.turns[-1].text is not None for e in episodes)  # whoever replies has read the turn
        return [Reply(self.ids) for _ in episodes]


def environment(options: Options, batch: int, reply: int, *, turns: bool) -> TextVectorEnv:
    """The conversation, or the same without turns and with longer prompts."""
    ends = VOCABULARY // TURN
    words = [f"stop{i}." if i < ends else f"w{i}" for i in range(VOCABULARY - 1)]
    tokenizer = WordTokenizer(words, pad=False)
    tokenizer.eos_ids = ()  # all write to the end
    rng = np.random.default_rng(0)
    expected = round((WRITTEN - 1) / TURN * reply)  # a reply to the last token is read by nobody
    ids = rng.integers(0, VOCABULARY - 1, (batch, PROMPT + (0 if turns else expected)))
    talk: dict[str, Any] = {"respondent": Says(reply), "turn_stop": ".", "max_turns": WRITTEN}
    talk["max_context"] = PROMPT + WRITTEN * (1 + reply)
    return TextVectorEnv(
        [" ".join(words[i] for i in row) for row in ids],
        tokenizer,
        lambda episodes: np.ones(len(episodes)),
        WRITTEN,
        num_envs=batch,
        shuffle=options.repeat,
        **(talk if turns else {}),
    )


def measure(options: Options, reply: int, batch: int, layers: int, width: int) -> dict[str, Any]:
    """CPU microseconds a token of both kinds, which take turns, and the ratio with its interval."""
    envs = [environment(options, batch, reply, turns=turns) for turns in (True, False)]
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=PROMPT + WRITTEN * (1 + reply),
        n_embd=width,
        n_layer=layers,
        n_head=width // 32,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    policy = Policy(transformers.AutoModelForCausalLM.from_config(config), envs[0].tokenizer, device="cpu")
    costs, read = np.empty((options.pairs + 1, 2)), []
    for pair in range(options.pairs + 1):
        numbers = np.arange(batch) + pair * batch
        for which in (0, 1) if pair % 2 else (1, 0):
            began = time.process_time()
            played = rollout(policy, envs[which], numbers)
            costs[pair, which] = (time.process_time() - began) / played.num_tokens
            if which == 0:
                read.append(float(np.mean([len(e.completion_ids) for e in played.episodes])))
    ratios = costs[1:, 0] / costs[1:, 1]
    interval = bootstrap((ratios,), np.median, method="percentile", rng=np.random.default_rng(0))
    microseconds = np.median(costs[1:], axis=0) * 1e6
    return {
        "layers": layers,
        "width": width,
        "batch": batch,
        "prompts": "repeated" if options.repeat else "distinct",
        "reply_tokens": reply,
        "completion_tokens": round(float(np.mean(read)), 1),
        "agent_tokens": WRITTEN,
        "with_replies_us": round(float(microseconds[0]), 2),
        "without_us": round(float(microseconds[1]), 2),
        "ratio": float(np.median(ratios)),
        "ci95": [float(interval.confidence_interval.low), float(interval.confidence_interval.high)],
        "load": os.getloadavg()[0],
    }


def play(options: Options, task: str, batch: int, layers: int, width: int) -> dict[str, Any]:
    """The agent's tokens in a CPU second in rollouts of a task, by the median of them."""
    env = TextVectorEnv(task=load_task(task), num_envs=batch)
    context = env.batch.max_prompt_tokens + env.batch.room
    policy = Policy.new(
        env.tokenizer, layers=layers, width=width, heads=width // 32, context=context, device="cpu"
    )
    speeds = []
    for first in range(0, (options.pairs + 1) * batch, batch):
        began = time.process_time()
        played = rollout(policy, env, np.arange(first, first + batch))
        speeds.append(played.num_tokens / (time.process_time() - began))
    speed = round(float(np.median(speeds[1:])))
    about = {"task": task, "layers": layers, "width": width, "batch": batch}
    return about | {"agent_tokens_per_second": speed}


def main(options: Options) -> None:
    """Measure, and tell."""
    torch.set_num_threads(1)
    rows = []
    runs = [partial(measure, options, reply) for reply in options.replies]
    runs += [partial(play, options, task) for task in options.tasks]
    for size, batch in itertools.product(options.sizes, options.batches):
        for run in runs:
            rows.append(row := run(batch, *map(int, size.split("x"))))
            print(row, flush=True)
    if options.json is not None:
        save(options.json, rows)


if __name__ == "__main__":
    main(tyro.cli(Options))
