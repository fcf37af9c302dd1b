"""Jobs as people write them: YAML files, command-line options and the method's own settings, put together."""

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from .config import (
    LR_SCHEDULES,
    METHODS,
    BaseSpec,
    ConceptSpec,
    Job,
    from_yaml,
    presets_of,
    read,
    settings_for,
)
from .data.concepts import Concept, assets_in, load_concept, usable_side
from .errors import LikenessError
from .files import check_room, read_text, reading

# what settings mean that many methods have, where a method's own comment does not say
COMMON_HELP = {
    "schedule": f"how the learning rate goes: {', '.join(LR_SCHEDULES)}",
    "warmup_steps": "steps over which the learning rate rises from 0 to its full height",
    "max_grad_norm": "gradients longer than this are shortened to it; null: as they come",
    "weight_decay": "how far each step pulls weights towards 0, as a share of the learning rate",
    "templates": "training prompts; {} becomes the placeholder",
    "prior_templates": "prompts of the pictures of the class; {} becomes the class word",
}
_ALIKE = {"miniature-2": "miniature"}  # presets of which only what differs from another is told
PUBLISHED = {"paper", "reference"}  # presets that repeat what others did
AS_PUBLISHED, ADVANCED = "As in the paper", "Advanced"  # moved by these alone; moved by no preset
JOB_PARTS = ("vae", "clip", "tokenizer", "prediction")  # what of a base may be said beside it


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A config file's mapping."""
    with reading(path, "is not valid YAML; mend it there"):
        content = from_yaml(read_text(path), path)
    if not isinstance(content, Mapping):
        raise LikenessError(f"{path} holds no settings; write lines such as 'output: me.safetensors'")
    return dict(content)


def to_yaml(job: Job) -> str:
    """The whole job as YAML that `--config` reads back."""
    return yaml.safe_dump(job.to_dict(), sort_keys=False, allow_unicode=True)


def value_of(text: str) -> Any:
    """What a value typed on the command line means: 300, 1e-4, true, null, [a, b] or plain text."""
    try:
        return from_yaml(text, "it")
    except LikenessError:
        return text


def build_job(
    method: str,
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    preset: str | None = None,
) -> Job:
    """The job that results when options go before the config file, which goes before the preset."""
    asked = {name: value for name, value in options.items() if name != "shards_from_web"}
    plain = {**config, **asked}
    if "resolution" in asked:
        plain.pop("resolutions", None)  # of the config file: what is typed is all there is
    configured = plain.get("settings")
    configured = {} if configured is None else configured
    if not isinstance(configured, Mapping):
        raise LikenessError("'settings' in the config file must be a mapping, such as {steps: 300}")
    named = plain.setdefault("method", method)
    if named != method:
        raise LikenessError(
            f"the config file is for '{named}'; run `likeness train {named}` or change its method"
        )
    plain["base"] = _base(plain.get("base"), {name: plain.pop(name, None) for name in JOB_PARTS})
    if plain["base"] is None:
        del plain["base"]
    captions = plain.pop("captions", None)
    plain["concepts"] = _concepts(plain.get("concepts"))
    if captions is not None:  # of all concepts
        plain["concepts"] = [{**concept, "captions": captions} for concept in plain["concepts"]]
    if not plain["concepts"] and not {**configured, **settings}.get("shards"):
        raise LikenessError("nothing to learn from; give a folder that holds the pictures")
    if not plain.get("output"):
        raise LikenessError("no place to write to; give --output NAME.safetensors")
    start = _starting_point(method, plain.get("base"), preset)
    plain["settings"] = {**start, **configured, **settings}
    return Job.from_json(plain, shards_from_web=bool(options.get("shards_from_web")))


def _base(named: object, parts: Mapping[str, Any]) -> object:
    """The base as a mapping, with the parts that were typed beside it in place of its own."""
    typed = {name: value for name, value in parts.items() if value is not None}
    if named is None and typed:
        named = "miniature"
    if isinstance(named, str):
        return vars(BaseSpec.parse(named, **typed))
    return {**named, **typed} if isinstance(named, Mapping) else named


