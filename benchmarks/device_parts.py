"""What `device.py` checks and measures: parts that fill in their figures, and fail where those are wrong.

Correctness is held against float64 on the CPU, by the model's own code, so that a part says something on a
CPU too, where our kernels are what is checked. Speed is next to nobody's here: that is `compare.py`'s business.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import math
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
    Metrics,
    Policy,
    PPOConfig,
    Rollout,
    SFTConfig,
    completion_loss,
    rollout,
)
from text_gym.reward_models import PreferencePair, RewardModel, RewardTrainer, RewardTrainingConfig

Figures = dict[str, Any]
# Largest error of a log-probability or value, in nats: float32 errs by some 1e-6, TF32 by 1e-3 and more.
LOG_PROB_TOLERANCE = 1e-4
# Largest error of a weight's gradient, as a share of its tensor's largest one: also some 1e-6, and 1e-3 in TF32.
GRADIENT_TOLERANCE = 1e-4
SAMPLED_ALIKE = (
    0.95  # share of a batch's tokens: rounding may change one, and then the text goes on differently
)
RESUMED_TOLERANCE = 0.1  # distance of the weights of two runs, as a share of the way that they went
BF16_TOLERANCE = 0.1  # mean error of a log-probability, in nats
SHAPES = {  # GPT-2 shapes
    "quick": {"layers": 1, "width": 32, "heads": 2, "vocabulary": 64},
    "tiny": {"layers": 2, "width": 128, "heads": 4, "vocabulary": 1024},
    "gpt2": {"layers": 12, "width": 768, "heads": 12, "vocabulary": 50257},
}
PROMPT_TOKENS, TURNS = 16, 3
LETTERS = WordTokenizer("abcdefghij", separator="")
LETTERS_TOKENS = 8


class SkippedError(Exception):
    """This part cannot be had here; says why."""


@dataclass(frozen=True)
class Part:
    """One thing that is checked or measured, and does not depend on the others.

    Args:
        name: `correctness/…` or `speed/…`.
        work: Fills in the figures; raises where they are wrong.
        seconds: Time after which it is stopped, and has failed.
        precision: Of products of float32 matrices on CUDA: `tf32`, or true float32.
    """

    name: str
    work: Callable[[Figures], None]
    seconds: float = 60
    precision: str = "fp32"


def all_parts(device: torch.device, quick: bool) -> list[Part]:
    """Correctness first, then speed, small models first.

    Args:
        device: Where to.
        quick: Small models and batches.
    """
    checks: dict[str, Callable[..., None]] = {
        "log_probs": log_probs,
        "precision": precision_of_products,
        "sampling": sampling,
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
        parts.append(Part(f"speed/{shape}/{precision}/B={batch}", work, precision=precision))
    return parts


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Products of float32 matrices in TF32 (`"tf32"`), or as they are."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
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
    """What a policy says of texts, on the CPU in float64; 0 past the end of a completion."""

    log_probs: Tensor  # (B, T), nats
    values: Tensor  # (B, T)
    gradients: dict[str, Tensor]  # of a random weighted sum of both


def log_probs(device: torch.device, quick: bool, found: Figures) -> None:
    """Log-probabilities, values and gradients in float32 are those of float64, and the CPU's."""
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
        worst = max(errors, key=lambda name: errors[name])
        found[f"gradient_relative_error_{other}"] = errors[worst]
        require(max(far) <= LOG_PROB_TOLERANCE, f"log-probabilities or values are off by {max(far):.2g}")
        require(errors[worst] <= GRADIENT_TOLERANCE, f"the gradient of {worst} is off by {errors[worst]:.2g}")


def precision_of_products(device: torch.device, quick: bool, found: Figures) -> None:
    """How far TF32 and bfloat16 are from float64; the latter may be off by little on average."""
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
    require(found["bf16_error_mean"] <= BF16_TOLERANCE, f"bfloat16 is off by {found['bf16_error_mean']:.2g}")


def sampling(device: torch.device, quick: bool, found: Figures) -> None:
    """The log-probabilities kept while sampling are those of the tokens; the CPU draws the same tokens."""
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


def random_policy(device: torch.device, quick: bool) -> Policy:
    """A policy with random weights, those of the value head too; one id in eight ends a text."""
    size = {"layers": 2, "width": 32, "heads": 4} if quick else {"layers": 6, "width": 256, "heads": 8}
    tokenizer = words(64 if quick else 4096, one_in=8 if quick else 32)
    policy = Policy.new(tokenizer, context=PROMPT_TOKENS + 48, device=str(device), **size)
    weight = torch.randn(policy.value_head.weight.shape, generator=torch.Generator().manual_seed(0))
    policy.value_head.weight.data.copy_(weight / weight.norm())
    return policy


def random_texts(quick: bool) -> Texts:
    """Of all lengths, right-padded."""
    rows, vocabulary, longest = (8, 64, 12) if quick else (32, 4096, 48)
    generator = torch.Generator().manual_seed(1)
    starts = torch.randint(1, PROMPT_TOKENS + 1, (rows,), generator=generator)
    lengths = torch.randint(1, longest + 1, (rows,), generator=generator)
    size = (rows, int((starts + lengths).max()))
    return Texts(torch.randint(0, vocabulary, size, generator=generator), starts, lengths)


