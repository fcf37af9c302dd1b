"""The command `likeness`: reads options, calls the engine, turns mistakes into one line and exit status 2.

Heavy libraries are imported inside the commands, so that help and mistakes in options answer at once.
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option
from typer.main import get_command

from .config import METHODS, BaseSpec
from .console import ConsoleObserver, Interrupted, meter, note, save_picture, say
from .errors import LikenessError, nearest
from .files import check_room, write_atomically
from .version import VERSION

if TYPE_CHECKING:
    from .artifact import Artifact
    from .inference.restore_options import Finisher

USER_MISTAKE, INTERRUPTED = 2, 130

app = typer.Typer(
    name="likeness",
    help="Learn a person, a style or a component from a few pictures and draw it in any prompt.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train_app = typer.Typer(
    help="Learn a concept from a folder of pictures; one sub-command per method.", no_args_is_help=True
)
app.add_typer(train_app, name="train")
bench_app = typer.Typer(help="Measure what the project claims.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 2 for a user's mistake, 130 when interrupted."""
    try:
        status = get_command(app).main(
            list(sys.argv[1:] if arguments is None else arguments),
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
        known = {
            name.lstrip("-")
            for parameter in command.params
            for name in parameter.opts
            if name.startswith("--")
        }
        message = f"unknown setting '{wrong.lstrip('-')}'{nearest(wrong.lstrip('-'), known)}"
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


# --- learning ---------------------------------------------------------------------------


def _train(method: str, preset: str | None, config: Path | None, print_config: bool, **options: Any) -> int:
    from . import job_file

    names = {field.name for field in fields(METHODS[method])}
    look_every = options.pop("stop_by_likeness", None) or 0
    typed = {name: value for name, value in options.items() if value not in (None, [], False)}
    settings = {name: job_file.value_of(typed.pop(name)) for name in names & typed.keys()}
    chosen = job_file.read_yaml(config) if config is not None else {}
    concepts = job_file.concepts_of(
        typed.pop("folders", []), typed.pop("token", []), typed.pop("class_word", []), typed.pop("role", [])
    )
    if concepts:
        typed["concepts"] = concepts
    job = job_file.build_job(method, chosen, typed, settings, preset)
    if print_config:
        say(job_file.to_yaml(job).rstrip())
        return 0
    job_file.check_job(job)
    return _run(job, look_every)


def _run(job: Any, look_every: int = 0) -> int:
    from .training.launch import train

    output = Path(job.output)
    observer = ConsoleObserver(f"learning ({job.method})", output.with_suffix(".previews"))
    critic = _critic(job, look_every, output.with_suffix(".likeness.png")) if look_every else None
    with observer.watching():
        path = train(job, observer, critic=critic)
    say(str(path))
    if critic is not None and critic.looks and not observer.interrupt.pressed:
        note(f"kept is step {critic.best.step}; {critic.ending}")
    if observer.interrupt.pressed:
        steps = observer.last.step if observer.last else 0
        note(f"stopped after {steps} steps; what was learned is saved, and --resume goes on from there")
        return INTERRUPTED
    return 0


def _critic(job: Any, every: int, curve: Path) -> Any:
    """Who looks at the likeness meanwhile: each look is a line, and a point in the curve's picture."""
    from .evaluation.loss_plot import plot_losses
    from .evaluation.stopping import critic_for, curves, in_words

    def show(looks: Sequence[Any]) -> None:
        note(in_words(looks))
        save_picture(curve, plot_losses(curves(looks)))

    return critic_for(job, every, on_look=show)


_COMMON: dict[str, Any] = {
    "folders": Annotated[
        list[str] | None, Argument(metavar="FOLDER...", help="Folders with pictures, one per concept.")
    ],
    "output": Annotated[str | None, Option("--output", "-o", help="Where to write; ends in .safetensors.")],
    "base": Annotated[str | None, Option(help="miniature, a checkpoint or a diffusers folder.")],
    "on": Annotated[
        list[str] | None, Option(help="Concept file of a LoRA that stays applied meanwhile; repeat for more.")
    ],
    "token": Annotated[
        list[str] | None, Option(help="Placeholder for prompts, such as <v0>; repeat per folder.")
    ],
    "class_word": Annotated[
        list[str] | None, Option(help="What the pictures show: woman, dog …; repeat per folder.")
    ],
    "role": Annotated[list[str] | None, Option(help="subject, style or component; repeat per folder.")],
    "seed": Annotated[int | None, Option(help="Of everything random.")],
    "resolution": Annotated[int | None, Option(help="Pixels a side; by default the base's own.")],
    "precision": Annotated[str | None, Option(help="fp32, bf16 or fp16.")],
    "device": Annotated[str | None, Option(help="auto or cpu.")],
    "checkpoint_every": Annotated[int | None, Option(help="Steps between checkpoints.")],
    "preview_every": Annotated[int | None, Option(help="Steps between preview pictures.")],
    "preview_prompt": Annotated[str | None, Option(help="What previews show.")],
    "stop_by_likeness": Annotated[
        int | None,
        Option(
            min=1, help="Look at the likeness every so many steps, end when it stands still, keep the best."
        ),
    ],
    "cache": Annotated[str | None, Option(help="Folder for pictures of the class, to use them again.")],
    "resume": Annotated[bool, Option("--resume", help="Go on from the checkpoint beside the output.")],
    "preset": Annotated[
        str | None, Option(help="Where all settings start: default, paper, reference, miniature.")
    ],
    "config": Annotated[
        Path | None, Option("--config", "-c", help="YAML file; options typed here go before it.")
    ],
    "print_config": Annotated[bool, Option("--print-config", help="Print the whole job as YAML and exit.")],
}


def _train_command(method: str) -> Callable[..., int]:
    """A command whose options are the run's and the method's settings, explained by their own comments."""
    from .job_file import setting_help

    def command(**options: Any) -> int:
        return _train(method, **options)

    told, kinds = setting_help(METHODS[method]), dict(_COMMON)
    for field in fields(METHODS[method]):
        option = Option(
            f"--{field.name.replace('_', '-')}",
            help=told.get(field.name, ""),
            rich_help_panel="Settings",
            metavar=str(getattr(field.type, "__name__", field.type)).upper(),
        )
        kinds[field.name] = Annotated[str | None, option]
    flags = {"resume", "print_config"}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if name in flags else None,
                annotation=kind,
            )
            for name, kind in kinds.items()
        ]
    )
    command.__annotations__ = kinds
    command.__doc__ = f"Learn with {method}. {(METHODS[method].__doc__ or '').splitlines()[0]}"
    return command


