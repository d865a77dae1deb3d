"""Records where a saved policy comes from, its task or data and its starting policy, as JSON beside it.

Nothing that such a file names is run: rewards in it that are Python files or modules are named, not loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text_gym.agents.policies.policy import Policy
from text_gym.errors import DataError, TextGymError
from text_gym.tasks.task import TASKS, load_task
from text_gym.utils.display import harmless
from text_gym.utils.json_files import write_json

from .saved_policy import ORIGIN, policy_folder, read_origin

if TYPE_CHECKING:
    from text_gym.tasks.task import Task


_DTYPES = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Start:
    """The starting policy of another one: which one it is, and where it can be found.

    Args:
        sha256: `Policy.digest` of it: a policy with another digest is another policy.
        dtype: Type of its weights, e.g. `"float32"`.
        places: Where to look, the best first: `{"task": name}` is the policy shipped with a task,
            `{"folder": path}` a folder, `{"copy": path}` a copy that goes wherever the saved policy goes,
            `{"hub": name}` a hub model.
    """

    sha256: str
    dtype: str
    places: tuple[dict[str, str], ...] = ()

    @classmethod
    def of(cls, policy: Policy, came_from: Policy | str | Path | None, task: Task | None = None) -> Start:
        """Describe a policy as a start, as long as nothing has changed it.

        Args:
            policy: The policy, loaded.
            came_from: Folder or hub model that it was loaded from; if None, it is the task's own.
            task: The task.
        """
        shipped = None if task is None else task.policy
        source: Any = shipped if came_from is None else came_from
        if source is not None and not isinstance(source, (str, Path)):
            source = source.model.config.name_or_path  # where transformers loaded it from, or None
        places: list[dict[str, str]] = []
        if source and Path(source).is_dir():
            name = None if task is None else task.settings.get("task")
            if name in TASKS and shipped is not None and Path(source).resolve() == shipped.resolve():
                places.append({"task": str(name)})
            else:
                places.append({"folder": str(Path(source).resolve())})
        elif source:
            places.append({"hub": str(source)})
        return cls(policy.digest(), policy.weights_dtype, tuple(places))

    def at(self, folder: str | Path) -> Start:
        """Return the same start with the copy in the run's folder as its only place."""
        return Start(self.sha256, self.dtype, ({"copy": str(Path(folder).resolve())},))

    def also_at(self, folder: str | Path) -> Start:
        """Return the same start with one more place, in case it disappears from the others."""
        return Start(self.sha256, self.dtype, (*self.places, *self.at(folder).places))

    def written_in(self, folder: Path) -> dict[str, Any]:
        """Return plain data for a policy's folder, with places both relative to it and absolute.

        Copies are named relatively alone: the same run writes the same text wherever it stands.
        """
        places: list[dict[str, str]] = []
        home = folder.resolve()
        for place in self.places:
            target = place.get("folder") or place.get("copy")
            if target is not None and Path(target).drive == home.drive:
                places.append({"folder": Path(os.path.relpath(target, home)).as_posix()})
            if "copy" not in place:
                places.append(place)
        return {"sha256": self.sha256, "dtype": self.dtype, "places": places}


def write_origin(
    folder: str | Path,
    settings: Mapping[str, Any],
    max_tokens: int,
    start: Start | None,
    reward: str | None = None,
) -> None:
    """Write a policy's origin into its folder.

    Args:
        folder: The policy's.
        settings: `Task.settings` of the task: how it is made again.
        max_tokens: Token limit of an episode.
        start: The policy it started from; None if it was made from nothing.
        reward: Name of the reward that was optimised, if one was.
    """
    folder = Path(folder)
    known = {**settings, "max_tokens": max_tokens, "reward": reward}
    write_json(folder / ORIGIN, {**known, "start_policy": start and start.written_in(folder)})


