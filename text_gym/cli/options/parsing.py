"""Reads options into dataclasses, whose fields are the options and whose docstrings are their help."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


def parse(command: str, argv: list[str], *classes: type[Any]) -> list[Any]:
    """Read the options of `text-gym COMMAND` into one dataclass after another.

    Args:
        command: What stands after `text-gym`, e.g. `"reward train"`; used in the help.
        argv: What stands after the command.
        classes: Frozen dataclasses with Google-style docstrings; the second, if any, holds an algorithm's
            settings. `--dataset` and `--model` are other names of options `data` and `policy`.

    Raises:
        SystemExit: With status 2 and the usage on unknown options, with 0 after `--help`.
    """
    import tyro

    names = [command.replace(" ", "_"), "algorithm_settings"][: len(classes)]
    together = dataclasses.make_dataclass("Options", list(zip(names, classes, strict=True)))
    together.__doc__ = (classes[0].__doc__ or "").split("Args:")[0]
    fields = {field.name for class_ in classes for field in dataclasses.fields(class_)}
    others = {"data": "dataset", "policy": "model"}
    aliases = {f"--{b}": f"--{a}" for a, b in others.items() if a in fields and b not in fields}
    argv = [aliases.get(a.split("=")[0], a.split("=")[0]) + a[len(a.split("=")[0]) :] for a in argv]
    parsed: Any = tyro.cli(
        together,
        prog=f"text-gym {command}",
        args=argv,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return [getattr(parsed, name) for name in names]


def value_of(argv: Sequence[str], option: str, default: str) -> str:
    """Read one option's value ahead of the others, since the algorithm decides which options there are."""
    for i, argument in enumerate(argv):
        if argument == option and i + 1 < len(argv):
            return argv[i + 1]
        if argument.startswith(option + "="):
            return argument.split("=", 1)[1]
    return default
