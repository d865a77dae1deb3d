from __future__ import annotations

import math
from collections.abc import Container, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_models import parameters_of, same_parameters, small_policy
from text_gym import (
    ByteTokenizer,
    Episode,
    PretrainedTokenizer,
    Prompt,
    Rewards,
    RewardSource,
    TextVectorEnv,
    WordTokenizer,
)
from text_gym.agents import PPO, Agent, Policy, PPOConfig, Rollout
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.agents.algorithms.configs import AgentConfig
from text_gym.agents.training.metrics import TIMES, Metrics
from text_gym.errors import ConfigError, NonFiniteError, NoScoresError, RewardError


def world(num_envs: int = 16, **changes: Any) -> TextVectorEnv:
    settings: dict[str, Any] = {"prompts": ["a", "bcd"], "reward": lambda completion: completion.count("a")}
    tokenizer = WordTokenizer("abcdefghi", separator="")
    return TextVectorEnv(tokenizer=tokenizer, max_tokens=6, num_envs=num_envs, **settings | changes)


def agent(policy: Policy | None = None, env: TextVectorEnv | None = None, **settings: Any) -> PPO:
    settings = {"iterations": 3, "learning_rate": 1e-2, "warmup": 0} | settings
    return PPO(policy or small_policy(), env or world(), PPOConfig(**settings))


def state_of(ppo: PPO) -> list[Tensor]:
    """Copies of parameters and of what the optimizer remembers."""
    memory = [v.clone() for s in ppo.optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
    return parameters_of(ppo.policy) + memory


def unchanged(ppo: PPO, before: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state_of(ppo), before, strict=True))


# Nothing is learnt from a bad batch


def test_nan_in_any_gradient_is_named_and_changes_nothing() -> None:
    ppo = agent(critic="shared").learn(1)
    assert isinstance(ppo, PPO)
    before = state_of(ppo)
    batch = ppo.collect()
    for name, parameter in list(ppo.policy.named_parameters()):
        for poison in (math.nan, math.inf):
            handle = parameter.register_hook(lambda g, x=poison: g.index_fill(0, torch.tensor([0]), x))
            with pytest.raises(NonFiniteError, match=rf"gradient of {name.replace('.', '[.]')} "):
                ppo.update(batch)
            handle.remove()
    assert unchanged(ppo, before)
    ppo.update(batch)  # and it can go on
    assert not unchanged(ppo, before)


