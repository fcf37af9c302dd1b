"""Lists of pictures, as core's folder loaders and other packs give them: one subject, not one each."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.tests.comfy.graphs import node
from likeness_portraits.tests.comfy.hosts import Server

pytestmark = pytest.mark.comfy

SIZES = ((128, 128), (160, 128), (128, 192))  # width, height
PERSON = {"base": node("LikenessMiniature", person=0, pictures=4)}


def trainings(server: Server) -> int:
    """How many trainings the server began so far, by its log."""
    return server.log.read_text("utf-8", "replace").count("learning: step 1 of")


def learned(server: Server, concept: dict[str, Any], name: str, **more: Any) -> tuple[int, list[Path]]:
    """Learns a concept for one step and saves it: how many trainings there were, and the files."""
    before = trainings(server)
    training = {
        "preset": "miniature", "steps": 1, "learning_rate": 0.0, "vectors": 1, "seed": 0,
        "masked": "as the preset says", "preview_every": 0, "preview_prompt": "",
    }  # fmt: skip
    sockets = {"model": ["base", 0], "clip": ["base", 1], "vae": ["base", 2], "concept": ["concept", 0]}
    server.run(
        PERSON | more | {
            "concept": concept,
            "learn": node("LikenessTrainTextualInversion", **sockets, **training),
            "save": node("LikenessSave", likeness=["learn", 0], name=name),
        }
    )  # fmt: skip
    return trainings(server) - before, sorted((server.base / "models" / "likeness").glob(f"{name}*"))


def described(images: list, **others: Any) -> dict[str, Any]:
    told = {"class_word": "woman", "token": "<v0>", "role": "subject"}
    return node("LikenessConcept", images=images, **{**told, **others})


def newest_concept(server: Server) -> Path:
    folders = (server.base / "temp" / "likeness" / "concepts").iterdir()
    return max(folders, key=lambda folder: folder.stat().st_mtime_ns)


def photographs(folder: Path, captions: bool = False) -> list[tuple[int, int]]:
    """Nine pictures of three sizes in a folder; their sizes (width, height), sorted."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for number in range(9):
        width, height = SIZES[number % 3]
        pixels = draws.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo {number}.png")
        if captions:
            (folder / f"photo {number}.txt").write_text(f"somebody on picture {number}")
    return sorted(SIZES[number % 3] for number in range(9))


def test_a_folder_of_nine_photographs_from_cores_own_loader_is_one_concept_and_one_training(
    server: Server, nodes: dict[str, Any]
):
    if "LoadImageDataSetFromFolder" not in nodes:
        pytest.skip("this ComfyUI has no node that loads a folder as a list")
    sizes = photographs(server.base / "input" / "nine")
    folder = node("LoadImageDataSetFromFolder", folder="nine")
    runs, files = learned(server, described(["folder", 0]), "nine", folder=folder)
    assert (runs, [file.name for file in files]) == (1, ["nine.safetensors"])
    kept = [Image.open(file).size for file in (newest_concept(server) / "images").glob("*.png")]
    assert sorted(kept) == sizes  # nothing was cut or scaled to fit into one batch


def test_captions_of_cores_folder_loader_are_kept_beside_their_pictures(
    server: Server, nodes: dict[str, Any]
):
    if "LoadImageTextDataSetFromFolder" not in nodes:
        pytest.skip("this ComfyUI has no node that loads a folder with captions as a list")
    photographs(server.base / "input" / "told", captions=True)
    server.run({
        "folder": node("LoadImageTextDataSetFromFolder", folder="told"),
        "concept": described(["folder", 0], captions=["folder", 1]),
        "show": node("PreviewAny", source=["concept", 0]),
    })  # fmt: skip
    images = newest_concept(server) / "images"
    for number in range(9):
        pixels = np.asarray(Image.open(server.base / "input" / "told" / f"photo {number}.png"))
        (same,) = [
            file for file in images.glob("*.png")
            if np.array_equal(np.asarray(Image.open(file)), pixels)
        ]  # fmt: skip
        assert same.with_suffix(".txt").read_text() == f"somebody on picture {number}\n"


def test_lists_of_pictures_and_masks_are_one_masked_concept_and_one_training(server: Server):
    lists = {
        "pictures": node("RebatchImages", images=["base", 3], batch_size=1),
        "masks": node("ImageToMask", image=["mask list", 0], channel="red"),
        "mask list": node("RebatchImages", images=["mask images", 0], batch_size=1),
        "mask images": node("MaskToImage", mask=["base", 4]),
    }
    concept = described(["pictures", 0], masks=["masks", 0], token="<listed>")  # a folder of its own
    runs, files = learned(server, concept, "listed", **lists)
    assert (runs, [file.name for file in files]) == (1, ["listed.safetensors"])
    folder = newest_concept(server)
    assert [len(list((folder / kind).glob("*.png"))) for kind in ("images", "masks")] == [4, 4]


def test_a_folders_pictures_can_be_looked_at_and_masked_in_the_graph(server: Server):
    """Each of its own size, with the mask it has or a white one; together they make a masked subject."""
    sizes = photographs(server.base / "input" / "shown")
    (server.base / "input" / "shown" / "masks").mkdir()
    half = Image.new("L", SIZES[0])
    half.paste(255, (0, 0, 64, 128))
    half.save(server.base / "input" / "shown" / "masks" / "photo 0.png")
    folder = node("LikenessConceptFolder", folder="shown", class_word="woman", token="<v0>", role="subject")
    again = described(["folder", 2], masks=["folder", 3], token="<shown>")
    shown = server.run({
        "folder": folder, "pictures": node("PreviewImage", images=["folder", 2]),
        "as images": node("MaskToImage", mask=["folder", 3]),
        "masks": node("PreviewImage", images=["as images", 0]),
        "again": again, "show": node("PreviewAny", source=["again", 0]),
    })  # fmt: skip
    pictures, masks = (
        [server.picture(file) for file in shown[name]["images"]] for name in ("pictures", "masks")
    )
    assert sorted(picture.shape[1::-1] for picture in pictures) == sizes
    genuine = np.asarray(Image.open(server.base / "input" / "shown" / "photo 4.png"))
    assert sum(np.array_equal(genuine, picture) for picture in pictures) == 1
    assert [mask.shape for mask in masks] == [picture.shape for picture in pictures]
    assert sorted(mask.min() for mask in masks) == [0] + [255] * 8
    assert len(list((newest_concept(server) / "masks").glob("*.png"))) == 9


def test_a_list_is_one_identity_and_one_measurement(server: Server):
    outputs = server.run(
        PERSON | {
            "list": node("RebatchImages", images=["three", 0], batch_size=1),
            "three": node("ImageFromBatch", image=["base", 3], batch_index=0, length=3),
            "identity": node("LikenessEncodeIdentity", images=["list", 0]),
            "seen": node("PreviewImage", images=["identity", 1]),
            "concept": described(["base", 3]),
            "score": node("LikenessMeasure", images=["list", 0], concept=["concept", 0], faces="miniature",
                          prompt=""),
            "report": node("PreviewAny", source=["score", 2]),
        }
    )  # fmt: skip
    assert len(outputs["seen"]["images"]) == 3
    assert len(outputs["report"]["text"]) == 1 and "3 pictures" in outputs["report"]["text"][0]
