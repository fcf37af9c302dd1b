"""Options in groups: a command takes dataclasses, and their fields stand in its option list. Options that
several commands have."""

import copy
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer import Option

from ..config import typed_path

MODELS = Annotated[Path | None, Option(help="Folder of helper models; by default ComfyUI's models/likeness.")]
DEVICE = Annotated[str, Option(help="Where networks run: cpu or cuda.")]


def grouped(command: Callable[..., int]) -> Callable[..., int]:
    """`command` with the fields of each dataclass among its arguments as options, in that argument's place.

    Typer knows flat lists alone; thirty options are read and handed on more easily in groups. Fields are
    annotated as arguments are: `steps: Annotated[int, Option(min=1, help="Sampling steps.")] = 25`.
    """
    kinds = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in kinds.items() if is_dataclass(kind)}
    options: list[inspect.Parameter] = []
    for name, argument in inspect.signature(command).parameters.items():
        if name in groups:
            options += _options_of(groups[name])
        else:
            options.append(argument.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=kinds[name]))

    @functools.wraps(command)
    def flat(**given: Any) -> int:
        filled = {
            name: kind(**{entry.name: given.pop(entry.name) for entry in fields(kind)})
            for name, kind in groups.items()
        }
        return command(**given, **filled)

    flat.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    flat.__annotations__ = {option.name: option.annotation for option in options}
    return flat


def _options_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            entry.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if entry.default is MISSING else entry.default,
            annotation=hints[entry.name],
        )
        for entry in fields(group)
    ]


def in_panel(kind: Any, panel: str, default: str | None) -> Any:
    """An annotated option in a panel of the help, which says what holds where it is not typed."""
    plain, option = get_args(kind)
    option = copy.copy(option)  # other commands have it too
    option.rich_help_panel = panel
    if default is not None:
        option.show_default = default
    return Annotated[plain, option]


def say_plain_types(command: Callable[..., Any]) -> None:
    """Lets a command's help call the kinds of its options by plain words."""
    for kind in getattr(command, "__annotations__", {}).values():
        option: Any = getattr(kind, "__metadata__", (None,))[0]
        if hasattr(option, "metavar") and option.metavar is None:
            option.metavar = plain_type(get_args(kind)[0], flag=True)


def without_types_of_python(command: Any) -> Any:
    """The command, and those in it, with help that names no type beside an argument or a flag.

    Newer typer says `<list[str]>` and `<bool>` there, where nothing else is to be said.
    """

    def plain(params_of: Callable[..., Any]) -> Callable[..., Any]:
        def params(context: Any) -> Any:
            listed = params_of(context)
            for param in listed:
                if param.param_type_name == "argument":
                    param.display_type = lambda *_: None
                elif param.is_flag and param.metavar is None:
                    param.metavar = ""
            return listed

        return params

    command.get_params = plain(command.get_params)
    for inner in getattr(command, "commands", {}).values():
        without_types_of_python(inner)
    return command


def plain_type(kind: Any, *, flag: bool = False) -> str:
    """What help calls a type: `float | None` is a NUMBER, `tuple[str, ...]` a LIST; a flag takes nothing."""
    kinds = [part for part in get_args(kind) if part is not type(None)]
    if isinstance(kind, UnionType) and kinds:
        return plain_type(kinds[0], flag=flag)
    if (get_origin(kind) or kind) is list:  # typed once for each
        return plain_type(kinds[0])
    if kind is bool:
        return "" if flag else "true|false"
    return {int: "INTEGER", float: "NUMBER", Path: "PATH", tuple: "LIST"}.get(
        get_origin(kind) or kind, "TEXT"
    )


_PASTED = re.compile(r"""(~|["'])[/\\]|["'](~[/\\]|[A-Za-z]:\\|\.{1,2}[/\\])""")  # ~/a, "/a b", "C:\a b"


def as_meant(argument: str) -> str:
    """An argument as it was meant: a path in quotes, or with ~ in quotes, where no shell looks, is one."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{option}{equals}{typed_path(value) if _PASTED.match(value) else value}"
