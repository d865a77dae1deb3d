from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym import (
    ActionMask,
    AllowedTokens,
    ByteTokenizer,
    Grammar,
    MinLength,
    TextEnv,
    TextVectorEnv,
    WordTokenizer,
    load_task,
)
from text_gym.envs.masks import Prefixes
from text_gym.episode import BoolArray
from text_gym.errors import ConfigError, TokenError

TOKENIZER = WordTokenizer("abc", separator="", pad=False)  # EOS is id 3
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["a", "bc"]}, "ok": {"type": "boolean"}},
    "required": ["name", "ok"],
    "additionalProperties": False,
}


def world(mask: ActionMask, num_envs: int = 1, **options: Any) -> TextVectorEnv:
    return TextVectorEnv(
        ["ab", "c"], TOKENIZER, lambda completion: len(completion), 4, num_envs=num_envs, mask=mask, **options
    )


def draw(env: TextVectorEnv, rng: np.random.Generator) -> Any:
    return np.array([rng.choice(np.flatnonzero(row)) for row in env.action_masks()])


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_masked_vector_environment_equals_single_ones(mode: AutoresetMode) -> None:
    def mask() -> ActionMask:
        return MinLength(2) & AllowedTokens(ids=[0, 2])

    n = 3
    vector = world(mask(), n, autoreset_mode=mode)
    single = SyncVectorEnv(
        [lambda: TextEnv(["ab", "c"], TOKENIZER, lambda completion: len(completion), 4, mask=mask())] * n,
        autoreset_mode=mode,
    )
    assert data_equivalence(vector.reset(seed=5), single.reset(seed=5), exact=True)
    rng = np.random.default_rng(0)
    for _ in range(200):
        actions = draw(vector, rng)
        mine, theirs = vector.step(actions), single.step(actions)
        assert data_equivalence(mine, theirs, exact=True)
        over = mine[2] | mine[3]
        if mode is AutoresetMode.DISABLED and over.any():
            options = {"reset_mask": over}
            mine, theirs = vector.reset(options=dict(options)), single.reset(options=dict(options))  # type: ignore[assignment]
            assert data_equivalence(mine, theirs, exact=True)


def test_minimum_length_forbids_eos_until_it_is_reached() -> None:
    env = world(MinLength(2))
    observation, info = env.reset(seed=0)
    assert observation["action_mask"].tolist() == [[1, 1, 1, 0]]
    assert info["action_mask"].tolist() == [[1, 1, 1, 0]]
    env.step(np.array([0]))
    observation, *_ = env.step(np.array([0]))
    assert observation["action_mask"].tolist() == [[1, 1, 1, 1]]


def test_masks_by_hand() -> None:
    """What may follow 0, 1 and 2 tokens, behind a prompt of two tokens and one of one; EOS is id 3."""
    cases: list[tuple[ActionMask, list[str]]] = [
        (MinLength(0), ["0123", "0123", "0123"]),
        (MinLength(1), ["012", "0123", "0123"]),
        (MinLength(2), ["012", "012", "0123"]),
        (AllowedTokens(texts=["a"], ids=[2]), ["023", "023", "023"]),
        (AllowedTokens(forbidden=[1]), ["023", "023", "023"]),
        (AllowedTokens(texts=["ab"], forbidden=[1]), ["03", "03", "03"]),
        (AllowedTokens(ids=[0, 1]) & MinLength(1), ["01", "013", "013"]),
        (MinLength(1) & AllowedTokens(ids=[0, 1]), ["01", "013", "013"]),
    ]
    for mask, expected in cases:
        env = world(mask, 2, shuffle=False)
        env.reset(seed=0, options={"episode_index": [0, 1]})
        for ids in expected:
            found = ["".join(map(str, np.flatnonzero(row))) for row in env.action_masks()]
            assert found == [ids, ids], (mask, env.batch.remaining)
            env.step(np.array([0, 0]))


def test_a_masked_token_is_refused_before_anything_changes() -> None:
    env = world(MinLength(1))
    before, _ = env.reset(seed=0)
    with pytest.raises(TokenError, match="token id 3 in row 0 is masked"):
        env.step(np.array([3]))
    assert env.batch.lengths.tolist() == before["length"][:, 0].tolist()
    advice = world(MinLength(1), on_masked="allow")
    advice.reset(seed=0)
    assert advice.step(np.array([3]))[2].tolist() == [True]