@pytest.mark.parametrize("where", ["log_probs", "values", "rewards"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_nan_in_any_column_of_a_rollout_changes_nothing(where: str, poison: float) -> None:
    ppo = agent(minibatches=1, whiten_advantages=False)
    batch = ppo.collect()
    getattr(batch, where)[3, 0] = poison
    before = state_of(ppo)
    with pytest.raises(NonFiniteError):
        ppo.update(batch)
    assert unchanged(ppo, before)


@pytest.mark.parametrize("prompts", [["a"], ["a", "bcd"]])  # without and with padding
def test_nan_in_any_weight_stops_the_next_iteration(prompts: list[str]) -> None:
    """PyTorch's attention on CPU gives 0 where all scores are NaN: looking at logits would not do."""
    for name, _ in small_policy().named_parameters():
        ppo = agent(env=world(prompts=prompts))
        with torch.no_grad():
            ppo.policy.get_parameter(name)[0] = math.nan
        before = parameters_of(ppo.policy)
        with pytest.raises(NonFiniteError, match=name.replace(".", "[.]")):
            ppo.learn(1)
        assert same_parameters(ppo.policy, before)
        assert ppo.episodes_played == 0
        with pytest.raises(NonFiniteError, match=name.replace(".", "[.]")):
            PPO(small_policy(), world(), reference=ppo.policy.frozen())


class Sulking:
    """A reward that works `good` times."""

    def __init__(self, answer: Any, good: int) -> None:
        self.answer, self.left = answer, good

    def __call__(self, prompts: list[str], completions: list[str]) -> Any:
        self.left -= 1
        if self.left >= 0:
            return [float(len(c)) for c in completions]
        if isinstance(self.answer, BaseException):
            raise self.answer
        return [0.0] * (len(prompts) - 1) + [self.answer]


@pytest.mark.parametrize("answer", [math.nan, math.inf, None, "1.0", 1e39, KeyError("price"), 1j])
def test_a_bad_reward_changes_nothing(answer: Any) -> None:
    ppo = agent(env=world(reward=Sulking(answer, good=1)))
    ppo.learn(1)
    before = state_of(ppo)
    with pytest.raises(RewardError, match="reward"):
        ppo.learn(1)
    assert unchanged(ppo, before)
    assert ppo.iteration == 1
    assert ppo.episodes_played == 16


def test_an_interrupted_reward_changes_nothing() -> None:
    ppo = agent(env=world(reward=Sulking(KeyboardInterrupt(), good=1)))
    ppo.learn(1)
    before = state_of(ppo)
    with pytest.raises(KeyboardInterrupt):
        ppo.learn(1)
    assert unchanged(ppo, before)


def test_bad_rewards_may_be_dropped_and_are_counted() -> None:
    logs: list[Metrics] = []
    env = world(reward=Sulking(math.nan, good=0), on_bad_reward="drop")
    agent(env=env).learn(1, callback=lambda _, metrics: logs.append(metrics))
    assert logs[0]["abstained"] == 1
    assert logs[0]["reward"] == 0


# Batches without scores


class Moody(RewardSource):
    """Scores the batches whose numbers are told, and abstains from all others."""

    name, abstains = "moody", True

    def __init__(self, scored: Container[int], failure: str | None = None) -> None:
        self.scored, self.asked, self._last_failure = scored, 0, failure

    def score(self, episodes: Sequence[Episode]) -> list[float | None]:
        self.asked += 1
        return [float(len(e.completion)) if self.asked in self.scored else None for e in episodes]


ALGORITHMS: list[tuple[str, dict[str, Any]]] = [
    ("ppo", {"critic": "separate"}),
    ("ppo", {}),
    ("grpo", {"group_size": 4}),
    ("rloo", {"group_size": 4}),
    ("reinforce", {}),
    ("best_of_n", {"n": 4}),
]


def learner(name: str, reward: RewardSource, **settings: Any) -> Agent[Any]:
    algorithm = load_algorithm(name)
    adapting = {} if name == "best_of_n" else {"kl_target": 1.0}
    config = {"iterations": 6, "learning_rate": 1e-2, "warmup": 0, **adapting, **settings}
    env = world(reward=reward, numbering="global")
    return algorithm(small_policy(), env, algorithm.config_class(**config))


def memory_of(learned: Agent[Any]) -> list[Any]:
    """Weights, the optimizer's memory, and all that a checkpoint would hold but the counters."""
    tensors = [p.detach().clone() for network in learned.networks.values() for p in network.parameters()]
    tensors += [v.clone() for s in learned.optimizer.state.values() for v in s.values()]
    state = learned.state_dict()
    for counter in ("iteration", "episodes_played", "tokens_played", "unscored_batches"):
        del state[counter]
    return [*tensors, state]


def same_memory(a: list[Any], b: list[Any]) -> bool:
    tensors = zip(a[:-1], b[:-1], strict=True)
    return a[-1] == b[-1] and all(torch.equal(x, y) for x, y in tensors)


@pytest.mark.parametrize(("name", "settings"), ALGORITHMS)
def test_nothing_is_learnt_from_a_batch_without_scores(
    name: str, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[Metrics] = []
    states: list[list[Any]] = []

    def watch(learned: Agent[Any], metrics: Metrics) -> None:
        rows.append(metrics)
        states.append(memory_of(learned))

    agent = learner(name, Moody({1, 4, 6}, "status 500, 'boom'"), **settings)
    agent.learn(callback=watch)
    assert [row["unscored_batches"] for row in rows] == [0, 1, 2, 0, 1, 0]
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5, 6]
    changed = [not same_memory(a, b) for a, b in pairwise(states)]
    assert changed == [False, False, True, False, True]
    for row in (rows[1], rows[2], rows[4]):
        assert row["updates"] == 0
        assert row["abstained"] == row["episodes"] / row["iteration"] == 16
        assert {k for k, v in row.items() if isinstance(v, float) and math.isnan(v)} == {
            "reward", "reward_std",
        }  # fmt: skip
    told = [record.getMessage() for record in caplog.records if "scored none" in record.getMessage()]
    assert told == [
        f"iteration {n}: reward 'moody' scored none of 16 episodes: status 500, 'boom'; nothing is learnt "
        "from them"
        for n in (2, 5)
    ]


def test_what_is_learnt_after_a_batch_without_scores_is_what_the_schedule_says() -> None:
    """As if the iteration had not learnt: the next one plays its own episodes at its own step size."""
    one = learner("ppo", Moody({1, 3}))
    one.learn(3)
    other = learner("ppo", Moody({1, 2}))
    other.learn(1)
    other.iteration, other.episodes_played = 2, 32
    other.learn(1)
    assert same_memory(memory_of(one), memory_of(other))


def test_learning_stops_after_several_batches_without_scores() -> None:
    rows: list[Metrics] = []
    agent = learner("ppo", Moody({1, 6}, "said \x1b[31m no"), max_unscored=2)
    with pytest.raises(NoScoresError) as caught:
        agent.learn(callback=lambda _, metrics: rows.append(metrics))
    message = str(caught.value)
    assert "reward 'moody' scored none of 16 episodes: said \\x1b[31m no" in message
    assert "batch 2 in a row" in message
    assert "max_unscored (2)" in message
    assert len(rows) == agent.iteration == 3  # the last iteration was told of, too
    with pytest.raises(NoScoresError, match="batch 3 in a row"):  # one more try
        agent.learn()
    with pytest.raises(NoScoresError):
        agent.learn()
    agent.learn()  # and here it is back
    assert (agent.iteration, agent.unscored_batches) == (6, 0)


def test_a_source_without_a_reason_is_named_without_one() -> None:
    with pytest.raises(NoScoresError, match=r"'moody' scored none .* it abstained and gave no reason"):
        learner("grpo", Moody({}), group_size=4, max_unscored=1).learn()


def test_bad_rewards_that_are_dropped_are_the_reason() -> None:
    env = world(reward=lambda completion: math.nan, on_bad_reward="drop")
    with pytest.raises(
        NoScoresError, match=r"scored none of 16 episodes: reward '<lambda>': episode 15 is nan"
    ):
        agent(env=env, max_unscored=1).learn()


def test_the_count_of_batches_without_scores_is_saved(tmp_path: Path) -> None:
    first = learner("ppo", Moody({1}))
    first.learn(3)
    first.save(tmp_path, resumable=True)
    again = PPO.load(tmp_path, world(reward=Moody({}), numbering="global"))
    assert again.unscored_batches == 2
    with pytest.raises(NoScoresError, match="batch 3 in a row"):
        again.learn()


# What stays as it is


def test_the_reference_is_a_copy_that_never_changes() -> None:
    policy = small_policy()
    start = parameters_of(policy)
    ppo = agent(policy)
    ppo.learn()
    assert same_parameters(ppo.reference, start)
    weights = zip(policy.parameters(), start, strict=True)
    head = list(policy.value_head.parameters())  # nobody asks it
    assert all(torch.equal(a, b) == any(a is h for h in head) for a, b in weights)
    other = small_policy(seed=4).frozen()
    ppo = PPO(policy, world(), PPOConfig(iterations=1), reference=other)
    before = parameters_of(other)
    ppo.learn()
    assert ppo.reference is other
    assert same_parameters(other, before)


def test_dropout_is_off_in_playing_scoring_and_learning() -> None:
    wild, calm = small_policy(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5), small_policy()
    calm.load_state_dict(wild.state_dict())
    for policy in (wild, calm):
        agent(policy).learn()
    assert same_parameters(wild, parameters_of(calm))


def run(global_seed: int, **settings: Any) -> tuple[list[Tensor], list[Metrics]]:
    torch.manual_seed(global_seed)
    np.random.seed(global_seed)  # noqa: NPY002
    logs: list[Metrics] = []
    ppo = agent(**settings)
    ppo.learn(callback=lambda _, metrics: logs.append({k: v for k, v in metrics.items() if k not in TIMES}))
    return state_of(ppo), logs


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"seed": 7, "kl_in": "loss", "kl_estimator": "k3", "entropy_coef": 0.01},
        {"temperature": 0.8, "kl_target": 1.0, "target_kl": 0.01, "minibatches": 3},
    ],
)
def test_the_same_seed_gives_the_same_bits(settings: dict[str, Any]) -> None:
    (first, first_logs), (again, again_logs) = run(0, **settings), run(1, **settings)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first_logs == again_logs
    assert len(first_logs) == 3
    other, other_logs = run(0, **settings | {"seed": 99})
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert first_logs != other_logs


