"""What `device.py` checks and measures: each part fills in its figures, and fails if they are wrong.

The oracle is the model's own forward pass in float64 on the CPU, so the checks mean something on a CPU too,
where they test our kernels. Nothing is compared with peers here; `compare.py` does that.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import math
import os
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from text_gym import ByteTokenizer, Prompt, TextVectorEnv, WordTokenizer
from text_gym.agents import (
    GRPO,
    PPO,
    SFT,
    Agent,
    Checkpoints,
    GRPOConfig,
    LoRAPolicy,
    Policy,
    PPOConfig,
    Rollout,
    SFTConfig,
    rollout,
)
from text_gym.agents.algorithms.sft import completion_loss
from text_gym.agents.sampling.decoder import Decoder
from text_gym.agents.training.memory_plan import Shapes, available_memory, plan_memory
from text_gym.agents.training.metrics import Metrics
from text_gym.models.graphs import SWITCH as GRAPHS
from text_gym.reward_models import PreferencePair, RewardModel, RewardTrainer, RewardTrainingConfig

Figures = dict[str, Any]
# float32 is off by about 1e-6 in both, TF32 by 1e-3 and more.
LOG_PROB_TOLERANCE = 1e-4  # nats, largest error of a log-probability or value
GRADIENT_TOLERANCE = 1e-4  # largest error in a weight's gradient over the largest entry of that gradient
# Of a batch's tokens; rounding may change one, and the text goes on differently from there.
SAMPLED_ALIKE = 0.95
# Distance between the weights of two runs over the distance they have moved since their checkpoint.
RESUMED_TOLERANCE = 0.1
BF16_TOLERANCE = 0.1  # nats, mean error of a log-probability
SHAPES = {  # GPT-2 shapes
    "quick": {"layers": 1, "width": 32, "heads": 2, "vocabulary": 64},
    "tiny": {"layers": 2, "width": 128, "heads": 4, "vocabulary": 1024},
    "gpt2": {"layers": 12, "width": 768, "heads": 12, "vocabulary": 50257},
}
HALF_A_BILLION = {  # Qwen2-0.5B without its large vocabulary
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2,
}  # fmt: skip
SEVEN_BILLION = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32,
}  # fmt: skip
QUICK_LLAMA = {  # for a CPU, where only the code is tried
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
PROMPT_TOKENS, TURNS = 16, 3
LETTERS = WordTokenizer("abcdefghij", separator="")
LETTERS_TOKENS = 8


class SkippedError(Exception):
    """A part cannot run here, for the reason given."""


@dataclass(frozen=True)
class Part:
    """One check or measurement; it does not depend on the others.

    Args:
        name: `correctness/…`, `speed/…` or `more/…`.
        work: Fills in the figures; raises where they are wrong.
        seconds: Its own budget; a part that takes longer is stopped and has failed.
        precision: How CUDA multiplies float32 matrices: `tf32`, or true float32 for any other name.
    """

    name: str
    work: Callable[[Figures], None]
    seconds: float = 60
    precision: str = "fp32"


def all_parts(device: torch.device, quick: bool) -> list[Part]:
    """List the parts: correctness first, then speed, with the small model first.

    Args:
        device: Where to.
        quick: Small models and batches.
    """
    checks: dict[str, Callable[..., None]] = {
        "log_probs": log_probs,
        "precision": precision_of_products,
        "sampling": sampling,
        "decode_without_waiting": decode_without_waiting,
        "ppo": partial(learns, PPO),
        "grpo": partial(learns, GRPO),
        "sft": sft,
        "reward_model": reward_model,
        "checkpoint": checkpoint,
        "lora": lora,
    }
    parts = [Part(f"correctness/{name}", partial(work, device, quick)) for name, work in checks.items()]
    shapes, batches = (("quick",), (4, 8)) if quick else (("tiny", "gpt2"), (64, 256))
    precisions = ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32", "bf16")
    for shape, precision, batch in itertools.product(shapes, precisions, batches):
        work = partial(speed, device, quick, shape=shape, precision=precision, batch=batch)
        parts.append(Part(f"speed/{shape}/{precision}/B={batch}", work, seconds=90, precision=precision))
    for batch in batches:
        parts.append(Part(f"more/graphs/B={batch}", partial(graphs, device, quick, batch=batch), seconds=90))
    parts.append(Part("more/7B LoRA", partial(large, device, quick), seconds=240))
    return parts


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Let float32 matrices be multiplied in TF32 (`"tf32"`) inside the block, or in true float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        with patch.dict(os.environ, {} if precision == "tf32" else {"TEXT_GYM_TF32": "0"}):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def require(fine: bool, what: str) -> None:
    """Fail unless a figure is as it should be."""
    if not fine:
        raise AssertionError(what)


# Correctness


class Texts(NamedTuple):
    """Arguments of `Policy.evaluate`: tokens `(B, S)` int64, prompt and completion lengths `(B,)` int64."""

    tokens: Tensor
    starts: Tensor
    lengths: Tensor

    def to(self, device: torch.device) -> Texts:
        """The same on another device."""
        return Texts(*(tensor.to(device) for tensor in self))


class Said(NamedTuple):
    """What a policy says of texts, as float64 on the CPU; entries past a completion's end are 0."""

    log_probs: Tensor  # (B, T), nats
    values: Tensor  # (B, T)
    gradients: dict[str, Tensor]  # of a random weighted sum of both