for _method in METHODS:
    train_app.command(_method)(_train_command(_method))


# --- drawing ----------------------------------------------------------------------------


@app.command()
def generate(
    prompts: Annotated[
        list[str], Argument(metavar="PROMPT...", help="What to draw; use the concept's placeholder.")
    ],
    concept: Annotated[
        list[str] | None, Option(help="Concept file, or FILE:STRENGTH; repeat for several.")
    ] = None,
    base: Annotated[str, Option(help="miniature, a checkpoint or a diffusers folder.")] = "miniature",
    out: Annotated[Path, Option("--out", "-o", help="A folder, or a .png for a single picture.")] = Path(
        "likeness-pictures"
    ),
    negative: Annotated[str, Option(help="What should not be there.")] = "",
    count: Annotated[
        int, Option(min=1, help="Pictures per prompt, with seeds that follow on one another.")
    ] = 1,
    seed: Annotated[int, Option(min=0, help="Of the noise the first picture starts from.")] = 0,
    steps: Annotated[int, Option(min=1, help="Sampling steps.")] = 25,
    guidance: Annotated[
        float, Option(help="How strictly to follow the prompt (classifier-free guidance).")
    ] = 5.0,
    sampler: Annotated[str, Option(help="euler or dpmpp_2m, as in ComfyUI.")] = "euler",
    schedule: Annotated[str, Option(help="simple or karras, as in ComfyUI, or ddim.")] = "simple",
    width: Annotated[int | None, Option(help="Pixels; by default the base's own.")] = None,
    height: Annotated[int | None, Option(help="Pixels; by default the base's own.")] = None,
    identity: Annotated[
        list[str] | None,
        Option(
            help="One to three pictures of a person, FILE,FILE or a folder, with :WEIGHT if not 1; repeat."
        ),
    ] = None,
    adapter: Annotated[
        Path | None, Option(help="Identity adapter for --identity; by default the Miniature's.")
    ] = None,
    identity_region: Annotated[
        list[Path] | None, Option(help="A picture, white where that person should be; one per --identity.")
    ] = None,
    identity_start: Annotated[float, Option(help="From where people show: 0 is pure noise.")] = 0.0,
    identity_end: Annotated[float, Option(help="Up to where people show: 1 is the picture.")] = 1.0,
    identity_layers: Annotated[
        str, Option(help="Factors by layer, such as up_blocks.1=1.3,mid_block=0.")
    ] = "",
    without_hair: Annotated[
        bool, Option("--without-hair", help="Leave a person's hair to the prompt.")
    ] = False,
    image_encoder: Annotated[
        Path | None, Option(help="For photographs: the folder of the adapter's CLIP image tower.")
    ] = None,
    faces: Annotated[str, Option(help="For photographs: auraface, antelopev2 or buffalo_l.")] = "auraface",
    models: Annotated[Path | None, Option(help="For photographs: ComfyUI's models/likeness.")] = None,
    refocus: Annotated[
        list[str] | None,
        Option(
            help="Keep a word in a region: <v0>=left, right, a box 0,0,0.5,1, mask.png, attention or face; "
            "then ;mode=soft;scope=word;strength=0.8 …; repeat."
        ),
    ] = None,
    refocus_restart: Annotated[
        bool, Option(help="Draw again from the first step once regions are found.")
    ] = True,
    attention_maps: Annotated[
        Path | None, Option(help="Folder for pictures of where the refocused words looked.")
    ] = None,
    restore: Annotated[
        str | None,
        Option(help="Finish faces: redraw, or a restorer's file; then ;denoise=0.5;gate=reject …"),
    ] = None,
    references: Annotated[
        Path | None, Option(help="With --restore: folder of pictures of who must stay recognisable.")
    ] = None,
) -> int:
    """Draw pictures; the same seed gives the same picture as ComfyUI's KSampler."""
    artifacts = [_with_strength(text) for text in concept or []]
    _check_placeholders(prompts, [artifact for artifact, _ in artifacts])
    single = out.suffix.lower() == ".png"
    if single and len(prompts) * count > 1:
        raise LikenessError(
            f"{out} is one file, but {len(prompts) * count} pictures are to be drawn; give a folder"
        )
    wanted = [(prompt, seed + number) for prompt in prompts for number in range(count)]
    from .inference.generate import generate as draw
    from .inference.id_pictures import Look, people_of
    from .inference.refocus_options import refocusing_of
    from .inference.restore_options import finisher, wish_of
    from .training.base_model import load_base

    wish = None if restore is None else wish_of(restore)
    look = Look(
        adapter=adapter, image_encoder=image_encoder, faces=faces, models=models,
        without_hair=without_hair, start=identity_start, end=identity_end, layers=identity_layers,
        regions=identity_region or (),
    )  # fmt: skip
    loaded = load_base(BaseSpec.parse(base))
    people = people_of(identity, look) if identity else []
    refocusing = refocusing_of(refocus or [], loaded, restart=refocus_restart, maps=attention_maps)

    with meter("drawing") as show:
        pictures = draw(
            loaded,
            [prompt for prompt, _ in wanted],
            negative=negative,
            artifacts=artifacts,
            people=people,
            refocus=refocusing,
            steps=steps,
            guidance=guidance,
            seed=[number for _, number in wanted],
            sampler=sampler,
            schedule=schedule,
            width=width,
            height=height,
            on_step=lambda done, total: show(done, total, ""),
        )
    if wish is not None:
        finish = finisher(
            wish, loaded, prompt=prompts[0], negative=negative, artifacts=artifacts, references=references,
            models=models,
        )  # fmt: skip
        pictures = _finished(pictures, [prompt for prompt, _ in wanted], finish)
    drawn_with = {"negative": negative, "steps": str(steps), "guidance": str(guidance), "base": base}
    drawn_with |= {"sampler": sampler, "schedule": schedule}
    drawn_with |= {"refocus": " ".join(refocus)} if refocus else {}
    drawn_with |= {"restore": restore} if restore else {}
    for index, (pixels, (prompt, number)) in enumerate(zip(pictures, wanted)):
        about = {"prompt": prompt, "seed": str(number), **drawn_with}
        say(str(save_picture(out if single else out / f"{index:03d}-seed{number}.png", pixels, about)))
    return 0


