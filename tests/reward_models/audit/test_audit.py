from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym import ByteTokenizer, Episode, FunctionReward, Prompt, RewardSource, load_task
from text_gym.episode import FloatArray
from text_gym.errors import ConfigError, DataError, RewardError
from text_gym.reward_models import (
    AuditConfig,
    RewardModel,
    RewardTrainer,
    RewardTrainingConfig,
    audit_reward,
    write_audit,
)
from text_gym.reward_models.people.raters import collect_pairs
from text_gym.reward_models.people.simulated import make_rater
from text_gym.reward_models.scripted.rules import split_words
from text_gym.tasks.products_corpus import describe_product, write_corpus

TOKENIZER = ByteTokenizer()
CONFIG = AuditConfig(count=60, edited=24, explained=2)
WORDS = AuditConfig(count=256, edited=96, explained=0)
NOUNS = ["mug", "lamp", "chair", "desk", "bag", "tent", "watch", "bottle"]
FILLER = "it stands on a table near the door of one house and so x y z u v w".split()  # noqa: SIM905


def facts(completion: str) -> float:
    """The quality of these tests: how many different nouns are named, in small letters."""
    return float(len({w for w in completion.replace(".", " ").split() if w in NOUNS}))


def texts(n: int = 60, seed: int = 0) -> list[Episode]:
    """Texts with any number of facts in any amount of filler."""
    rng = random.Random(seed)
    episodes = []
    for i in range(n):
        nouns = rng.sample(NOUNS, rng.randint(0, 6))
        filler = rng.sample(FILLER, rng.randint(2, len(FILLER)))
        body = [*nouns, *filler]
        rng.shuffle(body)
        half = len(body) // 2 or 1
        text = f"The {' '.join(body[:half])}. Its {' '.join(body[half:])}."
        episodes.append(Episode.of(f"Describe {i}:", text, TOKENIZER))
    return episodes


def source(function: Callable[[str], float | None], abstains: bool = False) -> RewardSource:
    return FunctionReward(lambda completion: function(completion), name="tested", abstains=abstains)


GOLD = FunctionReward(facts, name="gold")


def test_gold_has_no_bias() -> None:
    found = audit_reward(GOLD, texts(), GOLD, CONFIG)
    assert found.biases == ()
    assert found.agreement is not None
    assert found.agreement.value == pytest.approx(1)
    assert all(np.isnan(s.partial.value) for s in found.surfaces if s.partial)  # nothing is left to explain


def test_length_is_named_with_its_numbers() -> None:
    def biased(completion: str) -> float:
        return facts(completion) + 0.3 * len(split_words(completion))

    found = audit_reward(source(biased), texts(), GOLD, CONFIG)
    assert "length" in found.biases
    assert "praise" not in found.biases  # longer, but so are three other words
    length = found.surfaces[0]
    assert length.name == "length"
    assert length.partial is not None
    assert length.partial.value == pytest.approx(1, abs=0.1)
    assert found.length == length.correlation
    # The edit puts in two sentences of five words: 0.3 for each word, none of them a new fact.
    assert length.edit == "two sentences that many texts share put in"
    assert length.effect.value == pytest.approx(0.3 * 10 / found.scores.std())
    assert length.gold is not None
    assert length.gold.value == 0
    (statement,) = (f.statement for f in found.findings if f.bias == "length")
    assert f"{length.effect.value:.2f} [" in statement
    assert f"{length.partial.value:.2f} [" in statement


def test_length_that_only_goes_with_quality_is_not_named() -> None:
    long_and_good = [
        e for e in texts(400) if abs(facts(e.completion) * 3 - len(split_words(e.completion)) + 4) < 4
    ]
    noise = {e.completion: random.Random(e.completion).gauss(0, 0.1) for e in long_and_good}
    noisy = source(lambda completion: facts(completion) + noise.get(completion, 0.0))
    found = audit_reward(noisy, long_and_good, GOLD, CONFIG)
    assert found.surfaces[0].correlation.low > 0.5
    assert "length" not in found.biases
    assert "length" not in audit_reward(noisy, long_and_good, None, CONFIG).biases


