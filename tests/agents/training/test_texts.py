"""What is measured of texts without any reward."""

from __future__ import annotations

from text_gym import ByteTokenizer, Episode
from text_gym.agents.training.texts import measure_texts

BYTES = ByteTokenizer()


def test_texts_are_measured_by_pairs_of_tokens() -> None:
    def episode(prompt: str, text: str) -> Episode:
        return Episode.of(prompt, text, BYTES)

    eos = len(BYTES.encode("")) + 1  # every text ends with EOS
    found = measure_texts([episode("ab", "abab"), episode("cd", "xyz"), episode("ef", "xyz")], {}, 1)
    # abab and EOS: ab, ba, ab, b-EOS, of which one came before and two stand in the prompt.
    assert found["length"].tolist() == [4 + eos, 3 + eos, 3 + eos]
    assert found["repetition"].tolist() == [1 / 4, 0, 0]
    assert found["copying"].tolist() == [2 / 4, 0, 0]
    assert found["novelty"].tolist() == [1, 1, 1]
    assert found["sameness"].tolist() == [0, 1, 1]
    assert found["cut"].tolist() == [0, 0, 0]


def test_the_same_text_of_one_prompt_is_not_sameness() -> None:
    twice = [Episode.of("a", "xyz", BYTES), Episode.of("a", "xyz", BYTES)]
    assert measure_texts(twice, {}, 1)["sameness"].tolist() == [0, 0]


def test_a_starting_text_is_no_news_only_if_another_one_knows_its_pairs() -> None:
    a, b = BYTES.encode("ab")
    episode = [Episode.of("q", "ab", BYTES)]
    assert measure_texts(episode, {(a, b): 1}, 1)["novelty"].tolist() == [1 / 2]
    assert measure_texts(episode, {(a, b): 1}, 2)["novelty"].tolist() == [1]