def _finished(pictures: Iterable[Any], prompts: Sequence[str], finish: "Finisher") -> list[Any]:
    """The pictures with their faces restored, and on stderr what became of each face."""
    made = []
    with meter("restoring") as show:
        for number, (pixels, prompt) in enumerate(zip(pictures, prompts), start=1):
            done, restored = finish(pixels, prompt, name=f"picture {number}")
            made.append((done, restored.report))
            show(number, len(prompts), "")
    for line in [*(report for _, report in made), *finish.remarks()]:
        note(line)
    return [done for done, _ in made]


@app.command()
def restore(
    pictures: Annotated[list[Path], Argument(metavar="PICTURE...", help="Pictures with faces in them.")],
    using: Annotated[
        str,
        Option(
            "--with",
            help="redraw, or a restorer's file; then settings: ;faces=auraface;gate=reject;enlarge=FILE.",
        ),
    ] = "redraw",
    prompt: Annotated[str, Option(help="For redraw: what the faces are, with the placeholder.")] = "",
    concept: Annotated[
        list[str] | None, Option(help="For redraw: concept file, or FILE:STRENGTH; repeat for several.")
    ] = None,
    base: Annotated[str, Option(help="For redraw: the base that draws.")] = "miniature",
    negative: Annotated[str, Option(help="For redraw: what should not be there.")] = "",
    references: Annotated[
        Path | None, Option(help="Folder of pictures of who must stay recognisable.")
    ] = None,
    mask: Annotated[
        Path | None, Option(help="With ;faces=mask: a picture, white on the face; nothing else changes.")
    ] = None,
    models: Annotated[Path | None, Option(help="Folder of helper models, ComfyUI's models/likeness.")] = None,
    device: Annotated[str, Option(help="Where a restorer runs: cpu or cuda.")] = "cpu",
    out: Annotated[Path, Option("--out", "-o", help="A folder, or a .png for a single picture.")] = Path(
        "likeness-restored"
    ),
) -> int:
    """Restore faces, or draw them again with a concept, and take back what would cost the likeness."""
    from .data.pictures import read_mask, read_picture
    from .inference.restore_options import finisher, wish_of

    wish = wish_of(using)
    single = out.suffix.lower() == ".png"
    if single and len(pictures) > 1:
        raise LikenessError(f"{out} is one file, but there are {len(pictures)} pictures; give a folder")
    loaded = None
    artifacts = [_with_strength(text) for text in concept or []]
    if wish.redraws:
        from .training.base_model import load_base

        _check_placeholders([prompt], [artifact for artifact, _ in artifacts])
        loaded = load_base(BaseSpec.parse(base))
    finish = finisher(
        wish, loaded, prompt=prompt, negative=negative, artifacts=artifacts, references=references,
        models=models, device=device,
    )  # fmt: skip
    for path in pictures:
        pixels = read_picture(path)
        drawn = None if mask is None else read_mask(mask, (pixels.shape[0], pixels.shape[1]))
        done, restored = finish(pixels, drawn=drawn, name=str(path))
        note(restored.report)
        about = {"restored with": using, "prompt": prompt, "report": restored.report}
        say(str(save_picture(out if single else out / f"{path.stem}.png", done, about)))
    for line in finish.remarks():
        note(line)
    return 0


