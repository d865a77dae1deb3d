"""Rollouts with weights of 8 bits against float32 and `model.generate`, in tokens per CPU second, one thread.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/rollout_weights.py [FOLDER] [--ctranslate2 PYTHON]

FOLDER is a model's, such as the SmolLM2-135M that `python -m tests.real` makes; without it GPT-2's 124M shape
with random weights is tried. "draws" are the sampler alone; "rollout" has the environment and, with 8 bits,
the unrounded pass that computes log-probabilities and values anew. PYTHON is that of an environment with
`ctranslate2` and `transformers`: its int8 draws tokens only. Contestants take turns; medians of three.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from text_gym import TextVectorEnv, WordTokenizer
from text_gym.agents import Policy, rollout
from text_gym.agents.sampling.decoder import Decoder
from text_gym.agents.sampling.sampler import draw, uniform

NEW_TOKENS, TURNS = 24, 3
PROMPTS = ["The weather today is", "Once upon a time there was a small dragon who", "Paris is", "I like"]
CTRANSLATE2 = """
import sys, time, ctranslate2, ctranslate2.converters as c
folder, rows, tokens, *prompt = sys.argv[1:]
rows, tokens = int(rows), int(tokens)
out = folder + "-ctranslate2"
import os
if not os.path.isdir(out):
    c.TransformersConverter(folder).convert(out, quantization="int8")
model = ctranslate2.Generator(out, device="cpu", compute_type="int8", intra_threads=1)
def play():
    return model.generate_batch([prompt] * rows, max_length=tokens, min_length=tokens, sampling_topk=0,
                                include_prompt_in_result=False, max_batch_size=rows)
play()
for _ in range(3):
    started = time.process_time()
    n = sum(len(r.sequences_ids[0]) for r in play())
    print(n / (time.process_time() - started))
"""


def contestants(policy: Policy, prompts: list[str], rows: int) -> dict[str, Callable[[], int]]:
    """Functions by name that play a batch and return how many tokens they drew."""
    env = TextVectorEnv(prompts, policy.tokenizer, zero, NEW_TOKENS, num_envs=rows)
    ids = [policy.tokenizer.encode(p) for p in (prompts * rows)[:rows]]
    lengths = np.array([len(i) for i in ids])
    tokens = np.zeros((rows, lengths.max()), dtype=np.int64)
    for row, found in enumerate(ids):
        tokens[row, : len(found)] = found
    noise = torch.from_numpy(uniform(0, np.arange(rows), NEW_TOKENS).T.copy())
    settings: dict[str, Any] = {"do_sample": True, "top_k": 0, "max_new_tokens": NEW_TOKENS}
    settings |= {"min_new_tokens": NEW_TOKENS, "pad_token_id": 0, "eos_token_id": None}
    same = torch.tensor([ids[0]] * rows)

    def generate() -> int:
        policy.model.generate(same, attention_mask=torch.ones_like(same), **settings)
        return rows * NEW_TOKENS

    @torch.no_grad()
    def draws(weights: Any) -> int:
        decoder = Decoder(policy, tokens, lengths, NEW_TOKENS, weights=weights)
        for step in range(NEW_TOKENS):
            drawn, _ = draw(decoder.logits(decoder.states), noise[step])
            if step < NEW_TOKENS - 1:
                decoder.step(drawn)
        return rows * NEW_TOKENS

    def whole(weights: Any) -> int:
        return rollout(policy, env, np.arange(rows), weights=weights).num_tokens

    return {
        "generate": generate,
        "draws float32": lambda: draws("float32"),
        "draws int8": lambda: draws("int8"),
        "rollout float32": lambda: whole("float32"),
        "rollout int8": lambda: whole("int8"),
    }


def zero(completion: str) -> float:
    """Pay nothing."""
    return 0.0


def main() -> None:
    """Print a row for each contestant and number of rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--ctranslate2")
    parser.add_argument("--rows", type=int, nargs="*", default=[16, 64])
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.folder:
        policy, prompts = Policy.from_pretrained(given.folder, device="cpu"), PROMPTS
    else:
        words = [f"w{i}" for i in range(50256)]
        policy = Policy.new(WordTokenizer(words), width=768, layers=12, heads=12, context=64, device="cpu")
        prompts = [" ".join(words[i : i + 8]) for i in range(0, 32, 8)]
    for rows in given.rows:
        speeds: dict[str, list[float]] = {}
        for turn in range(TURNS + 1):
            for name, play in contestants(policy, prompts, rows).items():
                started = time.process_time()
                count = play()
                if turn:
                    speeds.setdefault(name, []).append(count / (time.process_time() - started))
        if given.ctranslate2:
            speeds["ctranslate2 int8"] = theirs(given.ctranslate2, policy, given.folder, prompts[0], rows)
        base = statistics.median(speeds["generate"])
        for name, found in speeds.items():
            speed = statistics.median(found)
            print(f"B={rows:3} {name:18}{speed:8.0f} tokens/s {speed / base:6.2f} × generate", flush=True)
        print("      load", os.getloadavg()[0])


def theirs(python: str, policy: Policy, folder: str | None, prompt: str, rows: int) -> list[float]:
    """Run CTranslate2 in a process of its own; return tokens per CPU second."""
    with tempfile.TemporaryDirectory() as place:
        if folder is None:
            raise SystemExit("CTranslate2 converts folders with a tokenizer of transformers: name a FOLDER")
        pieces = Path(folder) / "tokenizer.json"
        words = tokens_of(pieces, prompt)
        script = Path(place) / "run.py"
        script.write_text(CTRANSLATE2)
        command = [python, str(script), folder, str(rows), str(NEW_TOKENS), *words]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return [float(line) for line in done.stdout.split()]


def tokens_of(file: Path, prompt: str) -> list[str]:
    """Return a prompt's tokens as the tokenizer's file spells them."""
    from tokenizers import Tokenizer

    return list(Tokenizer.from_file(str(file)).encode(prompt).tokens)


if __name__ == "__main__":
    main()
