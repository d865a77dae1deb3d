from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.small_models import KINDS, parameters_of, plain_forward, same_parameters, small_policy
from text_gym import Episode, Rewards, RewardSource, TextVectorEnv, Tokenizer, WordTokenizer
from text_gym.agents import Policy, Rollout, Sampling, rollout
from text_gym.agents.sampling import sampler
from text_gym.agents.sampling.inversion import inverse_cdf
from text_gym.agents.sampling.sampler import uniform
from text_gym.errors import ConfigError, NonFiniteError, RewardError
from text_gym.models.runtime import ALLOCATOR_CHOICES
from text_gym.models.sizes import Sizes, using

PROMPTS = ["a", "bcdefgh", "abc", "defab"]


def world(tokenizer: Tokenizer, num_envs: int = 16, max_tokens: int = 12, **changes: Any) -> TextVectorEnv:
    """Prompts of 1 to 7 tokens; an episode is paid its length."""
    settings_: dict[str, Any] = {"prompts": PROMPTS, "reward": lambda completion: len(completion)}
    return TextVectorEnv(tokenizer=tokenizer, max_tokens=max_tokens, num_envs=num_envs, **settings_ | changes)


def play(policy: Policy, episodes: int, rows: int, seed: int = 0, **changes: Any) -> list[Rollout]:
    """Episodes 0 … of stream `seed`, so many at a time."""
    env = world(policy.tokenizer, rows, **changes)
    return [rollout(policy, env, np.arange(k, k + rows), seed=seed) for k in range(0, episodes, rows)]


# Log-probabilities and values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_while_sampling_are_those_of_an_unpadded_forward(kind: str, dtype: torch.dtype) -> None:
    if kind == "gemma2" and dtype == torch.float64:
        pytest.skip("transformers computes Gemma 2's softmax in float32, where its float64 mask is -inf")
    policy = small_policy(kind, dtype=dtype)
    batch = play(policy, 32, 32)[0]
    assert batch.log_probs.dtype == batch.values.dtype == dtype
    assert len(set(batch.starts.tolist())) == 4
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12  # both sides round
    replayed = policy.evaluate(batch.tokens, batch.starts, batch.lengths)
    for i, episode in enumerate(batch.episodes):
        p, t = len(episode.prompt_ids), len(episode.completion_ids)
        ids = [*episode.prompt_ids.tolist(), *episode.completion_ids.tolist()]
        with torch.no_grad():
            log_p, values = plain_forward(policy, ids, p)
        for found in (batch, replayed):
            assert torch.allclose(found.log_probs[i, :t], log_p[range(t), ids[p:]], rtol=0, atol=tolerance)
            assert torch.allclose(found.values[i, :t], values, rtol=tolerance, atol=tolerance)
            assert not found.log_probs[i, t:].any()
            assert not found.values[i, t:].any()
    assert {e.finish_reason for e in batch.episodes} == {"eos", "length"}


def test_the_padding_id_may_be_the_eos_id() -> None:
    tokenizer = WordTokenizer("abcdefghi", separator="", pad=False)
    assert tokenizer.pad_id == tokenizer.eos_ids[0]
    policy = small_policy(tokenizer=tokenizer, dtype=torch.float64)
    batch = play(policy, 32, 32)[0]
    assert any(e.finish_reason == "eos" for e in batch.episodes)
    for i, episode in enumerate(batch.episodes):
        ids, p = [*episode.prompt_ids.tolist(), *episode.completion_ids.tolist()], len(episode.prompt_ids)
        with torch.no_grad():
            log_p, _ = plain_forward(policy, ids, p)
        expected = log_p[range(len(ids) - p), ids[p:]]
        assert torch.allclose(batch.log_probs[i, : len(expected)], expected, rtol=0, atol=1e-12)
        assert (episode.completion_ids[-1] == tokenizer.eos_ids[0]) == (episode.finish_reason == "eos")