def _with_strength(text: str) -> "tuple[Artifact, float]":
    """`me.safetensors` or `me.safetensors:0.8`."""
    from .artifact import Artifact

    path, _, strength = text.rpartition(":")
    try:
        factor = float(strength)
    except ValueError:
        return Artifact.load(text), 1.0
    return (Artifact.load(path), factor) if path else (Artifact.load(text), 1.0)


def _check_placeholders(prompts: Sequence[str], artifacts: "Sequence[Artifact]") -> None:
    from .artifact import placeholders
    from .config import TOKEN

    known = placeholders(artifacts)
    for prompt in prompts:
        for word in TOKEN.findall(prompt):
            if word not in known:
                hint = nearest(word, known) or "; give its file with --concept"
                raise LikenessError(f"the prompt uses {word}, which no given concept defines{hint}")


# --- concept files ----------------------------------------------------------------------


@app.command()
def info(
    paths: Annotated[list[Path], Argument(metavar="FILE...", help="Concept files or concept folders.")],
    as_json: Annotated[bool, Option("--json", help="As JSON, one object per line.")] = False,
) -> None:
    """Show what concept files and concept folders hold."""
    for path in paths:
        facts = _folder_facts(path) if path.is_dir() else _file_facts(path)
        if as_json:
            say(json.dumps(facts))
        else:
            width = max(map(len, facts))
            for name, value in facts.items():
                text = value if isinstance(value, str) else json.dumps(value)
                say(f"{name.replace('_', ' '):<{width}}  {text}")
            say()


