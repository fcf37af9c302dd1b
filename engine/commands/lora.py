"""`likeness lora`: what can be done to finished LoRAs without learning."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..console import note, say
from ..errors import LikenessError
from ..files import check_name
from .apps import lora_app

if TYPE_CHECKING:
    from torch import Tensor

    from ..artifact import Artifact

_OUTPUT = Annotated[Path, Option("--output", "-o", help="The file to write; ends in .safetensors.")]
_RANK = Annotated[int, Option(min=1, max=1024, help="Ranks to keep of each layer.")]
_ENERGY = Annotated[
    float | None,
    Option(min=0.0, max=1.0, help="Fewer where so much of a layer's energy is enough, such as 0.99."),
]
_OVERWRITE = Annotated[bool, Option("--overwrite", help="Replace an output that is there.")]


@lora_app.command("merge")
def merge_files(
    files: Annotated[list[Path], Argument(metavar="FILE...", help="LoRAs of any tool, or concept files.")],
    output: _OUTPUT,
    strength: Annotated[
        list[float] | None, Option(help="Of each file, in their order; repeat per file. By default 1.")
    ] = None,
    rank: _RANK = 64,
    energy: _ENERGY = None,
    overwrite: _OVERWRITE = False,
) -> None:
    """Make one LoRA that does what several do together; words of concept files come too."""
    from ..artifact import import_file
    from ..artifact.lora_tools import Rank, merged_loras

    strengths = strength or [1.0] * len(files)
    if len(strengths) != len(files):
        raise LikenessError(
            f"--strength is given {len(strengths)} times for {len(files)} files; once per file"
        )
    _check_output(output, overwrite)
    read = [import_file(file) for file in files]
    families = {artifact.base_family for artifact in read}
    if len(families) != 1:
        raise LikenessError(f"these files are for different bases ({', '.join(sorted(families))})")
    loras = [(_lora_of(artifact, file), factor) for artifact, file, factor in zip(read, files, strengths)]
    tensors = merged_loras(loras, Rank(rank, energy), _peft(read[0]))
    tokens = {token.token: token for artifact in read for token in artifact.tokens}
    if len(tokens) < sum(len(artifact.tokens) for artifact in read):
        raise LikenessError(
            "two of the files have the same placeholder; merge their LoRAs after --token renames"
        )
    rows = {
        key: row for artifact in read for key, row in artifact.tensors.items() if key.startswith("token.")
    }
    for artifact, file in zip(read, files):
        if artifact.tables():
            raise LikenessError(
                f"{file} learned a whole table of words, which cannot be merged; merge files that learned "
                "placeholders alone"
            )
        _note_ranks(artifact, file)
    whole = replace(read[0], method="merged", tensors={**tensors, **rows}, tokens=tuple(tokens.values()),
                    settings={}, steps=0, digest="", extra={}, about={}, thumbnail=b"")  # fmt: skip
    say(str(whole.save(output)))


@lora_app.command("resize")
def resize_file(
    file: Annotated[Path, Argument(help="A LoRA of any tool, or a concept file.")],
    output: _OUTPUT,
    rank: _RANK = 16,
    energy: _ENERGY = None,
    overwrite: _OVERWRITE = False,
) -> None:
    """Write the nearest LoRA of another rank, by the singular values of its updates."""
    from ..artifact import import_file
    from ..artifact.lora_tools import Rank, resized

    _check_output(output, overwrite)
    artifact = import_file(file)
    lora = _lora_of(artifact, file)
    _note_ranks(artifact, file)
    smaller = resized(lora, Rank(rank, energy), _peft(artifact))
    rest = {key: tensor for key, tensor in artifact.tensors.items() if key not in lora}
    say(str(replace(artifact, tensors={**rest, **smaller}, extra={}).save(output)))


@lora_app.command("extract")
def extract_difference(
    base: Annotated[
        str, Argument(help="The model before: miniature, miniature-2, a checkpoint or a diffusers folder.")
    ],
    tuned: Annotated[str, Argument(help="The model after.")],
    output: _OUTPUT,
    rank: _RANK = 32,
    energy: _ENERGY = None,
    overwrite: _OVERWRITE = False,
) -> None:
    """Write the difference of two models as a LoRA for the first."""
    from ..artifact import Artifact
    from ..artifact.lora_tools import Rank, difference
    from ..bases.base import load_base
    from ..config import BaseSpec

    _check_output(output, overwrite)
    first, second = (load_base(BaseSpec.parse(text)) for text in (base, tuned))
    if first.family != second.family:
        raise LikenessError(
            f"{base} is {first.traits.name} and {tuned} is {second.traits.name}; give two of one family"
        )
    lora = difference(_weights(first), _weights(second), Rank(rank, energy), first.traits.peft_names)
    artifact = Artifact(
        kind="lora", method="extracted", tensors=lora, base_family=first.family,
        base_fingerprint=first.fingerprint,
    )  # fmt: skip
    say(str(artifact.save(output)))


@lora_app.command("norms")
def norms(
    file: Annotated[Path, Argument(help="A LoRA of any tool, or a concept file.")],
    as_json: Annotated[bool, Option("--json", help="For machines.")] = False,
) -> None:
    """Say how strong a LoRA is in each block of the network."""
    from ..artifact import import_file
    from ..artifact.lora_tools import norms_by_block

    blocks = norms_by_block(_lora_of(import_file(file), file))
    if as_json:
        say(json.dumps([asdict(block) for block in blocks], indent=2))
        return
    width = max(len(block.block) for block in blocks)
    say(f"{'block':{width}}  layers   norm  largest  rank")
    for one in blocks:
        say(f"{one.block:{width}}  {one.layers:6}  {one.norm:5.3g}  {one.largest:7.3g}  {one.rank:4}")


def _check_output(output: Path, overwrite: bool) -> None:
    if output.suffix != ".safetensors":
        raise LikenessError(f"the output {output} must end in .safetensors; rename it")
    check_name(output.stem)
    if output.exists() and not overwrite:
        raise LikenessError(f"{output} is there already; give --overwrite to replace it, or another --output")


def _note_ranks(artifact: "Artifact", file: Path) -> None:
    """Says what of T-LoRA no file of singular values has."""
    from ..artifact.lora import RANK_BY_NOISE

    if RANK_BY_NOISE in artifact.extra:
        note(f"{file} has fewer ranks where there is more noise; in what is written all count at all noise")


def _lora_of(artifact: "Artifact", file: Path) -> "Mapping[str, Tensor]":
    lora = artifact.lora()
    if not lora:
        raise LikenessError(f"{file} holds no LoRA; give one")
    return lora


def _peft(artifact: "Artifact") -> bool:
    from ..bases.families import FAMILIES

    return FAMILIES[artifact.base_family].peft_names


def _weights(base: Any) -> "dict[str, Tensor]":
    """Weights of the layers that a LoRA can change, each by the first of its names."""
    from ..artifact.lora import adaptable_in

    seen: set[int] = set()
    weights = {}
    for name, module in adaptable_in(base.network, base.text_encoders, base.traits.peft_names).items():
        weight: Any = module.weight
        if id(module) not in seen and weight.ndim > 1:
            seen.add(id(module))
            weights[name] = weight.detach()
    return weights
