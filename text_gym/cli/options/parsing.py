"""Reads options into dataclasses, whose fields are the options and whose docstrings are their help."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from text_gym.errors import ConfigError, TextGymError
from text_gym.tasks.task import load_task
from text_gym.utils.display import is_first_process, plain_stream

COLUMN = {"reference": "completion"}  # `--reference` is a policy; a column of texts is `--completion`
# Other names under which an option is found, where no option of the command has that name itself.
_OTHER_NAMES = {
    "dataset": "data",
    "model": "policy",
    "policy": "model",
    "env": "task",
    "reference": "completion",
    "reference-column": "completion",
}
_TYPE_WORDS = {str: "TEXT", int: "INT", float: "NUMBER"}


def parse(
    command: str,
    argv: list[str],
    *classes: type[Any],
    first: Sequence[str] = (),
    flags: Mapping[str, str] | None = None,
    settings: str = "algorithm",
    give_way: Sequence[str] = (),
) -> list[Any]:
    """Read the options of `text-gym COMMAND` into one dataclass after another.

    The help shows them in groups: those that people use first, the command's others, and the settings.

    Args:
        command: What stands after `text-gym`, e.g. `"reward train"`; used in the help.
        argv: What stands after the command.
        classes: Frozen dataclasses with Google-style docstrings; the second, if any, holds an algorithm's
            settings. `--dataset` and `--model` are other names of options `data` and `policy`.
        first: Fields that the help shows first, of whichever class.
        flags: What an option is called where it is not called after its field.
        settings: Whose settings the second class holds; the heading of its options.
        give_way: Fields of the first class, each with a default, that a setting of the same name replaces.

    Raises:
        ConfigError: An unknown option, or a value that is none of its option's; a class refused its values.
        SystemExit: With status 0 after `--help`.
    """
    import tyro

    fields = _fields_of(command, classes, flags or {}, give_way)
    groups = {"main": [fields[name] for name in first]} if first else {}
    headings = ("more" if first else command, settings)
    for heading, class_ in zip(headings, classes, strict=False):
        groups[heading] = [f for f in fields.values() if f.owner is class_ and f.name not in first]
    together = dataclasses.make_dataclass(
        "Options", [(f"group_{i}", _group(name, found)) for i, (name, found) in enumerate(groups.items())]
    )
    together.__doc__ = (classes[0].__doc__ or "").split("Args:")[0]
    words = _known_words(command, argv, {f.flag for f in fields.values()} | {"help"})
    said = io.StringIO()
    try:
        # The help has colours of its own, and nothing in it comes from anybody else.
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(plain_stream(sys.stdout)):
            parsed: Any = tyro.cli(
                together, prog=f"text-gym {command}", args=words, config=(tyro.conf.OmitArgPrefixes,)
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise ConfigError(f"{_sentence(said.getvalue())}; see text-gym {command} --help") from None
    values = {k: v for group in vars(parsed).values() for k, v in vars(group).items()}
    return [c(**{f.name: values[f.name] for f in fields.values() if f.owner is c}) for c in classes]


@dataclasses.dataclass(frozen=True)
class _Field:
    """A field of a class of options: its name there, its flag, its resolved type, and its help."""

    owner: type[Any]
    name: str
    flag: str
    type: Any
    help: str
    field: Any


def _fields_of(
    command: str, classes: Sequence[type[Any]], flags: Mapping[str, str], give_way: Sequence[str]
) -> dict[str, _Field]:
    """Collect the fields of all classes by name.

    Raises:
        ConfigError: An algorithm's setting has the name of an option of the command.
    """
    found: dict[str, _Field] = {}
    for class_ in classes:
        types = typing.get_type_hints(class_, include_extras=True)
        helps = _helps(class_)
        for field in dataclasses.fields(class_):
            flag = flags.get(field.name, field.name).replace("_", "-")
            if field.name in give_way:
                found.pop(field.name, None)
            if field.name in found or flag in {f.flag for f in found.values()}:
                raise ConfigError(
                    f"{class_.__name__} has a setting {field.name!r}, which is an option of `text-gym "
                    f"{command}`; give it another name"
                )
            help_ = helps.get(field.name, "")
            found[field.name] = _Field(class_, field.name, flag, types[field.name], help_, field)
    return found


def _helps(class_: type[Any]) -> dict[str, str]:
    """Read what the docstrings of a class and of its bases say about its fields; the nearest has the word."""
    import docstring_parser

    found: dict[str, str] = {}
    for base in class_.__mro__:
        for param in docstring_parser.parse(vars(base).get("__doc__") or "").params:
            found.setdefault(param.arg_name, " ".join((param.description or "").split()))
    return found


def _group(heading: str, fields: Sequence[_Field]) -> Any:
    """Make a dataclass of fields that the help shows under one heading."""
    import tyro

    parts: list[Any] = []
    for f in fields:
        word = _type_word(f.type)
        name = None if f.flag == f.name.replace("_", "-") else f.flag
        kind: Any = Annotated[f.type, tyro.conf.arg(help=f.help, metavar=word, name=name)]
        if f.type is bool and f.field.default is False:
            pairs_off: Any = tyro.conf.FlagCreatePairsOff
            kind = pairs_off[kind]
        default = {
            where: value
            for where in ("default", "default_factory")
            if (value := getattr(f.field, where)) is not dataclasses.MISSING
        }
        parts.append((f.name, kind, dataclasses.field(**default)))
    made = dataclasses.make_dataclass("Group", parts, kw_only=True)
    made.__doc__ = ""
    return Annotated[made, tyro.conf.arg(name=heading)]


def _type_word(kind: Any) -> str | None:
    """Name a type in the help: that of a value, where None stands for an option that is left out."""
    members = [t for t in typing.get_args(kind) if t is not type(None)] or [kind]
    return _TYPE_WORDS.get(members[0]) if len(members) == 1 else None


def _known_words(command: str, argv: Sequence[str], flags: set[str]) -> list[str]:
    """Return the words with every option under its own name.

    Raises:
        ConfigError: There is no such option; the nearest is suggested.
    """
    words = []
    for word in argv:
        name, equals, value = word.partition("=")
        name = name.removeprefix("--").replace("_", "-")
        if not word.startswith("--") or not name:
            words.append(word)
            continue
        if name not in flags and _OTHER_NAMES.get(name) in flags:
            name = _OTHER_NAMES[name]
        if name.removeprefix("no-") not in flags and name not in flags:
            near = difflib.get_close_matches(name, sorted(flags), n=1)
            hint = f"; did you mean --{near[0]}?" if near else "."
            raise ConfigError(
                f"text-gym {command} has no option --{name}{hint} See text-gym {command} --help"
                + (" (settings belong to one --algorithm)" if command == "train" else "")
            )
        words.append(f"--{name}{equals}{value}")
    return words


def _sentence(box: str) -> str:
    """Return the first paragraph of one of tyro's boxes of errors, drawn or of ASCII, as one line."""
    lines = [line.strip(" │╭╮╰╯─") for line in box.strip().splitlines()][1:]  # after the heading
    lines = ["" if set(line) <= {"-"} else line for line in lines]
    found = [" ".join(part) for filled, part in itertools.groupby(lines, key=bool) if filled]
    return found[0].rstrip(".") if found else "the options cannot be read"