def _file_facts(path: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from .artifact import read_metadata

    facts = read_metadata(path)
    return {"file": str(path), **facts, "tokens": [asdict(token) for token in facts["tokens"]]}


def _folder_facts(path: Path) -> dict[str, Any]:
    from .data.concepts import digest, load_concept

    concept = load_concept(path)
    sizes = sorted({f"{picture.pixels.shape[1]}x{picture.pixels.shape[0]}" for picture in concept.pictures})
    masks = sum(picture.mask is not None for picture in concept.pictures)
    about = {"token": concept.token, "class_word": concept.class_word, "role": concept.role}
    counted = {"pictures": len(concept.pictures), "masks": masks, "sizes": sizes}
    return {"folder": str(path), **about, **counted, "digest": digest([concept])}


@app.command()
def export(
    file: Annotated[Path, Argument(help="A concept file.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder for the files.")] = Path("."),
    name: Annotated[
        str | None, Option(help="Name of the LoRA file; by default <the concept's>-stock.")
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace files that are there.")] = False,
    numbered: Annotated[
        bool, Option("--numbered", help="One file as MagiCapture's and cloneofsimo's own code reads it.")
    ] = False,
) -> None:
    """Write a stock LoRA and embedding that ComfyUI's own nodes, A1111-style tools and diffusers load."""
    from .artifact import Artifact, export_numbered, export_stock

    if numbered:
        path = out / f"{name or f'{file.stem}-numbered'}.safetensors"
        say(str(export_numbered(Artifact.load(file), path, overwrite=overwrite)))
        return
    for path in export_stock(Artifact.load(file), out, name or f"{file.stem}-stock", overwrite=overwrite):
        say(str(path))


@app.command("import")
def import_(
    files: Annotated[
        list[Path],
        Argument(
            metavar="FILE...",
            help="A LoRA, embeddings, or both: they become one. Or PersonaMagic's mapper-*.pt and "
            "learned_embeds-*.bin, or MagicTailor's LoRA and token_embedding.pth, or MagiCapture's "
            "final_lora.safetensors, or MasterWeaver's adapter_*.pt.",
        ),
    ],
    output: Annotated[
        Path, Option("--output", "-o", help="The concept file to write; ends in .safetensors.")
    ],
    token: Annotated[
        str | None, Option(help="Placeholder of an embedding; by default its file's name.")
    ] = None,
    class_word: Annotated[str, Option(help="What it shows: woman, dog, …")] = "",
    picture: Annotated[
        Path | None, Option(help="For a mapper: the picture to draw after; needs --image-encoder.")
    ] = None,
    image_encoder: Annotated[Path | None, Option(help="For --picture: a CLIP ViT-B/32's folder.")] = None,
    all_words: Annotated[
        bool, Option("--all-words", help="Of MagicTailor's token table, keep the changed ordinary words too.")
    ] = False,
) -> None:
    """Make a concept file out of other tools' files; nothing in them is executed."""

    if output.suffix != ".safetensors":
        raise LikenessError(f"the output {output} must end in .safetensors; rename it")
    say(str(_imported(files, token, class_word, picture, image_encoder, all_words).save(output)))


def _imported(
    files: Sequence[Path],
    token: str | None,
    class_word: str,
    picture: Path | None,
    tower: Path | None,
    all_words: bool,
) -> "Artifact":
    from .artifact import import_file, merge
    from .inference.id_adapter import import_released, is_released
    from .inference.staged_embedding import import_reference, is_reference_mapper

    if len(files) == 1 and is_released(files[0]):
        return import_released(files[0])
    mappers = [file for file in files if file.suffix == ".pt" and is_reference_mapper(file)]
    if not mappers:
        options: dict[str, Any] = {"token": token, "class_word": class_word, "all_rows": all_words}
        return merge([import_file(file, **options) for file in files])
    others = [file for file in files if file not in mappers]
    if len(mappers) != 1 or len(others) != 1:
        raise LikenessError(
            "a mapper of PersonaMagic comes with one learned_embeds-*.bin; give exactly these two"
        )
    features = None
    if picture is not None:
        if tower is None:
            raise LikenessError("a picture is looked at by a CLIP image tower; give --image-encoder FOLDER")
        from .training.methods.personamagic import features_of

        features = features_of(picture, tower)
    return import_reference(
        mappers[0], others[0], token=token or "<v0>", class_word=class_word, image_features=features
    )


# --- masks and measuring ------------------------------------------------------------------


@app.command()
def masks(
    folder: Annotated[Path, Argument(help="A folder with pictures.")],
    subject: Annotated[
        str, Option(help="What to mark: a word, or several with commas; any of them is marked.")
    ] = "head",
    but_not: Annotated[
        str, Option("--but-not", help="What to leave out of it, such as hair; several with commas.")
    ] = "",
    backend: Annotated[
        str, Option(help="What finds it: miniature, clipseg, grounded-sam2, sam2-points or face-parts.")
    ] = "miniature",
    models: Annotated[
        Path | None, Option(help="Folder of helper models; by default ComfyUI's models/likeness.")
    ] = None,
    device: Annotated[str, Option(help="Where networks run: cpu or cuda.")] = "cpu",
    soft: Annotated[bool, Option("--soft", help="Keep degrees between marked and not.")] = False,
    level: Annotated[float, Option(help="Above it a pixel is marked; not with --soft.")] = 0.5,
    grow: Annotated[int, Option(help="Pixels to reach further out; negative shrinks.")] = 0,
    feather: Annotated[float, Option(help="Pixels over which the edge is blurred.")] = 0.0,
    fill_holes: Annotated[bool, Option("--fill-holes", help="Mark what the mask surrounds.")] = False,
    keep_largest: Annotated[bool, Option("--keep-largest", help="Drop all but the largest piece.")] = False,
    invert: Annotated[bool, Option("--invert", help="Mark everything else.")] = False,
    sheet: Annotated[
        Path | None, Option(help="Contact sheet of all masks; by default FOLDER-masks.jpg beside the folder.")
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace masks that are there.")] = False,
) -> None:
    """Write a mask beside every picture of a concept folder, and a sheet to look them over."""
    from .data.masks import Refinement
    from .data.segment import Request, load_segmenter, mask_folder, words_of

    refine = Refinement(
        level=None if soft else level,
        grow=grow,
        feather=feather,
        fill_holes=fill_holes,
        keep_largest=keep_largest,
        invert=invert,
    )
    request = Request(words=words_of(subject), but_not=words_of(but_not), refine=refine)
    place = folder.absolute()
    sheet = sheet or place.with_name(f"{place.name}-masks.jpg")
    segmenter = load_segmenter(backend, models, device)
    with meter("masks") as show:
        written = mask_folder(folder, segmenter, request, overwrite=overwrite, sheet=sheet, on_picture=show)
    for path in written:
        say(str(path))
    note(f"look at {sheet}")


@app.command()
def shards(
    out: Annotated[Path, Argument(help="Folder for the shards.")],
    pictures: Annotated[
        Path | None, Option(help="A folder of photographs, each with its caption in <name>.txt beside it.")
    ] = None,
    reference: Annotated[Path | None, Option(help="A folder in MasterWeaver's own layout.")] = None,
    miniature: Annotated[int, Option(min=0, help="How many people of the Miniature's world to draw.")] = 0,
    first: Annotated[int, Option(min=0, help="With --miniature: the first person's number.")] = 0,
    each: Annotated[int, Option(min=1, help="With --miniature: portraits of each person.")] = 1,
    twins: Annotated[int, Option(min=0, help="With --miniature: edited faces of each portrait.")] = 3,
    faces: Annotated[
        str, Option(help="With --pictures, the pack that finds faces: auraface, antelopev2 or buffalo_l.")
    ] = "auraface",
    models: Annotated[
        Path | None, Option(help="Folder of helper models; by default ComfyUI's models/likeness.")
    ] = None,
    device: Annotated[str, Option(help="Where networks run: cpu or cuda.")] = "cpu",
    size: Annotated[int, Option(min=1, help="Samples of each shard.")] = 512,
) -> None:
    """Write shards of pictures with their faces, which `train masterweaver --shards` reads."""
    from .data.shard_sources import photographs, reference_folder, rendered
    from .data.shards import write_shards

    if (pictures is not None) + (reference is not None) + (miniature > 0) != 1:
        raise LikenessError("give one source of people: --pictures, --reference or --miniature")
    if pictures is not None:
        from .data.faces import load_faces
        from .data.helpers import default_models
        from .data.segmenters.face_parts import load

        folder = models or default_models()
        finder, parser = load_faces(faces, folder.with_name("insightface"), device), load(folder, device)
        samples = photographs(pictures, finder, parser.labels)
    elif reference is not None:
        samples = reference_folder(reference)
    else:
        samples = rendered(range(first, first + miniature), each, twins)
    with meter("shards") as show:
        written = write_shards(out, samples, size, lambda done: show(done, miniature * each or done, ""))
    for path in written:
        say(str(path))


@app.command()
def interval(
    folder: Annotated[Path, Argument(help="A concept folder with masks.")],
    base: Annotated[str, Option(help="miniature, a checkpoint or a diffusers folder.")] = "miniature",
    class_word: Annotated[str | None, Option(help="By default as concept.json says.")] = None,
    share: Annotated[
        float, Option(min=0.0, max=1.0, help="Keep what is above this share of the peak.")
    ] = 0.8,
    points: Annotated[int, Option(min=2, max=500, help="Timesteps to look at.")] = 20,
    seed: Annotated[int, Option(min=0, help="Of the noise.")] = 0,
    out: Annotated[Path | None, Option("--out", "-o", help="Draw the curve to this PNG.")] = None,
) -> None:
    """Find the timesteps at which a base sees the subject, for PersonaMagic's --interval."""
    from .data.concepts import load_concept
    from .evaluation.loss_plot import plot_losses
    from .training.base_model import load_base
    from .training.interval import measure_overlap

    concept = load_concept(folder, class_word=class_word)
    with meter("looking") as show:
        found = measure_overlap(
            load_base(BaseSpec.parse(base)), concept, points=points, share=share, seed=seed,
            check=lambda done, total: show(done, total, ""),
        )  # fmt: skip
    if out is not None:
        curve = list(zip(found.timesteps, found.overlap))
        save_picture(out, plot_losses({f"overlap of '{concept.class_word}' and mask": curve}), {})
    say(json.dumps({"interval": list(found.interval), "timesteps": found.timesteps,
                    "overlap": [round(value, 4) for value in found.overlap]}))  # fmt: skip


@app.command()
def evaluate(
    file: Annotated[Path, Argument(help="A concept file learned on the Miniature.")],
    pictures: Annotated[Path, Option("--pictures", "-p", help="The concept folder it was learned from.")],
    rounds: Annotated[int, Option(min=1, help="Seeds per test prompt; more are more certain.")] = 2,
    out: Annotated[Path | None, Option("--out", "-o", help="Write the report to this JSON file too.")] = None,
) -> None:
    """Measure identity and prompt-following of a concept against the base without it."""
    from .artifact import Artifact
    from .data.concepts import load_concept

    artifact, concept = Artifact.load(file), load_concept(pictures)
    from .evaluation.people import evaluate_person

    with meter("drawing") as show:
        report = evaluate_person(artifact, concept, rounds, lambda done, total: show(done, total, ""))
    text = json.dumps({"file": str(file), **report}, indent=2)
    if out is not None:
        with write_atomically(out) as temporary:
            temporary.write_text(text + "\n", "utf-8")
    say(text)


@app.command("measure")
def measure_pictures(
    pictures: Annotated[
        list[Path], Argument(metavar="PICTURES...", help="Picture files, or folders of them.")
    ],
    references: Annotated[Path, Option("--references", "-r", help="Folder with the person's own pictures.")],
    faces: Annotated[
        str, Option(help="Who recognises faces: miniature, auraface, antelopev2 or buffalo_l.")
    ] = "auraface",
    prompt: Annotated[
        str | None, Option(help="What they should show, class word instead of placeholder.")
    ] = None,
    strangers: Annotated[
        Path | None, Option(help="Folder with pictures of other people, to see what chance scores.")
    ] = None,
    models: Annotated[
        Path | None,
        Option(help="Folder of helper models (clip, dinov2); by default ComfyUI's models/likeness."),
    ] = None,
    packs: Annotated[
        Path | None,
        Option(help="Folder whose models/ holds face packs; by default ComfyUI's models/insightface."),
    ] = None,
) -> None:
    """Say how much any pictures look like a person, and whether they show what was asked for."""
    from .data.pictures import pictures_in, read_picture
    from .evaluation.backends import judges_there, load_face_judge
    from .evaluation.measure import in_words, measure

    def read(place: Path) -> list[Any]:
        files = pictures_in(place) if place.is_dir() else [place]
        if not files:
            raise LikenessError(f"{place} holds no pictures; give a folder with some")
        return [read_picture(file) for file in files]

    drawn = [pixels for place in pictures for pixels in read(place)]
    judge = load_face_judge(faces, packs)
    text, looks = judges_there(judge, models)
    others = [] if strangers is None else read(strangers)
    prompts = [prompt] * len(drawn) if prompt else []
    found = measure(
        drawn, read(references), judge, prompts=prompts, text=text, looks=looks, strangers=others
    )  # fmt: skip
    say(in_words(found))


# --- looking after ----------------------------------------------------------------------


@app.command()
def doctor(
    data: Annotated[
        Path | None, Option(help="Look at the pictures of this concept folder instead, with advice on each.")
    ] = None,
    faces: Annotated[
        str | None, Option(help="With --data: find faces with this pack: auraface, antelopev2 or buffalo_l.")
    ] = None,
    models: Annotated[Path | None, Option(help="With --faces: folder whose models/ holds the pack.")] = None,
) -> int:
    """Show versions, devices, onnxruntime's state and folders, and what is wrong with them."""
    if data is not None:
        return _doctor_of_pictures(data, faces, models)
    from .doctor import examine

    findings = examine()
    for finding in findings:
        say(f"{finding.mark}  {finding.what:<22}  {finding.state}")
    return USER_MISTAKE if any(finding.mark == "✗" for finding in findings) else 0


def _doctor_of_pictures(folder: Path, pack: str | None, root: Path | None) -> int:
    """A line of numbers per picture with what to do about it; the exit status stays 0: advice is no error."""
    from .data.concepts import load_concept
    from .data.quality import advice_on_all, examine_pictures

    pictures = load_concept(folder, class_word="subject").pictures
    sides: list[float | None] | None = None
    if pack is not None:
        from .data.faces import load_faces, provider_line

        finder = load_faces(pack, root)
        say(f"·  {provider_line(pack, finder.provider, 'cpu')}")
        found = [finder(picture.pixels) for picture in pictures]
        sides = [faces[0].side if faces else None for faces in found]
    reports = examine_pictures(pictures, sides)
    for report in reports:
        mark = "·" if report.advice else "✓"
        face = "" if report.face is None else f"  {'face' if pack else 'mask'} {report.face:.0f} px"
        masked = "" if report.coverage is None else f"  marked {report.coverage:.0%}"
        size = f"{report.size[1]} x {report.size[0]}"
        say(f"{mark}  {report.name:<22}  {size}  sharpness {report.sharpness:.0f}{face}{masked}")
        for advice in report.advice:
            say(f"     {advice}")
    for advice in advice_on_all(reports):
        say(f"·  {advice}")
    return 0


@bench_app.command("miniature")
def bench_miniature(
    out: Annotated[Path | None, Option("--out", "-o", help="Write the card there as JSON.")] = None,
    people: Annotated[int, Option(min=2, max=100, help="Held-out people for the judges.")] = 50,
    drawn: Annotated[int, Option(min=1, help="Captions drawn to measure the U-Net.")] = 96,
    learnability: Annotated[
        bool, Option("--learnability", help="Learn ten people thrice with each baseline too; takes hours.")
    ] = False,
    sheets: Annotated[
        Path | None, Option(help="Draw the README's picture sheets into this folder instead.")
    ] = None,
    keep: Annotated[Path, Option(help="Folder of what was learned, to go on from.")] = Path(
        "likeness-miniature"
    ),
) -> int:
    """Compute the Miniature's card again from its weights: every network's score on held-out people."""
    from .bench import draw_sheets, measure_miniature

    if sheets is not None:
        draw_sheets(sheets, keep)
        return 0
    card = measure_miniature(people, drawn, learnability, keep)
    if out is not None:
        with write_atomically(out) as temporary:
            temporary.write_text(json.dumps(card, indent=1) + "\n")
    say(json.dumps(card, indent=1))
    return 0


@bench_app.command("speed")
def bench_speed(
    out: Annotated[Path, Option("--out", "-o", help="The JSON list to write.")] = Path("speed.json"),
    arch: Annotated[
        str, Option(help="miniature, or of real size with random weights: sd15, sd2 or sdxl.")
    ] = "miniature",
    method: Annotated[
        list[str] | None, Option(help="Only this method; may be repeated. By default all of them.")
    ] = None,
    steps: Annotated[int, Option(min=1, help="Steps that are timed, per phase.")] = 10,
    precision: Annotated[str, Option(help="fp32, bf16 or fp16.")] = "fp32",
    resolution: Annotated[int | None, Option(help="Pixels a side; by default the base's own.")] = None,
) -> int:
    """Time each method's step against the network passes it cannot avoid, and diffusers' plain loops."""
    check_room(out)
    from .evaluation.speed import measure_speed, timed_methods

    rows = measure_speed(arch, method or timed_methods(), steps, precision, resolution, note)
    with write_atomically(out) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n")
    say(str(out))
    return 0


@bench_app.command("claims")
def bench_claims(
    out: Annotated[
        Path, Option("--out", "-o", help="Folder for claims.json, report.html and all that it is made of.")
    ] = Path("likeness-claims"),
    method: Annotated[
        list[str] | None, Option(help="Only this experiment; may be repeated. By default all of them.")
    ] = None,
    people: Annotated[int, Option(min=0, help="How many held-out people; 0: 8, or 2 with --quick.")] = 0,
    seeds: Annotated[int, Option(min=1, help="Trainings per person and method.")] = 1,
    seed: Annotated[int, Option(min=0, help="Of the first training.")] = 0,
    quick: Annotated[
        bool, Option("--quick", help="Headline comparisons and fewer pictures, for 13 minutes at most.")
    ] = False,
    minutes: Annotated[float, Option(min=0, help="Begin nothing new after so long; 0: no limit.")] = 0,
    tuning: Annotated[
        bool, Option("--tuning", help="On the people that settings are chosen on; not for reporting.")
    ] = False,
) -> int:
    """Measure the papers' claims on people no network has seen; the same command goes on where it was."""
    check_room(out / "claims.json")
    from .bench import measure_claims

    rows = measure_claims(
        out, method or [], people, quick,
        seeds=seeds, first_seed=seed, minutes=minutes or None, tuning=tuning,
    )  # fmt: skip
    say(rows)
    note(f"look at {out / 'report.html'}")
    return 0


@bench_app.command("sweep")
def bench_sweep(
    method: Annotated[str, Argument(help="Whose settings to choose.")],
    values: Annotated[
        list[str],
        Option("--set", help="A setting and its values, such as rank=4,8; repeat for combinations."),
    ],
    out: Annotated[Path, Option("--out", "-o", help="Folder for sweep.json and report.html.")] = Path(
        "likeness-sweep"
    ),
    people: Annotated[int, Option(min=1, help="How many tuning people.")] = 3,
    seeds: Annotated[int, Option(min=1, help="Trainings per person and combination.")] = 1,
    quick: Annotated[bool, Option("--quick", help="One seed per test prompt instead of two.")] = False,
    minutes: Annotated[float, Option(min=0, help="Begin nothing new after so long; 0: no limit.")] = 0,
) -> int:
    """Try combinations of settings on the people that settings are chosen on, and record what they gave."""
    check_room(out / "sweep.json")
    from .bench import measure_sweep

    record = measure_sweep(out, method, values, quick, people=people, seeds=seeds, minutes=minutes or None)
    say(json.dumps(record, indent=1))
    return 0


@app.command()
def demo(
    method: Annotated[str, Option(help=f"One of {', '.join(METHODS)}.")] = "dreambooth-lora",
    seed: Annotated[int, Option(min=0, help="Which person, and everything random.")] = 0,
    out: Annotated[
        Path, Option("--out", "-o", help="Folder for the report, the sheet and the concept file.")
    ] = Path("likeness-demo"),
    rounds: Annotated[int, Option(min=1, help="Seeds per test prompt; more are more certain.")] = 2,
) -> int:
    """Learn a person nobody has seen from four pictures and draw them in new scenes; no download, no GPU."""
    from .config import one_of

    one_of("method", method, METHODS)
    check_room(out / "report.json")
    from .demo import run_demo

    observer = ConsoleObserver(f"learning ({method})")
    report = run_demo(method, seed, out, observer, rounds)
    say(json.dumps(report, indent=2))
    note(f"look at {out / 'sheet.png'}")
    return INTERRUPTED if observer.interrupt.pressed else 0


if __name__ == "__main__":
    sys.exit(main())
