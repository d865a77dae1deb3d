"""What is done with the folder of a run or policy: `text-gym push` uploads it, `text-gym view` shows it."""

from __future__ import annotations

from text_gym.cli.options.evaluate import ViewOptions
from text_gym.cli.options.push import PushOptions
from text_gym.runs.hub import push_policy
from text_gym.viewer.page import write_run_page


def run_push(options: PushOptions) -> int:
    """Run `text-gym push`."""
    push(options.policy, options.name)
    return 0


def push(folder: str, name: str) -> None:
    """Upload a policy, or the policy of a run, and print where it is."""
    print(f"pushing the policy to {name} …", flush=True)
    print(f"pushed: {push_policy(folder, name)}")


def run_view(options: ViewOptions) -> int:
    """Run `text-gym view`."""
    print(f"page: {write_run_page(options.run, options.output)}")
    return 0
