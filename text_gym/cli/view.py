"""`text-gym view` makes the page about the rollouts that a run kept."""

from __future__ import annotations

from text_gym.cli.options.evaluate import ViewOptions
from text_gym.viewer.page import write_run_page


def run_view(options: ViewOptions) -> int:
    """Run `text-gym view`."""
    print(f"page: {write_run_page(options.run, options.output)}")
    return 0