@pytest.mark.parametrize("samples", [20_000, pytest.param(1_000_000, marks=pytest.mark.nightly)])
def test_ids_beyond_the_tokenizer_are_never_drawn(samples: int) -> None:
    tokenizer = WordTokenizer([chr(ord("A") + i) for i in range(59)], separator="")
    policy = small_policy(tokenizer=tokenizer, rows=64)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[61:] *= 20  # they would often be the likeliest
    drawn, k = 0, 0
    env = world(tokenizer, 512, max_tokens=40, prompts=["A", "BCD"])
    while drawn < samples:
        batch = rollout(policy, env, np.arange(k, k + 512))
        assert all(e.completion_ids.max() < 61 for e in batch.episodes)
        drawn, k = drawn + batch.num_tokens, k + 512


# The same episodes, however they are played


def episode_texts(batches: list[Rollout]) -> list[list[int]]:
    return [e.completion_ids.tolist() for b in batches for e in b.episodes]


@pytest.mark.parametrize("episodes", [256, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_an_episode_depends_on_seed_and_number_alone(episodes: int) -> None:
    policy = small_policy()
    expected = episode_texts(play(policy, episodes, 64, seed=3))[:episodes]
    for rows in (1, 2, 8):
        count = episodes if rows == 8 else episodes // 4
        assert episode_texts(play(policy, count, rows, seed=3)) == expected[:count]
    assert episode_texts(play(policy, 64, 64, seed=4)) != expected[:64]
    shuffled = np.random.default_rng(0).permutation(64)
    batch = rollout(policy, world(policy.tokenizer, 64), shuffled, seed=3)
    assert [e.completion_ids.tolist() for e in batch.episodes] == [expected[k] for k in shuffled]


@pytest.mark.parametrize(("share", "every"), [(0.0, 1), (0.5, 1), (1.0, 1), (0.75, 3), (1.0, 5), (0.75, 99)])
@pytest.mark.parametrize("stop", ["", "ab"])
def test_dropping_finished_rows_early_or_late_changes_nothing(share: float, every: int, stop: str) -> None:
    """On accelerators the environment is told some steps later what was drawn."""
    policy = small_policy(dtype=torch.float64)
    env = world(policy.tokenizer, 64, stop=(stop,) if stop else ())
    plain = rollout(policy, env, np.arange(64))
    with using(Sizes(compact_below=share, tell_every=every), policy.device):
        other = rollout(policy, env, np.arange(64))
    assert len(set(plain.lengths.tolist())) > 4
    assert episode_texts([plain]) == episode_texts([other])
    for name in ("tokens", "starts", "lengths", "rewards"):
        assert torch.equal(getattr(plain, name), getattr(other, name))
    for name in ("log_probs", "values"):
        assert torch.allclose(getattr(plain, name), getattr(other, name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("stop", ["", "ab"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stepping_the_environment_by_hand_gives_the_same_episodes(dtype: torch.dtype, stop: str) -> None:
    """One text at a time, without cache or batch, through the public `step`, with the same noise."""
    policy = small_policy("llama", dtype=dtype)
    stops = (stop,) if stop else ()
    expected = play(policy, 24, 24, seed=5, stop=stops)[0]
    env = world(policy.tokenizer, 1, stop=stops)
    noise = uniform(5, np.arange(24), 12)
    for k in range(24):
        observation, _ = env.reset(seed=5, options={"episode_index": k})
        paid, done = 0.0, False
        for t in range(12):
            text = torch.from_numpy(observation["tokens"][:, : observation["length"][0, 0]])
            with torch.no_grad():
                p = policy.model(text).logits[:, -1, :11].softmax(1)[0].double().numpy()
            token = int(np.searchsorted(np.cumsum(p), noise[k, t] * p.sum(), side="right"))
            observation, reward, terminated, truncated, _ = env.step(np.array([token]))
            paid, done = paid + float(reward[0]), bool(terminated[0] or truncated[0])
            if done:
                break
        episode = expected.episodes[k]
        assert done
        assert terminated[0]
        assert not truncated[0]
        start, length = len(episode.prompt_ids), int(observation["length"][0, 0])
        assert observation["tokens"][0, start:length].tolist() == episode.completion_ids.tolist()
        assert paid == float(expected.rewards[k].sum()) == expected.scores.values[k]


def test_nobody_is_asked_about_episodes_that_were_cut_under_truncate() -> None:
    asked: list[list[Episode]] = []

    class Watching(RewardSource):
        def score(self, episodes: Sequence[Episode]) -> Rewards:
            asked.append(list(episodes))
            lengths = np.array([float(len(e.completion_ids)) for e in episodes])
            per_token = tuple(np.full(int(n), float(n != 2)) for n in lengths)
            return Rewards(lengths, per_token, {"length": lengths}, lengths == 2)

    policy = small_policy()
    env = world(policy.tokenizer, 64, 4, reward=Watching(), limit="truncate")
    batch = rollout(policy, env, np.arange(64))
    cut = torch.tensor([e.finish_reason == "length" for e in batch.episodes])
    assert 0 < int(cut.sum()) < 64
    assert [e.index for e in asked[0]] == (~cut).nonzero()[:, 0].tolist()
    assert torch.equal(batch.truncated, cut)
    assert torch.equal(batch.scored, ~cut & (batch.lengths != 2))
    paid = torch.where(batch.scored, 2.0 * batch.lengths, 0.0)
    assert torch.equal(batch.rewards.sum(dim=1), paid)
    assert batch.scores.totals.tolist() == paid.tolist()
    assert np.isnan(batch.scores.terms["length"]).tolist() == cut.tolist()
    same = rollout(policy, world(policy.tokenizer, 64, 4, reward=Watching()), np.arange(64))
    assert len(asked[1]) == 64
    assert not same.truncated.any()
    assert torch.equal(same.log_probs, batch.log_probs)


def test_a_batch_of_texts_that_were_all_cut_is_a_batch() -> None:
    tokenizer = WordTokenizer("abcdefgh", separator="", pad=False)
    tokenizer.eos_ids = ()
    policy = small_policy(tokenizer=tokenizer)
    env = world(tokenizer, 8, 3, limit="truncate")
    batch = rollout(policy, env, np.arange(8))
    assert batch.truncated.all()
    assert not batch.scored.any()
    assert not batch.rewards.any()


def test_greedy_takes_the_likeliest_token_for_certain() -> None:
    policy = small_policy()
    env = world(policy.tokenizer)
    batch = rollout(policy, env, np.arange(16), sampling=Sampling(greedy=True))
    assert not batch.log_probs.any()
    for i, episode in enumerate(batch.episodes):
        ids, p = [*episode.prompt_ids.tolist(), *episode.completion_ids.tolist()], len(episode.prompt_ids)
        with torch.no_grad():
            assert plain_forward(policy, ids, p)[0].argmax(1).tolist() == ids[p:], i


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0.7), Sampling(top_k=3), Sampling(top_p=0.8), Sampling(1.5, 4, 0.9)]
)
def test_stored_log_probs_are_of_the_distribution_drawn_from(sampling: Sampling) -> None:
    policy = small_policy(dtype=torch.float64)
    batch = rollout(policy, world(policy.tokenizer), np.arange(16), sampling=sampling)
    for i, episode in enumerate(batch.episodes):
        ids, p = [*episode.prompt_ids.tolist(), *episode.completion_ids.tolist()], len(episode.prompt_ids)
        with torch.no_grad():
            log_p, _ = plain_forward(policy, ids, p)
        expected = [
            kept(row.exp().numpy(), sampling)[token] for row, token in zip(log_p, ids[p:], strict=True)
        ]
        np.testing.assert_allclose(batch.log_probs[i, : len(expected)].exp(), expected, rtol=1e-10)
    if sampling == Sampling(temperature=0.7):
        again = policy.evaluate(batch.tokens, batch.starts, batch.lengths, temperature=0.7).log_probs
        assert torch.allclose(again, batch.log_probs, rtol=0, atol=1e-12)


# Sampling distributions


def kept(p: npt.NDArray[np.float64], sampling: Sampling) -> npt.NDArray[np.float64]:
    """A distribution after temperature, then top-k, then top-p, one token after the other."""
    p = p ** (1 / sampling.temperature)
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda i: -p[i])
    order = order[: sampling.top_k or None]
    p = np.array([p[i] if i in order else 0.0 for i in range(len(p))])
    p /= p.sum()
    nucleus, mass = [], 0.0
    for i in order:
        if mass >= sampling.top_p:
            break
        nucleus.append(i)
        mass += p[i]
    p = np.array([p[i] if i in nucleus else 0.0 for i in range(len(p))])
    result: npt.NDArray[np.float64] = p / p.sum()
    return result


def test_top_k_and_top_p_by_hand() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float64).log()
    cases: list[tuple[Sampling, list[float]]] = [
        (Sampling(), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(top_k=2), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(top_k=99), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(top_p=0.6), [0, 4 / 7, 0, 3 / 7]),  # 0.4 does not suffice, 0.7 does
        (Sampling(top_p=0.75), [0, 4 / 9, 2 / 9, 3 / 9]),
        (Sampling(top_p=0.3), [0, 1, 0, 0]),
        (Sampling(temperature=0.5), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        (Sampling(temperature=0.5, top_k=3, top_p=0.6), [0, 16 / 25, 0, 9 / 25]),
        (Sampling(greedy=True), [0, 1, 0, 0]),
    ]
    for sampling, expected in cases:
        np.testing.assert_allclose(sampling.log_probs(logits).exp()[0], expected, atol=1e-12)


@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.05, 20),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.01, 1),
)
@settings(max_examples=200, deadline=None)
def test_sampling_equals_the_slow_statement(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    logits = np.random.default_rng(seed).normal(size=(3, 9))
    sampling = Sampling(temperature, top_k, top_p)
    found = sampling.log_probs(torch.from_numpy(logits)).exp()
    p = np.exp(logits)
    for row, weights in zip(found, p, strict=True):
        np.testing.assert_allclose(row, kept(weights, sampling), atol=1e-12)


@given(
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-3, 100),
    st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1e-30),
    st.booleans(),
)
@settings(max_examples=500, deadline=None)
def test_a_sampling_is_refused_or_a_distribution(
    temperature: float, top_k: int, top_p: float, greedy: bool
) -> None:
    if not (1e-4 <= temperature < math.inf and 0 < top_p <= 1 and top_k >= 0):
        with pytest.raises(ConfigError, match=r"^(temperature|top_p|top_k) is "):
            Sampling(temperature, top_k, top_p, greedy)
        return
    sampling = Sampling(temperature, top_k, top_p, greedy)
    logits = torch.tensor([[3e4, -3e4, 0.0, 3e4], [0.1, 0.2, -0.5, 0.0]])
    p = sampling.log_probs(logits).exp()
    assert torch.allclose(p.sum(1), torch.ones(2))
    if temperature < 100:
        assert p[0, 1] == 0
        assert p[0, 0] + p[0, 3] > 0.99  # never uniform over all where the logits are not


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}])
def test_settings_without_sense_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]


