from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reward_model_tools import small_reward_model
from text_gym import Prompt
from text_gym.errors import ConfigError, RewardError
from text_gym.reward_models.learned.steps import check_causal, encode_steps, split_steps, step_logits

PROMPT = Prompt("text 1:")


@given(st.text("ab \n", max_size=30), st.booleans())
def test_steps_are_what_stands_between_delimiters(text: str, over: bool) -> None:
    parts = text.split("\n") if over else text.split("\n")[:-1]
    steps = split_steps(text, "\n", over=over)
    assert [s.text for s in steps] == [part for part in parts if part.strip()]
    for step in steps:
        assert text[: step.end].endswith(step.text + "\n" * step.closed)


def test_a_longer_delimiter_is_one() -> None:
    assert [s.text for s in split_steps("a\nb##c#d", "##")] == ["a\nb", "c#d"]


def test_a_step_is_read_as_if_nothing_followed_alone_and_in_a_batch() -> None:
    model = small_reward_model()
    steps = ["a good text", "a bad text", "good good"]
    whole = encode_steps(model, PROMPT, steps, "\n")
    other = encode_steps(model, Prompt("another and longer text:"), steps[:1], "\n")
    with torch.no_grad():
        together = step_logits(model, [other, whole])
        assert len(together) == 4
        for n in (1, 2, 3):
            part = encode_steps(model, PROMPT, steps[:n], "\n")
            assert part.ids == whole.ids[: part.ends[-1] + 1]
            # The last of a plain forward pass of the sequence classifier, which pools over the last token.
            expected = model.model(input_ids=torch.tensor([part.ids])).logits[0, 0]
            assert together[n].item() == pytest.approx(expected.item(), abs=1e-5)


def test_steps_end_where_their_own_ids_do() -> None:
    model = small_reward_model()
    encoded = encode_steps(model, PROMPT, ["good", "bad text"], "\n")
    begin = len(model.tokenizer.encode(PROMPT.text))
    cuts = [begin, *(end + 1 for end in encoded.ends)]
    texts = [model.tokenizer.decode(encoded.ids[a:b]) for a, b in pairwise(cuts)]
    assert [text.strip() for text in texts] == ["good", "bad text"]


def test_a_long_prompt_loses_its_start_and_long_steps_are_refused() -> None:
    model = small_reward_model()
    assert model.context is not None
    encoded = encode_steps(model, Prompt("text " * model.context), ["a good text"], "\n")
    assert len(encoded.ids) == model.context
    assert encoded.ids[-1] == encoded.ids[encoded.ends[-1]]
    with pytest.raises(RewardError, match=f"the model reads {model.context}"):
        encode_steps(model, PROMPT, ["good " * model.context], "\n")


def test_an_encoder_is_refused() -> None:
    model = small_reward_model()
    del model.model.score
    with pytest.raises(ConfigError, match="causal"):
        check_causal(model)
