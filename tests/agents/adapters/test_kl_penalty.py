from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from tests.small_models import plain_forward, small_policy
from text_gym import (
    ActionMask,
    Episode,
    Prompt,
    RewardSource,
    TextEnv,
    TextVectorEnv,
    WordTokenizer,
    load_task,
)
from text_gym.agents import KLPenalty, Policy, trajectory_log_probs
from text_gym.agents.adapters.kl_penalty import KL_INFO
from text_gym.envs.masks import Prefixes
from text_gym.errors import ConfigError, EpisodeError, NonFiniteError, TokenError
from text_gym.tasks.enumerable import trajectories

Floats = npt.NDArray[np.float64]
TOKENIZER = WordTokenizer("abcdefghi", separator="")  # ids 0 to 8, then EOS and padding
V, EOS, BETA = TOKENIZER.vocab_size, TOKENIZER.eos_ids[0], 0.3
PROMPTS = ["a", "bcd", "fgahi", "dd"]
MODES = list(AutoresetMode)


def policy_of(seed: int) -> Policy:
    """In float64, far from uniform."""
    return small_policy(tokenizer=TOKENIZER, seed=seed, dtype=torch.float64)


@pytest.fixture(scope="module")
def acting() -> Policy:
    return policy_of(1).frozen()


@pytest.fixture(scope="module")
def reference() -> Policy:
    return policy_of(2).frozen()


def count_a(completion: str) -> float:
    return completion.count("a")


def make_env(num_envs: int = 4, mode: AutoresetMode | str = "NextStep", **kwargs: Any) -> TextVectorEnv:
    settings: dict[str, Any] = {
        "prompts": PROMPTS,
        "tokenizer": TOKENIZER,
        "reward": count_a,
        "max_tokens": 5,
    }
    return TextVectorEnv(**(settings | kwargs), num_envs=num_envs, autoreset_mode=mode)


def make_sync(num_envs: int = 4, mode: AutoresetMode | str = "NextStep", **kwargs: Any) -> SyncVectorEnv:
    """Gymnasium's own vector environment, of single ones."""
    width = max(map(len, PROMPTS))

    def single() -> TextEnv:
        return TextEnv(PROMPTS, TOKENIZER, count_a, 5, max_prompt_tokens=width, **kwargs)

    return SyncVectorEnv([single] * num_envs, autoreset_mode=AutoresetMode(mode))


def row_log_ratio(acting: Policy, reference: Policy, observation: Any, row: int, action: int) -> float:
    """By the models' own forward pass over one text, without padding or cache."""
    n = int(observation["length"][row, 0])
    ids = [*observation["tokens"][row, :n].tolist(), action]
    with torch.no_grad():
        own, other = (plain_forward(p, ids, n)[0][0, action] for p in (acting, reference))
    return float(own - other)


# What is paid