def test_learning_in_parts_is_learning_at_once() -> None:
    whole, parts = agent(), agent()
    whole.learn()
    parts.learn(1).learn(1).learn()
    assert unchanged(whole, state_of(parts))
    assert whole.learn().iteration == 3  # done: nothing more to do


# The loop


def test_callbacks_see_every_iteration_and_may_stop() -> None:
    seen: list[tuple[int, float]] = []

    def callback(learner: Agent[Any], metrics: Metrics) -> bool | None:
        seen.append((int(metrics["iteration"]), learner.optimizer.param_groups[0]["lr"]))
        assert metrics["tokens"] == learner.tokens_played
        assert metrics["episodes"] == learner.episodes_played == 16 * metrics["iteration"]
        assert metrics["seconds"] >= metrics["rollout_seconds"] > 0
        return False if len(seen) == 4 else None

    ppo = agent(iterations=10, learning_rate=1.0e-3)
    ppo.learn(callback=callback)
    assert [i for i, _ in seen] == [1, 2, 3, 4]
    assert [lr for _, lr in seen] == pytest.approx([1e-3, 9e-4, 8e-4, 7e-4])
    warm: list[float] = []
    agent(iterations=4, learning_rate=1e-3, warmup=3, kl_coef=0.0).learn(
        callback=lambda learner, _: warm.append(learner.optimizer.param_groups[0]["lr"])
    )
    assert warm == pytest.approx([1e-3 / 3, 2e-3 / 3 * 3 / 4, 1e-3 / 2, 1e-3 / 4])
    constant = agent(anneal=False)
    constant.learn()
    assert constant.optimizer.param_groups[0]["lr"] == 1e-2


