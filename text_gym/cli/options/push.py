"""Options of `text-gym push`, and how they are read from the command line."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from text_gym.runs.hub import check_push

from .checks import check_policy
from .parsing import parse


@dataclass(frozen=True)
class PushOptions:
    """Upload a saved policy and its model card to the Hugging Face Hub: text-gym push FOLDER OWNER/NAME.

    Log in first (`hf auth login`, or HF_TOKEN). A repository that is not there is made, a private one.

    Args:
        policy: Folder of a policy or of a run.
        name: OWNER/NAME on the hub, or NAME for one of your own.
    """

    policy: Positional[str]
    name: Positional[str]


def read_push(argv: list[str]) -> tuple[PushOptions]:
    """Options of `text-gym push`."""
    (options,) = parse("push", argv, PushOptions)
    check_policy(options.policy, "policy", hub=False)
    check_push(options.name)
    return (options,)
