"""Games of TextArena for one player, as tasks: `load_task("textarena:GuessTheNumber-v0")`."""

from __future__ import annotations

import contextlib
import io
from functools import partial
from typing import Any

from text_gym.errors import ConfigError, MissingLibraryError, RespondentError, UnknownNameError
from text_gym.tasks.task import Task

from .text_envs import from_text_env


class _Game:
    """A game for one player with the interface of Gymnasium.

    An observation is what the game has said since the last one, without the player's own words. The reward
    comes at the end, as the game gives it.

    Args:
        game: Id of the game without TextArena's wrappers, which end in `-raw`.
    """

    def __init__(self, game: str) -> None:
        import textarena

        self.env = textarena.make(game)

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """Begin a game."""
        with contextlib.redirect_stdout(io.StringIO()):  # some games tell how they are made
            self.env.reset(num_players=1, seed=seed)
        return self._said(), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Say something."""
        with contextlib.redirect_stdout(io.StringIO()):
            done, _ = self.env.step(action)
        if not done:
            return self._said(), 0.0, False, False, {}
        rewards, info = self.env.close()
        reason = (info or {}).get(0, {}).get("reason", "") if isinstance(info, dict) else ""
        return str(reason or "The game is over."), float((rewards or {}).get(0, 0.0)), True, False, {}

    def _said(self) -> str:
        player, messages = self.env.get_observation()
        return "\n".join(str(text) for speaker, text, *_ in messages if speaker != player)


def textarena_task(game: str, **kwargs: Any) -> Task:
    """Make a task of a game for one player.

    Args:
        game: TextArena's id, such as `GuessTheNumber-v0`.
        **kwargs: As in `from_text_env`.

    Raises:
        MissingLibraryError: TextArena is not installed.
        UnknownNameError: There is no such game; the nearest is suggested.
        ConfigError: The game cannot be played alone, or needs something that is not here.
    """
    try:
        from textarena.envs.registration import ENV_REGISTRY
    except ImportError as error:
        raise MissingLibraryError(f"task 'textarena:{game}'", "textarena", "text-gym[textarena]") from error
    raw = game if game.endswith("-raw") else f"{game}-raw"
    if raw not in ENV_REGISTRY:
        raise UnknownNameError("game of TextArena", game, [i for i in ENV_REGISTRY if i.endswith("-v0")])
    try:
        return from_text_env(partial(_Game, raw), name=f"textarena:{game}", **kwargs)
    except RespondentError as error:
        raise ConfigError(f"the game {game!r} of TextArena cannot be played alone: {error}") from error
