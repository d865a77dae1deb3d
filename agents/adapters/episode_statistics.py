"""Gymnasium's record of episodes' returns and lengths, right in SameStep mode with any version from 1.2 on.

It records nothing that Gymnasium 1.4 would not.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics


class EpisodeStatistics(RecordEpisodeStatistics):  # type: ignore[type-arg, unused-ignore]
    """Records the return `r`, length `l` and seconds `t` of every episode that ends, in `info["episode"]`.

    Before 1.4 Gymnasium takes the step after an episode's end for a reset in every mode. In SameStep mode
    that step is the first of the next episode, and its reward and token would be left out.
    """

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, and begin to count anew where an episode ended and the next one has begun."""
        stepped = super().step(actions)
        if self.env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP:
            self.episode_returns[self.prev_dones] = 0.0
            self.episode_lengths[self.prev_dones] = 0
            self.episode_start_times[self.prev_dones] = time.perf_counter()
            self.prev_dones = np.zeros_like(self.prev_dones)
        return stepped
