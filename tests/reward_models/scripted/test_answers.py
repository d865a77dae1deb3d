from __future__ import annotations

import sys

import pytest

from text_gym import ByteTokenizer, Episode
from text_gym.data import prompts_from
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models import JSONSchema, MathAnswer, Overlap

TOKENIZER = ByteTokenizer()
SCHEMA = {"type": "object", "required": ["answer"], "properties": {"answer": {"type": "string"}}}


def test_overlap_of_the_reference_with_itself_and_with_nothing() -> None:
    pytest.importorskip("sacrebleu")
    reference = "The Eagle is a cheap pub by the river."
    texts = [reference, "", "Completely unrelated words"]
    episodes = [Episode.of("Write:", text, TOKENIZER, reference=reference) for text in texts]
    for metric in ("bleu", "chrf"):
        values = Overlap(metric)(episodes).values
        assert values[0] == pytest.approx(1)
        assert values[1] == 0
        assert values[2] < 0.2


def test_bleu_by_hand_and_the_best_reference() -> None:
    pytest.importorskip("sacrebleu")
    # 1-grams 3/4, 2-grams 2/3, 3-grams 1/2, 4-grams 0/1 smoothed to 1/2 (exponential); same length
    expected = (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25
    episode = Episode.of("Write:", "a b c d", TOKENIZER, reference="a b c e")
    assert Overlap()([episode]).values[0] == pytest.approx(expected)
    both = Episode.of("Write:", "a b c d", TOKENIZER, reference=["a b c e", "a b c d"])
    assert Overlap()([both]).values[0] == pytest.approx(1)


def test_overlap_reads_the_references_that_data_gathers() -> None:
    pytest.importorskip("sacrebleu")
    (prompt,) = prompts_from([{"q": "Write", "r": text} for text in ("a b c e", "a b c d")], "q", "r")
    assert Overlap()([Episode.of(prompt, "a b c d", TOKENIZER)]).values[0] == pytest.approx(1)
    with pytest.raises(DataError, match="reads column 'reference'"):
        Overlap()([Episode.of("Write:", "x", TOKENIZER)])


def test_overlap_hack() -> None:
    pytest.importorskip("sacrebleu")
    reference = Overlap.hack.replace("family friendly", "family unfriendly")
    assert (
        Overlap("chrf")([Episode.of("Write:", Overlap.hack, TOKENIZER, reference=reference)]).values[0] > 0.85
    )


def test_overlap_errors() -> None:
    with pytest.raises(ConfigError, match="bleu and chrf"):
        Overlap("rouge")  # type: ignore[arg-type]
    pytest.importorskip("sacrebleu")
    with pytest.raises(DataError, match="reads column 'ref'"):
        Overlap(column="ref")([Episode.of("Write:", "x", TOKENIZER)])


def test_json_schema() -> None:
    pytest.importorskip("jsonschema")
    texts = ['{"answer": "4"}', '{"answer": 4}', "{answer: 4}", "NaN", "[" * 100_000, "", JSONSchema.hack]
    episodes = [Episode.of("Write:", text, TOKENIZER) for text in texts]
    rewards = JSONSchema(SCHEMA, partial=0.25)(episodes)
    assert rewards.values.tolist() == [1, 0.25, 0, 0, 0, 0, 1]
    assert rewards.terms["parses"].tolist() == [1, 1, 0, 0, 0, 0, 1]
    assert rewards.terms["valid"].tolist() == [1, 0, 0, 0, 0, 0, 1]


def test_json_schema_of_a_column_and_without() -> None:
    pytest.importorskip("jsonschema")
    episode = Episode.of("Write:", "3", TOKENIZER, schema={"type": "string"})
    assert JSONSchema(column="schema")([episode]).values.tolist() == [0]
    assert JSONSchema()([episode]).values.tolist() == [1]
    with pytest.raises(ConfigError):
        JSONSchema(partial=2)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ConfigError, match=r"needs math-verify: pip install math-verify"):
        MathAnswer()([Episode.of("2+2=", "4", TOKENIZER, answer=4)])


def test_math_answers() -> None:
    pytest.importorskip("math_verify")
    cases = [
        (r"\frac{1}{2}", "so it is 0.5", 1),
        ("1/2", r"\boxed{\frac{2}{4}}", 1),
        (4, MathAnswer.hack, 1),
        (4, "The answer is 5", 0),
        (4, "no idea", 0),
        (4, "", 0),
    ]
    episodes = [Episode.of("Solve:", text, TOKENIZER, answer=answer) for answer, text, _ in cases]
    assert MathAnswer()(episodes).values.tolist() == [expected for *_, expected in cases]
    assert MathAnswer()(episodes).terms["parses"].tolist() == [1, 1, 1, 1, 0, 0]
