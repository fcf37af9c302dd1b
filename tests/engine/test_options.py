"""Options in groups: people type a flat list, the command receives groups, and every setting is explained."""

from dataclasses import dataclass, fields
from typing import Annotated

import typer
from typer.testing import CliRunner

from likeness_portraits.engine.commands.options import grouped
from likeness_portraits.engine.config import METHODS
from likeness_portraits.engine.job_file import setting_help


@dataclass(frozen=True, kw_only=True)
class Paint:
    colour: Annotated[str, typer.Option("--colour", "-k", help="What it is painted with.")] = "red"
    coats: Annotated[int, typer.Option(min=1, help="How often.")] = 2


def painting() -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @grouped
    def paint(things: list[str], paint: Paint, dry: bool = True) -> None:
        """Paint things."""
        print(*things, paint.coats, paint.colour, dry)  # noqa: T201

    return app


def test_a_group_is_typed_as_single_options_and_arrives_whole():
    run = CliRunner().invoke
    assert run(painting(), ["door", "wall", "-k", "blue", "--no-dry"]).output == "door wall 2 blue False\n"
    refused = run(painting(), ["door", "--coats", "0"])
    assert refused.exit_code == 2 and "--coats" in refused.output


def test_help_lists_a_groups_options_where_the_group_stands():
    shown = CliRunner().invoke(painting(), ["--help"]).output
    places = [shown.index(text) for text in ("Paint things.", "--colour", "How often.", "--dry")]
    assert places == sorted(places)


def test_settings_two_methods_share_are_explained_for_both_and_rates_stand_beside_the_steps():
    for method in ("dreambooth-lora", "custom-diffusion"):
        assert setting_help(METHODS[method])["prior_weight"].startswith(
            "Of the loss on pictures of the class"
        )
    names = [entry.name for entry in fields(METHODS["custom-diffusion"])]
    assert names[:3] == ["steps", "learning_rate", "token_learning_rate"]
    assert setting_help(METHODS["custom-diffusion"])["vectors"].endswith("without an identifier")
