from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import ByteTokenizer, Episode, Prompt, Task, TextVectorEnv, load_task
from text_gym.cli.main import main
from text_gym.errors import ConfigError, PromptError, RewardError, UnknownNameError
from text_gym.tasks.json_format import ProductJSONReward, answer, product_json
from text_gym.tasks.keywords import keywords
from text_gym.tasks.task import TASKS

pytestmark = pytest.mark.usefixtures("undrawn")

BYTES = ByteTokenizer()
MUG = Prompt("", {"keys": ("name", "price"), "name": "Lumo Air 3", "price": "$24", "colour": "red"})
RIGHT = '{"name": "Lumo Air 3", "price": "$24"}'


def score(text: str, **changes: Any) -> float:
    return float(ProductJSONReward()([replace(Episode.of(MUG, text, BYTES), **changes)]).values[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RIGHT, 1.0),
        ('\n{"price":"$24" ,\t"name":"Lumo Air 3"} ', 1.0),
        (r'{"name": "Lum\u006f Air 3", "price": "\u002424"}', 1.0),
        ("", 0.0),
        ("Meet the Lumo Air 3.", 0.0),
        (RIGHT[:-1], 0.0),
        (RIGHT + ".", 0.0),
        ("```json\n" + RIGHT + "\n```", 0.0),
        (RIGHT.replace('"', "'"), 0.0),
        ('{"name": NaN, "price": Infinity}', 0.0),
        ("null", 0.1),
        ('"{}"', 0.1),
        ("[" + RIGHT + "]", 0.1),
        ("{}", 0.2),
        ('{"name": "Lumo Air 3"}', 0.6),  # half of the keys: 0.2 + 0.8 / 2
        ('{"name": "Lumo Air 3", "price": "$42"}', 0.6),  # a wrong value is as good as none
        ('{"name": "Lumo Air 3", "price": 24}', 0.6),
        ('{"name": "lumo air 3", "price": "$24 "}', 0.2),
        ('{"name": null, "price": {"name": "Lumo Air 3"}}', 0.2),
        ('{"name": "Lumo Air 3", "price": "$24", "colour": "red"}', 0.2 + 0.8 * 2 / 3),  # one member too many
        ('{"name": "Lumo Air 3", "colour": "red"}', 0.2 + 0.8 / 2 / 2),
        ('{"name": "Lumo Air 3", "price": "$9", "price": "$24"}', 0.2 + 0.8 * 2 / 3),  # which one is meant?
        ('{"colour": "red", "Name": "Lumo Air 3"}', 0.2),
    ],
)
def test_rewards_by_hand(text: str, expected: float) -> None:
    assert score(text) == pytest.approx(expected, abs=1e-12)


def test_a_text_that_was_cut_is_not_finished() -> None:
    assert score(RIGHT, finish_reason="length") == 0.0


def test_terms_and_the_sparse_reward() -> None:
    episodes = [Episode.of(MUG, text, BYTES) for text in (RIGHT, '{"name": "Lumo Air 3"}', "1", "")]
    rewards = ProductJSONReward(sparse=True)(episodes)
    assert rewards.values.tolist() == [1, 0, 0, 0]
    assert {k: v.tolist() for k, v in rewards.terms.items()} == {
        "parses": [1, 1, 1, 0],
        "object": [1, 1, 0, 0],
        "right": [1, 0.5, 0, 0],
        "only": [1, 1, 0, 0],
        "perfect": [1, 0, 0, 0],
    }


@pytest.mark.parametrize(
    "bomb",
    [
        "[" * 200_000,
        '{"a":' * 200_000,
        "[" * 200_000 + "]" * 200_000,
        '{"name": ' + "[" * 200_000 + "]" * 200_000 + "}",
        '"' + "\\" * 100_001,
        "\x00" + RIGHT,
        "\ufeff" + RIGHT,
    ],
)
def test_hostile_texts_earn_nothing_and_raise_nothing(bomb: str) -> None:
    assert score(bomb) == 0.0


def test_a_long_number_is_read_quickly() -> None:
    assert score("9" * 1_000_000) == 0.1
    assert score('{"price": ' + "9" * 100_000 + "}") == 0.2


VALUES = st.sampled_from(["Lumo Air 3", "$24", "red", 24, None]) | st.text(max_size=3)
OBJECTS = st.dictionaries(
    st.sampled_from(["name", "price", "colour"]) | st.text(max_size=3), VALUES, max_size=5
)


@given(st.text(max_size=80) | OBJECTS.map(json.dumps), st.booleans())
def test_any_text_earns_between_0_and_1_and_1_means_right(text: str, whole: bool) -> None:
    rewards = ProductJSONReward()(
        [replace(Episode.of(MUG, text, BYTES), finish_reason="eos" if whole else "length")]
    )
    assert all(0.0 <= term[0] <= 1.0 for term in rewards.terms.values())
    assert 0.0 <= rewards.values[0] <= 1.0
    right = False
    with suppress(ValueError):  # a second opinion, from Python's equality of dicts
        right = whole and json.loads(text) == {"name": "Lumo Air 3", "price": "$24"}
    assert (rewards.values[0] == 1.0) == right == bool(rewards.terms["perfect"][0])


@given(OBJECTS)
def test_the_reward_of_an_object_is_its_formula(value: dict[str, Any]) -> None:
    wanted = {"name": "Lumo Air 3", "price": "$24"}
    only = len(value.keys() & wanted.keys()) / max(1, len(value))
    right = sum(value.get(key) == text for key, text in wanted.items()) / 2
    assert score(json.dumps(value)) == pytest.approx(0.2 + 0.8 * right * only)


