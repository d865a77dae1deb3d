from __future__ import annotations

import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import ByteTokenizer, Episode, RewardSource
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models import Format, Keywords, Length, Readability, Repetition, Rubric
from text_gym.reward_models.scripted.rules import TokenRepetition

TOKENIZER = ByteTokenizer()


def score(source: RewardSource, text: str, **columns: object) -> float:
    return float(source([Episode.of("Write:", text, TOKENIZER, **columns)]).values[0])


def test_length_is_a_trapezoid() -> None:
    source = Length(4, 10)
    for n, expected in [(0, 0), (1, 0.25), (4, 1), (10, 1), (15, 0.5), (20, 0), (50, 0)]:
        assert score(source, "a " * n) == pytest.approx(expected), n


def test_length_units() -> None:
    episode = Episode.of("Write:", "héé you", TOKENIZER)
    for unit, n in [("words", 2), ("characters", 7), ("tokens", 10)]:  # 9 bytes and EOS
        source = Length(1, 100, unit=unit)  # type: ignore[arg-type]
        assert source([episode]).terms["length"].tolist() == [n]
    assert score(Length(0, 3), "") == 1
    with pytest.raises(ConfigError):
        Length(5, 4)


def test_format_matches_the_whole_text_or_a_part() -> None:
    assert score(Format(r"\d+"), " 42\n") == 1
    assert score(Format(r"\d+"), "it is 42") == 0
    assert score(Format(r"\d+", whole=False), "it is 42") == 1
    assert score(Format("<a>.*</a>"), "<a>two\nlines</a>") == 1
    with pytest.raises(ConfigError, match="not a regular expression"):
        Format("(")


def test_keywords_count_once_as_whole_words() -> None:
    source = Keywords(["price", "free trial"], ["cheap"])
    assert score(source, "The PRICE of a free trial, a free trial!") == 1
    assert score(source, "pricey, price") == 0.5
    assert score(source, "cheap price") == -0.5
    assert score(source, "") == 0
    rewards = source([Episode.of("Write:", "cheap price", TOKENIZER)])
    assert (rewards.terms["required"][0], rewards.terms["forbidden"][0]) == (0.5, 1)


def test_keywords_of_a_column() -> None:
    source = Keywords(column="words")
    assert score(source, "one two", words=["one", "three"]) == 0.5
    assert score(source, "one two", words="one, two") == 1
    with pytest.raises(DataError, match="reads column 'words'"):
        score(source, "one")
    with pytest.raises(ConfigError):
        Keywords()
    with pytest.raises(ConfigError):
        Keywords("word")


def test_repetition_counts_n_grams_seen_before() -> None:
    assert score(Repetition(2), "a b a b a b") == pytest.approx(-3 / 5)  # ab ba [ab ba ab]
    assert score(Repetition(1), "Buy, buy; BUY!") == pytest.approx(-2 / 3)
    assert score(Repetition(3), "all words are different here") == 0
    assert score(Repetition(3), "too short") == 0
    with pytest.raises(ConfigError):
        Repetition(0)


def test_token_repetition_pays_on_the_token() -> None:
    rewards = TokenRepetition(2, penalty=0.5)([Episode.of("Write:", "ababc", TOKENIZER)])
    assert rewards.per_token is not None
    assert rewards.per_token[0].tolist() == [0, 0, 0, -0.5, 0, 0]  # the second "ab" ends at place 3
    assert rewards.totals.tolist() == [-0.5]
    assert rewards.terms["repeated"].tolist() == [1]


def test_token_repetition_spares_tokens_of_the_environment() -> None:
    episode = Episode.of("Write:", "aaaa", TOKENIZER)
    mask = np.array([True, True, False, True, True])
    marked = Episode(episode.prompt, episode.prompt_ids, episode.completion_ids, TOKENIZER, agent_mask=mask)
    assert TokenRepetition(1, penalty=1)([marked]).totals.tolist() == [-2]


