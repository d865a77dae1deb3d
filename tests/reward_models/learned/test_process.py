from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reward_model_tools import small_reward_model
from text_gym import ByteTokenizer, Episode, Prompt, TextVectorEnv
from text_gym.envs.reward_checker import check_reward_source
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models import (
    NgramModel,
    ProcessReward,
    RewardTrainer,
    RewardTrainingConfig,
    StepLabels,
    load_reward,
)
from text_gym.reward_models.learned.configs import NgramConfig

TOKENIZER = ByteTokenizer()
WORDS = NgramConfig(groups=("words",), order=1, min_count=1)


def known(**options: object) -> ProcessReward:
    """Logits that can be said by heart: a step of the word good has 1, of bad -2, of anything else 0."""
    features = NgramModel(["good", "bad"], np.array([[1.0], [-2.0]]), np.zeros(1), config=WORDS)
    return ProcessReward(features, **options)  # type: ignore[arg-type]


GOOD, BAD, ELSE = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(2)), 0.5


def episode(text: str, done: bool = True) -> Episode:
    found = Episode.of("Say:", text, TOKENIZER)
    return found if done else replace(found, completion_ids=found.completion_ids[:-1], finish_reason=None)


def solutions(n: int = 60, seed: int = 0) -> list[StepLabels]:
    rng = random.Random(seed)
    made = []
    for i in range(n):
        steps = [rng.choice(["good", "bad"]) for _ in range(3)]
        made.append(StepLabels(Prompt(f"text {i}:"), tuple(steps), tuple(float(s == "good") for s in steps)))
    return made


@pytest.mark.parametrize(
    ("aggregate", "after"),
    [
        ("min", [GOOD, ELSE, ELSE]),
        ("product", [GOOD, GOOD * ELSE, GOOD * ELSE * GOOD]),
        ("last", [GOOD, ELSE, GOOD]),
    ],
)
def test_every_step_is_paid_on_its_last_token(aggregate: str, after: list[float]) -> None:
    text = "good\nhm\n\ngood"
    places = [4, 7, 13]  # the line feeds, and the EOS after the last step
    for pay, paid in (("progress", np.diff(after, prepend=0.0)), ("scores", [GOOD, ELSE, GOOD])):
        found = known(aggregate=aggregate, pay=pay)([episode(text)])
        assert found.per_token is not None
        expected = np.zeros(14)
        expected[places] = paid
        np.testing.assert_allclose(found.per_token[0], expected, atol=1e-12)
        assert found.values.tolist() == [0.0]
        assert found.terms["steps"].tolist() == [3.0]
        assert found.terms[aggregate][0] == pytest.approx(after[-1])
    end = known(aggregate=aggregate, pay="end")([episode(text)])
    assert end.per_token is None
    assert end.values[0] == pytest.approx(after[-1])


def test_a_step_is_judged_by_itself_and_its_delimiter_is_no_matter() -> None:
    found = known()([episode("good\nbad"), episode("good\nbad\n"), episode("bad\ngood")])
    assert found.totals.tolist() == pytest.approx([BAD, BAD, BAD])


def test_a_text_without_steps_is_worth_nothing() -> None:
    for pay in ("progress", "scores", "end"):
        assert known(pay=pay)(
            [episode(""), episode("\n \n"), episode("good")]
        ).totals.tolist() == pytest.approx([0.0, 0.0, GOOD])


@given(
    st.lists(st.sampled_from(["good", "bad", "hm", "é", "", "\n", "##"]), max_size=8),
    st.sampled_from(["\n", "##"]),
)
def test_a_prefix_is_paid_as_the_whole_is(parts: list[str], delimiter: str) -> None:
    source = known(delimiter=delimiter, aggregate="product")
    whole = episode("".join(parts))
    paid = source([whole]).per_token
    assert paid is not None
    for t in range(1, len(whole.completion_ids)):
        prefix = replace(whole, completion_ids=whole.completion_ids[:t], finish_reason=None)
        (part,) = source([prefix]).per_token or ()
        np.testing.assert_allclose(part, paid[0][:t], atol=1e-12)


def test_the_environment_pays_step_by_step() -> None:
    text = "good\nbad\ngood\n"
    env = TextVectorEnv(["Say:"], TOKENIZER, known(), max_tokens=len(text) + 1, num_envs=1)
    env.reset(seed=0)
    paid = [float(env.step(np.array([i]))[1][0]) for i in [*TOKENIZER.encode(text), TOKENIZER.eos_ids[0]]]
    places = {i: round(p, 9) for i, p in enumerate(paid) if p}
    assert places == {4: round(GOOD, 9), 8: round(BAD - GOOD, 9)}


