"""The errors text-gym raises: each names what went wrong, where, and what to do.

Everything derives from `TextGymError`, so one `except` catches our refusals and nothing else.
Programming errors inside the package are not wrapped: they stay what they are.
"""

from __future__ import annotations

import builtins
import difflib
from collections.abc import Iterable
from pathlib import Path

from gymnasium.error import ResetNeeded


class TextGymError(Exception):
    """The base class of every error that text-gym raises on purpose."""


class TokenError(TextGymError, ValueError):
    """A token id or an action array that the environment cannot take."""


class PromptError(TextGymError, ValueError):
    """A prompt that is empty, too long for the context, or of an unknown form."""


class RewardError(TextGymError, ValueError):
    """A reward source that raised, or did not return one finite number per episode."""


class RespondentError(TextGymError, RuntimeError):
    """A respondent that raised, took too long, or did not return one usable reply per episode."""


class NoScoresError(TextGymError):
    """A reward source that scored no episode in several batches in a row, leaving nothing to learn from."""


class EpisodeError(TextGymError, ResetNeeded):
    """`step` before `reset`, or after the end of an episode."""


class DataError(TextGymError, ValueError):
    """A file or a table that cannot be used: missing, empty, malformed, or lacking a column."""


class ConfigError(TextGymError, ValueError):
    """An option whose value makes no sense, alone or in combination."""


class MissingLibraryError(ConfigError, ModuleNotFoundError):
    """A library that something optional needs and that is not installed.

    Args:
        what: What needs it.
        library: The name that it is imported by.
        install: What stands after `pip install`.
    """

    def __init__(self, what: str, library: str, install: str) -> None:
        super().__init__(f'{what} needs {library}, which is not installed: pip install "{install}"')
        self.name = library


class ChangedRunError(ConfigError):
    """A run that would go on with other things than it was started with.

    Args:
        message: What changed and what to do.
        changes: What differs: its name, what it was, and what it is now.
    """

    def __init__(self, message: str, changes: Iterable[tuple[str, str, str]] = ()) -> None:
        super().__init__(message)
        self.changes = tuple(changes)


class UntrustedRunError(ConfigError):
    """A run's folder from elsewhere that names code, which would run if the run went on."""


class ArgumentError(ConfigError, TypeError):
    """A keyword argument that nobody has, in Python's own words.

    It is a `TypeError` too, because that is what Stable-Baselines3 and TorchRL catch when they try arguments
    that not every environment takes.
    """


class NonFiniteError(TextGymError, ArithmeticError):
    """NaN or infinity in logits, loss, gradient or weights; nothing was updated."""


class LabelError(TextGymError, ValueError):
    """An answer that does not fit its question, or a second answer to the same question."""


class StoreError(DataError):
    """A label store that cannot be read, was altered, or comes from a newer version.

    Args:
        message: What is wrong and what to do.
        row: The first bad row, where the fault lies in one.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class NotSavedError(TextGymError, OSError):
    """A label, or a file of a run, that did not reach the disk; what was written earlier is intact."""


class PushError(TextGymError, OSError):
    """A policy that could not be uploaded; it is saved where it was."""


class RaterLeftError(TextGymError):
    """The people asked have left; their answers so far are saved."""


class CheckpointError(TextGymError, RuntimeError):
    """A checkpoint that could not be written or read; earlier ones are untouched."""


class DamagedError(CheckpointError):
    """A sealed folder that is incomplete or was altered."""


class GuardError(TextGymError, AssertionError):
    """Something that must not change during training has changed, such as the reference policy."""


class CheckError(TextGymError, AssertionError):
    """An environment or a reward that breaks a law; the message says which one and what to fix."""


class GeneratorError(TextGymError, RuntimeError):
    """A generator played with other weights than the policy's, or something other than episodes."""


class PeerError(TextGymError, RuntimeError):
    """Another process of the same training failed, is gone, or is silent; this one is all right and stops."""


class SandboxError(TextGymError, RuntimeError):
    """A sandboxed function or command that raised, died, or ran into one of its limits.

    Args:
        message: What happened and what to do.
        limit: The limit that it ran into: `"time"`, `"memory"`, `"files"`, `"network"`, `"processes"`,
            `"permission"`, `"output"` or `"answer"`; None if it raised or died on its own account.
        types: Names of the exception's class and its bases, if it raised, e.g. `"builtins.ValueError"`.
        hint: What the limit means for whoever wrote the function; part of the message.
    """

    def __init__(
        self, message: str, limit: str | None = None, types: tuple[str, ...] = (), hint: str = ""
    ) -> None:
        super().__init__(message)
        self.limit, self.types, self.hint = limit, types, hint

    def as_builtin(self) -> Exception | None:
        """The nearest built-in exception to the one that was raised, made here; None if none was raised."""
        for name in self.types:
            kind = getattr(builtins, name.removeprefix("builtins."), None)
            if name.startswith("builtins.") and isinstance(kind, type) and issubclass(kind, Exception):
                try:
                    return kind(str(self))
                except TypeError:  # UnicodeDecodeError and the like want more than a message
                    continue
        return None


class ToolError(TextGymError, ValueError):
    """A tool's call that is refused; the agent reads the message, so that it can try again."""


class UnknownNameError(TextGymError, KeyError):
    """A task, reward, algorithm or column that does not exist; the nearest ones are suggested.

    Args:
        kind: What was looked for, e.g. `"task"`.
        name: The name that was given.
        known: The names that exist.
        more: What else could have been given, for the end of the message.

    >>> print(UnknownNameError("task", "product", ["products", "copy"]))
    unknown task 'product'; did you mean 'products'? Known: copy, products
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], more: str = "") -> None:
        self.kind, self.name, self.known, self.more = kind, name, sorted(set(known)), more
        super().__init__(kind, name, self.known)

    def __str__(self) -> str:
        near = difflib.get_close_matches(self.name, self.known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        more = f"; {self.more}" if self.more else ""
        return f"unknown {self.kind} {self.name!r}{hint} Known: {', '.join(self.known) or 'none'}{more}"


def excerpt(text: str, width: int = 60) -> str:
    r"""Return the start of a text for an error message, on one line, with control characters escaped.

    >>> excerpt("two\nlines")
    "'two\\nlines'"
    """
    shown = text if len(text) <= width else text[: width - 1] + "…"
    return ascii(shown) if not shown.isprintable() else repr(shown)


def did_you_mean(place: str | Path) -> str:
    """Return `"; did you mean …?"` with the nearest name that lies where a mistyped path points, or `""`."""
    path = Path(place)
    try:
        known = [p.name for p in path.parent.iterdir() if not p.name.startswith(".")]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, known, n=1)
    return f"; did you mean {excerpt(str(path.with_name(near[0])), 4096)}?" if near else ""
