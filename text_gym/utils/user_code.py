"""Python that a user names on the command line: `module:name`, or `path/to/file.py:name`.

A file is run when it is loaded, as an import would: load only files that you would run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from text_gym.errors import ConfigError, DataError, TextGymError, UnknownNameError

# Files that are no user's: ours, wherever they stand, and those of the standard library.
_OURS = Path(__file__).resolve().parents[1]
_LIBRARY = Path(sysconfig.get_paths()["stdlib"]).resolve()


def split_place(spec: str) -> tuple[str, str] | None:
    """The module or file and the name in it; None for what is written in another way.

    >>> split_place("mine.py:Agent"), split_place("package.module:Agent"), split_place("ppo")
    (('mine.py', 'Agent'), ('package.module', 'Agent'), None)
    """
    place, separator, name = spec.rpartition(":")
    return (place, name) if separator and place and not place.endswith(("/", "\\")) else None


def load_from(place: str, name: str, error: type[TextGymError] = ConfigError) -> Any:
    """Load the object a name stands for in a module or in a `.py` file.

    Raises:
        DataError: The file or module does not exist.
        UnknownNameError: There is no such name in it; the nearest is suggested.
        TextGymError: The file or module raised while it was loaded: an `error`.
    """
    module = run_file(Path(place).resolve(), error) if place.endswith(".py") else _import(place, error)
    return attribute(module, name)


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Compiles a file anew each time: kept bytecode is told from a newer source by size and seconds only."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def run_file(file: Path, error: type[TextGymError] = ConfigError) -> ModuleType:
    """Run a file by its absolute path as a module of its own.

    Raises:
        DataError: There is no such file.
        TextGymError: It raised: an `error`.
    """
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    name = f"text_gym_user_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise DataError(f"{file} is not a Python file")
    if isinstance(spec.loader, importlib.machinery.SourceFileLoader):
        spec.loader = _SourceLoader(name, str(file))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        with _on_path(file.parent):
            spec.loader.exec_module(module)
    except Exception as raised:
        del sys.modules[name]
        raise error(f"{file} raised {type(raised).__name__}: {raised}{where_raised(raised)}") from raised
    return module


def file_of(place: str) -> Path | None:
    """Find the file of a module or `.py` file without running anything; None where it has none.

    Unlike `importlib.util.find_spec` it does not import the packages around a module.
    """
    if place.endswith(".py"):
        return Path(place).resolve() if Path(place).is_file() else None
    spec, inside = None, [str(Path.cwd()), *sys.path]  # as `load_from` finds it
    parts = place.split(".")
    for i in range(len(parts)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[: i + 1]), inside)
        if spec is None:
            return None
        inside = list(spec.submodule_search_locations or ())
    origin = None if spec is None else spec.origin
    return Path(origin).resolve() if origin is not None and Path(origin).is_file() else None


def attribute(module: ModuleType, name: str) -> Any:
    """Return the object a name stands for in a module; dots lead into classes.

    Raises:
        UnknownNameError: There is no such name; the nearest is suggested.
    """
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            known = [k for k, v in vars(value).items() if callable(v) and not k.startswith("_")]
            raise UnknownNameError(f"name in {getattr(module, '__file__', module.__name__)}:", part, known)
        value = getattr(value, part)
    return value


def _import(module: str, error: type[TextGymError]) -> ModuleType:
    try:
        with _on_path(Path.cwd()):  # a console script does not have the working directory on its path
            return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        raise DataError(f"there is no module {missing.name!r} (asked for {module!r})") from missing
    except Exception as raised:
        raise error(
            f"module {module!r} raised {type(raised).__name__}: {raised}{where_raised(raised)}"
        ) from raised


def where_raised(error: BaseException) -> str:
    """Say in which of a user's files and on which line an exception arose; empty where it was in none.

    The innermost frame counts that is neither ours nor of an installed package.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        inside = Path(frame.filename).resolve()
        installed = "site-packages" in inside.parts or inside.is_relative_to(_LIBRARY)
        if inside.is_file() and not installed and not inside.is_relative_to(_OURS):
            return f" at {inside}, line {frame.lineno}"
    return ""


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature; some built-in ones have none, and are taken to want a completion."""
    try:
        return inspect.signature(function)
    except ValueError:
        return inspect.Signature([inspect.Parameter("completion", inspect.Parameter.POSITIONAL_ONLY)])
