"""Reward sources: everything that turns an episode into a number. It never imports `text_gym.agents`."""

from __future__ import annotations

if __name__ == "reward_models":
    raise ImportError("import text_gym.reward_models; this folder is its source")

from importlib import import_module
from typing import TYPE_CHECKING, Any

from text_gym.interval import Interval

from .acquisition import ACQUISITIONS, Pool, choose_pairs, choose_texts, member_scores, split_budget
from .answers import JSONSchema, MathAnswer, Overlap
from .attacks import AttackReport, attack_report
from .attribution import Attribution, integrated_gradients, leave_one_out
from .audit import AuditConfig, audit_reward
from .audit_result import Audit
from .bagging import bagged
from .endpoint import BudgetError, ChatEndpoint, EndpointError, EndpointRefusedError, Spent
from .ensembles import Ensemble
from .human import HumanRater, HumanReward, default_rater
from .judge import Comparisons, Criterion, Judge, judge_from_environment
from .label_formats import export_labels, import_labels
from .labels import Label, LabelStore
from .loading import REWARDS, load_reward
from .measures import Calibration, agreement, calibration, spearman
from .ngram_features import NgramConfig
from .ngrams import NgramModel
from .preference_files import as_row, read_likes, read_pairs, read_ratings, write_opinions
from .preferences import (
    Like,
    PreferencePair,
    Rating,
    likes_from_pairs,
    pairs_from_likes,
    pairs_from_ratings,
    split_opinions,
)
from .probes import null_texts
from .questions import CRITERIA, Question
from .questions import Criterion as LabelCriterion
from .rater_agreement import measure_agreement
from .rater_console import RaterConsole
from .raters import (
    RATERS,
    Choice,
    Rater,
    SimulatedRater,
    Vices,
    collect_pairs,
    collect_ratings,
    make_rater,
)
from .saved import load_reward_model
from .scales import Scales
from .scripted import Format, Keywords, Length, Readability, Repetition, Rubric, TextRule, TokenRepetition
from .simulated_people import SimulatedPeople
from .slots import SlotCoverage, parse_slots
from .web_reward import WebReward, make_page

if TYPE_CHECKING:
    from .audit_page import write_audit
    from .learned import RewardModel
    from .losses import bradley_terry_loss
    from .training import RewardTrainer, RewardTrainingConfig
    from .web import LabelPage

__all__ = [
    "ACQUISITIONS",
    "CRITERIA",
    "RATERS",
    "REWARDS",
    "AttackReport",
    "Attribution",
    "Audit",
    "AuditConfig",
    "BudgetError",
    "Calibration",
    "ChatEndpoint",
    "Choice",
    "Comparisons",
    "Criterion",
    "EndpointError",
    "EndpointRefusedError",
    "Ensemble",
    "Format",
    "HumanRater",
    "HumanReward",
    "Interval",
    "JSONSchema",
    "Judge",
    "Keywords",
    "Label",
    "LabelCriterion",
    "LabelPage",
    "LabelStore",
    "Length",
    "Like",
    "MathAnswer",
    "NgramConfig",
    "NgramModel",
    "Overlap",
    "Pool",
    "PreferencePair",
    "Question",
    "Rater",
    "RaterConsole",
    "Rating",
    "Readability",
    "Repetition",
    "RewardModel",
    "RewardTrainer",
    "RewardTrainingConfig",
    "Rubric",
    "Scales",
    "SimulatedPeople",
    "SimulatedRater",
    "SlotCoverage",
    "Spent",
    "TextRule",
    "TokenRepetition",
    "Vices",
    "WebReward",
    "agreement",
    "as_row",
    "attack_report",
    "audit_reward",
    "bagged",
    "bradley_terry_loss",
    "calibration",
    "choose_pairs",
    "choose_texts",
    "collect_pairs",
    "collect_ratings",
    "default_rater",
    "export_labels",
    "import_labels",
    "integrated_gradients",
    "judge_from_environment",
    "leave_one_out",
    "likes_from_pairs",
    "load_reward",
    "load_reward_model",
    "make_page",
    "make_rater",
    "measure_agreement",
    "member_scores",
    "null_texts",
    "pairs_from_likes",
    "pairs_from_ratings",
    "parse_slots",
    "read_likes",
    "read_pairs",
    "read_ratings",
    "spearman",
    "split_budget",
    "split_opinions",
    "write_audit",
    "write_opinions",
]

# Name -> module of what is loaded on first use only, since it imports torch (or a page its templates).
_ON_FIRST_USE = {
    "LabelPage": "web",
    "write_audit": "audit_page",
    "RewardModel": "learned",
    **dict.fromkeys(("RewardTrainer", "RewardTrainingConfig"), "training"),
    "bradley_terry_loss": "losses",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ON_FIRST_USE[name]}", __name__), name)
