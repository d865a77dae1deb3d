"""The fast path, and the models' own code, say of 512 tokens what float64 says, and so do their gradients."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

FAST = {"GPT-2", "Llama", "Llama 3", "SmolLM2", "SmolLM3", "Mistral", "Qwen2", "Qwen3", "Gemma"}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("architectures")


@pytest.mark.nightly
def test_every_architecture_says_what_float64_says(script: Any) -> None:
    for name in script.ARCHITECTURES:
        found = script.compare(name)
        assert found.fine, (name, found)
        assert found.fast == (name in FAST), name
        assert found.longest > 350, name


def test_the_comparison_sees_a_small_error(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "TOKENS", 24)
    monkeypatch.setattr(script, "PROMPTS", (1, 5))
    assert script.compare("Qwen2").fine
    evaluate = script.Policy.evaluate

    def off(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = evaluate(self, *args, **kwargs)
        return found._replace(log_probs=found.log_probs * (1 + 2e-4))

    monkeypatch.setattr(script.Policy, "evaluate", off)
    found = script.compare("Qwen2")
    assert not found.fine
    assert found.log_probs < 1e-4 < found.gradients
