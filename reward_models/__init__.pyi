from .audit.attacks import attack_report as attack_report
from .audit.audit import AuditConfig as AuditConfig
from .audit.audit import audit_reward as audit_reward
from .audit.page import write_audit as write_audit
from .judge.endpoint import BudgetError as BudgetError
from .judge.endpoint import ChatEndpoint as ChatEndpoint
from .judge.judge import Criterion as Criterion
from .judge.judge import Judge as Judge
from .labels.questions import CRITERIA as CRITERIA
from .labels.questions import Question as Question
from .labels.store import LabelStore as LabelStore
from .learned.configs import RewardTrainingConfig as RewardTrainingConfig
from .learned.ensembles import Ensemble as Ensemble
from .learned.loading import load_reward_model as load_reward_model
from .learned.model import RewardModel as RewardModel
from .learned.ngrams import NgramModel as NgramModel
from .learned.training import RewardTrainer as RewardTrainer
from .loading import load_reward as load_reward
from .page.page import LabelPage as LabelPage
from .page.reward import WebReward as WebReward
from .page.reward import make_page as make_page
from .people.human import HumanReward as HumanReward
from .people.raters import collect_pairs as collect_pairs
from .people.raters import collect_ratings as collect_ratings
from .people.simulated import make_rater as make_rater
from .preferences.files import read_pairs as read_pairs
from .preferences.files import read_ratings as read_ratings
from .preferences.opinions import PreferencePair as PreferencePair
from .preferences.opinions import Rating as Rating
from .scripted.answers import JSONSchema as JSONSchema
from .scripted.answers import MathAnswer as MathAnswer
from .scripted.answers import Overlap as Overlap
from .scripted.rules import Format as Format
from .scripted.rules import Keywords as Keywords
from .scripted.rules import Length as Length
from .scripted.rules import Readability as Readability
from .scripted.rules import Repetition as Repetition
from .scripted.rules import Rubric as Rubric
from .scripted.rules import TokenRepetition as TokenRepetition
from .scripted.slots import SlotCoverage as SlotCoverage

__all__ = [
    "CRITERIA",
    "AuditConfig",
    "BudgetError",
    "ChatEndpoint",
    "Criterion",
    "Ensemble",
    "Format",
    "HumanReward",
    "JSONSchema",
    "Judge",
    "Keywords",
    "LabelPage",
    "LabelStore",
    "Length",
    "MathAnswer",
    "NgramModel",
    "Overlap",
    "PreferencePair",
    "Question",
    "Rating",
    "Readability",
    "Repetition",
    "RewardModel",
    "RewardTrainer",
    "RewardTrainingConfig",
    "Rubric",
    "SlotCoverage",
    "TokenRepetition",
    "WebReward",
    "attack_report",
    "audit_reward",
    "collect_pairs",
    "collect_ratings",
    "load_reward",
    "load_reward_model",
    "make_page",
    "make_rater",
    "read_pairs",
    "read_ratings",
    "write_audit",
]
