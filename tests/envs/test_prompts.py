from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym import Prompt, TextVectorEnv, WordTokenizer, prompts
from text_gym.envs.episode_batch import EpisodeBatch
from text_gym.envs.options import EpisodeOptions
from text_gym.envs.prompts import PromptTable
from text_gym.errors import ConfigError, PromptError

AB = WordTokenizer("ab", separator="")  # padding 3


def table(*texts: str, **kwargs: object) -> PromptTable:
    return PromptTable([Prompt(t) for t in texts], AB, 2, **kwargs)  # type: ignore[arg-type]


def padded(made: PromptTable) -> list[list[int]]:
    """Every prompt as a batch begins an episode with it, without the two places of a completion."""
    batch = EpisodeBatch(["a"], AB, len, 2, num_rows=len(made.prompts), options=EpisodeOptions(shuffle=False))
    batch.prompts, batch.table = made.prompts, made
    batch._make_buffers()
    rows = np.arange(len(made.prompts))
    batch.begin(rows, np.zeros_like(rows), rows)
    assert batch.attention_mask.sum(axis=1).tolist() == batch.lengths.tolist() == made.lengths.tolist()
    assert batch.tokens.shape == (len(made.prompts), made.width + 2)
    assert (batch.tokens[:, made.width :] == AB.pad_id).all()
    kept: list[list[int]] = batch.tokens[:, : made.width].tolist()
    return kept


def test_prompts_are_padded_on_the_right() -> None:
    made = table("ab", "b", "")
    assert padded(made) == [[0, 1], [1, 3], [3, 3]]  # the last is BOS and padding
    assert made.lengths.tolist() == [2, 1, 1]
    assert made.texts(np.array([2, 0])).tolist() == ["", "ab"]
    assert made.ids(1).tolist() == [1]
    assert table("").width == 1


def test_the_table_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        table("ab").ids(0)[0] = 1


def test_long_prompts_lose_their_left_end_if_asked() -> None:
    made = table("abb", "b", limit=2, on_long="truncate")
    assert padded(made) == [[1, 1], [1, 3]]
    assert made.dropped.tolist() == [1, 0]
    assert table("abb", context=4, on_long="truncate").width == 2
    assert table("abb", limit=5, context=4, on_long="truncate").width == 2


class DenseTable:
    """The table as it was: one padded row for each prompt, filled prompt by prompt."""

    def __init__(self, texts: list[str], limit: int | None, on_long: str, context: int | None) -> None:
        encoded = [AB.encode(text) or [AB.pad_id] for text in texts]
        width = max(map(len, encoded)) if limit is None else limit
        if context is not None and on_long == "truncate":
            width = min(width, context - 2)
        if context is not None and width + 2 > context:
            raise PromptError("does not fit")
        if on_long == "error" and any(len(ids) > width for ids in encoded):
            raise PromptError("too long")
        kept = [ids[-width:] for ids in encoded]
        self.rows = [ids + [AB.pad_id] * (width - len(ids)) for ids in kept]
        self.lengths = [len(ids) for ids in kept]
        self.dropped = [len(ids) - len(short) for ids, short in zip(encoded, kept, strict=True)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text("ab", max_size=9), min_size=1, max_size=7),
    st.none() | st.integers(1, 9),
    st.sampled_from(["error", "truncate"]),
    st.none() | st.integers(3, 12),
    st.integers(1, 3),
)
def test_the_rows_are_those_of_a_dense_table(
    texts: list[str], limit: int | None, on_long: str, context: int | None, chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompts, "CHUNK", chunk)
        try:
            expected = DenseTable(texts, limit, on_long, context)
        except PromptError:
            with pytest.raises(PromptError):
                table(*texts, limit=limit, on_long=on_long, context=context)
            return
        made = table(*texts, limit=limit, on_long=on_long, context=context)
    assert padded(made) == expected.rows
    assert made.lengths.tolist() == expected.lengths
    assert made.dropped.tolist() == expected.dropped
    assert [made.ids(i).tolist() for i in range(len(texts))] == [
        row[:length] for row, length in zip(expected.rows, expected.lengths, strict=True)
    ]


def nbytes(made: PromptTable) -> int:
    """Bytes of the arrays that are no views of others."""
    return sum(a.nbytes for a in vars(made).values() if isinstance(a, np.ndarray) and a.base is None)


def test_memory_grows_with_tokens_and_not_with_the_longest_prompt() -> None:
    """4 bytes a token and 24 a prompt, and once a padding of 12 bytes a place."""
    for count, longest in ((1000, 1), (1000, 500), (4000, 500)):
        texts = ["ab"] * count + ["a" * longest]
        made = table(*texts)
        tokens = 2 * count + longest
        assert nbytes(made) <= 4 * tokens + 24 * len(texts) + 12 * (made.width + 2)


@pytest.mark.parametrize("kept", [1, 100])
def test_the_same_seed_begins_the_same_episodes(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What every row shows, against rows of the dense table that the stream's hash chose."""
    monkeypatch.setattr(prompts, "KEPT", kept)
    texts = ["ab", "b", "", "abbab"]
    dense = DenseTable(texts, None, "error", None)
    env = TextVectorEnv(texts, AB, len, 2, num_envs=16)
    observation, info = env.reset(seed=5)
    choice = env.batch.prompt_of(np.arange(5, 21), np.zeros(16, dtype=np.int64)).tolist()
    assert len(set(choice)) == 4
    assert observation["tokens"].tolist() == [dense.rows[i] + [AB.pad_id] * 2 for i in choice]
    assert observation["length"].ravel().tolist() == [dense.lengths[i] for i in choice]
    assert info["prompt"].tolist() == [texts[i] for i in choice]
    episodes = env.episodes(np.arange(16))
    assert [e.prompt_ids.tolist() for e in episodes] == [dense.rows[i][: dense.lengths[i]] for i in choice]
    assert all(e.prompt_ids.dtype == np.int64 for e in episodes)


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"limit": 2}, PromptError, r"prompt 0 \('abb'\) has 3 tokens.*or, in Python, make"),
        (
            {"context": 4},
            PromptError,
            r"prompt 0, 'abb'\) and max_tokens=2 exceed the context of 4.*, in Python, ",
        ),
        ({"context": 2, "on_long": "truncate"}, ConfigError, "no room"),
        ({"limit": 0}, ConfigError, "max_prompt_tokens is 0"),
        ({"on_long": "drop"}, ConfigError, "on_long_prompt is 'drop'"),
    ],
)
def test_prompts_that_do_not_fit(kwargs: dict[str, object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        table("abb", "a", **kwargs)