def test_episodes_go_on_from_iteration_to_iteration() -> None:
    ppo = agent(learning_rate=0.0)
    first = ppo.collect()
    ppo.learn(1)
    second = ppo.collect()
    assert [e.index for e in first.episodes] == list(range(16))
    assert [e.index for e in second.episodes] == list(range(16, 32))
    assert {e.seed for e in second.episodes} == {0}


def test_gradients_are_cut_to_their_norm() -> None:
    class Watched(PPO):
        norms: list[tuple[float, float]] = []  # noqa: RUF012

        def apply_gradients(self) -> float:
            before = super().apply_gradients()
            squares = [float((p.grad**2).sum()) for p in self.policy.parameters() if p.grad is not None]
            self.norms += [(before, math.sqrt(sum(squares)))] if squares else []
            return before

    ppo = Watched(
        small_policy(), world(), PPOConfig(iterations=1, max_grad_norm=1e-3, entropy_coef=1.0, target_kl=None)
    )
    ppo.learn()
    assert len(ppo.norms) == 16
    cut = [after for before, after in ppo.norms if before > 1e-3]
    assert cut
    assert cut == pytest.approx([1e-3] * len(cut), rel=1e-3)
    assert all(after == pytest.approx(before) for before, after in ppo.norms if before < 1e-3)