def said(policy: Policy, texts: Texts, *, gradients: bool = True) -> Said:
    """By `Policy.evaluate`, where the policy is."""
    now = policy.evaluate(*texts.to(policy.device))
    return Said(
        now.log_probs.detach().cpu().double(),
        now.values.detach().cpu().double(),
        gradients_of(policy, now.log_probs, now.values) if gradients else {},
    )


def said_by_the_model(policy: Policy, texts: Texts) -> Said:
    """By the model's own forward pass and log-softmax, in float64 on the CPU."""
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
    """Of a random weighted sum of log-probabilities and values `(B, T)`, for each parameter."""
    weights = torch.randn(2, *log_p.shape, generator=torch.Generator().manual_seed(2)).to(log_p.device)
    loss = (weights[0] * log_p + weights[1] * values).sum()
    parameters = dict(policy.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return {name: g.cpu().double() for name, g in zip(parameters, gradients, strict=True)}


def learns(kind: type[Agent[Any]], device: torch.device, quick: bool, found: Figures) -> None:
    """The share of one letter rises in a few iterations, and the KL stays finite."""
    agent = letters_agent(kind, device, iterations=12 if quick else 25)
    improves(agent, found)


def improves(agent: Agent[Any], found: Figures) -> None:
    """Learn, and require more reward and a finite KL."""
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
    """An agent that is to write one letter as often as it can."""
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
    """A small one with random weights, the same everywhere."""
    return Policy.new(LETTERS, layers=2, width=32, heads=4, context=16, dropout=dropout, device=str(device))


def sft(device: torch.device, quick: bool, found: Figures) -> None:
    """Fine-tuning with dropout: a tiny corpus is learnt, dropout was on and is off, no generator moved."""
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
    """Of the CPU's global generator and CUDA's."""
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *cuda]


def reward_model(device: torch.device, quick: bool, found: Figures) -> None:
    """A transformer learns from pairs, with dropout, and its scores are those of float64 on the CPU."""
    tokenizer = ByteTokenizer()
    size = {"layers": 2, "width": 32, "heads": 4, "context": 48}
    model = RewardModel.new(tokenizer, dropout=0.1, device=str(device), **size)
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
    """What is loaded is what was saved, to the bit; and a resumed run goes on as the other one did.

    That is to the bit on the CPU. Elsewhere sums may be added up in another order each time, and the weights
    of the two runs are to be close, next to the way that they went since the checkpoint.
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
    require(apart <= RESUMED_TOLERANCE, f"the resumed run is apart from the other by {apart:.2g} of its way")


def weights_of(policy: Policy) -> list[Tensor]:
    """A copy of every parameter, on the CPU."""
    return [p.detach().cpu().clone() for p in policy.parameters()]


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether tensors are equal, one by one."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """Euclidean, of all weights."""
    return math.sqrt(sum(float((x - y).double().square().sum()) for x, y in zip(a, b, strict=True)))


def lora(device: torch.device, quick: bool, found: Figures) -> None:
    """An adapter learns, and the weights under it, which are the reference policy, stay."""
    if importlib.util.find_spec("peft") is None:
        raise SkippedError("peft is not installed; pip install 'text-gym[peft]'")
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
    """Tokens a second, memory and waits of a rollout and of a PPO update (4 epochs of 4 minibatches)."""
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


def words(vocabulary: int, one_in: int | None = None) -> WordTokenizer:
    """Ids without meaning; one in so many ends a text, or none."""
    tokenizer = WordTokenizer([f"w{i}" for i in range(vocabulary - 1)], pad=False)
    tokenizer.eos_ids = () if one_in is None else tuple(range(one_in - 1, vocabulary, one_in))
    return tokenizer


def words_env(tokenizer: Any, rows: int, new_tokens: int) -> TextVectorEnv:
    """Random prompts of one length, and rewards without meaning or cost."""
    rng = np.random.default_rng(0)
    prompts = [" ".join(rng.choice(tokenizer.words, PROMPT_TOKENS)) for _ in range(256)]
    return TextVectorEnv(
        prompts, tokenizer, lambda episodes: [0.0] * len(episodes), new_tokens, num_envs=rows
    )


def timed(device: torch.device, work: Callable[[], Any], turns: int, most: float = 15.0) -> list[float]:
    """Seconds of each turn; fewer turns where they take more than `most` seconds together."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < turns and sum(seconds) < most):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return seconds


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    torch.get_device_module(device).synchronize()


def forget_peak(device: torch.device) -> None:
    """From now on `peak_mib` is of what comes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mib(device: torch.device) -> float | None:
    """Most memory that was allocated, models included; only CUDA tells."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def host_waits(device: torch.device, work: Callable[[], Any]) -> Counter[str] | None:
    """How often the host waits for the device, by line of the source; None where only CUDA would tell."""
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
    """Leave a part out where CUDA has no bfloat16."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise SkippedError("this device has no bfloat16")