# Drawing


def exact_probabilities(probs: Tensor, block: int) -> npt.NDArray[np.float64]:
    """The share of [0, 1) that draws each id, from the jumps of the draw as a function of u."""
    grid = np.linspace(0, 1, 4001, endpoint=False)
    draws = inverse_cdf(probs.expand(len(grid), -1), torch.from_numpy(grid), block).tolist()
    assert all(a <= b for a, b in pairwise(draws))
    return np.bincount(draws, minlength=probs.shape[1]) / len(grid)


@given(
    weights=st.lists(st.sampled_from([0.0, 0.1, 1.0, 3.0]), min_size=1, max_size=40).filter(any),
    block=st.integers(1, 50),
)
@settings(max_examples=60, deadline=None)
def test_the_cumulative_distribution_is_inverted(weights: list[float], block: int) -> None:
    probs = torch.tensor([weights]) / sum(weights)
    share = exact_probabilities(probs, block)
    np.testing.assert_allclose(share, probs[0], atol=2 / 4001)
    assert not share[probs[0].numpy() == 0].any()


@given(seed=st.integers(0, 10_000), size=st.integers(1, 1000), block=st.sampled_from([1, 7, 128, 2000]))
@settings(max_examples=100, deadline=None)
def test_draws_equal_a_linear_search(seed: int, size: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(size, 0.05), size=4)
    probs[rng.random(probs.shape) < 0.3] = 0
    probs[:, rng.integers(size)] = 0.5  # no row without a choice
    u = rng.random(4)
    found = inverse_cdf(torch.from_numpy(probs), torch.from_numpy(u), block)
    for row, x, token in zip(probs, u, found.tolist(), strict=True):
        target, total, expected = x * row.sum(), 0.0, -1
        for i, weight in enumerate(row):
            total += weight
            if total > target:
                expected = i
                break
        assert token == expected
        assert row[token] > 0