def log_probs(device: torch.device, quick: bool, found: Figures) -> None:
    """Check log-probabilities, values and gradients in float32 against float64 and against the CPU."""
    policy, texts = random_policy(device, quick), random_texts(quick)
    exact = said_by_the_model(policy, texts)
    here, cpu = said(policy, texts), said(copy.deepcopy(policy).cpu(), texts)
    found |= {"log_prob_tolerance": LOG_PROB_TOLERANCE, "gradient_tolerance": GRADIENT_TOLERANCE}
    for other, expected in (("float64", exact), ("cpu", cpu)):
        far = [float((a - b).abs().max()) for a, b in zip(here[:2], expected[:2], strict=True)]
        relative = (here.log_probs / expected.log_probs - 1).nan_to_num()  # 0 / 0 where there is no token
        found[f"log_prob_error_{other}"], found[f"value_error_{other}"] = far
        found[f"log_prob_relative_error_{other}"] = float(relative.abs().max())
        errors = {
            name: float((here.gradients[name] - gradient).abs().max() / gradient.abs().max())
            for name, gradient in expected.gradients.items()
        }
        found[f"gradient_relative_error_{other}"] = max(errors.values())
        # One by one, since `max` may overlook NaN.
        for what, error in zip(("log-probabilities", "values"), far, strict=True):
            require(error <= LOG_PROB_TOLERANCE, f"the {what} are off by {error:.2g}")
        for name, error in errors.items():
            require(error <= GRADIENT_TOLERANCE, f"the gradient of {name} is off by {error:.2g}")


def precision_of_products(device: torch.device, quick: bool, found: Figures) -> None:
    """Report how far float32, TF32 and bfloat16 are from float64; bfloat16 must be close on average."""
    policy, texts = random_policy(device, quick), random_texts(quick)
    exact = said_by_the_model(policy, texts).log_probs
    mask = exact != 0
    for name in ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32", "bf16"):
        if name == "bf16":
            needs_bf16(device)
        with products_in(name), torch.no_grad():
            policy.use_less_memory(bf16=name == "bf16")
            errors = (said(policy, texts, gradients=False).log_probs - exact)[mask].abs()
        found[f"{name}_error_max"], found[f"{name}_error_mean"] = float(errors.max()), float(errors.mean())
        require(math.isfinite(found[f"{name}_error_max"]), f"a log-probability in {name} is not finite")
    require(found["bf16_error_mean"] <= BF16_TOLERANCE, f"bfloat16 is off by {found['bf16_error_mean']:.2g}")


