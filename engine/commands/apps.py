"""The command `likeness` and its two groups of sub-commands, which the modules beside this one fill."""

import typer

USER_MISTAKE, INTERRUPTED = 2, 130
ELSEWHERE = 3  # all is done, but the result is in another place than was asked

app = typer.Typer(
    name="likeness",
    help="Learn a person, a style or a component from a few pictures and draw it in any prompt.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train_app = typer.Typer(
    help="Learn a concept from a folder of pictures; one sub-command per method.", no_args_is_help=True
)
app.add_typer(train_app, name="train")
lora_app = typer.Typer(help="Merge, resize, extract and measure LoRAs.", no_args_is_help=True)
app.add_typer(lora_app, name="lora")
bench_app = typer.Typer(help="Measure what the project claims.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")
