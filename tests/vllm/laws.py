"""The laws of the vLLM generator on a tiny model; run in its environment by `python -m tests.vllm`."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from text_gym import ByteTokenizer, TextVectorEnv
from text_gym.agents import GRPO, GRPOConfig, Policy, VLLMGenerator, rollout
from text_gym.errors import GeneratorError

ROWS, TOKENS = 16, 16
LONG = ["x" * 200, "y" * 190]  # longer than a block of the prefix cache, which are 128


def world(prompts: list[str], tokenizer: Any) -> TextVectorEnv:
    return TextVectorEnv(prompts, tokenizer, lambda completion: float(len(completion)), TOKENS, num_envs=ROWS)


def played(policy: Policy, engine: VLLMGenerator, prompts: list[str]) -> dict[str, float]:
    """The gap of a rollout."""
    batch = rollout(policy, world(prompts, policy.tokenizer), np.arange(ROWS), generator=engine)
    return batch.generator_metrics()


class Lossy:
    """Hands over everything but the output layer, which shares the embedding's weights."""

    def __init__(self, engine: VLLMGenerator) -> None:
        self.engine, self.tolerance, self.generate = engine, engine.tolerance, engine.generate

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self.engine.load({name: w for name, w in weights.items() if name != "lm_head.weight"})


def main() -> int:
    """Try every law and print what was found; status 1 if one does not hold."""
    began, threads = time.perf_counter(), torch.get_num_threads()
    noise = torch.get_rng_state()
    tokenizer = ByteTokenizer()
    policy = Policy.new(tokenizer, width=64, heads=2, layers=2, context=320, device="cpu")
    engine = VLLMGenerator(policy)
    found: dict[str, Any] = {"start seconds": time.perf_counter() - began}
    left = torch.get_num_threads() == threads and torch.equal(noise, torch.get_rng_state())
    config = GRPOConfig(iterations=3, group_size=4, learning_rate=1e-2, warmup=0)
    agent = GRPO(policy, world(["abc", "de"], tokenizer), config, generator=engine)
    rows: list[dict[str, Any]] = []
    played(policy, engine, LONG)  # its cache is full of states of the starting weights
    agent.learn(callback=lambda _, metrics: rows.append(dict(metrics)))
    found["gaps of GRPO"] = [row["generator_gap"] for row in rows]
    found["gap of long prompts after updates"] = played(policy, engine, LONG)["generator_gap"]
    first, second = (
        rollout(policy, world(["abc"], tokenizer), np.arange(ROWS), generator=engine).tokens for _ in range(2)
    )
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(1.3)
    try:
        rollout(policy, world(LONG, tokenizer), np.arange(ROWS), generator=Lossy(engine))  # type: ignore[arg-type]
        found["without lm_head"] = "played"
    except GeneratorError as error:
        found["without lm_head"] = str(error)
    found["gap of the whole state after it"] = played(policy, engine, LONG)["generator_gap"]
    found["gap of a saved folder"] = gap_of_folder(policy)
    laws = {
        "the process is left as it was": left,
        "gap < 1e-5 after two updates": max(found["gaps of GRPO"]) < 1e-5,
        "updates happened": all(row["grad_norm"] > 0 for row in rows),
        "gap < 1e-5 on long prompts after an update": found["gap of long prompts after updates"] < 1e-5,
        "the same seeds give the same tokens": torch.equal(first, second),
        "a state without lm_head is refused": "other weights" in found["without lm_head"],
        "the whole state sets it right": found["gap of the whole state after it"] < 1e-5,
        "a saved folder loads": found["gap of a saved folder"] < 1e-5,
    }
    print(json.dumps({**found, "laws": laws}, indent=1))
    return int(not all(laws.values()))


def gap_of_folder(policy: Policy) -> float:
    """Have vLLM load the folder that `Policy.save` writes, by itself; its mean gap on one text."""
    import tokenizers
    import transformers
    import vllm

    with tempfile.TemporaryDirectory() as folder:
        policy.save(folder)
        words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
        llm = vllm.LLM(folder, dtype="float32", max_model_len=64, enforce_eager=True)
    how = vllm.SamplingParams(max_tokens=8, logprobs=0, seed=0, ignore_eos=True, detokenize=False)
    (request,) = llm.generate([{"prompt_token_ids": [97, 98, 99]}], how, use_tqdm=False)
    said = request.outputs[0]
    ids = torch.tensor([[97, 98, 99, *said.token_ids]])
    with torch.no_grad():
        ours = policy.score(ids, torch.tensor([3]), torch.tensor([8]))[0]
    theirs = [entry[token].logprob for token, entry in zip(said.token_ids, said.logprobs, strict=True)]
    return float((ours - torch.tensor(theirs)).abs().mean())


if __name__ == "__main__":
    sys.exit(main())
