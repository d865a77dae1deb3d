"""A cache of rewards, so that no episode is scored twice."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

from text_gym.episode import Episode
from text_gym.errors import ConfigError

from .calls import _key, concatenate, select_rewards
from .source import Source, Wrapper
from .values import OnBadReward, Rewards


class Cache(Wrapper):
    """Remembers rewards, so that an episode seen before, or twice in a batch, is not scored again.

    The key is everything a source may look at: prompt id, text and columns, completion, token ids and how the
    episode ended. Prompts whose columns are not JSON are never cached, nor are abstentions: a source that
    failed may do better next time. Bounded; the least recently used goes.

    Args:
        source: A deterministic source.
        size: Episodes kept.

    Attributes:
        hits: Episodes answered from memory.
        misses: Episodes that the source had to score.

    Raises:
        ConfigError: The source is not deterministic.
    """

    def __init__(self, source: Source, size: int = 65_536) -> None:
        super().__init__(source)
        if not self.source.deterministic:
            raise ConfigError(
                f"reward {self.name!r} is not deterministic: a cache would freeze its first answer"
            )
        if size < 1:
            raise ConfigError(f"Cache needs size >= 1, not {size}")
        self.size, self.hits, self.misses = size, 0, 0
        self._kept: OrderedDict[Hashable, Rewards] = OrderedDict()
        self._lock = threading.Lock()

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Look the rewards up, and ask the source, in one batch, for those that are missing."""
        keys = [_key(episode, on_bad_reward) or i for i, episode in enumerate(episodes)]
        with self._lock:
            known = {key: self._kept[key] for key in keys if key in self._kept}
            for key in known:
                self._kept.move_to_end(key)
        new = {key: i for i, key in reversed(list(enumerate(keys))) if key not in known}
        self.hits, self.misses = self.hits + len(keys) - len(new), self.misses + len(new)
        if new:
            order = sorted(new.values())
            scored = self.source([episodes[i] for i in order], on_bad_reward)
            known |= {keys[i]: select_rewards(scored, [row]) for row, i in enumerate(order)}
            with self._lock:
                kept = (key for key in new if not isinstance(key, int) and not known[key].abstained.any())
                self._kept |= {key: known[key] for key in kept}
                while len(self._kept) > self.size:
                    self._kept.popitem(last=False)
        return concatenate([known[key] for key in keys], episodes)

    def label(self) -> str:
        """The cache with its size."""
        return f"{self.name}: Cache of {self.size}"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._kept, self._lock = OrderedDict(), threading.Lock()
