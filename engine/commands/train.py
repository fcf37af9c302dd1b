"""`likeness train METHOD`: a command for each method, with its settings as options."""

import inspect
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..config import METHODS, OPTIMIZERS, PRESETS, TIMESTEP_SAMPLING, Job, Recipe
from ..console import ConsoleObserver, note, save_picture, say
from ..errors import LikenessError
from .apps import ELSEWHERE, INTERRUPTED, train_app
from .base_parts import CLIP, PREDICTION, TOKENIZER, VAE_OPTION
from .options import in_panel, plain_type

if TYPE_CHECKING:
    from ..identity.conditioning import IdentityConditioning


def _train(method: str, preset: str | None, config: Path | None, print_config: bool, **options: Any) -> int:
    from .. import job_file

    names = {field.name for field in fields(METHODS[method])}
    look_every = options.pop("stop_by_likeness", None) or 0
    buckets = options.pop("buckets", None)
    # by identity: 0 equals False, and a typed 0 goes before the file's number too
    typed = {name: value for name, value in options.items()
             if value is not None and value is not False and value != []}  # fmt: skip
    typed |= {} if buckets is None else {"buckets": buckets}
    if prompts := typed.pop("preview_prompt", None):
        typed["preview_prompt"] = "\n".join(prompts)
    settings = {name: job_file.value_of(typed.pop(name)) for name in names & typed.keys()}
    configured = job_file.read_yaml(config) if config is not None else {}
    concepts = job_file.concepts_of(
        typed.pop("folders", []), typed.pop("token", []), typed.pop("class_word", []), typed.pop("role", []),
        typed.pop("several", False), typed.pop("regularisation", []),
    )  # fmt: skip
    if concepts:
        typed["concepts"] = concepts
    job = job_file.build_job(method, configured, typed, settings, preset)
    if print_config:
        say(job_file.to_yaml(job).rstrip())
        return 0
    return _run(job, job_file.check_job(job), look_every)


def _run(job: Any, concepts: list[Any], look_every: int = 0) -> int:
    from ..training.launch import train
    from ..training.logs import Recorded

    people = _people_on(job)
    output = Path(job.output)
    if job.resume and not (job.checkpoints / "state.safetensors").exists():
        note(f"there is no checkpoint in {job.checkpoints}; beginning at the first step")
    observer = ConsoleObserver(f"learning ({job.method})", output.with_suffix(".previews"))
    curve = output.with_suffix(".likeness.png")
    recorded = Recorded(observer, job)
    first = concepts[0] if concepts else None
    critic = _critic(job, first, look_every, curve, recorded.record) if look_every else None
    del first
    read = iter(concepts)
    del concepts  # `train` takes them over, and keeps no more of them than it needs
    with observer.watching(), closing(recorded):
        path = train(job, recorded, critic=critic, people=people, concepts=read)
    say(str(path))
    if critic is not None and critic.looks and not observer.interrupt.pressed:
        note(f"kept is step {critic.best.step}; {critic.ending}")
    if observer.interrupt.pressed:
        steps = observer.last.step if observer.last else 0
        note(f"stopped after {steps} steps; what was learned is in {path}, and --resume goes on from there")
        return INTERRUPTED
    return 0 if path == output else ELSEWHERE


def _people_on(job: Any) -> "list[IdentityConditioning]":
    """Whom the identity adapters among the job's hosts show meanwhile."""
    from ..training.host import shows_people

    texts = [text for text in job.on if shows_people(text)]
    if not texts:
        return []
    from ..identity.pictures import people_on

    return people_on(texts, [concept.folder for concept in job.concepts])


def _critic(job: Any, concept: Any, every: int, curve: Path, record: Callable[[int, Any], None]) -> Any:
    """Who looks at the likeness meanwhile: each look is a line, and a point in the curve's picture."""
    from ..evaluation.loss_plot import plot_losses
    from ..evaluation.stopping import critic_for, curves, look_in_words, scores_of

    def show(looks: Sequence[Any]) -> None:
        record(looks[-1].step, scores_of(looks[-1]))
        note(look_in_words(looks))
        try:
            save_picture(curve, plot_losses(curves(looks)))
        except LikenessError as error:  # a full disk: what is learned is worth more than its curve
            note(f"{error}; learning goes on without the curve")

    return critic_for(job, every, concept=concept, on_look=show)