def test_draws_from_a_large_vocabulary_are_exact() -> None:
    """Whole weights, all borders of which are known exactly; single precision holds no sum above 2^24."""
    weights = np.random.default_rng(3).integers(1, 1024, size=65_536)
    borders = weights.cumsum()  # int64
    assert borders[-1] > 2**24
    ids = np.arange(0, 65_535, 331)
    u = (borders[ids][:, None] + np.array([-0.5, 0.5])) / borders[-1]  # on both sides of the border
    probs = torch.from_numpy(weights / 2**25).float()[None]
    drawn = [int(inverse_cdf(probs, x)) for x in torch.from_numpy(u.reshape(-1, 1))]
    assert drawn == np.stack([ids, ids + 1], axis=1).reshape(-1).tolist()


def test_edges_of_u_draw_ids_that_have_probability() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        probs = rng.random((3, 300)).astype(np.float32) ** 8
        probs[:, :5] = probs[:, 290:] = 0
        probs[:, 289] += 0.01
        probs[2] = 0
        probs[2, 137] = 1e-30
        for u in (0.0, 5e-324, 1 - 2**-53):
            tokens = inverse_cdf(torch.from_numpy(probs), torch.full((3,), u, dtype=torch.float64))
            assert (probs[range(3), tokens] > 0).all()
            if u == 0:
                assert tokens.tolist() == [5, 5, 137]
            if u > 0.9:
                assert tokens.tolist() == [289, 289, 137]


