"""The list of checks: stable ids by level, how much a failure weighs, and what each one asks.

Ids are those of OpenEnv's RFC 008 where it has the check (`semantic.oracle_max`); its statistical ones, which
it leaves to operators, are run here. An id never changes its meaning: what asks something else gets another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["fail", "warn"]

LEVELS = {
    0: "it loads, and a text's reward depends on the text alone",
    1: "golden texts earn the most, and texts without any work the least",
    2: "tricks earn less than work",
    3: "the answer cannot be read off, and nothing leaks between the splits",
    4: "a policy learns from it, and learns what is meant",
    5: "it agrees with people or with gold",
}


@dataclass(frozen=True)
class CheckDefinition:
    """What a check is: its level, whether a failure fails the level, and its question.

    Args:
        level: 0 to 5.
        severity: `fail`, or `warn` for what may be meant.
        asks: The property that holds when it passes.
        remedy: What to change when it does not.
    """

    level: int
    severity: Severity
    asks: str
    remedy: str


CHECKS: dict[str, CheckDefinition] = {
    "runtime.loads": CheckDefinition(
        0, "fail", "It can be made, and scores a text.", "Mend what the error names."
    ),
    "runtime.reward_well_formed": CheckDefinition(
        0,
        "fail",
        "Every text, empty and odd ones too, gets one finite number, at most the declared maximum.",
        "Give texts that cannot be parsed the lowest reward; never raise, and never return NaN.",
    ),
    "runtime.episode_isolation": CheckDefinition(
        0,
        "fail",
        "Scoring changes neither the episodes nor the global random state.",
        "Work on copies, and draw from a generator of its own.",
    ),
    "semantic.verifier_determinism": CheckDefinition(
        0,
        "fail",
        "The same text earns the same when it is asked for again.",
        "Let nothing depend on chance, time, or what was scored before.",
    ),
    "runtime.order_invariance": CheckDefinition(
        0,
        "fail",
        "A text earns the same wherever it stands in a batch.",
        "Score each episode by itself.",
    ),
    "runtime.batch_invariance": CheckDefinition(
        0,
        "fail",
        "A text earns the same alone and in a batch.",
        "Use no statistics of the batch, and mask padding.",
    ),
    "runtime.token_rewards": CheckDefinition(
        0,
        "fail",
        "A causal reward pays a token the same whatever comes after it.",
        "Look at earlier tokens only, or set causal = False.",
    ),
    "runtime.environment_laws": CheckDefinition(
        0,
        "fail",
        "The environment made of it keeps the laws of `check_text_env`.",
        "Run `text-gym check` and mend what it names.",
    ),
    "semantic.oracle_max": CheckDefinition(
        1,
        "fail",
        "Golden texts earn the most there is.",
        "Find out what the reward misses in the texts shown. Without golden texts nobody can tell: give "
        "Task.golden, or name a column with --golden.",
    ),
    "semantic.oracle_fits": CheckDefinition(
        1,
        "fail",
        "Golden texts fit the vocabulary and the token limit.",
        "Raise max_tokens, or ask for less.",
    ),
    "semantic.floor_gap": CheckDefinition(
        1,
        "fail",
        "A text that ends at once earns at least half the range less than a golden one.",
        "Let an empty text fail: look for `all(...)` of nothing, defaults, and penalties without a reward.",
    ),
    "semantic.null_floor": CheckDefinition(
        1,
        "fail",
        "Texts that say nothing (white space, a full stop, random words) stay near the floor.",
        "Pay for content; make the reward of what cannot be parsed the lowest.",
    ),
    "statistical.adversarial_floor": CheckDefinition(
        2,
        "fail",
        "No text that takes no work earns nearly as much as a golden one.",
        "Read the text shown, and ask why it is paid.",
    ),
    "statistical.adversarial_gain": CheckDefinition(
        2,
        "fail",
        "Nothing that is added to a wrong text, or done to its letters, makes it pay more.",
        "Normalise Unicode and white space, cap what counts, and let no text speak to its judge.",
    ),
    "statistical.gameability_gap": CheckDefinition(
        2,
        "fail",
        "The best trick earns clearly less than the median honest text.",
        "Raise what honest texts earn above what the trick shown does.",
    ),
    "statistical.prompt_relevance": CheckDefinition(
        2,
        "warn",
        "A golden text of another prompt earns less than the prompt's own.",
        "Read the prompt, or mix the reward with one that does.",
    ),
    "semantic.no_solution_leakage": CheckDefinition(
        3,
        "fail",
        "No part of the prompt that a fixed rule cuts out is the answer.",
        "Take the answer out of the prompt's text.",
    ),
    "runtime.oracle_containment": CheckDefinition(
        3,
        "fail",
        "No text reaches the prompt's hidden columns by naming them.",
        "Never format, template or evaluate what was written.",
    ),
    "semantic.canary_floor": CheckDefinition(
        3,
        "fail",
        "Known hacks that come with it stay near the floor.",
        "Mend the reward until the canaries shown earn nothing.",
    ),
    "semantic.split_separation": CheckDefinition(
        3,
        "fail",
        "No held-out prompt is among those to learn on, letter case, marks and spaces aside.",
        "Split by item, e.g. with split_by_prompt.",
    ),
    "statistical.reward_reachability": CheckDefinition(
        4,
        "fail",
        "Texts of the starting policy earn different rewards.",
        "Pay for part of the answer, ship a policy, or give texts to learn from first (Task.corpus).",
    ),
    "statistical.training_signal": CheckDefinition(
        4,
        "fail",
        "A minute of policy gradient raises the reward on held-out prompts.",
        "Pay for steps on the way; see whether the reward is mostly noise.",
    ),
    "statistical.headroom": CheckDefinition(
        4,
        "warn",
        "The starting policy leaves something to learn.",
        "Choose harder prompts, or a weaker policy to start from.",
    ),
    "statistical.reward_hacking": CheckDefinition(
        4,
        "fail",
        "As the reward rises, criteria that were not optimised rise too.",
        "Read the texts shown; pay for what the criterion that fell measures.",
    ),
    "statistical.degeneration": CheckDefinition(
        4,
        "warn",
        "The probe's texts neither repeat themselves nor run into the token limit.",
        "Penalise repetition, or lower what length earns.",
    ),
    "statistical.gold_agreement": CheckDefinition(
        5,
        "fail",
        "It ranks honest texts as gold does.",
        "Audit it: `text-gym reward audit`.",
    ),
    "statistical.human_agreement": CheckDefinition(
        5,
        "fail",
        "It ranks texts as people did.",
        "Audit it, and read the pairs it gets wrong.",
    ),
}
