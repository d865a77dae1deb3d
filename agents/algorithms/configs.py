"""The settings of every algorithm, one frozen dataclass each, readable without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from text_gym.agents.own_algorithms import installed, own_algorithm
from text_gym.errors import ConfigError, UnknownNameError

Estimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True)
class AgentConfig:
    """Settings that every algorithm has.

    Args:
        iterations: Times to play a batch of episodes and learn from it.
        learning_rate: Step size of AdamW at the start.
        warmup: Iterations over which the learning rate rises to its full size: the critic knows
            nothing yet, and Adam's first steps are as large as any.
        anneal: Let the learning rate fall linearly to 0 over the iterations.
        max_grad_norm: Gradients are scaled down to this norm.
        kl_coef: β, weight of the KL to the reference policy, in reward units per nat.
        kl_target: KL to hold by adapting β, in nats per episode; None keeps β fixed.
        kl_estimator: k1, k2 or k3 (see `text_gym.agents.estimate_kl`).
        temperature: Of the sampling distribution; the policy that learns is the one at this temperature.
        rollout_weights: "int8" draws tokens with weights and states rounded to 8 bits, on a CPU. The update's
            log-probabilities and values are computed anew, unrounded, tokens are weighted by how much
            likelier the policy finds them (at most twofold), and the metrics `generator_…` tell how far both
            are apart. Draws alone are up to three times as fast; with that second pass a rollout is slower
            than in float32 (`benchmarks/rollout_weights.py`).
        on_decline: What to do when reward − β·KL has fallen below that of the starting policy by more than
            noise (see `Objective`): "warn" says so once; "stop" also ends learning there.
        seed: Decides prompts, noise and minibatches.
        overlap_scoring: Chunks of finished episodes that the reward source, a judge say, scores at a time in
            threads while others are still played; 0 has it score the whole batch in the end.
        max_unscored: Batches in a row of which the reward source scored no episode (a judge that is down,
            say) before learning stops with an error, at least 1. Nothing is learnt from such a batch.
    """

    iterations: int = 100
    learning_rate: float = 3e-4
    warmup: int = 5
    anneal: bool = True
    max_grad_norm: float = 1.0
    kl_coef: float = 0.03
    kl_target: float | None = None
    kl_estimator: Estimator = "k1"
    temperature: float = 1.0
    rollout_weights: Literal["float32", "int8"] = "float32"
    on_decline: Literal["warn", "stop"] = "warn"
    seed: int = 0
    overlap_scoring: int = 0
    max_unscored: int = 3

    def __post_init__(self) -> None:
        for name in ("iterations", "learning_rate", "warmup", "max_grad_norm", "kl_coef", "overlap_scoring"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not self.max_unscored >= 1:
            raise ConfigError(f"max_unscored is {self.max_unscored}; it must be at least 1")
        if self.rollout_weights not in ("float32", "int8"):
            raise ConfigError(f"rollout_weights is {self.rollout_weights!r}; choose float32 or int8")
        if self.on_decline not in ("warn", "stop"):
            raise ConfigError(f"on_decline is {self.on_decline!r}; choose warn or stop")

    @property
    def group_size(self) -> int:
        """Episodes that share a prompt; 1 where an algorithm compares none with each other."""
        return 1


@dataclass(frozen=True)
class BestOfNConfig(AgentConfig):
    """Settings of best-of-n distillation.

    Args:
        n: Texts per prompt, of which the best is learnt; the episodes of an iteration are a multiple of it.
        epochs: Passes over the chosen texts of each batch.
        minibatches: Parts they are split into in each epoch.
        sample_from: Who writes: the "policy" as it is now, so that every iteration chooses among better
            texts (RAFT, Dong et al. 2023), or the "reference", which makes the policy imitate best-of-n
            of the reference and stay within its KL bound.
    """

    learning_rate: float = 1e-3
    kl_coef: float = 0.0
    n: int = 4
    epochs: int = 2
    minibatches: int = 1
    sample_from: Literal["policy", "reference"] = "policy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl_coef or self.kl_target is not None:
            raise ConfigError("best-of-n has no KL penalty: leave kl_coef at 0 and kl_target at None")
        _check_group("n", self.n)
        for name in ("epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.sample_from not in ("policy", "reference"):
            raise ConfigError(f"sample_from is {self.sample_from!r}; choose policy or reference")

    @property
    def group_size(self) -> int:
        """Episodes that share a prompt: the `n` among which the best is chosen."""
        return self.n


def _check_credit(credit: str) -> None:
    if credit not in ("episode", "turn"):
        raise ConfigError(f"credit is {credit!r}; choose episode or turn")


def _check_group(name: str, size: int) -> None:
    if size < 2:
        raise ConfigError(f"{name} is {size}; a group needs at least 2 episodes to compare")


@dataclass(frozen=True)
class DPOConfig:
    """Settings of direct preference optimisation.

    Args:
        beta: β, how much reward a nat of KL to the reference costs; small ones let the policy move far.
        label_smoothing: Share of pairs assumed to be labelled the wrong way round (cDPO), in [0, 0.5).
        epochs: Passes over the pairs.
        batch_size: Pairs per step.
        learning_rate: Largest step size of AdamW; linear warm-up, then cosine decay to a tenth.
        warmup: Share of the steps that warm up.
        max_grad_norm: Gradients are scaled down to this norm.
        seed: Decides the order of the pairs.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 3e-4
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ConfigError(f"beta is {self.beta}; it must be above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(f"label_smoothing is {self.label_smoothing}; it must be in [0, 0.5)")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"warmup is {self.warmup}; it must be in [0, 1]")

    def steps(self, pairs: int) -> int:
        """Return the number of optimizer steps for so many pairs."""
        return self.epochs * -(-pairs // self.batch_size)


@dataclass(frozen=True)
class PolicyGradientConfig(AgentConfig):
    """Settings of every algorithm that follows the policy gradient.

    Args:
        epochs: Passes over each batch.
        minibatches: Parts a batch is split into in each epoch.
        clip: ε, the ratio is clipped to 1 ± ε.
        clip_higher: The upper bound is 1 + this instead, so that unlikely tokens may rise faster
            (DAPO, Yu et al. 2025, ε_high = 0.28); None takes ε.
        entropy_coef: Weight of the entropy bonus, per nat.
        anneal_entropy: Let that weight fall linearly to 0 over the iterations: look around first, and settle
            in the end, where a constant bonus would cost return.
        kl_in: Where the KL penalty goes: "reward" (per token, as in InstructGPT) or "loss".
        target_kl: How far an iteration may move the policy from the one that played, in nats per token: a
            minibatch that finds it farther away is not learnt from, and ends the iteration's epochs; the
            first one finds it where it was and is always learnt from. Clipping
            alone is no such bound: it stops pushing a token, and does not pull it back. None never stops.
        micro_batch_size: Episodes of a minibatch that go through the model at a time; fewer need less
            memory, and the gradient is the same. None takes as many as are quick.
    """

    epochs: int = 4
    minibatches: int = 4
    clip: float = 0.2
    clip_higher: float | None = None
    entropy_coef: float = 0.0
    anneal_entropy: bool = False
    kl_in: Literal["reward", "loss"] = "reward"
    target_kl: float | None = None
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "minibatches", "micro_batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("clip", "clip_higher"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; it must be above 0")
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ConfigError("kl_estimator='k1' in the loss has no gradient on average; choose 'k2' or 'k3'")


@dataclass(frozen=True)
class GRPOConfig(PolicyGradientConfig):
    """Settings of GRPO.

    Args:
        group_size: `k`, episodes per prompt; the episodes of an iteration are a multiple of it.
        length_normalisation: How token losses are averaged: "sequence" over each episode's tokens, then
            over episodes (as published: long episodes count less per token); "token" over all tokens of
            the minibatch (DAPO); "constant" divides their sum by episodes times token limit (Dr. GRPO).
        std_normalisation: Divide advantages by the standard deviation of their group's returns.
        credit: "episode" compares whole returns; "turn", in conversations, compares for each turn what was
            paid from there on, among the episodes of the group that came as far.
    """

    epochs: int = 2
    kl_in: Literal["reward", "loss"] = "loss"
    kl_estimator: Estimator = "k3"
    group_size: int = 8
    length_normalisation: Literal["sequence", "token", "constant"] = "sequence"
    std_normalisation: bool = True
    credit: Literal["episode", "turn"] = "episode"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_group("group_size", self.group_size)
        _check_credit(self.credit)
        if self.length_normalisation not in ("sequence", "token", "constant"):
            raise ConfigError(
                f"length_normalisation is {self.length_normalisation!r}; choose sequence, token or constant"
            )


@dataclass(frozen=True)
class PPOConfig(PolicyGradientConfig):
    """Settings of PPO.

    Args:
        target_kl: As in any policy gradient; the default keeps single updates from leaving the region that
            their advantages were measured in.
        critic: "detached" is a small network that reads the policy's states and sends back no gradient (a
            `StateCritic`). "separate" is a trunk of its own, which begins as a copy of the policy's and
            learns at the same speed, for twice the memory (16 bytes a weight, and what a pass keeps) and
            nearly twice the time. "shared" is a value head on the policy's own trunk: the cheapest, and the
            gradient of its errors pushes the policy about.
        critic_learning_rate: Step size of the detached critic at the start.
        value_clip: Values of a shared or separate critic move at most this far from the old ones in one
            update; None does not clip.
        value_coef: Weight of the value loss of a shared or separate critic.
        value_lr_factor: Step size of the value head of a shared or separate critic, in learning rates. It
            knows nothing at the start, and what its errors do to a shared trunk is worst then.
        gamma: Discount per token.
        lam: λ of GAE; 1 is Monte Carlo, right for short episodes paid at their end.
        whiten_advantages: Scale advantages to mean 0 and standard deviation 1 over the batch.
    """

    learning_rate: float = 2e-4
    target_kl: float | None = 0.012
    critic: Literal["detached", "separate", "shared"] = "detached"
    critic_learning_rate: float = 3e-3
    value_clip: float | None = 0.2
    value_coef: float = 0.5
    value_lr_factor: float = 20.0
    gamma: float = 1.0
    lam: float = 1.0
    whiten_advantages: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critic not in ("detached", "separate", "shared"):
            raise ConfigError(f"critic is {self.critic!r}; choose detached, separate or shared")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")


@dataclass(frozen=True)
class REINFORCEConfig(PolicyGradientConfig):
    """Settings of REINFORCE.

    Args:
        baseline: Subtracted from the return that follows a token: "mean" of the batch's returns (its own
            among them: the gradient shrinks by 1/B), "moving_average" of earlier batches' means, or the
            "critic"'s value of the state, trained along.
        decay: Of the moving average, in [0, 1): the share of the past.
        value_coef: Weight of the critic's loss.
    """

    learning_rate: float = 3e-3
    epochs: int = 1
    minibatches: int = 1
    baseline: Literal["mean", "moving_average", "critic"] = "mean"
    decay: float = 0.9
    value_coef: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline not in ("mean", "moving_average", "critic"):
            raise ConfigError(f"baseline is {self.baseline!r}; choose mean, moving_average or critic")
        if not 0 <= self.decay < 1:
            raise ConfigError(f"decay is {self.decay}; it must be in [0, 1)")


@dataclass(frozen=True)
class RLOOConfig(PolicyGradientConfig):
    """Settings of RLOO.

    Args:
        group_size: `k`, episodes per prompt; the episodes of an iteration are a multiple of it.
        credit: "episode" makes the whole completion one action; "turn" each turn of a conversation, worth
            what was paid from there on, less that of the others in its group that came as far.
    """

    learning_rate: float = 4e-4
    kl_coef: float = 0.02
    epochs: int = 2
    group_size: int = 4
    credit: Literal["episode", "turn"] = "episode"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_group("group_size", self.group_size)
        _check_credit(self.credit)


@dataclass(frozen=True)
class SFTConfig:
    """Settings of supervised fine-tuning.

    Args:
        epochs: Passes over the data; a fraction is allowed. None makes 3, and more on little data: at
            least 2,500 steps in all.
        batch_size: Sequences per step.
        learning_rate: Largest step size of AdamW; linear warm-up, then cosine decay to a tenth.
        warmup: Share of the steps that warm up.
        weight_decay: Of AdamW, on matrices only.
        max_grad_norm: Gradients are scaled down to this norm.
        max_seconds: Stop after this time, in seconds; the schedule follows the clock then.
        seed: Decides the order of the data.
    """

    epochs: float | None = None
    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "max_grad_norm", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; it must be positive")
        if not 0 <= self.warmup <= 1 or not self.weight_decay >= 0:
            raise ConfigError(
                f"warmup is {self.warmup} and weight_decay {self.weight_decay}; at least 0, warmup at most 1"
            )


CONFIGS: dict[str, type[AgentConfig]] = {
    "ppo": PPOConfig,
    "grpo": GRPOConfig,
    "rloo": RLOOConfig,
    "reinforce": REINFORCEConfig,
    "best_of_n": BestOfNConfig,
}


def settings_class(algorithm: str) -> type[AgentConfig]:
    """Return the class of an algorithm's settings by its name; only a user's own algorithm is loaded.

    Args:
        algorithm: As `load_algorithm` takes it.

    Raises:
        UnknownNameError: There is no such algorithm; the nearest name is suggested.
        ConfigError: A user's algorithm has no settings derived from `AgentConfig`.
    """
    if algorithm in CONFIGS:
        return CONFIGS[algorithm]
    found = own_algorithm(algorithm)
    if found is None:
        raise UnknownNameError("algorithm", algorithm, [*CONFIGS, *installed()])
    settings = getattr(found, "config_class", None)
    if not (isinstance(settings, type) and issubclass(settings, AgentConfig)):
        raise ConfigError(
            f"{algorithm} has no settings: let it derive from text_gym.agents.Agent and set "
            "`config_class` to AgentConfig or a dataclass derived from it"
        )
    return settings
