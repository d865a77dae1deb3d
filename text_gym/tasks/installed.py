"""Tasks of installed packages: entry points of the group `text_gym.tasks`, each a function that makes a task.

Their names are read from the packages' metadata; a package's code runs only when one of its tasks is loaded.
"""

from __future__ import annotations

import re
import traceback
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from text_gym.errors import ConfigError
from text_gym.utils.display import harmless

GROUP = "text_gym.tasks"  # of entry points: `my_task = "my_package.task:my_task"`


def installed_tasks() -> dict[str, list[EntryPoint]]:
    """Return the tasks that installed packages offer, by name; two packages may offer the same name."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def load_installed(name: str) -> Any:
    """Import what an installed package has under the name of a task; None if no package has such a task.

    Raises:
        ConfigError: Its code raised, or several packages have a task of this name; they are named.
    """
    points = installed_tasks().get(name, [])
    if not points:
        return None
    if len(points) > 1:
        raise ConfigError(
            f"task {name!r} is in several packages: {', '.join(map(package_of, points))}; "
            "uninstall all but one"
        )
    try:
        return points[0].load()
    except (Exception, SystemExit) as error:
        raise package_error(name, error) from error


def package_error(name: str, error: BaseException) -> ConfigError:
    """Return the error of an installed task whose code raised; it names package, file and line."""
    package = package_of(installed_tasks()[name][0])
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return ConfigError(
        f"task {name!r} of the installed package {package} cannot be made: "
        f"{type(error).__name__}: {harmless(str(error), limit=300)}{place}; mend the package or uninstall it"
    )


def package_of(point: EntryPoint) -> str:
    """Return name and version of the package that an entry point belongs to."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def env_id(name: str) -> str | None:
    """Return the Gymnasium id of an installed task; None if Gymnasium does not take its name as a namespace.

    >>> env_id("my_task"), env_id("my task")
    ('my_task/MyTask-v0', None)
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        return None
    return f"{name}/{''.join(part.capitalize() for part in re.split('[-_]', name))}-v0"
