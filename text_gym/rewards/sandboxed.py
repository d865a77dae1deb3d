"""A reward from a file that runs in a sandbox, so that the file need not be trusted.

It is scored in another process under limits; nothing of the file ever runs in this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from text_gym.episode import Episode, Prompt
from text_gym.errors import ConfigError, RewardError, SandboxError
from text_gym.utils.display import harmless
from text_gym.utils.limits import SandboxLimits

from .source import RewardSource
from .values import OnBadReward, Rewards, _checked
from .worker import Worker

_USUAL = SandboxLimits()
_WAY_OUT = "; if the file is your own and needs more than a sandbox gives, pass sandbox=False or --no-sandbox"


class SandboxedReward(RewardSource):
    """A reward source that a Python file defines, run in a sandbox.

    The file is run when the source is made. After a limit was hit or the process died, the next batch starts
    another one, and what the source remembered is lost.

    Args:
        file: The Python file.
        function: A name in it: a reward function, a source, or a class or function that makes one.
        prompts: All prompts of the run, for a class with a method `fit`.
        kwargs: Arguments of the class or function.
        limits: What it may use; `seconds` is for each batch.

    Raises:
        DataError: There is no such file.
        UnknownNameError: The file has no such name; the nearest is suggested.
        ConfigError: The arguments do not fit, or the thing named is no reward.
        RewardError: The file raised, died, or ran into a limit while it was loaded.
    """

    def __init__(
        self,
        file: Path,
        function: str,
        prompts: Iterable[Prompt] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        limits: SandboxLimits = _USUAL,
    ) -> None:
        self.file, self.function, self.limits = Path(file).resolve(), function, limits
        self.prompts = None if prompts is None else list(prompts)
        self.kwargs = dict(kwargs or {})
        self.name = function
        self._process: Worker | None = None
        traits = self._worker().traits
        self.name = harmless(str(traits["name"]), limit=100)
        for flag in ("deterministic", "abstains", "causal", "interactive", "costly"):
            setattr(self, flag, bool(traits[flag]))

    @property
    def missing(self) -> dict[str, str]:
        """The limits that this machine cannot enforce, each with the reason."""
        return self._worker().missing

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """The rewards, scored in the sandbox."""
        return self._scored(episodes, "raise")

    def _judge(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        return _checked(self, episodes, self._scored(episodes, on_bad_reward), on_bad_reward)

    def _scored(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        worker = self._worker()
        rewards = worker.score(episodes, on_bad_reward, self.limits.seconds)
        self._last_failure = worker.last_failure or self._last_failure
        return rewards

    def _worker(self) -> Worker:
        if self._process is None or not self._process.alive:
            try:
                self._process = Worker.of_file(
                    self.file, self.function, self.prompts, self.kwargs, self.limits, _WAY_OUT
                )
            except (SandboxError, RewardError) as error:
                own = "" if _WAY_OUT in str(error) else _WAY_OUT
                where = (
                    f"reward {self.function!r} of {self.file}: " if isinstance(error, SandboxError) else ""
                )
                raise RewardError(f"{where}{error}{own}") from error.__cause__ or error
            self._process.name = self.name
        return self._process

    def state_dict(self) -> dict[str, Any]:
        """The source's memory, which has to be JSON data."""
        state = self._worker().ask({}, self.limits.seconds)["state"]
        if not isinstance(state, dict):
            raise ConfigError(f"reward {self.name!r}: its memory is {type(state).__name__}, not a dictionary")
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._worker().ask({"state": dict(state)}, self.limits.seconds)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": None}