def test_rounding_never_falls_off_the_end() -> None:
    """Sums of blocks and cumulative sums round differently: the largest u may lie past the last weight."""
    rng = np.random.default_rng(2)
    largest = torch.full((500,), 1 - 2**-53, dtype=torch.float64)
    for size, zeros in ((100, 3), (3_000, 7), (3_000, 700)):
        probs = torch.from_numpy(rng.random((500, size)))
        probs[:, size - zeros :] = 0
        drawn = inverse_cdf(probs, largest)
        assert (probs.gather(1, drawn[:, None]) > 0).all()
        assert (drawn >= size - zeros - 2).all()


def test_draws_pass_a_chi_square_test() -> None:
    """Ten distributions over more than one block; the smallest p-value is judged (Bonferroni)."""
    rng = np.random.default_rng(0)
    smallest = 1.0
    for k in range(10):
        p = rng.dirichlet(np.ones(300))
        noise = torch.from_numpy(uniform(k, np.arange(4), 2_500).reshape(-1))
        probs = torch.from_numpy(p).float().expand(len(noise), -1)
        counts = np.bincount(inverse_cdf(probs, noise).numpy(), minlength=300)
        rare = p * len(noise) < 5
        observed, expected = ([*x[~rare], x[rare].sum()] for x in (counts, p * len(noise)))
        if not rare.any():
            observed, expected = observed[:-1], expected[:-1]
        smallest = min(smallest, float(scipy.stats.chisquare(observed, expected).pvalue))
    assert smallest > 0.01 / 10


# Noise


@given(
    seed=st.integers(-(2**63), 2**64 - 1),
    k=st.lists(st.integers(0, 2**40), min_size=1, max_size=5),
    t=st.integers(1, 9),
)
@settings(max_examples=100, deadline=None)
def test_noise_is_a_function_of_seed_episode_and_time(seed: int, k: list[int], t: int) -> None:
    index = np.array(k)
    noise = uniform(seed, index, t)
    assert noise.shape == (len(k), t)
    assert ((noise >= 0) & (noise < 1)).all()
    for i in range(len(k)):
        np.testing.assert_array_equal(uniform(seed, index[i : i + 1], t + 5)[0, :t], noise[i])