def load_policy(
    place: str | Path, device: str = "auto", task: Task | None = None, dtype: str = "float32"
) -> Policy:
    """Load a policy that was saved, with its own tokenizer or that of the task it learnt.

    Args:
        place: Folder of a policy or of a run, or a hub model.
        device: Where to.
        task: The task whose tokenizer it has, where its folder does not say.
        dtype: Of its weights.
    """
    folder = policy_folder(place)
    if (Path(folder) / "tokenizer.json").is_file() or not Path(folder).is_dir():
        return Policy.from_pretrained(folder, device=device, dtype=dtype)
    origin = read_origin(folder)  # the words of a task are its own, and are saved nowhere else
    if origin.get("task") in TASKS:
        task = origin_task(origin, folder)
    tokenizer = None if task is None else task.tokenizer
    return Policy.from_pretrained(folder, tokenizer, device=device, dtype=dtype)


def origin_task(origin: Mapping[str, Any], folder: str | Path) -> Task:
    """Make the task again that a saved policy learnt.

    Raises:
        DataError: The task takes no such arguments.
    """
    try:
        return load_task(origin["task"], **origin.get("task_arguments", {}))
    except TypeError as error:
        raise DataError(
            f"{folder}/{ORIGIN}: task_arguments are none of task {origin['task']!r} ({error}); remove the "
            "file, and pass --task"
        ) from error


def load_start(folder: str | Path, policy: Policy, device: str = "auto") -> tuple[Policy | None, str]:
    """Load the policy that a saved one started from.

    Args:
        folder: The saved one's.
        policy: The saved one itself: the start has its tokenizer.
        device: Where to.

    Returns:
        The start and where it was found; or None and a sentence that says why it is not known and what to do.
    """
    origin = read_origin(folder)
    if "start_policy" not in origin:
        return None, "not known: the policy's folder does not say what it started from; pass --reference"
    start = origin["start_policy"]
    if start is None:
        return None, "none: the policy was made from nothing; pass --reference to measure it to another one"
    try:
        sha256, places = str(start["sha256"]), [dict(place) for place in start["places"]]
        dtype = start["dtype"] if start["dtype"] in _DTYPES else "float32"
    except (KeyError, TypeError, ValueError):
        return None, f"not known: start_policy in {folder}/{ORIGIN} is damaged; pass --reference"
    tried = []
    for place in places:
        source, name = _source(place, Path(folder))
        if name in tried or source is None:
            tried += [] if name in tried else [f"{name} is not there"]
            continue
        found = _load(source, policy, device, dtype)
        if isinstance(found, str):
            tried.append(f"{name} cannot be loaded ({found})")
        elif found.digest() != sha256:
            tried.append(f"{name} is another policy (SHA-256 of its weights)")
        else:
            return found, name
    looked = "; ".join(dict.fromkeys(tried)) or "it was made in Python and is kept nowhere"
    return None, f"not known: the policy it started from was not found: {looked}; pass --reference"


def _source(place: Mapping[str, Any], folder: Path) -> tuple[str | None, str]:
    """Return a place's folder or hub name (None if the folder is missing), and what to call it."""
    if "task" in place:
        name = str(place["task"])
        shipped = load_task(name).policy if name in TASKS else None
        return None if shipped is None else str(shipped), f"the policy shipped with task {name!r}"
    if "hub" in place:
        return str(place["hub"]), str(place["hub"])
    target = Path(os.path.normpath(folder / str(place.get("folder", ""))))
    return (str(target) if target.is_dir() else None), str(target)


def _load(source: str, policy: Policy, device: str, dtype: str) -> Policy | str:
    """Load the policy from there, or say why it cannot be loaded."""
    own = (Path(source) / "tokenizer.json").is_file() or not Path(source).is_dir()
    try:
        return Policy.from_pretrained(source, None if own else policy.tokenizer, device=device, dtype=dtype)
    except TextGymError as error:
        return harmless(str(error), limit=200)
