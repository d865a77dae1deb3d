"""The Gymnasium of text: environments in which generating tokens is the episode."""

from .episode import Episode, Prompt, as_prompts, read_transcripts, write_transcripts
from .errors import TextGymError
from .reward import FunctionReward, Rewards, RewardSource, as_reward_source
from .task import TASKS, Task, load_task, split_by_prompt
from .tokenizer import ByteTokenizer, PretrainedTokenizer, Tokenizer, WordTokenizer, as_tokenizer

__all__ = [
    "TASKS",
    "ByteTokenizer",
    "Episode",
    "FunctionReward",
    "PretrainedTokenizer",
    "Prompt",
    "RewardSource",
    "Rewards",
    "Task",
    "TextGymError",
    "Tokenizer",
    "WordTokenizer",
    "as_prompts",
    "as_reward_source",
    "as_tokenizer",
    "load_task",
    "read_transcripts",
    "split_by_prompt",
    "write_transcripts",
]
