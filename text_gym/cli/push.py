"""`text-gym push` uploads a saved policy to the Hugging Face Hub."""

from __future__ import annotations

from text_gym.cli.options.push import PushOptions
from text_gym.runs.hub import push_policy


def run_push(options: PushOptions) -> int:
    """Run `text-gym push`."""
    push(options.policy, options.name)
    return 0


def push(folder: str, name: str) -> None:
    """Upload a policy, or the policy of a run, and print where it is."""
    print(f"pushing the policy to {name} …", flush=True)
    print(f"pushed: {push_policy(folder, name)}")