# the run's options, by what they are about
_COMMON: dict[str, dict[str, Any]] = {
    "Data": {
        "folders": Annotated[
            list[str] | None, Argument(metavar="FOLDER...", help="Folders with pictures, one per concept.")
        ],
        "token": Annotated[
            list[str] | None, Option(help="Placeholder for prompts, such as <v0>; repeat per folder.")
        ],
        "class_word": Annotated[
            list[str] | None, Option(help="What the pictures show: woman, dog …; repeat per folder.")
        ],
        "role": Annotated[list[str] | None, Option(help="subject, style or component; repeat per folder.")],
        "several": Annotated[
            bool,
            Option(
                "--several", help="Read one folder of files named 0_person_a.jpg, 1_hair_a.jpg as several."
            ),
        ],
        "regularisation": Annotated[
            list[str] | None,
            Option(
                metavar="FOLDER",
                help="Pictures of others of the class, to learn beside, for drawn ones; repeat per folder.",
            ),
        ],
        "resolution": Annotated[
            str | None,
            Option(
                metavar="PIXELS",
                help="Pixels a side; by default the base's own. 512,768: each picture at both.",
            ),
        ],
        "buckets": Annotated[
            bool | None,
            Option(
                "--buckets/--no-buckets",
                help="Let pictures keep their proportions, or crop squares; by default on real bases.",
            ),
        ],
        "mirror": Annotated[
            bool, Option("--mirror", help="Learn each picture mirrored too; not for faces, which are uneven.")
        ],
        "cache": Annotated[str | None, Option(help="Folder for pictures of the class, to use them again.")],
        "cache_on_disk": Annotated[
            bool,
            Option("--cache-on-disk", help="Keep latents and text states there too, or beside the output."),
        ],
    },
    "Learning": {
        "optimizer": Annotated[
            str | None,
            Option(
                help=f"{', '.join(OPTIMIZERS)}; beyond adamw and adafactor: pip install "
                r"'likeness-portraits\[optimizers]'."  # brackets alone are Rich's markup
            ),
        ],
        "ema": Annotated[
            float | None, Option(help="Keep a moving average of what is learned, with this decay: 0.99.")
        ],
        "huber": Annotated[
            float | None, Option(help="Errors beyond this count linearly, such as 0.1; plain losses only.")
        ],
        "debiased": Annotated[
            bool,
            Option(
                "--debiased",
                help="Errors weigh 1/sqrt(SNR), with --min-snr-gamma null; bases that predict noise, plain "
                "losses only.",
            ),
        ],
        "noise_offset": Annotated[
            float | None, Option(help="Noise of each channel as a whole, such as 0.05; plain losses only.")
        ],
        "least_noise": Annotated[
            float | None, Option(help="Learn at times from here on: 0 is the picture, 1 noise.")
        ],
        "most_noise": Annotated[float | None, Option(help="Learn at times up to here.")],
        "timestep_sampling": Annotated[
            str | None,
            Option(help=f"{', '.join(TIMESTEP_SAMPLING)}; flows (FLUX.2), plain losses only."),
        ],
        "cycles": Annotated[
            int | None, Option(help="Times that --schedule cosine_with_restarts falls to 0.")
        ],
    },
    "Captions": {
        "captions": Annotated[
            str | None,
            Option(
                help="files: .txt, .caption and .jsonl beside the pictures, where there are some; pictures: "
                "also what the pictures' own files say; trigger: the placeholder alone; none: templates.",
                show_default="files",
            ),
        ],
        "caption_shuffle": Annotated[
            bool,
            Option("--caption-shuffle", help="A caption's parts between commas in another order each time."),
        ],
        "caption_keep": Annotated[
            int | None, Option(help="Parts at its beginning that stay in place when shuffled.")
        ],
        "caption_dropout": Annotated[
            float | None, Option(help="Share of the prompts that are left empty, such as 0.1.")
        ],
    },
    "Base": {
        "base": Annotated[
            str | None, Option(help="miniature, miniature-2, a checkpoint or a diffusers folder.")
        ],
        "vae": VAE_OPTION,
        "clip": CLIP,
        "tokenizer": TOKENIZER,
        "prediction": PREDICTION,
        "on": Annotated[
            list[str] | None,
            Option(
                metavar="HOST",
                help="What stays applied meanwhile; repeat for more. The file of a LoRA; or an identity "
                "adapter, miniature or a file, =PICTURE,PICTURE of the person (by default the first ones "
                "learned from), :WEIGHT if not 1, then ;image_encoder=FOLDER;faces=auraface;start=0.1 …",
            ),
        ],
        "precision": Annotated[str | None, Option(help="fp32, bf16 or fp16.")],
        "device": Annotated[str | None, Option(help="auto or cpu.")],
        "channels_last": Annotated[
            bool, Option("--channels-last", help="The weights' order that some GPUs convolve fastest in.")
        ],
        "compile": Annotated[
            str | None,
            Option(
                metavar="BACKEND", help="Compile the U-Net, such as with inductor: slow start, fast steps."
            ),
        ],
    },
    "Run": {
        "output": Annotated[
            str | None, Option("--output", "-o", help="Where to write; ends in .safetensors.")
        ],
        "preset": Annotated[
            str | None,
            Option(help="Where all settings start: " + ", ".join(PRESETS) + "; not every method has all."),
        ],
        "config": Annotated[
            Path | None, Option("--config", "-c", help="YAML file; options typed here go before it.")
        ],
        "print_config": Annotated[
            bool, Option("--print-config", help="Print the whole job as YAML and exit.")
        ],
        "seed": Annotated[int | None, Option(help="Of everything random.")],
        "checkpoint_every": Annotated[int | None, Option(help="Steps between checkpoints.")],
        "checkpoint_minutes": Annotated[
            float | None, Option(help="Minutes between checkpoints; 0: only after a stop.")
        ],
        "resume": Annotated[bool, Option("--resume", help="Go on from the checkpoint beside the output.")],
        "overwrite": Annotated[
            bool, Option("--overwrite", help="Replace an output that is there, and what a run left there.")
        ],
    },
    "Watch": {
        "preview_every": Annotated[int | None, Option(help="Steps between preview pictures.")],
        "preview_prompt": Annotated[
            list[str] | None, Option(help="What previews show; repeat for a sheet of several.")
        ],
        "log": Annotated[
            list[str] | None,
            Option(help="tensorboard or wandb too, beside the CSV file; repeat for both."),
        ],
        "hold_out": Annotated[
            int | None,
            Option(
                help="Pictures that are not learned from: --stop-by-likeness judges by them, says how "
                "near to copies of the others it comes; they have a validation loss."
            ),
        ],
        "stop_by_likeness": Annotated[
            int | None,
            Option(
                min=1,
                help="Look at the likeness every so many steps, end when it stands still, keep the best.",
            ),
        ],
    },
}