@pytest.mark.parametrize("limit", ["end", "truncate"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [make_env, make_sync])
def test_every_reward_is_the_tasks_minus_beta_times_the_exact_log_ratio(
    make: Callable[..., VectorEnv[Any, Any, Any]],
    mode: AutoresetMode,
    limit: str,
    acting: Policy,
    reference: Policy,
) -> None:
    """Rows end at different times: by EOS, by a stop string, at the limit."""
    more: dict[str, Any] = {"limit": limit, "stop": ["ab"]}
    plain, env = make(mode=mode, **more), KLPenalty(make(mode=mode, **more), reference, BETA, policy=acting)
    shown, _ = plain.reset(seed=0)
    seen, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    total, over, ends = np.zeros(4), np.zeros(4, dtype=np.bool_), 0
    for _ in range(30):
        assert seen in env.observation_space
        assert all(np.array_equal(seen[k], shown[k]) for k in shown)
        actions = rng.choice([0, 1, 2, EOS], 4)
        wanted = np.array(
            [0.0 if over[i] else row_log_ratio(acting, reference, shown, i, actions[i]) for i in range(4)]
        )
        shown, task_rewards, terminated, truncated, _ = plain.step(actions)
        seen, rewards, *flags, info = env.step(actions)
        total += wanted
        np.testing.assert_allclose(rewards, task_rewards - BETA * wanted, rtol=0, atol=1e-9)
        assert np.array_equal(flags, [terminated, truncated])
        assert info["_token_kl"].tolist() == (~over).tolist()
        np.testing.assert_allclose(info["token_kl"], wanted, rtol=0, atol=1e-9)
        np.testing.assert_allclose(info["episode_kl"][~over], total[~over], rtol=0, atol=1e-9)
        over = terminated | truncated
        ends += int(over.sum())
        total[over] = 0.0
        if mode is AutoresetMode.DISABLED and over.any():
            shown, _ = plain.reset(options={"reset_mask": over.copy()})
            seen, _ = env.reset(options={"reset_mask": over.copy()})
        if mode is not AutoresetMode.NEXT_STEP:
            over = np.zeros(4, dtype=np.bool_)
    assert ends > 20


def test_the_penalties_of_an_episode_add_up_to_the_log_ratio_of_its_text() -> None:
    """All 40 trajectories of the enumerable world, against whole texts read without cache in float64."""
    task = load_task("enumerable", seed=3)
    kwargs: dict[str, Any] = {"tokenizer": task.tokenizer, "dtype": torch.float64, "initializer_range": 0.2}
    acting, reference = small_policy(seed=1, **kwargs), small_policy(seed=2, **kwargs)
    episodes = trajectories(task)
    env = KLPenalty(TextVectorEnv(task=task, num_envs=len(episodes)), reference, BETA, policy=acting)
    env.reset(seed=0)
    returns, kl = np.zeros(len(episodes)), np.zeros(len(episodes))
    for step in range(task.max_tokens):
        ids = [e.completion_ids for e in episodes]
        running = np.array([step < len(i) for i in ids])
        _, rewards, _, _, info = env.step(np.array([i[min(step, len(i) - 1)] for i in ids]))
        returns += np.where(running, rewards, 0.0)
        kl = np.where(running, info["episode_kl"], kl)
    own, other = (trajectory_log_probs(p, episodes).detach().numpy() for p in (acting, reference))
    np.testing.assert_allclose(kl, own - other, rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        returns, task.reward(episodes).values - BETA * (own - other), rtol=0, atol=1e-10
    )
    exact = float((np.exp(own) * (own - other)).sum())  # over all trajectories: KL(π ‖ π_ref) of texts
    assert float((np.exp(own) * kl).sum()) == pytest.approx(exact, abs=1e-10)
    assert exact > 0.05


def test_the_expected_penalty_of_a_token_is_the_kl_over_the_full_vocabulary(
    acting: Policy, reference: Policy
) -> None:
    """A row for every token; all rows write the same text first."""
    for text in ([], [3], [0, 7, 7]):
        env = KLPenalty(make_env(V, prompts=["bcd"]), reference, BETA, policy=acting)
        env.reset(seed=0)
        for token in text:
            env.step(np.full(V, token))
        _, _, _, _, info = env.step(np.arange(V))
        ids = [*TOKENIZER.encode("bcd"), *text]
        with torch.no_grad():
            own, other = (
                torch.log_softmax(p.model(torch.tensor([ids])).logits[0, -1, :V], dim=0)
                for p in (acting, reference)
            )
        exact = float((own.exp() * (own - other)).sum())
        assert exact > 0.1
        assert float(own.exp().numpy() @ info["token_kl"]) == pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_a_policy_pays_nothing_for_being_the_reference(mode: AutoresetMode, reference: Policy) -> None:
    env = KLPenalty(make_env(mode=mode, reward=lambda completion: 0.0), reference, 1e6, policy=reference)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        _, rewards, terminated, truncated, _ = env.step(rng.choice([0, 1, EOS], 4))
        assert rewards.tolist() == [0.0] * 4
        if mode is AutoresetMode.DISABLED and (terminated | truncated).any():
            env.reset(options={"reset_mask": terminated | truncated})


def test_a_policy_that_learns_is_read_anew_and_the_reference_stays(reference: Policy) -> None:
    policy = policy_of(2)  # the reference's weights, at first
    env = KLPenalty(make_env(), policy, BETA, policy=policy)
    shown, _ = env.reset(seed=0)
    _, _, _, _, info = env.step(np.zeros(4, dtype=np.int64))
    assert not info["token_kl"].any()
    assert KLPenalty(make_env(), reference).reference is reference  # nothing to copy
    with torch.no_grad():
        for p in policy.parameters():
            p.mul_(1.1)
    shown, _ = env.reset(seed=0)
    _, _, _, _, info = env.step(np.zeros(4, dtype=np.int64))
    for i in range(4):
        wanted = row_log_ratio(policy, reference, shown, i, 0)
        assert abs(wanted) > 1e-3
        assert info["token_kl"][i] == pytest.approx(wanted, abs=1e-10)


def test_a_reference_of_another_architecture_without_a_fast_path() -> None:
    acting, reference = policy_of(1), small_policy("mistral", TOKENIZER, seed=4, dtype=torch.float64)
    env = KLPenalty(make_env(), reference, BETA, policy=acting)
    shown, _ = env.reset(seed=0)
    for action in (0, 3, 5):
        actions = np.full(4, action)
        wanted = [row_log_ratio(acting, reference, shown, i, action) for i in range(4)]
        shown, _, _, _, info = env.step(actions)
        np.testing.assert_allclose(info["token_kl"], wanted, rtol=0, atol=1e-9)


# Masks, resets, abstentions


class NoRepeat(ActionMask):
    """Forbids the last token to come again."""

    def allowed(self, prefixes: Prefixes) -> npt.NDArray[np.bool_]:
        mask = np.ones((len(prefixes.rows), V), dtype=np.bool_)
        last = prefixes.tokens[np.arange(len(mask)), prefixes.lengths - 1]
        mask[np.arange(len(mask)), last] = False
        return mask


def test_policy_and_reference_are_both_restricted_to_the_mask(acting: Policy, reference: Policy) -> None:
    env = KLPenalty(make_env(V, prompts=["bcd"], mask=NoRepeat()), reference, BETA, policy=acting)
    env.reset(seed=0)
    env.step(np.full(V, 4))
    allowed = np.arange(V) != 4
    _, _, _, _, info = env.step(np.where(allowed, np.arange(V), 0))
    ids = torch.tensor([[*TOKENIZER.encode("bcd"), 4]])
    with torch.no_grad():
        own, other = (
            torch.log_softmax(p.model(ids).logits[0, -1, torch.from_numpy(np.flatnonzero(allowed))], dim=0)
            for p in (acting, reference)
        )
    np.testing.assert_allclose(info["token_kl"][allowed], (own - other).numpy(), rtol=0, atol=1e-10)


def test_a_forbidden_token_is_refused_before_anything_changes(acting: Policy, reference: Policy) -> None:
    env = KLPenalty(make_env(mask=NoRepeat(), prompts=["bcd"]), reference, BETA, policy=acting)
    env.reset(seed=0)
    with pytest.raises(TokenError, match="token id 3 in row 2 is masked"):
        env.step(np.array([4, 5, 3, 6]))
    _, _, _, _, info = env.step(np.array([4, 5, 6, 7]))
    assert info["episode_kl"].tolist() == info["token_kl"].tolist()
    advice = KLPenalty(
        make_env(mask=NoRepeat(), prompts=["bcd"], on_masked="allow"), reference, policy=acting
    )
    shown, _ = advice.reset(seed=0)
    _, _, _, _, info = advice.step(np.full(4, 3))  # the mask does not restrict anybody
    assert info["token_kl"][0] == pytest.approx(row_log_ratio(acting, reference, shown, 0, 3), abs=1e-10)


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_a_row_that_is_reset_by_hand_begins_anew(mode: str, acting: Policy, reference: Policy) -> None:
    env = KLPenalty(make_env(mode=mode), reference, BETA, policy=acting)
    env.reset(seed=0)
    env.step(np.full(4, 1))
    env.step(np.array([EOS, 2, 2, 2]))
    env.reset(options={"reset_mask": np.array([True, True, False, False])})
    _, _, _, _, info = env.step(np.full(4, 3))  # row 0 acts: it need not be restarted any more
    assert info["_token_kl"].all()
    same = info["episode_kl"] == info["token_kl"]
    assert same.tolist() == [True, True, False, False]


def test_actions_of_rows_that_only_restart_may_be_anything(acting: Policy, reference: Policy) -> None:
    env = KLPenalty(make_env(), reference, BETA, policy=acting)
    env.reset(seed=0)
    env.step(np.array([EOS, 0, 0, 0]))
    _, rewards, _, _, info = env.step(np.array([-7, 0, 0, 0]))
    assert rewards[0] == 0
    assert info["_token_kl"].tolist() == [False, True, True, True]
    _, _, _, _, info = env.step(np.zeros(4, dtype=np.int64))
    assert info["episode_kl"][0] == info["token_kl"][0]


class Shy(RewardSource):
    """Pays 1, and has no opinion on texts that begin with an `a`."""

    name, abstains = "shy", True

    def score(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [None if e.completion.startswith("a") else 1.0 for e in episodes]


def test_a_redrawn_episode_gets_its_penalty_back(acting: Policy, reference: Policy) -> None:
    env = KLPenalty(make_env(1, reward=Shy(), on_abstain="redraw"), reference, BETA, policy=acting)
    env.reset(seed=0)
    played = [env.step(np.array([token])) for token in (0, 2, EOS, 1, 2, EOS)]
    rewards = [float(step[1][0]) for step in played]
    assert "redrawn" in played[2][4]
    assert abs(rewards[0]) > 1e-3
    assert sum(rewards[:3]) == pytest.approx(0.0, abs=1e-12)
    assert played[3][4]["episode_kl"] == played[3][4]["token_kl"]
    assert sum(rewards) == pytest.approx(1 - BETA * played[5][4]["episode_kl"][0], abs=1e-12)


# Infos


@pytest.mark.parametrize("mode", MODES)
def test_infos_always_have_the_same_keys(mode: AutoresetMode, acting: Policy, reference: Policy) -> None:
    env = KLPenalty(make_env(mode=mode), reference, BETA, policy=acting)
    _, info = env.reset(seed=0)
    infos = [info, *(env.step(np.array([EOS, 0, 0, 0]))[4] for _ in range(1 if mode is MODES[2] else 6))]
    for info in infos:
        for key in KL_INFO:
            assert (info[key].dtype, info[key].shape) == (np.float64, (4,))
            assert (info[f"_{key}"].dtype, info[f"_{key}"].shape) == (np.bool_, (4,))
        assert not set(KL_INFO) & set(info.get("final_info", {}))
    assert not infos[0]["_token_kl"].any()
    assert infos[1]["kl_coef"].tolist() == [BETA] * 4


def test_statistics_see_the_tasks_return_inside_and_the_penalised_one_outside(
    acting: Policy, reference: Policy
) -> None:
    inside = KLPenalty(RecordEpisodeStatistics(make_env(mode="SameStep")), reference, BETA, policy=acting)
    outside = RecordEpisodeStatistics(KLPenalty(make_env(mode="SameStep"), reference, BETA, policy=acting))
    inside.reset(seed=0)
    outside.reset(seed=0)
    for token in (0, 0, EOS):
        _, _, _, _, info = inside.step(np.full(4, token))
        _, _, _, _, other = outside.step(np.full(4, token))
    assert info["episode"]["r"].tolist() == [2.0] * 4
    np.testing.assert_allclose(other["episode"]["r"], 2.0 - BETA * info["episode_kl"], atol=1e-12)


# β


def uniform() -> Policy:
    """A reference that finds every token equally likely: its embeddings, and so its logits, are 0."""
    policy = small_policy(tokenizer=TOKENIZER)
    torch.nn.init.zeros_(policy.model.get_output_embeddings().weight)
    return policy


def test_beta_follows_a_hand_worked_sequence() -> None:
    """Ziegler et al.: β ← β·(1 + clip(KL/target − 1, ±0.2)·n/horizon); two episodes of two tokens each."""
    said = {"log_ratio": 0.0}
    env = KLPenalty(
        make_env(2, "SameStep", max_tokens=2, reward=lambda completion: 0.0),
        uniform(),
        1.0,
        kl_target=1.0,
        kl_horizon=10,
        kl_batch=2,
        policy=lambda observation, actions: np.full(2, said["log_ratio"] - math.log(V)),
    )
    env.reset(seed=0)
    sequence = [
        (0.6, 1.0),  # KL 1.2 an episode: error 0.2, two of ten episodes …
        (0.45, 1.04),  # … so this one is played at 1 + 0.2·2/10. KL 0.9: error −0.1
        (0.5, 1.04 * 0.98),  # KL 1.0: no error
        (3.0 / 2, 1.04 * 0.98),  # KL 3: cut at 0.2
        (-1.0, 1.04 * 0.98 * 1.04),  # KL −2: cut at −0.2
        (0.5, 1.04 * 0.98 * 1.04 * 0.96),
    ]
    for log_ratio, beta in sequence:
        said["log_ratio"] = log_ratio
        for _ in range(2):
            _, rewards, _, _, info = env.step(np.zeros(2, dtype=np.int64))
            assert info["kl_coef"] == pytest.approx([beta] * 2, rel=1e-6)
            assert rewards == pytest.approx([-beta * log_ratio] * 2, rel=1e-5)
        assert info["episode_kl"] == pytest.approx([2 * log_ratio] * 2, rel=1e-5)


def test_the_controller_waits_for_a_batch_of_episodes() -> None:
    env = KLPenalty(
        make_env(2, "SameStep", max_tokens=1),
        uniform(),
        1.0,
        kl_target=1.0,
        kl_horizon=10,
        kl_batch=3,
        policy=lambda observation, actions: np.full(2, 1.1 - math.log(V)),
    )
    env.reset(seed=0)
    betas = [float(env.step(np.zeros(2, dtype=np.int64))[4]["kl_coef"][0]) for _ in range(3)]
    assert betas == pytest.approx([1.0, 1.0, 1 + 0.1 * 4 / 10], rel=1e-6)


def test_episodes_that_the_controller_has_not_heard_of_are_remembered() -> None:
    def made() -> KLPenalty:
        return KLPenalty(
            make_env(2, "SameStep", max_tokens=1),
            uniform(),
            1.0,
            kl_target=1.0,
            kl_horizon=10,
            kl_batch=3,
            policy=lambda observation, actions: np.full(2, 1.1 - math.log(V)),
        )

    first, second = made(), made()
    first.reset(seed=0)
    first.step(np.zeros(2, dtype=np.int64))  # two episodes of the three
    observation, _ = second.reset(seed=0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())), observation)
    for env in (first, second):
        env.step(np.zeros(2, dtype=np.int64))
        assert env.controller.coefficient == pytest.approx(1 + 0.1 * 4 / 10, rel=1e-6)


