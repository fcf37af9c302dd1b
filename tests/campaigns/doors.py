"""Every door for a file or text that anybody may have written: whole ones, how they change, who reads it."""

import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from likeness_portraits.engine.artifact import Artifact, Token, import_file, read_metadata
from likeness_portraits.engine.artifact.inert_pickle import read_checkpoint
from likeness_portraits.engine.bases.base import load_base
from likeness_portraits.engine.bases.clip_features import read_features
from likeness_portraits.engine.config import BaseSpec, Job
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.data.faces import load_faces
from likeness_portraits.engine.data.segmenters.face_parts import load as load_parser
from likeness_portraits.engine.identity.adapter import (
    MINIATURE_FILE,
    factors_of,
    id_adapter,
    import_released,
    is_released,
    read_adapter,
)
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.inference.refocus_options import focus_of
from likeness_portraits.engine.inference.restore_options import parse_restore_options
from likeness_portraits.engine.inference.restorers import read_weights
from likeness_portraits.engine.job_file import build_job, read_yaml, to_yaml, value_of
from likeness_portraits.engine.miniature import model as miniature
from likeness_portraits.engine.staged.embedding import import_reference, is_reference_mapper, staged_words
from likeness_portraits.engine.staged.mapper import Mapper
from likeness_portraits.engine.training.arcface import load_recogniser
from likeness_portraits.engine.training.checkpoint import Checkpoints
from likeness_portraits.engine.training.launch import _accelerator, _forget
from likeness_portraits.engine.training.observer import Silent
from likeness_portraits.engine.training.trainer import Trainer
from likeness_portraits.tests.campaigns.mutate import (
    damaged,
    lied,
    misspelt,
    other_object,
    other_program,
    other_tensors,
    retold,
)
from likeness_portraits.tests.engine.bases.test_base import save_folder
from likeness_portraits.tests.engine.data.packs_made import bright_detector_pack
from likeness_portraits.tests.engine.identity.test_id_adapter import released
from likeness_portraits.tests.engine.tiny import staged_person, tiny_base, tiny_job, write_person
from likeness_portraits.tests.engine.training.checkpoints_made import checkpoint_of
from likeness_portraits.tests.engine.training.test_arcface import exported, reference
from likeness_portraits.tests.engine.training.test_trainer import FIRST, SECOND, StopAt, Toy

Mutation = Callable[[random.Random], bytes]
TO_V = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"
TO_K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
Q_PROJ = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


class Held(NamedTuple):
    """What should lie at a door, and ways to change it; None: too large to keep one here."""

    whole: bytes | None
    mutations: tuple[Mutation, ...]


@dataclass(frozen=True)
class Door:
    """A file name that is taken, who reads it, and what lies there."""

    file: str
    read: Callable[[Path], Any]
    held: Held
    named: bool = True  # whether what is said must name the file
    share: float = 1.0  # of the number of mutations, where one costs much


# ---------------------------------------------------------------------------------- ways to change a file


def text(whole: str, *, plain: Any = None) -> Held:
    """A text's letters, its values and, where it is JSON of `plain`, what it says."""
    ways: list[Mutation] = [
        lambda rng: damaged(whole.encode(), rng),
        lambda rng: misspelt(whole, rng).encode("utf-8", "surrogatepass"),
        lambda rng: misspelt(whole, rng).encode("utf-8", "surrogatepass"),
    ]
    if plain is not None:
        ways[1:] = [lambda rng: as_json(lied(plain, rng))] * 2
    return Held(whole.encode(), tuple(ways))


def as_json(value: Any) -> bytes:
    try:
        return json.dumps(value).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):
        return b"[" * 100_000