def sampling(device: torch.device, quick: bool, found: Figures) -> None:
    """Check the log-probabilities kept while sampling, and that the CPU draws the same tokens."""
    policy = random_policy(device, quick)
    env = words_env(policy.tokenizer, 8 if quick else 64, 12 if quick else 48)
    index = np.arange(env.num_envs)
    batch = rollout(policy, env, index)
    texts = Texts(batch.tokens.cpu(), batch.starts.cpu(), batch.lengths.cpu())
    exact = said_by_the_model(policy, texts)
    error = float((batch.log_probs.cpu().double() - exact.log_probs).abs().max())
    twin = rollout(copy.deepcopy(policy).cpu(), env, index)
    width = min(texts.tokens.shape[1], twin.tokens.shape[1])
    alike = float((texts.tokens[:, :width] == twin.tokens[:, :width]).float().mean())
    found |= {"log_prob_error_float64": error, "tokens_as_on_cpu": alike, "tokens": batch.num_tokens}
    require(len(set(texts.lengths.tolist())) > 1, "all texts ended at once; nothing was dropped from a batch")
    require(error <= LOG_PROB_TOLERANCE, f"the sampler's log-probabilities are off by {error:.2g}")
    require(alike >= SAMPLED_ALIKE, f"only {alike:.0%} of the tokens are those that the CPU draws")