def concepts_of(
    folders: Sequence[str],
    tokens: Sequence[str],
    class_words: Sequence[str],
    roles: Sequence[str],
    several: bool = False,
    regularisation: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Concepts typed on the command line: the n-th token, class word and role belong to the n-th folder.

    A single folder that is to be read as several concepts (`data.concepts`) counts as so many folders here.
    """
    if several and len(folders) != 1:
        raise LikenessError(
            f"--several is for one folder that holds several concepts; {len(folders)} are given"
        )
    assets = assets_in(folders[0], several) if len(folders) == 1 else []
    folders = list(folders) * len(assets) if assets else folders
    beside = ("--regularisation", regularisation)
    for option, values in (("--token", tokens), ("--class-word", class_words), ("--role", roles), beside):
        if len(values) > len(folders):
            raise LikenessError(
                f"{option} is given {len(values)} times for {len(folders)} folders; once per folder"
            )
    concepts: list[dict[str, Any]] = []
    for number, folder in enumerate(folders):
        concept: dict[str, Any] = {"folder": folder, "token": f"<v{number}>"}
        if assets:
            concept["asset"] = assets[number]
        stated = ("token", tokens), ("class_word", class_words), ("role", roles)
        for key, values in (*stated, ("regularisation", regularisation)):
            if number < len(values):
                concept[key] = values[number]
        concepts.append(concept)
    return concepts


def check_job(job: Job) -> list[Concept]:
    """The job's concepts, read once; raises early, before anything heavy is loaded, where pictures or places
    are not what they should be.
    """
    concepts = [load_concept(concept, shorter=usable_side(job)) for concept in job.concepts]
    here = job.base.kind != "hub"
    if here and job.base.path is not None and not Path(os.path.expanduser(job.base.path)).exists():
        raise LikenessError(
            f"{job.base.path} does not exist; give a checkpoint, a diffusers folder or 'miniature'"
        )
    check_output(job)
    return concepts


def check_output(job: Job) -> None:
    """Raises where the output cannot be written, or would take the place of something finished in silence."""
    check_room(job.output)
    kept = (job.checkpoints / "state.safetensors").exists()
    there = Path(job.output).exists()
    if job.overwrite or (job.resume and (kept or not there)):
        return
    if job.resume:
        raise LikenessError(
            f"{job.checkpoints} holds no checkpoint to go on from, and {job.output} is there already; give "
            "--overwrite to learn it again, or another --output"
        )
    what = f"{job.output} is there already" if there else f"{job.checkpoints} holds a run that was broken off"
    further = "--resume to go on with it, " if kept else ""
    if there or kept:
        raise LikenessError(f"{what}; give {further}--overwrite to replace it, or another --output")


def setting_help(kind: type) -> dict[str, str]:
    """What each setting means, from the comments beside the fields of its class and those it comes from."""
    texts: dict[str, str] = {}
    for source in map(inspect.getsource, kind.__mro__[-2::-1]):  # the class's own word goes before its base's
        texts |= re.findall(r"^    (\w+):[^#\n]*#\s*(.+)$", source, re.MULTILINE)
    names = [entry.name for entry in fields(kind)]
    texts = {name: text.replace("None", "none") for name, text in (COMMON_HELP | texts).items()}  # as in YAML
    return {name: texts[name][0].upper() + texts[name][1:] for name in names if name in texts}


def setting_defaults(method: str) -> dict[str, str]:
    """What each setting is unless somebody says otherwise, and what other presets have in its place; the
    second Miniature's, where it is not the first one's."""
    presets = presets_of(method)
    usual = presets.pop("default")
    in_words = {}
    for entry in fields(usual):
        value = getattr(usual, entry.name)
        others = {name: getattr(preset, entry.name) for name, preset in presets.items()}
        differing = [f"{name} {_shown(other)}" for name, other in others.items()
                     if other != others.get(_ALIKE.get(name, ""), value)]  # fmt: skip
        in_words[entry.name] = "; ".join([_shown(value), *differing])
    return in_words


def setting_groups(method: str) -> dict[str, str]:
    """Under which heading of help each setting stands, by the presets that move it from its default; the
    method's own come first. What may name a file stands with the data."""
    presets = presets_of(method)
    usual = presets.pop("default")
    groups: dict[str, str] = {}
    for entry in fields(usual):
        value = getattr(usual, entry.name)
        moving = {name for name, preset in presets.items() if getattr(preset, entry.name) != value}
        if moving:
            groups[entry.name] = f"Settings of {method}" if moving - PUBLISHED else AS_PUBLISHED
        else:
            groups[entry.name] = "Data" if entry.type == str | None else ADVANCED
    order = [f"Settings of {method}", AS_PUBLISHED, ADVANCED]
    return dict(sorted(groups.items(), key=lambda group: order.index(group[1]) if group[1] in order else -1))


def _shown(value: Any) -> str:
    """A setting's value in a word or two."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        short = len(value) < 2 or not isinstance(value[0], str)
        return ", ".join(map(_shown, value)) if short else f"{len(value)} texts"
    text = str(value)
    return f"'{text}'" if " " in text or not text else text


def _starting_point(method: str, base: object, preset: str | None) -> dict[str, Any]:
    if preset is not None:
        return vars(METHODS[method].preset(preset))
    spec = read(BaseSpec, base, "base") if isinstance(base, Mapping) else None
    return vars(settings_for(method, spec))


def _concepts(listed: object) -> list[dict[str, Any]]:
    """Concepts as mappings; a bare folder's name is one too."""
    if listed is None:
        return []
    if not isinstance(listed, (list, tuple)):
        raise LikenessError("'concepts' must be a list of folders or of mappings with 'folder'")
    plain = []
    for number, entry in enumerate(listed):
        if isinstance(entry, ConceptSpec):
            entry = vars(entry)
        elif isinstance(entry, str):
            entry = {"folder": entry, "token": f"<v{number}>"}
        plain.append(entry)
    return plain