def tensors(held: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Held:
    """A safetensors file's bytes, its header, its tensors."""
    plain = {key: tensor.contiguous() for key, tensor in held.items()}
    whole = save(plain, metadata)
    ways = (
        lambda rng: damaged(whole, rng),
        lambda rng: retold(whole, rng),
        lambda rng: retold(whole, rng),
        lambda rng: save(other_tensors(plain, rng), metadata),
    )
    return Held(whole, ways)


def artifact(held: Artifact) -> Held:
    return tensors(held.tensors, held.metadata())


def pickled(held: Any) -> Held:
    """A file of torch.save: its bytes, its program, what it holds."""
    whole = saved(held)
    ways = (
        lambda rng: damaged(whole, rng),
        lambda rng: other_program(whole, rng),
        lambda rng: saved(other_object(held, rng)),
        lambda rng: saved(other_object(held, rng)),
    )
    return Held(whole, ways)


def bare(whole: bytes) -> Held:
    """A file whose bytes alone are changed."""
    return Held(whole, (lambda rng: damaged(whole, rng),))


def saved(held: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(held, stream)
    return stream.getvalue()


# -------------------------------------------------------------------------------------------- whole files


def lora() -> dict[str, Tensor]:
    found = {}
    for module, out in ((TO_K, 320), (Q_PROJ, 768)):
        found |= {f"{module}.lora_down.weight": torch.ones(4, 768), f"{module}.alpha": torch.tensor(4.0),
                  f"{module}.lora_up.weight": torch.ones(out, 4)}  # fmt: skip
    return found


def diffusers_lora() -> dict[str, Tensor]:
    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    return {f"{module}.lora_A.weight": torch.ones(4, 768), f"{module}.lora_B.weight": torch.ones(320, 4)}


def numbered_lora() -> dict[str, Tensor]:
    found = {"<s1>": torch.ones(128)}
    for number in range(63):
        found |= {f"unet:{number}:down": torch.ones(2, 128), f"unet:{number}:up": torch.ones(128, 2)}
    return found


def learned() -> Artifact:
    """A LoRA and a word for the tiny base, so that it can be drawn with."""
    held = {f"{TO_V}.lora_down.weight": torch.ones(2, 32), f"{TO_V}.lora_up.weight": torch.ones(64, 2),
            f"{TO_V}.alpha": torch.tensor(2.0), "token.v0.clip_l": torch.ones(2, 32)}  # fmt: skip
    return Artifact(
        kind="lora", method="dreambooth-lora", tensors=held, seed=7, steps=1, base_family="sd1",
        tokens=(Token(token="<v0>", class_word="woman", vectors=2),), extra={"stages": [0, 500]},
        settings={"rank": 4, "templates": ["a photo of {}"]},
    )  # fmt: skip


def mapper() -> dict[str, Any]:
    network = Mapper(text_widths={"clip_l": 24}, image_width=6, anchors=10, hidden=8)
    told = {"model": {"target_norm": 0.5}, "data": {"super_category_token": "face"}}
    return {"state_dict": dict(network.state_dict()), "cfg": told, "encoder": {"w": torch.ones(1)}}


def job() -> Job:
    concepts = [{"folder": "ann"}, {"folder": "hat", "token": "<h>"}]
    return Job.from_json({"method": "magictailor", "concepts": concepts, "output": "me.safetensors",
                          "base": {"kind": "checkpoint", "path": "sd15.safetensors"}})  # fmt: skip


def neighbours(folder: Path) -> None:
    """What lies beside the files that are tried: pictures, the other half of a pair, a pack."""
    write_person(folder / "person")
    for name in ("images", "masks"):
        (folder / "person" / name).rename(folder / name)
    torch.save({"<new1>": torch.ones(24)}, folder / "learned_embeds.bin")
    torch.save(mapper(), folder / "mapper.pt")


# ------------------------------------------------------------------------------------------------ readers


def read_job(path: Path) -> None:
    told = read_yaml(path)
    method = told.get("method")
    build_job(method if isinstance(method, str) else "magictailor", told, {}, {})


def read_staged(path: Path) -> None:
    staged_words(Artifact.load(path)).at(500.0)


def read_mapper(path: Path) -> None:
    is_reference_mapper(path)
    staged_words(import_reference(path, path.with_name("learned_embeds.bin"))).at(500.0)


def read_base(path: Path) -> None:
    load_base(BaseSpec(kind="checkpoint", path=str(path), tokenizer=str(miniature.tokenizer_folder())))


def read_text(path: Path) -> None:
    """What people type behind options."""
    typed = " ".join(path.read_text("utf-8", "replace").splitlines())
    option, _, rest = typed.partition(" ")
    rest = rest[:300]  # what is typed is told again, and may be as long
    {"focus": focus_of, "wish": parse_restore_options, "factors": factors_of, "value": value_of}.get(
        option, focus_of
    )(rest)


def toy_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A checkpoint's tensors and metadata, of a run that was stopped in its second phase."""
    from safetensors import safe_open

    go_on(folder, StopAt(7), resume=False)
    with safe_open(folder / "me.checkpoint" / "state.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def go_on(folder: Path, observer: Any = None, resume: bool = True) -> None:
    """The run from the checkpoint in the folder to its end."""
    told = tiny_job("textual-inversion", folder, resume=resume)
    accelerator = _accelerator(told)
    try:
        Trainer(Toy(FIRST, SECOND), told, accelerator, observer or Silent(), Checkpoints(told, "p")).run()
    finally:
        _forget(accelerator)


# -------------------------------------------------------------------------------------------------- doors


def words(folder: Path) -> dict[str, Door]:
    described = {"class_word": "woman", "role": "subject", "token": "<v0>", "notes": "taken at home"}
    whole = job()
    options = (
        "focus <v0>=0,0,0.5,1;mode=soft;scope=word;strength=0.8;redraw=0.6;tries=3\n"
        "wish redraw;denoise=0.5;gate=reject;faces=auraface;side=128\n"
        "factors up_blocks.1=1.3, mid_block=0\nvalue [1, {a: 1e-4}]"
    )
    lines = options.splitlines()
    return {
        "job file": Door("job.yaml", read_job, text(to_yaml(whole)), named=False),
        "job as JSON": Door("job.json", lambda path: Job.from_json(path.read_text("utf-8", "replace")),
                            text(whole.to_json(), plain=whole.to_dict()), named=False),
        "concept.json": Door("concept.json", lambda path: load_concept(path.parent),
                             text(json.dumps(described, indent=1), plain=described), named=False),
        "typed options": Door("typed.txt", read_text, Held(lines[0].encode(), (
            lambda rng: damaged(rng.choice(lines).encode(), rng),
            lambda rng: misspelt(rng.choice(lines).replace("=", ":"), rng).replace(":", "=").encode(
                "utf-8", "surrogatepass"))), named=False),
    }  # fmt: skip


def concept_files(folder: Path) -> dict[str, Door]:
    base = tiny_base()

    def draw(path: Path) -> None:
        found = Artifact.load(path)
        read_metadata(path)
        generate(base, ["a photo of <v0>"], artifacts=[(found, 1.0)], steps=1)

    return {
        "concept file": Door("me.safetensors", draw, artifact(learned()), named=False),
        "staged embedding": Door("me.safetensors", read_staged, artifact(staged_person("<v0>", 32, "sd1")),
                                 named=False),
        "identity adapter": Door("me.safetensors", lambda path: id_adapter(read_adapter(path)),
                                 artifact(Artifact.load(MINIATURE_FILE)), named=False, share=0.3),
    }  # fmt: skip


def imports(folder: Path) -> dict[str, Door]:
    adapter = torch.load(released(folder), weights_only=True)
    a1111 = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 768)}, "name": "x"}
    both = {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}
    return {
        "kohya LoRA": Door("lora.safetensors", import_file, tensors(lora())),
        "diffusers LoRA": Door("lora.safetensors", import_file, tensors(diffusers_lora())),
        "numbered LoRA": Door("lora.safetensors", import_file, tensors(numbered_lora())),
        "embedding": Door("v.safetensors", import_file, tensors({"emb_params": torch.ones(3, 768)})),
        "SDXL embedding": Door("v.safetensors", import_file, tensors(both)),
        "A1111 embedding": Door("v.pt", import_file, pickled(a1111)),
        "diffusers embedding": Door("learned.bin", import_file, pickled({"<cat>": torch.ones(768)})),
        "mapper": Door("mapper.pt", read_mapper, pickled(mapper()), named=False),
        "mapper's words": Door(
            "learned_embeds.bin", lambda path: import_reference(path.with_name("mapper.pt"), path),
            pickled({f"<new{number}>": torch.ones(24) for number in range(1, 5)}), named=False),
        "released adapter": Door("adapter.pt", lambda path: (is_released(path), import_released(path)),
                                 pickled(adapter), share=0.5),
    }  # fmt: skip


