"""The Gymnasium of text: environments in which generating tokens is the episode.

Importing it registers the Gymnasium ids (`text_gym/Products-v0`, …) and loads neither torch nor
transformers; `text_gym.agents` and `text_gym.reward_models` do, when they are imported.
"""

from pathlib import Path as _Path
from typing import TYPE_CHECKING as _TYPE_CHECKING

import lazy_loader as _lazy_loader  # type: ignore[import-untyped]

# In a source checkout agents/ and reward_models/ stand beside this folder, not inside it.
if not (_Path(__file__).parent / "agents").is_dir():
    __path__.append(str(_Path(__file__).parent.parent))

from .data import split_by_prompt
from .envs.checker import check_text_env
from .envs.episode_batch import EpisodeBatch
from .envs.masks import ActionMask, AllowedTokens, Grammar, MinLength
from .envs.options import EpisodeOptions, VectorOptions
from .envs.reward_checker import check_reward_source
from .envs.single import TextEnv, register_envs
from .envs.vector import TextVectorEnv
from .episode import Episode, Prompt, Turn
from .errors import TextGymError
from .pages import notebook as _notebook  # noqa: F401  # what notebooks show of episodes, tasks and rewards
from .respondents import Reply, Respondent
from .rewards.shaping import Shaped
from .rewards.source import FunctionReward, RewardSource, as_reward_source
from .rewards.trl import as_trl_reward
from .rewards.values import Rewards
from .tasks.task import Task, load_task
from .tokenizer import ByteTokenizer, PretrainedTokenizer, Tokenizer, WordTokenizer
from .transcripts import read_transcripts, write_transcripts

register_envs()

if _TYPE_CHECKING:
    from .validation.validate import validate
# It uses agents and reward models, so it is loaded on first use: importing this package loads no PyTorch.
__getattr__, _, _ = _lazy_loader.attach(__name__, submod_attrs={"validation.validate": ["validate"]})

__all__ = [
    "ActionMask",
    "AllowedTokens",
    "ByteTokenizer",
    "Episode",
    "EpisodeBatch",
    "EpisodeOptions",
    "FunctionReward",
    "Grammar",
    "MinLength",
    "PretrainedTokenizer",
    "Prompt",
    "Reply",
    "Respondent",
    "RewardSource",
    "Rewards",
    "Shaped",
    "Task",
    "TextEnv",
    "TextGymError",
    "TextVectorEnv",
    "Tokenizer",
    "Turn",
    "VectorOptions",
    "WordTokenizer",
    "as_reward_source",
    "as_trl_reward",
    "check_reward_source",
    "check_text_env",
    "load_task",
    "read_transcripts",
    "split_by_prompt",
    "validate",
    "write_transcripts",
]