class Broken(ActionMask):
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def allowed(self, prefixes: Prefixes) -> BoolArray:
        answer: BoolArray = self.answer
        return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((1, 4), dtype=bool), "forbids every token in row 0"),
        (np.ones((1, 3), dtype=bool), r"expected bool of shape \(1, 4\)"),
        (np.ones((1, 4)), "expected bool"),
        (None, "NoneType"),
    ],
)
def test_a_mask_of_another_form_or_with_nothing_allowed_is_an_error(answer: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        world(Broken(answer)).reset(seed=0)


def test_impossible_masks_are_refused_when_the_environment_is_made() -> None:
    with pytest.raises(ConfigError, match="MinLength of 4 tokens cannot be met within max_tokens=4"):
        world(MinLength(4))
    with pytest.raises(TokenError, match="id 9 is outside"):
        world(AllowedTokens(ids=[9]))
    with pytest.raises(ConfigError, match="list of texts"):
        AllowedTokens(texts="abc")
    with pytest.raises(ConfigError, match="on_masked"):
        world(MinLength(1), on_masked="shrug")


def test_what_is_no_mask_is_named() -> None:
    for wrong in (MinLength, [True] * 4, lambda prefixes: True):
        with pytest.raises(ConfigError, match=r"mask is .*; pass an ActionMask"):
            TextEnv(["a"], TOKENIZER, len, 2, mask=wrong)
    for ids in ([1], np.array([1, 2])):
        with pytest.raises(ConfigError, match=r"write AllowedTokens\(ids=...\)"):
            AllowedTokens(ids)  # type: ignore[arg-type]


def test_the_name_that_sb3_contrib_asks_for() -> None:
    env = TextEnv(["ab"], TOKENIZER, lambda completion: 0.0, 4, mask=AllowedTokens(texts=["b"]))
    env.reset(seed=0)
    assert env.action_masks().tolist() == [False, True, False, True]


# Grammars


def worth_one(completion: str) -> float:
    return 1.0


def grammar_env(num_envs: int = 1, max_tokens: int = 48, **grammar: Any) -> TextVectorEnv:
    pytest.importorskip("llguidance")
    return TextVectorEnv(
        ["json: "], ByteTokenizer(), worth_one, max_tokens, num_envs=num_envs,
        mask=Grammar(**grammar) & AllowedTokens(forbidden=list(b" \n\t\r")), autoreset_mode="SameStep",
    )  # fmt: skip


def test_a_grammar_reads_a_rows_text_anew_where_it_is_another_one() -> None:
    pytest.importorskip("llguidance")
    mask = Grammar(regex="ab|cd")
    mask.bind(ByteTokenizer(), 9)

    def after(text: bytes) -> list[int]:
        ids = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
        place = np.array([0])
        allowed = mask.allowed(Prefixes(place, ids[None], place, np.array([len(ids)])))
        return np.flatnonzero(allowed[0]).tolist()

    for text, follows in ((b"a", b"b"), (b"c", b"d"), (b"", b"ac"), (b"c", b"d")):
        assert after(text) == list(follows)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_every_finished_text_meets_its_schema(seed: int) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    env = grammar_env(num_envs=2, json_schema=SCHEMA)
    env.reset(seed=0)
    rng = np.random.default_rng(seed)
    finished = 0
    for _ in range(300):
        *_, terminated, _, info = env.step(draw(env, rng))
        for row in np.flatnonzero(terminated):
            jsonschema.validate(json.loads(info["final_info"]["completion"][row]), SCHEMA)
            finished += 1
    assert finished


def test_a_regular_expression_leaves_one_way() -> None:
    env = grammar_env(regex="(yes|no)!")
    env.reset(seed=0)
    assert [chr(i) for i in np.flatnonzero(env.action_masks()[0])] == ["n", "y"]
    for token in b"no!":
        env.step(np.array([token]))
    assert np.flatnonzero(env.action_masks()[0]).tolist() == [256]


def test_a_pretrained_tokenizer_and_a_grammar() -> None:
    pytest.importorskip("llguidance")
    env = TextVectorEnv(task="products", num_envs=1, mask=Grammar(regex="Meet the (Vela|Hilo)\\."))
    env.reset(seed=0)
    ids = load_task("products").tokenizer.encode("Meet the Hilo.")
    for token in ids:
        assert env.action_masks()[0, token]
        env.step(np.array([token]))
    assert np.flatnonzero(env.action_masks()[0]).tolist() == list(env.tokenizer.eos_ids)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ({}, "exactly one"),
        ({"regex": "a", "lark": "b"}, "exactly one"),
        ({"regex": "(("}, "malformed grammar"),
        ({"json_schema": SCHEMA, "max_tokens": 10}, "the shortest text of this JSON schema takes 22 tokens"),
        ({"json_schema": SCHEMA, "max_tokens": 22}, "22 tokens and EOS; max_tokens is 22"),
    ],
)
def test_bad_grammars_are_named(grammar: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grammar_env(**grammar)


def test_a_grammar_survives_pickling() -> None:
    env = grammar_env(regex="(yes|no)!")
    env.reset(seed=0)
    env.step(np.array([ord("y")]))
    again = pickle.loads(pickle.dumps(env))
    assert np.flatnonzero(again.action_masks()[0]).tolist() == [ord("e")]


# Agents


def test_agents_draw_and_learn_under_the_mask() -> None:
    from text_gym.agents import PPO, Policy, PPOConfig, rollout

    env = world(MinLength(2) & AllowedTokens(ids=[0, 1]), num_envs=16, numbering="global")
    policy = Policy.new(TOKENIZER, layers=1, width=16, context=8)
    batch = rollout(policy, env, np.arange(16))
    for e in batch.episodes:
        assert set(e.completion_ids.tolist()) <= {0, 1, 3}
        assert len(e.completion_ids) >= 3 or e.finish_reason == "length"
    assert batch.action_masks is not None
    said = policy.evaluate(batch.tokens, batch.starts, batch.lengths, action_masks=batch.action_masks)
    assert np.allclose(said.log_probs.detach(), batch.log_probs, atol=1e-5)
    # Two tokens of equal logits would have log 1/2 each; without the mask there are four.
    assert (batch.log_probs[:, 0] > policy.score(batch.tokens, batch.starts, batch.lengths)[:, 0]).all()
    agent = PPO(policy, env, PPOConfig(iterations=1, entropy_coef=0.01, learning_rate=0.0))
    seen: list[dict[str, float]] = []
    agent.learn(callback=lambda _, metrics: seen.append(metrics))
    assert seen[0]["ratio_max"] == pytest.approx(1, abs=1e-5)
    assert seen[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert np.isfinite(seen[0]["grad_norm"])
