from __future__ import annotations

import math
import time

import numpy as np
import pytest

from text_gym.errors import ConfigError, DataError
from text_gym.reward_models.learned.configs import NgramConfig
from text_gym.reward_models.learned.ngram_features import features, matrix, vocabulary_of


def test_words_by_hand() -> None:
    (found,) = features("ignored", "Hi, hi", NgramConfig(groups=("words",), order=2))
    assert dict(found) == {
        "<s>": 1, "hi": 2, ",": 1, "</s>": 1,
        "<s> hi": 1, "hi ,": 1, ", hi": 1, "hi </s>": 1,
    }  # fmt: skip


def test_templates_hide_what_the_prompt_says() -> None:
    config = NgramConfig(groups=("template",), order=1)
    one = features("name[The Eagle]", "The Eagle is nice", config)
    other = features("name[Blue Spice]", "Blue Spice is nice", config)
    assert one == other
    assert one[0]["t <prompt>"] == 1
    assert one != features("name[Blue Spice]", "The Eagle is nice", config)


@pytest.mark.parametrize(
    "prompt",
    [
        "name[The Eagle], area[city centre]",
        "inform(name='the eagle',area='city centre')",
        'inform(name="The Eagle", area=city centre)',
        "Name: The Eagle\nArea: city centre\n",
    ],
)
def test_fields_in_the_usual_notations(prompt: str) -> None:
    (found,) = features(prompt, "The Eagle is cheap.", NgramConfig(groups=("fields",)))
    assert dict(found) == {
        "said": 1,
        "said name": 1,
        "missing area": 1,
        "missing area=city centre": 1,
        "missing 1": 1,
    }


def test_rows_have_length_one_group_by_group() -> None:
    config = NgramConfig(min_count=1)
    counts = [features("name[A]", "A is a bar a bar", config), features("name[B]", "no", config)]
    index = vocabulary_of(counts, config)
    x = matrix(counts, index).toarray()
    assert np.linalg.norm(x, axis=1) == pytest.approx([1, 1])
    words = [log for f, log in ((f, math.log1p(c)) for f, c in counts[0][0].items())]
    assert x[0, index["bar"]] == pytest.approx(math.log(3) / math.sqrt(3 * sum(v * v for v in words)))


def test_unknown_features_and_empty_texts_are_nothing() -> None:
    config = NgramConfig(min_count=1)
    index = vocabulary_of([features("a", "b", config)], config)
    assert matrix([features("x", "zzz", NgramConfig(groups=("template",)))], {}).shape == (1, 0)
    assert matrix([features("a", "", config)], index).shape == (1, len(index))


def test_the_vocabulary_is_cut_by_count_and_size() -> None:
    counts = [features("p", text, NgramConfig(groups=("words",), order=1)) for text in ("a b", "a c", "a b")]
    assert list(vocabulary_of(counts, NgramConfig(min_count=3))) == ["</s>", "<s>", "a"]
    assert list(vocabulary_of(counts, NgramConfig(min_count=2, max_features=4))) == ["</s>", "<s>", "a", "b"]
    with pytest.raises(DataError, match="too few opinions"):
        vocabulary_of(counts, NgramConfig(min_count=4))


def test_hostile_prompts_take_no_time() -> None:
    started = time.perf_counter()
    for prompt in ("word " * 20_000, "a[" * 5_000, "=" * 20_000, "a='" * 5_000):
        features(prompt, "text", NgramConfig())
    assert time.perf_counter() - started < 10


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="groups"):
        NgramConfig(groups=("rhymes",))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1"):
        NgramConfig(order=0)
    with pytest.raises(ConfigError, match="alpha"):
        NgramConfig(alpha=math.nan)