def test_without_a_target_beta_stays(acting: Policy, reference: Policy) -> None:
    env = KLPenalty(make_env(), reference, BETA, kl_batch=1, policy=acting)
    env.reset(seed=0)
    for _ in range(12):
        env.step(np.full(4, EOS))
    assert env.controller.coefficient == BETA


# What is refused


def zeros(observation: Any, actions: Any) -> Any:
    return np.zeros(4)


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (lambda o, a: np.full(4, np.nan), NonFiniteError, "the policy gives the token in row 0 .* nan"),
        (lambda o, a: np.array([-1, -np.inf, -1, -1]), NonFiniteError, "row 1 .* -inf"),
        (lambda o, a: np.full((4, 1), -1.0), ConfigError, r"shape \(4, 1\) for 4 actions"),
        (lambda o, a: np.array([-1.0, -2.0, 0.3, -1.0]), ConfigError, "row 2 the log-probability 0.3"),
    ],
)
def test_log_probabilities_that_are_none_are_refused_before_anything_changes(
    said: Any, error: type[Exception], message: str, acting: Policy, reference: Policy
) -> None:
    env = KLPenalty(make_env(), reference, BETA, policy=said)
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        env.step(np.zeros(4, dtype=np.int64))
    _, _, _, _, info = env.follow(acting).step(np.zeros(4, dtype=np.int64))
    assert info["episode_kl"].tolist() == info["token_kl"].tolist()
    assert env.unwrapped.batch.lengths.tolist() == (env.unwrapped.batch.starts + 1).tolist()  # type: ignore[attr-defined]


