"""Reward sources: everything that turns an episode into a number. It never imports `text_gym.agents`."""

from __future__ import annotations

if __name__ == "reward_models":
    raise ImportError("import text_gym.reward_models; this folder is its source")

from .answers import JSONSchema, MathAnswer, Overlap
from .loading import REWARDS, load_reward
from .scripted import Format, Keywords, Length, Readability, Repetition, Rubric, TextRule, TokenRepetition
from .slots import SlotCoverage, parse_slots

__all__ = [
    "REWARDS",
    "Format",
    "JSONSchema",
    "Keywords",
    "Length",
    "MathAnswer",
    "Overlap",
    "Readability",
    "Repetition",
    "Rubric",
    "SlotCoverage",
    "TextRule",
    "TokenRepetition",
    "load_reward",
    "parse_slots",
]