def value_of(argv: Sequence[str], option: str, default: str) -> str:
    """Read one option's value ahead of the others, since the algorithm decides which options there are."""
    for i, argument in enumerate(argv):
        if argument == option and i + 1 < len(argv):
            return argv[i + 1]
        if argument.startswith(option + "="):
            return argument.split("=", 1)[1]
    return default


def with_recommended(argv: Sequence[str], algorithm: str) -> list[str]:
    """Return the words with those settings of `Task.recommended` that they leave out, and print these.

    Args:
        argv: What stands after `text-gym train` or `text-gym sft`.
        algorithm: Whose settings; `"sft"` has some, too.
    """
    name = value_of(argv, "--task", value_of(argv, "--env", ""))
    if not name or "-h" in argv or "--help" in argv:
        return list(argv)
    try:
        settings = load_task(name).recommended.get(algorithm, {})
    except TextGymError:  # is told when the options are checked
        return list(argv)
    more = _as_words(settings, {_option(word) for word in argv if word.startswith("--")})
    if more and is_first_process():
        print(f"recommended for {name}: {' '.join(more)}", flush=True)
    return [*argv, *more]


def _as_words(settings: Mapping[str, Any], typed: set[str]) -> list[str]:
    """Write the settings that were not typed as options."""
    words = []
    for key, value in settings.items():
        option = key.replace("_", "-")
        if option in typed:
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return words


def _option(word: str) -> str:
    """Return an option's own name: `--no_anneal` and `--anneal=True` are `anneal`."""
    name = word.partition("=")[0].removeprefix("--").replace("_", "-").removeprefix("no-")
    return "policy" if name == "model" else name


def checked_fields(class_: type[Any], values: Any) -> Any:
    """Make a dataclass of values that were read from a file, if they have its fields' types.

    Raises:
        TypeError: They are no object, or a field is unknown or has a value of another type; it is named.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"{class_.__name__} cannot be made of a {type(values).__name__}")
    hints = typing.get_type_hints(class_)
    for name, value in values.items():
        if name in hints and not _fits(value, hints[name]):
            raise TypeError(f"{name} is {value!r}")
    return class_(**values)


def _fits(value: Any, kind: Any) -> bool:
    """Return True if a value of JSON can stand for one of this type."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return value in inside
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in inside)
    if origin is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(v, inside[0]) for v in value)
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    return not isinstance(kind, type) or isinstance(value, kind)