def decode_without_waiting(device: torch.device, quick: bool, found: Figures) -> None:
    """Check that between two reads decoding never waits: PyTorch raises an error where it does."""
    policy = random_policy(device, quick)
    env = words_env(policy.tokenizer, 8 if quick else 64, 12 if quick else 48)
    rollout(policy, env, np.arange(env.num_envs))  # tries the cache out
    steps = 0
    step = Decoder.step

    def strict(decoder: Decoder, tokens: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        with raising_where_it_waits(device):
            return step(decoder, tokens)

    with patch.object(Decoder, "step", strict):
        rollout(policy, env, np.arange(env.num_envs))
    found["steps"] = steps
    require(steps > 0, "nothing was decoded")


@contextmanager
def raising_where_it_waits(device: torch.device) -> Iterator[None]:
    """Have CUDA raise an error inside the block wherever the host would wait for it."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def random_policy(device: torch.device, quick: bool) -> Policy:
    """Make a policy with random weights, value head included; an eighth of its ids (or a 32nd) end a text."""
    size = {"layers": 2, "width": 32, "heads": 4} if quick else {"layers": 6, "width": 256, "heads": 8}
    tokenizer = words(64 if quick else 4096, one_in=8 if quick else 32)
    policy = Policy.new(tokenizer, context=PROMPT_TOKENS + 48, device=str(device), **size)
    weight = torch.randn(policy.value_head.weight.shape, generator=torch.Generator().manual_seed(0))
    policy.value_head.weight.data.copy_(weight / weight.norm())
    return policy


def random_texts(quick: bool) -> Texts:
    """Draw texts of many lengths, right-padded."""
    rows, vocabulary, longest = (8, 64, 12) if quick else (32, 4096, 48)
    generator = torch.Generator().manual_seed(1)
    starts = torch.randint(1, PROMPT_TOKENS + 1, (rows,), generator=generator)
    lengths = torch.randint(1, longest + 1, (rows,), generator=generator)
    size = (rows, int((starts + lengths).max()))
    return Texts(torch.randint(0, vocabulary, size, generator=generator), starts, lengths)


def said(policy: Policy, texts: Texts, *, gradients: bool = True) -> Said:
    """Ask `Policy.evaluate`, on the policy's own device."""
    now = policy.evaluate(*texts.to(policy.device))
    return Said(
        now.log_probs.detach().cpu().double(),
        now.values.detach().cpu().double(),
        gradients_of(policy, now.log_probs, now.values) if gradients else {},
    )


def said_by_the_model(policy: Policy, texts: Texts) -> Said:
    """Compute the same from the model's own forward pass and a log-softmax, in float64 on the CPU."""
    exact = copy.deepcopy(policy).cpu().double()
    out = exact.model(texts.tokens, output_hidden_states=True)
    width = int(texts.lengths.max())
    steps = torch.arange(width)
    mask = steps < texts.lengths[:, None]
    at = (texts.starts[:, None] + steps).clamp(max=texts.tokens.shape[1] - 1)
    rows = torch.arange(len(at))[:, None]
    log_p = torch.log_softmax(out.logits[..., : policy.vocab_size], -1)[rows, at - 1]
    log_p = log_p.gather(2, texts.tokens[rows, at][..., None])[..., 0] * mask
    values = exact.value_head(out.hidden_states[-1])[rows, at - 1, 0] * mask
    return Said(log_p.detach(), values.detach(), gradients_of(exact, log_p, values))


def gradients_of(policy: Policy, log_p: Tensor, values: Tensor) -> dict[str, Tensor]:
    """Differentiate a random weighted sum of log-probabilities and values `(B, T)` by each parameter."""
    weights = torch.randn(2, *log_p.shape, generator=torch.Generator().manual_seed(2)).to(log_p.device)
    loss = (weights[0] * log_p + weights[1] * values).sum()
    parameters = dict(policy.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return {name: g.cpu().double() for name, g in zip(parameters, gradients, strict=True)}


def learns(kind: type[Agent[Any]], device: torch.device, quick: bool, found: Figures) -> None:
    """Check that an algorithm learns to write one letter in a few iterations."""
    agent = letters_agent(kind, device, iterations=12 if quick else 25)
    improves(agent, found)


def improves(agent: Agent[Any], found: Figures) -> None:
    """Let an agent learn; its reward must rise and its KL stay finite."""
    history: list[Metrics] = []
    agent.learn(callback=lambda _, metrics: history.append(metrics))
    rewards, kls = ([metrics[name] for metrics in history] for name in ("reward", "kl"))
    found |= {"iterations": len(history), "reward_first": rewards[0], "reward_last": rewards[-1]}
    found["kl_last"] = kls[-1]
    require(all(map(math.isfinite, rewards + kls)), "a reward or a KL is not finite")
    require(
        rewards[-1] > rewards[0] + 0.2, f"the reward went from {rewards[0]:.2f} to {rewards[-1]:.2f} only"
    )


def letters_agent(
    kind: type[Agent[Any]], device: torch.device, policy: Policy | None = None, *, iterations: int
) -> Agent[Any]:
    """Make an agent that is paid for the share of one letter in what it writes."""
    env = TextVectorEnv(
        ["b", "cd", "efg"],
        LETTERS,
        lambda completion: completion.count("a") / LETTERS_TOKENS,
        LETTERS_TOKENS,
        num_envs=64,
        numbering="global",
    )
    settings = {"iterations": iterations, "learning_rate": 1e-2, "warmup": 0, "epochs": 2, "minibatches": 2}
    config = PPOConfig(critic="shared", **settings) if kind is PPO else GRPOConfig(**settings)  # type: ignore[arg-type]
    return kind(policy or letters_policy(device), env, config)


def letters_policy(device: torch.device, dropout: float = 0.0) -> Policy:
    """Make a small policy; its random weights are the same on every device."""
    return Policy.new(LETTERS, layers=2, width=32, heads=4, context=16, dropout=dropout, device=str(device))


def sft(device: torch.device, quick: bool, found: Figures) -> None:
    """Check that fine-tuning with dropout learns a tiny corpus and leaves dropout off afterwards.

    The global random generators must stay as they were.
    """
    policy = letters_policy(device, dropout=0.1)
    pairs = [
        (Prompt(a), b) for a, b in [("a", "bcd"), ("bb", "e"), ("cab", "i"), ("def", "hihi"), ("h", "ab")]
    ]
    before, generators = completion_loss(policy, pairs), generator_states(device)
    seen: list[float] = []
    settings = SFTConfig(epochs=60 if quick else 150, batch_size=len(pairs), learning_rate=1e-2)
    SFT(policy, pairs, settings).learn(lambda metrics: seen.append(metrics["loss"]))
    after = completion_loss(policy, pairs)
    found |= {"loss_before": before, "loss_after": after, "loss_of_step_1": seen[0], "steps": len(seen)}
    require(abs(seen[0] - before) > 1e-4, "the first step's loss is that without dropout")
    require(abs(completion_loss(policy, pairs) - after) < 1e-6, "dropout is still on after training")
    require(after < before / 4, f"the loss went from {before:.2f} to {after:.2f} nats a token only")
    require(same_bits(generators, generator_states(device)), "training moved a global random generator")


def generator_states(device: torch.device) -> list[Tensor]:
    """Return the states of the global generators, the CPU's and CUDA's."""
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *cuda]


def reward_model(device: torch.device, quick: bool, found: Figures) -> None:
    """Check that a transformer learns from pairs, and its scores against float64 on the CPU."""
    tokenizer = ByteTokenizer()
    model = RewardModel.new(
        tokenizer, layers=2, width=32, heads=4, context=48, dropout=0.1, device=str(device)
    )
    pairs = [
        PreferencePair(Prompt(f"text {i}:"), f"a good {'text' * (i % 3)}", f"a bad {'text' * (i % 3)}")
        for i in range(32)
    ]
    config = RewardTrainingConfig(epochs=4 if quick else 8, batch_size=8, learning_rate=3e-3)
    history = RewardTrainer(model, pairs, config).learn().history
    texts = [(p.prompt.text, text) for p in pairs for text in (p.chosen, p.rejected)]
    scores = model.raw_scores(texts)[:, 0]
    exact = RewardModel(copy.deepcopy(model.model).cpu().double(), tokenizer, device="cpu")
    error = float(np.abs(scores - exact.raw_scores(texts)[:, 0]).max())
    right = float((scores[::2] > scores[1::2]).mean())
    losses = [row["validation_loss"] for row in history]
    found |= {"loss_first": losses[0], "loss_best": min(losses), "pairs_right": right}
    found["score_error_float64"] = error
    require(error <= LOG_PROB_TOLERANCE, f"scores are off by {error:.2g}")
    require(right > 0.95, f"only {right:.0%} of the pairs that were learnt are in the right order")


def checkpoint(device: torch.device, quick: bool, found: Figures) -> None:
    """Check that weights are loaded bit by bit, and that a resumed run goes on like the uninterrupted one.

    On the CPU both runs end with the same bits. Accelerators may add up sums in another order each time, so
    there the final weights need only be close, measured by how far they have moved since the checkpoint.
    """
    whole, resumed = (letters_agent(PPO, device, iterations=4) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        whole.learn(2)
        saved = weights_of(whole.policy)
        Checkpoints(Path(folder) / "checkpoints").save(whole)
        Checkpoints(Path(folder) / "checkpoints").load(resumed)
        whole.policy.save(Path(folder) / "policy")
        loaded = Policy.from_pretrained(Path(folder) / "policy", LETTERS, device=str(device))
    for what, policy in (("checkpoint", resumed.policy), ("policy's folder", loaded)):
        same = same_bits(weights_of(policy), saved)
        require(same, f"the weights of a {what} are not those that were saved")
    whole.learn(2)
    resumed.learn(2)
    ends = weights_of(whole.policy), weights_of(resumed.policy)
    apart = distance(*ends) / distance(ends[0], saved)
    found |= {"compared": "bits" if device.type == "cpu" else "distance", "apart": apart}
    found["same_bits"] = same_bits(*ends)
    if device.type == "cpu":
        require(found["same_bits"], "the resumed run has other bits")
    require(apart <= RESUMED_TOLERANCE, f"the resumed run ends {apart:.2g} of its way from the other")


def weights_of(policy: Policy) -> list[Tensor]:
    """Copy every parameter to the CPU."""
    return [p.detach().cpu().clone() for p in policy.parameters()]


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    """Tell whether two lists of tensors are equal."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """Return the Euclidean distance between two lists of weights."""
    return math.sqrt(sum(float((x - y).double().square().sum()) for x, y in zip(a, b, strict=True)))


def lora(device: torch.device, quick: bool, found: Figures) -> None:
    """Check that a LoRA adapter learns and that the weights under it, the reference policy, do not change."""
    if importlib.util.find_spec("peft") is None:
        raise SkippedError("peft is not installed; pip install peft")
    policy = LoRAPolicy(letters_policy(device), rank=8)
    agent = letters_agent(GRPO, device, policy, iterations=15 if quick else 30)
    before = weights_of(agent.reference)
    trained = {id(p) for p in policy.parameters() if p.requires_grad}
    found["trained_share"] = sum(p.numel() for p in policy.parameters() if id(p) in trained) / sum(
        p.numel() for p in policy.parameters()
    )
    improves(agent, found)
    require(same_bits(weights_of(agent.reference), before), "the weights under the adapter changed")


# Speed


def speed(
    device: torch.device, quick: bool, found: Figures, *, shape: str, precision: str, batch: int
) -> None:
    """Measure speed, memory and waits of a rollout and of a PPO update (4 epochs of 4 minibatches)."""
    if precision == "bf16":
        needs_bf16(device)
    new_tokens, turns = (8, 1) if quick else (48, TURNS)
    size = dict(SHAPES[shape])
    tokenizer = words(size.pop("vocabulary"))
    policy = Policy.new(tokenizer, context=PROMPT_TOKENS + new_tokens, device=str(device), **size)
    policy.use_less_memory(bf16=precision == "bf16")
    env = words_env(tokenizer, batch, new_tokens)
    agent = PPO(policy, env, PPOConfig(critic="shared", learning_rate=1e-5, epochs=4, minibatches=4))
    clock = itertools.count()

    def play() -> Rollout:
        first = next(clock) * batch
        return rollout(policy, env, np.arange(first, first + batch))

    episodes = play()
    agent.update(episodes)  # to warm up, both
    found |= {"model": shape, "precision": precision, "batch": batch, "new_tokens": new_tokens}
    works: dict[str, Callable[[], Any]] = {"rollout": play, "update": lambda: agent.update(episodes)}
    for name, work in works.items():
        forget_peak(device)
        seconds = statistics.median(timed(device, work, turns))
        found[f"{name}_tokens_per_second"] = episodes.num_tokens / seconds
        found[f"{name}_peak_mib"] = peak_mib(device)
        waits = host_waits(device, work)
        found[f"{name}_waits"] = None if waits is None else waits.total()
        found[f"{name}_waits_at"] = None if waits is None else dict(waits.most_common(8))
    waits_of_rollout = found["rollout_waits"]
    found["waits_per_step"] = None if waits_of_rollout is None else waits_of_rollout / new_tokens


def graphs(device: torch.device, quick: bool, found: Figures, *, batch: int) -> None:
    """Compare a rollout of CUDA graphs with an eager one: the same tokens, and how fast both are.

    Of a Llama shape, which is read through its own code. On a CPU there are no graphs, and both are eager.
    """
    tokenizer, new_tokens = words(256, one_in=64), 12 if quick else 200  # more than a bucket of 128
    policy = llama(tokenizer, device, torch.float32, **(QUICK_LLAMA if quick else HALF_A_BILLION))
    env = words_env(tokenizer, batch, new_tokens)
    batches = {}
    for name, switch in (("eager", "0"), ("graphs", "1")):
        with patch.dict(os.environ, {GRAPHS: switch}):
            batches[name] = play = rollout(policy, env, np.arange(batch))
            seconds = timed(device, lambda: rollout(policy, env, np.arange(batch)), 1 if quick else TURNS)
        found[f"{name}_tokens_per_second"] = play.num_tokens / statistics.median(seconds)
    found |= {"batch": batch, "new_tokens": new_tokens}
    eager, other = (batches[name].tokens.cpu() for name in ("eager", "graphs"))
    width = min(eager.shape[1], other.shape[1])
    found["tokens_alike"] = alike = float((eager[:, :width] == other[:, :width]).float().mean())
    require(alike >= SAMPLED_ALIKE, f"only {alike:.0%} of the tokens are those of an eager rollout")


def large(device: torch.device, quick: bool, found: Figures) -> None:
    """Measure one GRPO iteration of a 7B Llama with random bfloat16 weights and a LoRA adapter."""
    if importlib.util.find_spec("peft") is None:
        raise SkippedError("peft is not installed; pip install peft")
    needs_bf16(device)
    shape = QUICK_LLAMA if quick else SEVEN_BILLION
    tokenizer, new_tokens, episodes = words(256 if quick else 32000), 4 if quick else 48, 8 if quick else 64
    config = llama_config(tokenizer, **shape)
    settings = Shapes(
        episodes, PROMPT_TOKENS, new_tokens, lora=8, gradient_checkpointing=True, dtype=torch.bfloat16,
        minibatches=4, device=device.type,
    )  # fmt: skip
    plan = plan_memory(config, settings, available_memory(device))
    found |= {"parameters": plan.parameters, "planned_peak_mib": plan.peak / 2**20, "episodes": episodes}
    if not plan.fits:
        free = "unknown" if plan.available is None else f"{plan.available / 2**30:.0f} GiB"
        raise SkippedError(f"it needs {plan.peak / 2**30:.0f} GiB, and there are {free}")
    policy = LoRAPolicy(llama(tokenizer, device, torch.bfloat16, **shape), rank=8)
    policy.use_less_memory(gradient_checkpointing=True)
    agent = GRPO(
        policy, words_env(tokenizer, episodes, new_tokens), GRPOConfig(group_size=4, epochs=1, minibatches=4)
    )
    batches: list[Rollout] = []
    works = {"rollout": lambda: batches.append(agent.collect()), "update": lambda: agent.update(batches[0])}
    for name, work in works.items():
        forget_peak(device)
        (seconds,) = timed(device, work, turns=1)
        found[f"{name}_tokens_per_second"] = batches[0].num_tokens / seconds
        found[f"{name}_peak_mib"] = peak_mib(device)


def llama_config(tokenizer: Any, **shape: Any) -> Any:
    """Make the configuration of a Llama that reads a tokenizer's ids."""
    from transformers import LlamaConfig

    special: dict[str, Any] = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    return LlamaConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=512, **shape, **special)


def llama(tokenizer: Any, device: torch.device, dtype: torch.dtype, **shape: int) -> Policy:
    """Make a Llama with random weights on a device."""
    from transformers import LlamaForCausalLM

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlamaForCausalLM(llama_config(tokenizer, **shape))
    finally:
        torch.set_default_dtype(before)
    return Policy(model, tokenizer, str(device))


def words(vocabulary: int, one_in: int | None = None) -> WordTokenizer:
    """Make a tokenizer of meaningless ids, of which every `one_in`-th ends a text; None means no id does."""
    tokenizer = WordTokenizer([f"w{i}" for i in range(vocabulary - 1)], pad=False)
    tokenizer.eos_ids = () if one_in is None else tuple(range(one_in - 1, vocabulary, one_in))
    return tokenizer


def words_env(tokenizer: Any, rows: int, new_tokens: int) -> TextVectorEnv:
    """Make an environment of random prompts of one length, whose reward is 0 and costs nothing."""
    chosen = np.random.default_rng(0).choice(np.array(tokenizer.words), (256, PROMPT_TOKENS))
    prompts = [" ".join(row) for row in chosen]
    return TextVectorEnv(
        prompts, tokenizer, lambda episodes: [0.0] * len(episodes), new_tokens, num_envs=rows
    )


def timed(device: torch.device, work: Callable[[], Any], turns: int, most: float = 10.0) -> list[float]:
    """Return the seconds of each turn; stop early once they add up to `most` seconds."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < turns and sum(seconds) < most):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return seconds


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    torch.get_device_module(device).synchronize()


def forget_peak(device: torch.device) -> None:
    """Start measuring peak memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mib(device: torch.device) -> float | None:
    """Return the most memory that was allocated, in MiB, models included; None where only CUDA would tell."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def host_waits(device: torch.device, work: Callable[[], Any]) -> Counter[str] | None:
    """Count how often the host waits for the device, by source line; None where only CUDA would tell."""
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{'/'.join(Path(w.filename).parts[-2:])}:{w.lineno}"
        for w in seen
        if "called a synchronizing CUDA operation" in str(w.message)
    )


def needs_bf16(device: torch.device) -> None:
    """Skip the part if this CUDA device has no bfloat16."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise SkippedError("this device has no bfloat16")