def models(folder: Path) -> dict[str, Door]:
    base = checkpoint_of(tiny_base(heads=8, text_heads=1))
    network = reference((1, 1, 1, 1))
    onnx = exported(network, folder / "whole.onnx", folded=True).read_bytes()
    pack = bright_detector_pack(folder / "pack") / "models" / "auraface"
    detector, other = (next(pack.glob(kind)) for kind in ("scrfd*", "glintr*"))
    found = detector.read_bytes()

    def find(path: Path) -> None:
        (path.parent / other.name).write_bytes(other.read_bytes())
        load_faces("auraface", path.parents[2])(np.full((96, 96, 3), 200, np.uint8))

    return {
        "restorer": Door("restorer.pth", read_weights, pickled(
            {"params_ema": {"conv.weight": torch.ones(2, 2)}, "epoch": 3})),
        "checkpoint of any age": Door("old.ckpt", read_checkpoint, pickled(
            {"state_dict": {"a": torch.ones(2)}, "callbacks": {"x": [1, 2]}})),
        "features": Door("features.safetensors", lambda path: read_features(path, 4),
                         tensors({"image_embeds": torch.ones(4, 8)})),
        "base checkpoint": Door("base.safetensors", read_base, tensors(base), share=0.15),
        "old base checkpoint": Door("base.ckpt", read_base, pickled({"state_dict": base, "epoch": 1}),
                                    share=0.15),
        "recogniser": Door("faces.pt", load_recogniser, pickled(dict(network.state_dict())), share=0.3),
        "exported recogniser": Door("faces.onnx", load_recogniser, bare(onnx),
                                    share=0.3),
        "face detector": Door(f"models/auraface/{detector.name}", find, bare(found),
                              named=False, share=0.3),
        "face parser": Door("79999_iter.pth", lambda path: load_parser(path.parent), pickled(
            {"cp.conv": torch.ones(2, 2), "ffm": torch.ones(3)})._replace(whole=None)),
    }  # fmt: skip


