"""Options of `text-gym reward train` and `score`, and how they are read from the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from tyro.conf import Positional

from text_gym.data import Conversations, check_source
from text_gym.errors import ConfigError
from text_gym.reward_models.learned.configs import NgramConfig, RewardTrainingConfig
from text_gym.reward_models.preferences.files import read_pairs, read_ratings, read_steps
from text_gym.reward_models.preferences.opinions import Opinions, StepLabels
from text_gym.tokenizer import PretrainedTokenizer

from .checks import check_data, check_device, check_file, check_out_folder, check_policy, check_reward
from .parsing import parse, value_of


@dataclass(frozen=True)
class RewardTrainOptions:
    """Train a reward model on preference pairs, ratings or labels of steps; judge it on held-out prompts.

    Args:
        pairs: File or data set of pairs: columns prompt, chosen, rejected and, if there, margin, tie, weight.
        ratings: File or data set of ratings: a row a completion, a column a criterion.
        steps: File or data set of solutions whose steps were judged: columns prompt, steps and labels, these
            two with lists; makes a process reward.
        prompt: Column of the prompts.
        completion: Column of the completions (ratings).
        chosen: Column of the better completions (pairs).
        rejected: Column of the worse ones (pairs).
        criteria: Columns of the marks, separated by commas (ratings).
        delimiter: What a step ends with; backslash and n together are a line feed (steps).
        aggregate: What a solution is worth: the min, product or last of its steps' scores (steps).
        pay: progress pays each step what it changes of that worth, scores its score; end pays the worth at
            the end (steps).
        kind: ngrams (linear, trains in seconds) or transformer; transformer if a model is given, else ngrams.
        model: Folder or hub model whose trunk a transformer starts from; a small new GPT-2 if left out.
        members: Size of the ensemble; members differ in seed and, for ngrams, in the prompts they learn from.
        k: The ensemble pays mean - k standard deviations of its members.
        penalty: In their place: mean - k variances, or what the worst member pays.
        held_out: Share of the prompts to judge on, in (0, 1).
        normalise: Scale the reward to mean 0 and standard deviation 1 on the texts that were learnt from.
        dtype: Of a transformer's training: float32; bfloat16, in which matrices are multiplied while the
            weights stay in float32; auto is bfloat16 on GPUs that have it. It is judged in float32.
        out: Folder for the model, summary.json and calibration.png.
        device: auto, cpu, cuda, cuda:1.
    """

    pairs: str | None = None
    ratings: str | None = None
    steps: str | None = None
    prompt: str = "prompt"
    completion: str = "completion"
    chosen: str = "chosen"
    rejected: str = "rejected"
    criteria: str = "score"
    delimiter: str = "\\n"
    aggregate: Literal["min", "product", "last"] = "min"
    pay: Literal["progress", "scores", "end"] = "progress"
    kind: Literal["ngrams", "transformer"] | None = None
    model: str | None = None
    members: int = 1
    k: float = 0.0
    penalty: Literal["deviation", "variance", "worst"] = "deviation"
    held_out: float = 0.2
    normalise: bool = False
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    out: str = "reward-model"
    device: str = "auto"

    def __post_init__(self) -> None:
        if [self.pairs, self.ratings, self.steps].count(None) != 2:
            raise ConfigError("pass --pairs FILE, --ratings FILE or --steps FILE, one of them")
        if self.steps is not None and (self.members > 1 or self.normalise):
            raise ConfigError(
                "a process reward is one model, and its scores are probabilities: leave out --members and "
                "--normalise"
            )
        if self.steps is not None and not self.delimiter:
            raise ConfigError("an empty --delimiter ends no step; the usual one is \\n")
        if self.members < 1:
            raise ConfigError(f"members is {self.members}; an ensemble needs one at least")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}; it must be between 0 and 1")
        if self.model is not None and self.kind == "ngrams":
            raise ConfigError("an n-gram model does not start from a --model; leave it out")
        if self.dtype != "float32" and self.kind == "ngrams":
            raise ConfigError("an n-gram model has no --dtype; leave it out, or pass --kind transformer")

    def load(self) -> tuple[Opinions, tuple[str, ...]]:
        """Load the opinions and the criteria; conversations are rendered by the model's chat template."""
        tokenizer = None if self.model is None else PretrainedTokenizer.from_pretrained(self.model)
        chat = Conversations(tokenizer)
        if self.pairs is not None:
            columns = {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}
            return read_pairs(self.pairs, **columns, chat=chat), ("reward",)
        assert self.ratings is not None
        criteria = tuple(c.strip() for c in self.criteria.split(",") if c.strip())
        columns = {"prompt": self.prompt, "completion": self.completion}
        ratings = read_ratings(self.ratings, criteria, **columns, chat=chat)
        return ratings, criteria

    @property
    def step_delimiter(self) -> str:
        """The delimiter, with line feeds for what was typed as a backslash and an n."""
        return self.delimiter.replace("\\n", "\n")

    def load_steps(self) -> list[StepLabels]:
        """Load the labels of steps; conversations are rendered by the model's chat template."""
        tokenizer = None if self.model is None else PretrainedTokenizer.from_pretrained(self.model)
        assert self.steps is not None
        return read_steps(self.steps, prompt=self.prompt, chat=Conversations(tokenizer))


@dataclass(frozen=True)
class RewardScoreOptions:
    """Score stored transcripts again: text-gym reward score FILE --reward SOURCE --out FILE.

    Args:
        transcripts: JSON lines with prompt and completion, as `text-gym evaluate --transcripts` writes them.
        reward: A deterministic reward: a name, module:function, file.py:function, or a folder.
        out: JSON-lines file for the same rows with the new reward and its terms.
        policy: Folder or hub model whose tokenizer the token ids belong to; for rewards that look at tokens.
    """

    transcripts: Positional[str]
    reward: str
    out: str
    policy: str | None = None


def read_reward_train(argv: list[str]) -> tuple[RewardTrainOptions, NgramConfig | RewardTrainingConfig]:
    """Options of `text-gym reward train`, and settings of the kind of model."""
    kind = value_of(argv, "--kind", "transformer" if value_of(argv, "--model", "") else "ngrams")
    config_class: type[Any] = NgramConfig
    if kind == "transformer":
        config_class = RewardTrainingConfig
    options, config = parse("reward train", argv, RewardTrainOptions, config_class)
    check_data(options.pairs, "pairs")
    check_data(options.steps, "steps")
    check_data(options.ratings, "ratings")
    check_policy(options.model, "model")
    check_device(options.device)
    check_out_folder(options.out)
    return replace(options, kind=kind), config


def read_reward_score(argv: list[str]) -> tuple[RewardScoreOptions]:
    """Options of `text-gym reward score`."""
    (options,) = parse("reward score", argv, RewardScoreOptions)
    check_source(options.transcripts)
    check_reward(options.reward)
    check_policy(options.policy)
    check_file("out", options.out)
    return (options,)
