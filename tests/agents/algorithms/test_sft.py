from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.small_models import parameters_of, plain_forward, same_parameters, small_policy
from text_gym import ByteTokenizer, Prompt, TextVectorEnv, WordTokenizer
from text_gym.agents import SFT, Policy, Sampling, SFTConfig, rollout
from text_gym.agents.algorithms.sft import completion_loss
from text_gym.errors import ConfigError, DataError, NonFiniteError, PromptError

LETTERS = WordTokenizer("abcdefghi", separator="")
EOS = LETTERS.eos_ids[0]
PAIRS = [(Prompt(p), c) for p, c in [("a", "bcd"), ("bb", ""), ("cab", "i"), ("defg", "hihihi"), ("h", "ab")]]


def loss_by_hand(policy: Policy, pairs: list[tuple[Prompt, str]] = PAIRS) -> float:
    """Mean over all completion tokens, EOS too, one plain forward pass a pair."""
    nll: list[float] = []
    for prompt, completion in pairs:
        start = LETTERS.encode(prompt.text)
        rest = [*LETTERS.encode(completion), EOS]
        with torch.no_grad():
            log_p, _ = plain_forward(policy, [*start, *rest], len(start))
        nll += [-float(log_p[t, token]) for t, token in enumerate(rest)]
    assert len(nll) == 3 + 0 + 1 + 6 + 2 + len(pairs) or pairs is not PAIRS
    return float(np.mean(nll))


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_completion_loss_is_the_mean_over_completion_tokens(rows: int) -> None:
    policy = small_policy(dtype=torch.float64)
    found = completion_loss(policy, PAIRS, rows=rows)
    assert found == pytest.approx(loss_by_hand(policy), abs=1e-12)
    assert all(p.grad is None for p in policy.parameters())


def test_prompts_may_be_texts_and_nothing_else() -> None:
    policy = small_policy(dtype=torch.float64)
    texts = [(prompt.text, completion) for prompt, completion in PAIRS]
    assert completion_loss(policy, texts) == completion_loss(policy, PAIRS)
    with pytest.raises(PromptError, match="prompt 1 is int '7'; expected a string"):
        completion_loss(policy, [PAIRS[0], (7, "a")])  # type: ignore[list-item]


def test_the_loss_of_a_step_is_that_of_its_batch_before_the_step() -> None:
    policy = small_policy(dtype=torch.float64)
    expected = loss_by_hand(policy)
    seen: list[dict[str, float]] = []
    trainer = SFT(policy, PAIRS, SFTConfig(epochs=2, batch_size=8)).learn(seen.append)
    assert trainer.steps == len(seen) >= 1
    assert seen[0]["loss"] == pytest.approx(expected, abs=1e-12)
    assert seen[0]["step"] == 1
    assert seen[-1]["step"] == seen[-1]["steps"] == trainer.steps


def test_the_first_gradient_is_that_of_the_loss_by_hand() -> None:
    """Through AdamW's first step, whose direction is the gradient's sign."""
    policy = small_policy(dtype=torch.float64)
    before = parameters_of(policy)
    total: Any = 0
    for prompt, completion in PAIRS:
        start, rest = LETTERS.encode(prompt.text), [*LETTERS.encode(completion), EOS]
        log_p, _ = plain_forward(policy, [*start, *rest], len(start))
        total = total - log_p[range(len(rest)), rest].sum()
    gradients = torch.autograd.grad(total, list(policy.model.parameters()))
    SFT(policy, PAIRS, SFTConfig(epochs=1, batch_size=8, weight_decay=0.0)).learn(lambda _: False)
    checked = 0
    for p, old, gradient in zip(policy.model.parameters(), before, gradients, strict=False):
        clear = gradient.abs() > 1e-3
        assert torch.equal((p - old)[clear].sign(), -gradient[clear].sign())
        checked += int(clear.sum())
    assert checked > 1000


def test_a_tiny_corpus_is_learnt_by_heart_and_texts_end() -> None:
    policy = Policy.new(LETTERS, width=32, layers=1, heads=2, context=16, device="cpu")
    trainer = SFT(policy, PAIRS, SFTConfig(epochs=150, batch_size=5, learning_rate=1e-2))
    before = completion_loss(policy, PAIRS)
    trainer.learn()
    assert before > 1.5
    assert completion_loss(policy, PAIRS) < 0.02
    env = TextVectorEnv([p for p, _ in PAIRS], LETTERS, lambda completion: 0.0, 10, num_envs=5, shuffle=False)
    for sampling in (Sampling(greedy=True), Sampling(temperature=0.5)):
        batch = rollout(policy, env, np.arange(5), sampling=sampling)
        assert [e.completion for e in batch.episodes] == [c for _, c in PAIRS]
        assert all(e.whole for e in batch.episodes)


def test_prompts_are_read_but_not_learnt() -> None:
    """The prompt's own tokens have no loss: with equal prompts any text before the last token is ignored."""
    policy = small_policy(dtype=torch.float64)
    long, short = [(Prompt("abcabcabc"), "d")], [(Prompt("c"), "d")]
    assert completion_loss(policy, long) == pytest.approx(loss_by_hand(policy, long))
    assert completion_loss(policy, long) != pytest.approx(completion_loss(policy, short))