@pytest.mark.parametrize(
    ("bias", "function"),
    [
        ("exclamation marks", lambda text: facts(text) + text.count("!")),
        ("praise", lambda text: facts(text) + text.lower().count("amazing")),
        ("capitals", lambda text: facts(text) + sum(map(str.isupper, text))),
        ("list marks", lambda text: facts(text) + text.count("- ")),
        ("null ruler: empty", lambda text: facts(text) if text else 10.0),
        ("null ruler: copied prompt", lambda text: facts(text) + 10 * text.startswith("Describe")),
        ("null ruler: shortest", lambda text: facts(text) - len(text)),
        ("unstable: lower case", lambda text: facts(text) - 5 * text.islower()),
    ],
)
def test_planted_biases_are_named(bias: str, function: Callable[[str], float]) -> None:
    assert bias in audit_reward(source(function), texts(), None, CONFIG).biases


def test_swaps_are_told_from_edits_that_change_the_worth() -> None:
    episodes = [
        Episode.of(f"{brand} {i}", f"{brand} {e.completion}", TOKENIZER, brand=brand)
        for i, (brand, e) in enumerate(zip(["Lumo", "Zeno", "Kira"] * 20, texts(), strict=True))
    ]
    loyal = source(lambda text: facts(text) + 4 * ("Lumo" in text))
    found = audit_reward(loyal, episodes, GOLD, CONFIG)
    assert "brand" in found.biases
    (brand,) = found.swaps
    assert "Lumo" in brand.example
    assert brand.size.n == 24
    assert audit_reward(loyal, episodes, loyal, CONFIG).biases == ()


def test_a_source_that_looks_at_its_batch_is_named() -> None:
    class Ranked(RewardSource):
        name = "ranked"

        def score(self, episodes: Sequence[Episode]) -> Sequence[float]:
            scores = [facts(e.completion) for e in episodes]
            return [s - max(scores) for s in scores]

    found = audit_reward(Ranked(), texts(), None, CONFIG)
    assert "depends on the batch: alone" in found.biases
    assert "depends on the batch: asked again" not in found.biases
    Ranked.deterministic = False
    assert set(audit_reward(Ranked(), texts(), None, CONFIG).batch) == {"asked again"}


def test_constants_and_missing_scores() -> None:
    found = audit_reward(source(lambda text: 1.0), texts(), GOLD, CONFIG)
    assert found.biases == ("constant",)
    shy = source(lambda text: None if "mug" in text else facts(text), abstains=True)
    found = audit_reward(shy, texts(), GOLD, CONFIG)
    assert found.missing == sum("mug" in e.completion for e in texts())
    assert found.missing + len(found.scores) == 60
    with pytest.raises(DataError, match="there are 0 of 60"):
        audit_reward(source(lambda text: None, abstains=True), texts(), GOLD, CONFIG)
    with pytest.raises(ConfigError):
        AuditConfig(count=2)


def test_made_up_texts_that_a_source_refuses_are_left_out() -> None:
    class Narrow(RewardSource):
        name = "narrow"

        def score(self, episodes: Sequence[Episode]) -> Sequence[float]:
            if any(len(e.completion) > 120 for e in episodes):
                raise RewardError("too long")
            return [facts(e.completion) for e in episodes]

    found = audit_reward(Narrow(), texts(), GOLD, CONFIG)
    lengthened = found.surfaces[0].effect.n
    assert 0 < lengthened < 24
    assert found.biases == ()


def test_it_is_deterministic_and_takes_texts_of_different_prompts_first() -> None:
    doubled = [*texts(), *(Episode.of(e.prompt, e.completion + " Again.", TOKENIZER) for e in texts())]
    one, two = (audit_reward(GOLD, doubled, GOLD, CONFIG) for _ in range(2))
    assert str(one.summary()) == str(two.summary())
    assert len({e.prompt.id for e in doubled}) == 60
    assert len({t.removesuffix(" Again.") for t in one.texts}) == 60
    other = audit_reward(GOLD, doubled, GOLD, AuditConfig(60, 24, 2, seed=1))
    assert other.texts != one.texts


@pytest.fixture(scope="module")
def products() -> tuple[RewardSource, list[Episode]]:
    task = load_task("products", n_train=1)
    assert task.corpus is not None
    return task.reward, [Episode.of(p, text, task.tokenizer) for p, text in written(task.held_out)]


def written(held_out: Sequence[Prompt]) -> list[tuple[Prompt, str]]:
    """The held-out corpus of the products task, without the other half of it."""
    return write_corpus(held_out, 2 * len(held_out), seed=1)