def test_no_two_seeds_share_their_noise() -> None:
    seeds = [-2, -1, 0, 1, 2**63 - 1, 2**63, 2**63 + 1, 2**53, 2**53 + 1]
    noise = [uniform(s, np.array([0, 1, 2**53, 2**53 + 1]), 1)[:, 0].tolist() for s in seeds]
    assert len({x for row in noise for x in row}) == 4 * len(seeds)


def test_noise_is_uniform_and_independent() -> None:
    noise = uniform(0, np.arange(400), 50)
    assert scipy.stats.kstest(noise.ravel(), "uniform").pvalue > 0.001
    others = [uniform(1, np.arange(400), 50), np.roll(noise, 1, axis=0), np.roll(noise, 1, axis=1)]
    for other in others:
        assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 4 / math.sqrt(noise.size)


# Refusals


FAULTS = """
from tests.page_faults import faults
import numpy as np
from text_gym import ByteTokenizer, TextVectorEnv
from text_gym.agents import Policy, rollout

policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8, device="cpu")
before = faults() and faults()
rollout(policy, TextVectorEnv(["a"], policy.tokenizer, lambda completion: 0.0, 2), np.arange(1))
print(before, faults() and faults())
"""


def test_nan_in_the_weights_stops_before_anything_is_scored() -> None:
    for name in (
        "model.transformer.wte.weight",
        "model.transformer.h.0.mlp.c_fc.weight",
        "model.transformer.ln_f.bias",
    ):
        policy = small_policy()
        with torch.no_grad():
            policy.get_parameter(name).view(-1)[0] = math.nan
        before = parameters_of(policy)

        def never(completion: str) -> float:
            raise AssertionError(f"asked for a reward of {completion!r}")

        with pytest.raises(NonFiniteError, match="token 0"):
            play(policy, 4, 4, reward=never)
        assert same_parameters(policy, before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_rollout_without_an_agent_touches_its_memory_once() -> None:
    """A process of its own, since what other tests did lasts as long as theirs."""
    own = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_CHOICES}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=own, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 10_000  # 240 MiB in pages of 4 KiB are 61,440
    assert after < 100


def test_a_reward_that_fails_is_named() -> None:
    def broken(completion: str) -> float:
        raise ZeroDivisionError(completion)

    with pytest.raises(RewardError, match="'broken' raised ZeroDivisionError"):
        play(small_policy(), 4, 4, reward=broken)


def test_policy_and_environment_must_fit() -> None:
    policy = small_policy()
    other = WordTokenizer("ihgfedcba", separator="")
    with pytest.raises(ConfigError, match="different tokenizers"):
        rollout(policy, world(other, 4), np.arange(4))
    with pytest.raises(ConfigError, match="67 tokens, the policy has 64"):
        play(policy, 4, 4, max_tokens=60)
    assert play(policy, 4, 4, max_tokens=57)[0].tokens.shape[1] <= 64  # the whole context is used
    env = world(policy.tokenizer, 4)
    for wrong in (np.arange(3), np.arange(4.0), 4, [0, 1, 2, -1]):
        with pytest.raises(ConfigError, match=r"episode_index has .* pass 4 numbers of at least 0"):
            rollout(policy, env, wrong)  # type: ignore[arg-type]
    given = rollout(policy, env, [3, 1, 2, 0])  # type: ignore[arg-type]
    assert torch.equal(given.tokens, rollout(policy, env, np.array([3, 1, 2, 0])).tokens)
    with pytest.raises(ConfigError, match="takes a policy, then a TextVectorEnv, not Policy"):
        rollout(env, policy, np.arange(4))  # type: ignore[arg-type]


def test_rows_drawn_a_few_at_a_time_are_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large vocabularies are, where there are no kernels."""
    monkeypatch.setattr(sampler, "fast_draw", lambda *_: None)
    rng = np.random.default_rng(0)
    logits, u = torch.from_numpy(rng.normal(size=(7, 130))), torch.from_numpy(rng.random(7))
    whole = sampler.draw(logits, u)
    for limit in (1, 130 * 2, 130 * 3):
        with using(Sizes(drawn_at_once=limit), logits.device):
            assert all(torch.equal(a, b) for a, b in zip(sampler.draw(logits, u), whole, strict=True))
