"""The names of the rewards that `load_reward` knows, readable without loading any of them."""

REWARD_NAMES = (
    "format",
    "human",
    "human_web",
    "json",
    "judge",
    "keywords",
    "length",
    "math",
    "overlap",
    "readability",
    "repetition",
    "rubric",
    "slots",
    "token_repetition",
)

# What a place goes with: `human:path/to/labels.db`, `judge:FOLDER`.
PREFIXES = ("human:", "judge:")