def test_describe_by_hand() -> None:
    tokenizer = ByteTokenizer()
    episodes = [Episode.of("p", text, tokenizer) for text in ("a", "bc", "d")]
    cut = Episode(
        Prompt("p"), np.zeros(1, np.int64), np.zeros(4, np.int64), tokenizer, finish_reason="length"
    )
    scores = Rewards(
        np.array([1.0, 3.0, 0.0, 5.0]),
        terms={"style": np.array([0.0, 1.0, 2.0, 3.0])},
        abstained=np.array([False, False, True, False]),
    )
    zeros = torch.zeros(4, 4)
    lengths = torch.tensor([2, 3, 2, 4])
    batch = Rollout(
        zeros.long(),
        torch.ones(4).long(),
        lengths,
        zeros,
        zeros,
        zeros,
        torch.zeros(4, dtype=torch.bool),
        [*episodes, cut],
        scores,
    )
    found = batch.metrics()
    assert found == {
        "reward": 3.0,
        "reward_std": pytest.approx(math.sqrt(8 / 3)),
        "abstained": 1,
        "length": 2.75,
        "length_max": 4,
        "truncated": 0.25,
        "eos": 0.75,
        "reward/style": 1.5,
    }


# Using, saving, loading


def test_predict_completes_in_order_and_greedily() -> None:
    ppo = agent()
    prompts: list[Prompt | str] = ["abc", Prompt("hi"), "abc", "d"]
    found = ppo.predict(prompts)
    assert found[0] == found[2]
    assert found == [ppo.predict([p])[0] for p in prompts]
    ids = ppo.policy.tokenizer.encode("hi")
    for _ in range(6):
        with torch.no_grad():
            ids.append(int(ppo.policy.model(torch.tensor([ids])).logits[0, -1, :11].argmax()))
        if ids[-1] == 9:
            break
    assert found[1] == ppo.policy.tokenizer.decode(ids[2:])
    samples = ppo.predict(["abc"] * 20, greedy=False, seed=1)
    assert len(set(samples)) > 5
    assert samples == ppo.predict(["abc"] * 20, greedy=False, seed=1)


@pytest.mark.parametrize("own_tokenizer", [True, False])
def test_what_was_saved_goes_on(tmp_path: Path, own_tokenizer: bool) -> None:
    tokenizer = PretrainedTokenizer.train(["abc"], vocab_size=258) if own_tokenizer else ByteTokenizer()
    policy = Policy.new(tokenizer, width=8, layers=1, heads=2, context=16, device="cpu")
    env = TextVectorEnv(["a", "bc"], tokenizer, lambda completion: len(completion), 4, num_envs=4)
    ppo = PPO(policy, env, PPOConfig(iterations=1)).learn()
    ppo.save(tmp_path)
    loaded = PPO.load(tmp_path, env, PPOConfig(iterations=1))
    assert same_parameters(loaded.policy, parameters_of(policy))
    assert same_parameters(loaded.reference, parameters_of(policy))
    assert loaded.predict(["a"]) == ppo.predict(["a"])
    assert loaded.learn().iteration == 1


def test_settings_are_plain_data() -> None:
    settings = agent(seed=3).settings()
    assert settings["algorithm"] == "ppo"
    assert settings["seed"] == 3
    assert settings["clip"] == 0.2


@pytest.mark.parametrize("name", ["iterations", "learning_rate", "warmup", "max_grad_norm", "kl_coef"])
@pytest.mark.parametrize("value", [-1, math.nan])
def test_settings_below_zero_are_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        AgentConfig(**{name: value})  # type: ignore[arg-type]


def test_max_unscored_is_at_least_one() -> None:
    with pytest.raises(ConfigError, match="max_unscored is 0"):
        AgentConfig(max_unscored=0)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="temperature is 0"):
        agent(temperature=0.0)