def _train_command(method: str) -> Callable[..., int]:
    """A command whose options are the run's and the method's settings, explained by their own comments."""
    from ..job_file import setting_defaults, setting_groups, setting_help

    def command(**options: Any) -> int:
        return _train(method, **options)

    kinds = {
        name: in_panel(kind, panel, None if name == "folders" else _default_of(name))
        for panel, entries in _COMMON.items()
        for name, kind in entries.items()
    }
    help_texts, usual = setting_help(METHODS[method]), setting_defaults(method)
    types = {field.name: field.type for field in fields(METHODS[method])}
    for name, panel in setting_groups(method).items():
        option = Option(
            f"--{name.replace('_', '-')}",
            help=help_texts.get(name, ""),
            rich_help_panel=panel,
            metavar=plain_type(types[name]),
            show_default=usual[name],
        )
        kinds[name] = Annotated[str | None, option]
    if "shards" in kinds:
        kinds["shards_from_web"] = Annotated[
            bool,
            Option(
                "--shards-from-web", help="Let --shards and --validation be addresses (https: …).",
                rich_help_panel="Data",
            ),
        ]  # fmt: skip
    flags = {
        "several",
        "resume",
        "overwrite",
        "print_config",
        "mirror",
        "channels_last",
        "shards_from_web",
        "caption_shuffle",
        "debiased",
    }
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
    command.__doc__ = (
        f"{_about(method)} In brackets stand the settings of the preset default, and of others where they "
        "differ; without --base all is learned on the Miniature, from its own preset."
    )
    return command


def _about(method: str) -> str:
    """What a method does, in one line."""
    return " ".join((METHODS[method].__doc__ or "").split())


def _short(method: str) -> str:
    """The same without years and fitting bases, in the list of all methods."""
    return re.sub(r" \(.*?\)", "", _about(method)).split(";")[0].rstrip(".") + "."


def _default_of(name: str) -> str | None:
    """What a job has where an option is not typed."""
    defaults = {entry.name: entry.default for kind in (Recipe, Job) for entry in fields(kind)}
    value = defaults.get(name)
    return f"{value:g}" if type(value) in (int, float) else value if isinstance(value, str) else None


for _method in METHODS:
    train_app.command(_method, short_help=_short(_method))(_train_command(_method))
_LORA = "dreambooth-lora"
train_app.command("lora", short_help=f"The same as {_LORA}, under the name that people know.")(
    _train_command(_LORA)
)
