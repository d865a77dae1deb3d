from .audit.audit import AuditConfig as AuditConfig
from .audit.audit import audit_reward as audit_reward
from .audit.page import write_audit as write_audit
from .judge.criteria import Criterion as Criterion
from .judge.endpoint import ChatEndpoint as ChatEndpoint
from .judge.judge import Judge as Judge
from .judge.local import LocalJudge as LocalJudge
from .labels.questions import Question as Question
from .labels.store import LabelStore as LabelStore
from .learned.configs import RewardTrainingConfig as RewardTrainingConfig
from .learned.ensembles import Ensemble as Ensemble
from .learned.model import RewardModel as RewardModel
from .learned.ngrams import NgramModel as NgramModel
from .learned.process import ProcessReward as ProcessReward
from .learned.training import RewardTrainer as RewardTrainer
from .loading import load_reward as load_reward
from .page.notebook import label_widget as label_widget
from .people.human import HumanReward as HumanReward
from .preferences.opinions import PreferencePair as PreferencePair
from .preferences.opinions import Rating as Rating
from .preferences.opinions import StepLabels as StepLabels
from .scripted.answers import JSONSchema as JSONSchema
from .scripted.answers import MathAnswer as MathAnswer
from .scripted.answers import Overlap as Overlap
from .scripted.rules import Format as Format
from .scripted.rules import Keywords as Keywords
from .scripted.rules import Length as Length
from .scripted.rules import Readability as Readability
from .scripted.rules import Repetition as Repetition
from .scripted.rules import Rubric as Rubric
from .scripted.slots import SlotCoverage as SlotCoverage

__all__ = [
    "AuditConfig",
    "ChatEndpoint",
    "Criterion",
    "Ensemble",
    "Format",
    "HumanReward",
    "JSONSchema",
    "Judge",
    "Keywords",
    "LabelStore",
    "Length",
    "LocalJudge",
    "MathAnswer",
    "NgramModel",
    "Overlap",
    "PreferencePair",
    "ProcessReward",
    "Question",
    "Rating",
    "Readability",
    "Repetition",
    "RewardModel",
    "RewardTrainer",
    "RewardTrainingConfig",
    "Rubric",
    "SlotCoverage",
    "StepLabels",
    "audit_reward",
    "label_widget",
    "load_reward",
    "write_audit",
]