def test_ngrams_learn_which_steps_are_right(tmp_path: Path) -> None:
    source = ProcessReward.fit(solutions(), WORDS)
    right, wrong = source.step_scores([(Prompt("text 99:"), ["good", "bad"])])[0]
    assert right > 0.9
    assert wrong < 0.1
    texts = [episode("good\nbad\ngood"), episode("good")]
    check_reward_source(source, texts)
    source.save(tmp_path / "model")
    again = load_reward(str(tmp_path / "model"))
    assert again(texts).totals.tolist() == source(texts).totals.tolist()


def test_a_step_gets_all_before_it_as_its_prompt() -> None:
    """The features of the prompt's fields tell: the first step names a slot that the second must say."""
    config = NgramConfig(groups=("fields",), min_count=1)
    features = NgramModel(["said", "missing 1"], np.array([[1.0], [-1.0]]), np.zeros(1), config=config)
    scores = ProcessReward(features).step_scores([(Prompt("Say\n"), ["name[Aldo]", "Aldo is here", "gone"])])
    assert scores[0].tolist() == pytest.approx([0.5, GOOD, 1 - GOOD])


def test_solutions_of_a_batch_keep_their_order() -> None:
    source = ProcessReward(small_reward_model())
    texts = [["a good text about cats", "bad"], ["good"], [], ["a bad text", "good text"]]
    prompt = Prompt("text 1:")
    together = source.step_scores([(prompt, steps) for steps in texts])
    assert [len(x) for x in together] == [2, 1, 0, 2]
    for steps, found in zip(texts, together, strict=True):
        np.testing.assert_allclose(found, source.step_scores([(prompt, steps)])[0], atol=1e-6)


def test_labels_between_0_and_1_are_probabilities() -> None:
    shares = [StepLabels(Prompt(f"text {i}:"), ("hm",), (0.25,)) for i in range(40)]
    config = NgramConfig(groups=("words",), order=1, alpha=1e6)  # what is left is the intercept
    found = ProcessReward.fit(shares, config).step_scores([(Prompt("text:"), ["hm"])])[0]
    assert found[0] == pytest.approx(0.25, abs=1e-3)


def test_weights_count() -> None:
    both = [
        StepLabels(Prompt(f"text {i} {label}:"), ("hm",), (label,), weight=3.0 if label else 1.0)
        for i in range(20)
        for label in (0.0, 1.0)
    ]
    config = NgramConfig(groups=("words",), order=1, alpha=1e6)
    found = ProcessReward.fit(both, config).step_scores([(Prompt("text:"), ["hm"])])[0]
    assert found[0] == pytest.approx(0.75, abs=1e-3)


def test_a_transformer_learns_which_steps_are_right(tmp_path: Path) -> None:
    model = small_reward_model()
    config = RewardTrainingConfig(epochs=8, batch_size=8, learning_rate=1e-2, patience=8)
    trainer = RewardTrainer(model, solutions(), config).learn()
    assert trainer.history[-1]["validation_loss"] < 0.2
    source = ProcessReward(model, aggregate="product")
    right, wrong = source.step_scores([(Prompt("text 99:"), ["good", "bad"])])[0]
    assert right > 0.8
    assert wrong < 0.2
    texts = [episode("good\nbad\ngood"), episode("good"), episode("")]
    check_reward_source(source, texts)
    source.save(tmp_path / "model")
    again = load_reward(str(tmp_path / "model"))
    assert isinstance(again, ProcessReward)
    assert (again.aggregate, again.pay, again.delimiter) == ("product", "progress", "\n")
    np.testing.assert_allclose(again(texts).totals, source(texts).totals, atol=1e-6)


def test_bad_settings_and_data_are_refused() -> None:
    for wrong in ({"delimiter": ""}, {"aggregate": "mean"}, {"pay": "never"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            known(**wrong)
    with pytest.raises(ConfigError, match="one output"):
        ProcessReward(NgramModel(["a"], np.zeros((1, 2)), np.zeros(2), ("x", "y")))
    with pytest.raises(DataError, match="holds the delimiter"):
        ProcessReward.fit([StepLabels(Prompt("a"), ("b\nc",), (1.0,))])
    with pytest.raises(DataError, match="no labels"):
        ProcessReward.fit([])


def test_a_broken_folder_is_told(tmp_path: Path) -> None:
    source = known()
    source.save(tmp_path)
    settings = tmp_path / "reward_model.json"
    text = settings.read_text()
    settings.write_text(text.replace('"min"', '"mean"'))
    with pytest.raises(DataError, match="mean"):
        load_reward(str(tmp_path))
    settings.write_text(text.replace('"min"', "3"))
    with pytest.raises(DataError, match="no saved process reward"):
        load_reward(str(tmp_path))
    settings.write_text(text)
    (tmp_path / "model" / "reward_model.json").unlink()
    with pytest.raises(DataError, match="model of steps"):
        load_reward(str(tmp_path))