def test_a_prompt_without_the_columns_is_named() -> None:
    for columns in ({}, {"keys": ()}):
        with pytest.raises(RewardError, match="'a mug' lacks keys"):
            ProductJSONReward()([Episode.of(Prompt("a mug", columns), RIGHT, BYTES)])
    with pytest.raises(RewardError, match="lacks price"):
        ProductJSONReward()([Episode.of("a mug", RIGHT, BYTES, keys=["name", "price"], name="Lumo")])


# Task


def solve(prompt: str) -> str:
    """Reads the prompt as a person does: the product's line by position, then the keys."""
    line, question = prompt.removesuffix("\n").split("\n")
    names = ["name", "category", "material", "colour", "feature", "audience", "price"]
    values = dict(zip(names, line.removeprefix("# ").split(" | "), strict=True))
    members = [f'"{key}": "{values[key]}"' for key in question.removeprefix("# json: ").split(", ")]
    return "{" + ", ".join(members) + "}"


@pytest.mark.parametrize("keys", [1, 2, 4, 7, ("price", "name")])
def test_a_solver_that_sees_the_prompt_alone_reaches_the_optimum_in_time(keys: Any) -> None:
    task = product_json(keys=keys, n_train=500)
    prompts = [*task.prompts, *task.held_out]
    texts = [solve(p.text) for p in prompts]
    rewards = task.reward([Episode.of(p, t, task.tokenizer) for p, t in zip(prompts, texts, strict=True)])
    assert (rewards.values == task.optimum).all()
    assert (rewards.terms["perfect"] == 1).all()
    assert max(len(task.tokenizer.encode(text)) for text in texts) < task.max_tokens


def test_prompts_ask_for_what_they_are_to_ask_for() -> None:
    drawn, fixed = product_json(keys=3, n_train=300), product_json(keys=["price", "name"], n_train=3)
    assert {len(set(p.columns["keys"])) for p in drawn.prompts} == {3}
    assert len({p.columns["keys"] for p in drawn.prompts}) > 100  # of 7 · 6 · 5 = 210
    assert {p.columns["keys"] for p in fixed.prompts} == {("price", "name")}
    assert fixed.prompts[0].text.endswith("\n# json: price, name\n")


def test_halves_share_no_product_and_the_seed_decides() -> None:
    task, longer, other = (
        product_json(n_train=n, n_held_out=40, seed=s) for n, s in ((50, 0), (80, 0), (50, 1))
    )
    assert not {p.columns["name"] for p in task.prompts} & {p.columns["name"] for p in task.held_out}
    assert (longer.prompts[:50], longer.held_out) == (task.prompts, task.held_out)
    assert {p.text for p in other.prompts}.isdisjoint(p.text for p in task.prompts)


def test_answers_are_perfect_and_half_of_the_corpus_is_careless() -> None:
    task = product_json(n_train=400, n_held_out=30)
    assert task.corpus is not None
    learn, judge = task.corpus()
    assert (len(learn), len(judge)) == (1600, 30)
    assert [p for p, _ in judge] == list(task.held_out)
    assert [p for p, _ in learn[:400]] == list(task.prompts)
    assert not {p.id for p, _ in learn} & {p.id for p in task.held_out}
    assert all(answer(p) == solve(p.text) for p, _ in learn)
    rewards = task.reward([Episode.of(p, text, task.tokenizer) for p, text in learn])
    right = np.array([text == solve(p.text) for p, text in learn])
    np.testing.assert_array_equal(rewards.terms["perfect"] == 1, right)
    # Half, and of the careless 0.65³ · 0.85 that slip nowhere; a mistaken value may be right by chance.
    assert right.mean() == pytest.approx(0.5 + 0.5 * 0.65**3 * 0.85, abs=0.05)
    assert rewards.values.min() == 0
    assert max(len(task.tokenizer.encode(text)) for _, text in learn) < task.max_tokens + 16


def test_what_fits_the_shipped_policy() -> None:
    for keys, fits in ((4, True), (5, False)):
        task = load_task("product-json", keys=keys)
        context = json.loads((Path(str(task.policy)) / "config.json").read_text())["n_positions"]
        if fits:
            TextVectorEnv(task=task, context=context)
        else:
            with pytest.raises(PromptError, match="exceed the context of 128"):
                TextVectorEnv(task=task, context=context)


@pytest.mark.parametrize(
    "wrong", [0, 8, -1, True, 2.0, None, "name", [], ("name", "name"), ["name", "prize"]]
)
def test_bad_keys_are_named(wrong: Any) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=r"keys is|unknown key 'prize'.*'price'"):
        load_task("product-json", keys=wrong)


@pytest.mark.parametrize(("name", "make"), [("product-json", product_json), ("keywords", keywords)])
def test_fine_tuning_makes_a_policy_that_can_be_trained(
    name: str, make: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, name, partial(make, n_train=40, n_held_out=8))
    policy, out = str(tmp_path / "policy"), tmp_path / "run"
    sft = ["--epochs", "1", "--width", "16", "--layers", "1", "--out", policy]
    assert main(["sft", "--task", name, *sft]) == 0
    train = ["--policy", policy, "--iterations", "1", "--episodes", "4", "--out", str(out)]
    assert main(["train", "--task", name, *train]) == 0
    assert "perfect" in json.loads((out / "summary.json").read_text())["after"]