@given(st.text("ab", max_size=20), st.integers(1, 4))
def test_token_repetition_is_causal(text: str, n: int) -> None:
    whole = Episode.of("Write:", text, TOKENIZER)
    source = TokenRepetition(n)
    per_token = source([whole]).per_token
    assert per_token is not None
    for cut in range(1, len(whole.completion_ids)):
        prefix = Episode(whole.prompt, whole.prompt_ids, whole.completion_ids[:cut], TOKENIZER)
        part = source([prefix]).per_token
        assert part is not None
        assert part[0].tolist() == per_token[0][:cut].tolist()


def test_readability_is_flesch() -> None:
    # 6 words, 2 sentences; the cat sat (3), it ran away (1 + 1 + 2): 7 syllables
    rewards = Readability()([Episode.of("Write:", "The cat sat. It ran away.", TOKENIZER)])
    assert rewards.terms["flesch"][0] == pytest.approx(206.835 - 1.015 * 3 - 84.6 * 7 / 6)
    assert rewards.values.tolist() == [1]
    # one sentence of 3 words: u-ni-ver-si-ties (5), fa-ci-li-tate (4), un-der-stan-ding (4)
    long = Readability()([Episode.of("Write:", "Universities facilitate understanding", TOKENIZER)])
    assert long.terms["flesch"][0] == pytest.approx(206.835 - 1.015 * 3 - 84.6 * 13 / 3)
    assert long.values.tolist() == [0]
    assert score(Readability(), "") == 0
    assert score(Readability(), "!?.") == 0


def test_rubric_is_a_weighted_mean_of_clipped_scores() -> None:
    rubric = Rubric({"long": (lambda completion: len(completion), 3), "polite": Keywords(["please"])})
    rewards = rubric([Episode.of("Write:", text, TOKENIZER) for text in ("abc", "please", "")])
    assert rewards.values.tolist() == [0.75, 1, 0]
    assert rewards.terms["long"].tolist() == [1, 1, 0]
    assert rewards.terms["polite/required"].tolist() == [0, 1, 0]
    assert str(rubric).splitlines()[0] == "rubric: weighted mean (long 3, polite 1)"
    with pytest.raises(ConfigError):
        Rubric({"long": (len, 0)})


class Shy(RewardSource):
    abstains = True

    def score(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [None if e.completion == "a" else 1.0 for e in episodes]


def test_rubric_leaves_abstentions_out() -> None:
    rubric = Rubric({"shy": (Shy(), 3), "half": (lambda completion: len(completion) / 2, 1)})
    rewards = rubric([Episode.of("Write:", text, TOKENIZER) for text in "ab"])
    assert rewards.values.tolist() == [0.5, 0.875]
    assert math.isnan(rewards.terms["shy"][0])
    alone = Rubric({"shy": Shy()})([Episode.of("Write:", text, TOKENIZER) for text in "ab"])
    assert alone.abstained.tolist() == [True, False]


@pytest.mark.parametrize(
    ("source", "least"),
    [
        (Length(), 1),
        (Format(), 1),
        (Keywords(["price", "quality", "you"]), 1),
        (Repetition(), 0),
        (TokenRepetition(), 0),
        (Readability(), 1),
    ],
)
def test_hacks_score_high_and_sources_pickle(source: RewardSource, least: float) -> None:
    episode = Episode.of("Write:", source.hack, TOKENIZER)  # type: ignore[attr-defined]
    assert source([episode]).totals[0] >= least
    assert pickle.loads(pickle.dumps(source))([episode]).totals[0] >= least


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_ranges_and_batch_independence(texts: list[str]) -> None:
    episodes = [Episode.of("Write:", text, TOKENIZER) for text in texts]
    ranges: dict[RewardSource, tuple[float, float]] = {
        Length(): (0, 1),
        Format(): (0, 1),
        Keywords(["a"], ["b"]): (-1, 1),
        Repetition(): (-1, 0),
        Readability(): (0, 1),
    }
    for source, (low, high) in ranges.items():
        values = source(episodes).values
        assert ((low <= values) & (values <= high)).all()
        assert values.tolist() == [float(source([e]).values[0]) for e in episodes]