def test_the_same_seed_gives_the_same_bits_even_with_dropout() -> None:
    results = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        policy = small_policy(resid_pdrop=0.2, embd_pdrop=0.2, attn_pdrop=0.2)
        expected = torch.rand(1, generator=torch.Generator().manual_seed(global_seed))
        torch.manual_seed(global_seed)
        SFT(policy, PAIRS, SFTConfig(epochs=5, batch_size=2, seed=3)).learn()
        assert torch.equal(torch.rand(1), expected)  # the global generator was left alone
        assert not policy.training
        results.append(policy)
    assert same_parameters(results[0], parameters_of(results[1]))
    other = small_policy(resid_pdrop=0.2, embd_pdrop=0.2, attn_pdrop=0.2)
    SFT(other, PAIRS, SFTConfig(epochs=5, batch_size=2, seed=4)).learn()
    assert not same_parameters(other, parameters_of(results[0]))


def test_dropout_is_on_while_training_only() -> None:
    wild, calm = small_policy(resid_pdrop=0.5), small_policy()
    calm.load_state_dict(wild.state_dict())
    losses: list[float] = []
    for policy in (wild, calm):
        SFT(policy, PAIRS, SFTConfig(epochs=1, batch_size=8)).learn(lambda m: losses.append(m["loss"]))
    assert losses[0] != pytest.approx(losses[-1])
    assert completion_loss(wild, PAIRS) == completion_loss(wild, PAIRS)


def test_every_pair_is_seen_once_an_epoch() -> None:
    pairs = [(Prompt("a" * (1 + i % 7)), "b" * (i % 5)) for i in range(37)]
    seen: list[int] = []

    class Watched(SFT):
        def _batches(self) -> list[list[int]]:
            batches = super()._batches()
            seen.extend(i for rows in batches for i in rows)
            return batches

    steps = Watched(small_policy(), pairs, SFTConfig(epochs=1, batch_size=8)).learn().steps
    assert sorted(seen) == list(range(37))
    assert steps == 5


def test_the_learning_rate_warms_up_and_decays() -> None:
    policy = small_policy()
    sizes: list[float] = []
    state = [parameters_of(policy)]

    def callback(_: dict[str, float]) -> None:
        now = parameters_of(policy)
        sizes.append(max(float((a - b).abs().max()) for a, b in zip(now, state[-1], strict=True)))
        state.append(now)

    config = SFTConfig(epochs=40, batch_size=5, learning_rate=1e-3, warmup=0.25, weight_decay=0.0)
    SFT(policy, PAIRS, config).learn(callback)
    assert len(sizes) == 40
    assert sizes[0] < 0.1e-3
    assert np.mean(sizes[8:14]) > 3 * np.mean(sizes[:3])
    assert np.mean(sizes[8:14]) > 2 * np.mean(sizes[-3:])


def test_time_may_be_limited() -> None:
    trainer = SFT(small_policy(), PAIRS, SFTConfig(epochs=10_000, batch_size=5, max_seconds=0.3)).learn()
    assert 0 < trainer.steps < 9_000


def test_nan_stops_before_the_step() -> None:
    for poison in (math.nan, math.inf):
        policy = small_policy()
        trainer = SFT(policy, PAIRS, SFTConfig(epochs=3, batch_size=5))
        handle = policy.get_parameter("model.transformer.h.1.mlp.c_fc.weight").register_hook(
            lambda g, x=poison: torch.full_like(g, x)
        )
        before = parameters_of(policy)
        with pytest.raises(NonFiniteError, match="gradient"):
            trainer.learn()
        handle.remove()
        assert same_parameters(policy, before)
        assert trainer.steps == 0
        assert not policy.training
        with torch.no_grad():
            policy.get_parameter("model.transformer.h.1.mlp.c_fc.weight")[0, 0] = poison
        with pytest.raises(NonFiniteError, match="c_fc"):
            trainer.learn()


def test_what_cannot_be_trained_on_is_named() -> None:
    policy = small_policy()
    with pytest.raises(DataError, match=r"no .* pairs"):
        SFT(policy, [])
    with pytest.raises(DataError, match=r"no .* pairs"):
        completion_loss(policy, [])
    with pytest.raises(DataError, match=r"'long one' .* has 66 tokens, the policy's context is 64"):
        SFT(policy, [(Prompt("a" * 60, id="long one"), "bcdef")])
    bare = WordTokenizer("abcdefghi", separator="", pad=False)
    with pytest.raises(PromptError, match="'nothing' has no tokens"):
        SFT(small_policy(tokenizer=bare), [(Prompt("", id="nothing"), "a")])
    endless = WordTokenizer("abcdefghi", separator="")
    endless.eos_ids = ()
    with pytest.raises(ConfigError, match="no EOS"):
        SFT(small_policy(tokenizer=endless), PAIRS)


def test_an_empty_prompt_starts_with_bos() -> None:
    policy = Policy.new(ByteTokenizer(), width=8, layers=1, heads=2, context=8, device="cpu")
    trainer = SFT(policy, [(Prompt("", id="empty"), "ab")])
    assert trainer.sequences == [[257, 97, 98, 256]]
    assert trainer.starts == [1]


@pytest.mark.parametrize("setting", [{"epochs": 0}, {"batch_size": 0}, {"max_seconds": 0}, {"warmup": 2}])
def test_settings_that_cannot_be_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        SFTConfig(**setting)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        "ab",
        {"prompt": "a", "completion": "b"},
        ("a",),
        ("a", "b", "c"),
        ("a", None),
        ("a", ["b"]),
        Prompt("a"),
        3,
    ],
)
def test_what_is_no_pair_is_named(wrong: Any) -> None:
    # A text of two letters and a row of two columns would unpack, into other texts.
    with pytest.raises(DataError, match=r"pair 1 is .*; write \(prompt, completion\)"):
        SFT(small_policy(), [("a", "b"), wrong])
    with pytest.raises(ConfigError, match="the settings are dict; write SFTConfig"):
        SFT(small_policy(), PAIRS, {"epochs": 1})  # type: ignore[arg-type]