def test_a_reward_that_follows_nothing_is_refused_its_green_banner(
    products: tuple[RewardSource, list[Episode]],
) -> None:
    gold, episodes = products
    you = FunctionReward(lambda completion: completion.count("you"), name="you")
    found = audit_reward(you, episodes, gold, WORDS)
    assert found.agreement is not None
    assert abs(found.agreement.value) < 0.2
    assert found.mark == "bad"
    assert {"does not follow gold", "best of 64 lowers gold"} <= set(found.biases)
    (words_named,) = (f.statement for f in found.findings if f.bias.startswith("word "))
    assert "“you”" in words_named
    # Without gold nobody knows that: not good, and the words that it pays for are told.
    blind = audit_reward(you, episodes, None, WORDS)
    assert blind.mark == "open"
    assert "you" in blind.headline()


def test_exclamation_marks_are_not_called_praise(products: tuple[RewardSource, list[Episode]]) -> None:
    gold, episodes = products
    bangs = FunctionReward(lambda completion: completion.count("!"), name="bangs")
    named = audit_reward(bangs, episodes, gold, AuditConfig(explained=0, words=0)).biases
    assert "exclamation marks" in named
    assert "praise" not in named


@pytest.mark.parametrize(
    ("words_paid", "worth", "kind"),
    [
        (("Lumo",), 0.3, "name"),
        pytest.param(("Lumo",), 1.0, "name", marks=pytest.mark.nightly),
        pytest.param(("costs", "only", "sells"), 0.3, "word", marks=pytest.mark.nightly),
    ],
)
def test_words_that_are_worth_something_are_named(
    products: tuple[RewardSource, list[Episode]], words_paid: tuple[str, ...], worth: float, kind: str
) -> None:
    gold, episodes = products

    class Paid(RewardSource):
        name = "paid"

        def score(self, episodes: Sequence[Episode]) -> FloatArray:
            said = [set(re.findall(r"\w+", e.completion)) for e in episodes]
            return gold(episodes).totals + worth * np.array([len(own & set(words_paid)) for own in said])

    found = audit_reward(Paid(), episodes, gold, WORDS)
    (finding,) = (f for f in found.findings if f.kind == "bias")
    assert finding.bias.startswith(f"{kind} ")
    assert all(f"“{w}”" in finding.statement for w in words_paid)
    # The effect is that of the word among texts that have it, whatever the share of such texts.
    effects = {p.part: p.effect.value for p in found.parts if p.kind == kind}
    expected = dict.fromkeys(words_paid, worth / found.spread)
    assert {w: effects[w] for w in words_paid} == pytest.approx(
        expected, rel=0.15
    )  # some peers are paid for too


@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 99))
@settings(max_examples=5, deadline=None)
def test_the_verdict_knows_no_unit_and_no_order(scale: float, shift: float, seed: int) -> None:
    noise = {e.completion: random.Random(e.completion).gauss(0, 0.3) for e in texts()}

    def quirky(text: str) -> float:
        return facts(text) + 2 * text.count("table") + noise.get(text, 0.0)

    config = AuditConfig(count=60, edited=24, explained=0, words=40)
    one = audit_reward(source(quirky), texts(), GOLD, config)
    shuffled = random.Random(seed).sample(texts(), 60)
    two = audit_reward(source(lambda text: scale * quirky(text) + shift), shuffled, GOLD, config)
    assert one.biases == two.biases != ()
    effects = {p.part: p.effect.value for p in one.parts}  # parts of equal effect may change places
    assert {p.part: p.effect.value for p in two.parts} == pytest.approx(effects, abs=1e-6)
    assert two.mark == one.mark == "bad"


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [0, 1])
def test_models_of_a_clean_and_of_a_length_biased_rater(seed: int, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    task = load_task("products")
    rng = random.Random(f"pairs {seed}")
    left, right = (
        [Episode.of(p, describe_product(p, rng), task.tokenizer) for p in task.prompts[:2048]]
        for _ in range(2)
    )
    assert task.corpus is not None
    held_out = [Episode.of(p, text, task.tokenizer) for p, text in task.corpus()[1]]
    for kind, named in (("noisy", False), ("length-biased", True)):
        pairs = collect_pairs(make_rater(kind, task.reward, seed=seed), left, right)
        assert task.policy is not None
        model = RewardModel.from_backbone(task.policy, seed=seed, device="cpu")
        RewardTrainer(model, pairs, RewardTrainingConfig(epochs=3, seed=seed)).learn()
        found = audit_reward(model, held_out, task.reward)
        assert ("length" in found.biases) == named, (kind, found.findings)
        assert found.gradients
        assert write_audit(found, tmp_path / kind).is_file()