def test_tensors_of_any_type_are_taken(reference: Policy) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        said = torch.full((4,), -1.0, dtype=dtype, requires_grad=True)
        env = KLPenalty(make_env(), reference, BETA, policy=lambda o, a, said=said: said)  # type: ignore[misc]
        env.reset(seed=0)
        env.step(np.zeros(4, dtype=np.int64))


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.array([0, 0, V, 0]), f"token id {V} in row 2"),
        (np.array([0, -1, 0, 0]), "token id -1 in row 1"),
        (np.zeros(3, dtype=np.int64), "shape"),
        (np.zeros(4), "dtype float64"),
    ],
)
def test_actions_that_are_no_tokens_are_refused(actions: Any, message: str, reference: Policy) -> None:
    env = KLPenalty(make_env(), reference, BETA, policy=zeros)
    env.reset(seed=0)
    with pytest.raises(TokenError, match=message):
        env.step(actions)


def test_a_reference_that_breaks_is_named() -> None:
    broken = policy_of(2)
    with torch.no_grad():
        broken.model.transformer.ln_f.bias[0] = float("nan")
    env = KLPenalty(make_env(), broken, BETA, policy=zeros)
    env.reset(seed=0)
    with pytest.raises(NonFiniteError, match="the reference gives the token in row 0"):
        env.step(np.zeros(4, dtype=np.int64))