def folders(folder: Path) -> dict[str, Door]:
    """A diffusers folder: each of its parts' descriptions in turn, beside the others as they should be."""

    def read(path: Path) -> None:
        load_base(BaseSpec.parse(str(path.parents[1])))

    found, base = {}, tiny_base()
    for part in ("unet", "vae", "text_encoder", "scheduler", "tokenizer"):
        name = f"diffusers folder's {part}"
        whole = save_folder(base, folder / name.replace(" ", "-").replace("'", "") / "model")
        file = f"{part}_config.json" if part in ("scheduler", "tokenizer") else "config.json"
        told = (whole / part / file).read_text("utf-8")
        held = text(told, plain=json.loads(told))
        found[name] = Door(f"model/{part}/{file}", read, held, named=False, share=0.15)
    return found


def checkpoints(folder: Path) -> dict[str, Door]:
    held, told = toy_checkpoint(folder / "whole")

    def read(path: Path) -> None:
        go_on(path.parents[1])

    return {"checkpoint": Door("run/me.checkpoint/state.safetensors", read, tensors(held, told), named=False)}


GROUPS: dict[str, Callable[[Path], dict[str, Door]]] = {
    "words": words, "concept files": concept_files, "imports": imports, "models": models, "folders": folders,
    "checkpoints": checkpoints,
}  # fmt: skip
