"""The command `likeness`: turns mistakes into one line and exit status 2.

Heavy libraries are imported inside the commands, so that help and mistakes in options answer at once.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer import Option
from typer.main import get_command

from .commands import (  # noqa: F401 (each enters its commands, in the order that help shows)
    bench,
    captions,
    demo,
    doctor,
    evaluate,
    export,
    generate,
    grid,
    import_files,
    info,
    interval,
    lora,
    masks,
    measure,
    restore,
    shards,
    train,
)
from .commands.apps import INTERRUPTED, USER_MISTAKE, app, bench_app, lora_app, train_app
from .commands.options import as_meant, say_plain_types, without_types_of_python
from .console import Interrupted, note, say, spell_out
from .errors import LikenessError, nearest
from .telemetry import silence_onnxruntime
from .version import VERSION


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 2 for a user's mistake, 130 when interrupted."""
    silence_onnxruntime()  # whichever library may load it
    spell_out()
    for part in (app, train_app, lora_app, bench_app):
        for command in part.registered_commands:
            say_plain_types(command.callback or _root)
    try:
        status = without_types_of_python(get_command(app)).main(
            [as_meant(argument) for argument in (sys.argv[1:] if arguments is None else arguments)],
            prog_name="likeness",
            standalone_mode=False,
        )
        return status if isinstance(status, int) else 0
    except LikenessError as error:
        note(f"likeness: {error}")
        return INTERRUPTED if isinstance(error, Interrupted) else USER_MISTAKE
    except KeyboardInterrupt:
        note("likeness: interrupted")
        return INTERRUPTED
    except OSError as error:
        if error.filename is None:
            raise
        note(f"likeness: {str(error.filename)[:80]} cannot be used: {error.strerror}; choose another")
        return USER_MISTAKE
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own complaints about how it was called
            raise
        note(_usage_message(error))
        return USER_MISTAKE


def _usage_message(error: Any) -> str:
    """A complaint about options or commands in one line, with the nearest valid word."""
    context = getattr(error, "ctx", None)
    command = getattr(context, "command", None)
    wrong = getattr(error, "option_name", None)
    message = " ".join(error.format_message().split())
    if wrong and command is not None and message.startswith("No such option"):
        valid = {
            name.lstrip("-")
            for parameter in command.params
            for name in parameter.opts
            if name.startswith("--")
        }
        message = f"unknown setting '{wrong.lstrip('-')}'{nearest(wrong.lstrip('-'), valid)}"
    elif message.startswith("No such command"):
        wrong = message.split("'")[1]
        message = f"unknown command '{wrong}'{nearest(wrong, getattr(command, 'commands', ()))}"
    elif type(error).__name__ == "NoArgsIsHelpError":
        return error.format_message()
    path = getattr(context, "command_path", "likeness") if context is not None else "likeness"
    return f"likeness: {message.rstrip('.')}; see `{path} --help`"


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        say(f"likeness-portraits {VERSION}")
        raise typer.Exit()


if __name__ == "__main__":
    sys.exit(main())