def test_the_order_of_calls_is_told(reference: Policy) -> None:
    env = KLPenalty(make_env(), reference, BETA)
    with pytest.raises(EpisodeError, match="before reset"):
        env.step(np.zeros(4, dtype=np.int64))
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"env\.follow\(policy\)"):
        env.step(np.zeros(4, dtype=np.int64))
    with pytest.raises(ConfigError, match="not a Linear"):
        env.follow(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: KLPenalty(TextEnv(["a"], TOKENIZER, len, 3), p), "not a TextEnv"),  # type: ignore[arg-type]
        (lambda p: KLPenalty(make_env(), "products"), "the reference is a str"),  # type: ignore[arg-type]
        (lambda p: KLPenalty(make_env(max_tokens=60), p), "65 tokens, the language model reads 64"),
        (lambda p: KLPenalty(make_env(tokenizer=WordTokenizer("ab", separator=""), prompts=["a"]), p),
         "has 11 tokens"),
        (lambda p: KLPenalty(make_env(tokenizer=WordTokenizer("abcdefghj", separator=""), prompts=["a"]), p),
         "different tokenizers"),
        (lambda p: KLPenalty(gym.make_vec("CartPole-v1"), p), "'tokens' and 'length'"),
        (lambda p: KLPenalty(make_env(), p, -0.1), "-0.1"),
        (lambda p: KLPenalty(make_env(), p, math.nan), "nan"),
        (lambda p: KLPenalty(make_env(), p, kl_target=0.0), "target 0"),
        (lambda p: KLPenalty(make_env(), p, kl_target=1.0, kl_horizon=0.0), "horizon"),
        (lambda p: KLPenalty(make_env(), p, kl_batch=0), "kl_batch is 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    make: Callable[[Policy], KLPenalty], message: str, reference: Policy
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(reference)


def test_prompts_and_seeds_are_the_environments(acting: Policy, reference: Policy) -> None:
    env = KLPenalty(make_env(prompts=[Prompt(p) for p in PROMPTS]), reference, policy=acting)
    plain = make_env()
    for seed in (0, 7):
        mine, other = env.reset(seed=seed), plain.reset(seed=seed)
        assert mine[0]["tokens"].tolist() == other[0]["tokens"].tolist()
        assert mine[1]["prompt"].tolist() == other[1]["prompt"].tolist()
    assert env.metadata == plain.metadata


def test_torchrl_plays_it(reference: Policy) -> None:
    """TorchRL takes environments that it resets itself, and writes tensors into observations."""
    torchrl = pytest.importorskip("torchrl.envs")
    modules = pytest.importorskip("torchrl.modules")
    tensordict = pytest.importorskip("tensordict.nn")
    unpaid = make_env(4, "Disabled", info_texts=False, reward=lambda completion: 0.0)
    env = KLPenalty(unpaid, reference, BETA)
    table = torch.nn.Embedding(V, V)
    asked: dict[str, Any] = {}

    def logits(tokens: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        asked["logits"] = table(tokens.gather(-1, length - 1)[..., 0])
        return asked["logits"]  # type: ignore[no-any-return]

    actor = modules.ProbabilisticActor(
        tensordict.TensorDictModule(logits, in_keys=["tokens", "length"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
    )
    env.follow(
        lambda observation, actions: torch.distributions.Categorical(logits=asked["logits"]).log_prob(
            torch.as_tensor(actions)
        )
    )
    played = torchrl.GymWrapper(env, categorical_action_encoding=True).rollout(
        12, actor, break_when_any_done=False
    )
    assert played["next", "done"].sum() > 4
    for row, step in [(r, s) for r in range(4) for s in range(12)]:
        said = {k: played[k][row, step] for k in ("tokens", "length", "action")}
        n, action = int(said["length"]), int(said["action"])
        ids = [*said["tokens"][:n].tolist(), action]
        own = torch.log_softmax(table.weight[ids[-2]], dim=0)[action]
        other = plain_forward(reference, ids, n)[0][0, action]
        paid = float(played["next", "reward"][row, step])
        assert paid == pytest.approx(-BETA * float(own - other), abs=1e-5)
