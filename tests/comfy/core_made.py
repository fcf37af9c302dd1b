"""Files and models of ComfyUI's own mask nodes with made-up weights; a script for a host's Python.

Its input is a folder and, on a second line, which model. Writes what the back ends said. The files of
MediaPipe and BiRefNet have every weight and go through ComfyUI's loader; SAM 3 is narrower here.
"""

import asyncio
import sys
from pathlib import Path

sys.argv = ["core", "--cpu"]
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import folder_paths  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import nodes  # noqa: E402
from likeness_portraits.engine.comfy_bridge import core_nodes  # noqa: E402
from likeness_portraits.engine.comfy_bridge.folders import register_folders  # noqa: E402
from likeness_portraits.engine.comfy_bridge.masks import faces_of, masks_of  # noqa: E402
from likeness_portraits.engine.comfy_bridge.restore import Faces, restored_faces  # noqa: E402
from likeness_portraits.engine.data.segment import Request, find_mask  # noqa: E402
from likeness_portraits.engine.errors import LikenessError  # noqa: E402
from likeness_portraits.engine.inference.restore import Restoration  # noqa: E402

FOLDER, MODEL = Path(), ""  # told by the test
RINGS = {
    "face_oval": (10, 11, 12, 13), "lips": (14, 15, 16), "left_eye": (20, 21, 22), "right_eye": (30, 31, 32),
    "left_eyebrow": (40, 41, 42), "right_eyebrow": (43, 44, 45), "irises": (46, 47, 48), "nose": (49, 50, 51),
    "tesselation": (52, 53, 54),
}  # fmt: skip
# where the made face's landmarks are in its crop of 192 pixels
PLACES = {
    10: (56, 40), 11: (136, 40), 12: (136, 160), 13: (56, 160), 468: (76, 80), 473: (116, 80), 4: (96, 100),
    61: (80, 130), 291: (112, 130), 14: (80, 125), 15: (112, 125), 16: (96, 140), 20: (108, 76),
    21: (124, 76), 22: (116, 86), 30: (68, 76), 31: (84, 76), 32: (76, 86),
}  # fmt: skip


def main() -> None:
    picture = torch.zeros(1, 240, 320, 3)
    picture[:, 60:180, 100:220] = 0.8
    say("LACKING" if "SAM3_Detect" not in nodes.NODE_CLASS_MAPPINGS else "HAS")
    said("sam3", picture, "face")
    for name in ("sam3", "mediapipe", "bg_removal"):
        if Path(f"comfy_extras/nodes_{name}.py").exists():
            asyncio.run(nodes.load_custom_node(f"comfy_extras/nodes_{name}.py", module_parent="comfy_extras"))
    if "MediaPipeFaceMask" not in nodes.NODE_CLASS_MAPPINGS:
        for name in core_nodes.CORE:
            said(name, picture, "face")
        return
    for name, model in core_nodes.CORE.items():
        (FOLDER / model.folder).mkdir()
        folder_paths.add_model_folder_path(model.folder, str(FOLDER / model.folder), is_default=True)
        said(name, picture, "face")
    {"mediapipe": media_pipe, "sam3": sam3, "birefnet": birefnet}[MODEL](picture)


def say(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")


def said(back_end: str, picture: torch.Tensor, word: str) -> None:
    try:
        masks_of(picture, back_end, Request(words=(word,)))
    except LikenessError as error:
        say("SAID", back_end, error)


def media_pipe(picture: torch.Tensor) -> None:
    """A detector that sees a face in the middle of its picture and a mesh that puts landmarks at PLACES."""
    from comfy_extras.mediapipe.face_landmarker import FaceLandmarker

    weights = {}
    for variant in ("short", "full"):
        for name, value in FaceLandmarker(detector_variant=variant).state_dict().items():
            head, _, rest = name.partition(".")
            weights[f"detector_{variant}.{rest}" if head == "detector" else name] = torch.zeros_like(value)
    for name in weights:
        if name.startswith(("detector_full.", "detector_short.")) and ".cls" in name and "bias" in name:
            weights[name].fill_(-9.0)
    weights["detector_short.cls_8.bias"].fill_(2.0)
    boxes = weights["detector_short.reg_8.bias"].view(6, 16)
    boxes[:, 2:4] = 24.0  # of 128; eyes level, the second right of the first
    boxes[:, 6] = 16.0
    marks = weights["mesh.head_landmarks.bias"].view(478, 3)
    marks += torch.tensor([96.0, 96.0, 0.0])
    for number, place in PLACES.items():
        marks[number, :2] = torch.tensor(place)
    generator = torch.Generator().manual_seed(0)
    weights["canonical_vertices"] = torch.randn(478, 3, generator=generator)
    weights["procrustes_indices"] = torch.tensor([10, 11, 12, 13, 4, 61, 291, 468, 473])
    weights["procrustes_weights"] = torch.ones(9)
    for name, ring in RINGS.items():
        weights[f"topology.{name}"] = torch.tensor(
            [(ring[i], ring[(i + 1) % len(ring)]) for i in range(len(ring))], dtype=torch.int32
        )
    save_file(weights, FOLDER / "detection" / core_nodes.CORE["mediapipe"].file)
    core_nodes._file(core_nodes.CORE["mediapipe"])
    eyes = core_nodes.load_core_faces()
    pixels = (picture[0].numpy() * 255).astype(np.uint8)
    faces = eyes(pixels)
    for face in faces:
        eye, other, nose, mouth, corner = face.landmarks
        assert eye[0] < other[0] and mouth[0] < corner[0] and eye[1] < nose[1] < mouth[1], face.landmarks
        assert face.box[0] <= eye[0] and other[0] <= face.box[2], "the box holds its landmarks"
    sizes = [float((face.box[2:] - face.box[:2]).prod()) for face in faces]
    assert faces and sizes == sorted(sizes, reverse=True) and 0.5 < faces[0].score < 1, faces
    found = faces_of(picture, "mediapipe", None, None, 128)
    assert found.crops.shape == (1, 128, 128, 3) and "mediapipe finds faces on CPU" in found.said
    register_folders()
    options = Restoration(side=64, gate="off", match_colours=False)
    done = restored_faces(picture, Faces(found_by="mediapipe"), lambda crop: crop * 0.5, options)
    inside = done.masks[0] > 0.9
    assert inside.any() and done.report.count("restored") == len(faces) and "an oval stands" in done.report
    assert done.images[0][inside].mean() < 0.6 * picture[0][inside].mean()
    parts = core_nodes.load_core("mediapipe")
    marked = parts(pixels, ["face", "lips", "eyes", "left eye", "right eye"])
    whole = marked.masks[0]
    assert marked.masks.shape == (5, 240, 320) and set(np.unique(marked.masks[1])) == {0, 1}
    assert all(0 < part.sum() <= whole.sum() and not part[whole == 0].any() for part in marked.masks[1:])
    assert (marked.masks[2] == np.maximum(marked.masks[3], marked.masks[4])).all()
    said("mediapipe", picture, "hair")
    say("SEEN mediapipe", len(faces), marked.scores[0])
    damaged = FOLDER / "checkpoints" / core_nodes.CORE["sam3"].file
    damaged.write_bytes(b"what a broken download leaves")
    folder_paths.filename_list_cache.clear()
    said("sam3", picture, "face")
    damaged.unlink()


def sam3(picture: torch.Tensor) -> None:
    """The detector, the refiner and the words' encoder, narrow, with random weights."""
    import comfy.model_patcher
    import comfy.ops
    import comfy.sd
    import comfy.supported_models
    from comfy.ldm.sam3.detector import SAM3Model

    config = comfy.supported_models.SAM31({"image_model": "SAM31"})
    config.set_inference_dtype(torch.float32, None)
    torch.manual_seed(0)
    network = SAM3Model(
        image_model="SAM31", embed_dim=64, depth=2, num_heads=2, global_att_blocks=(1,), mlp_ratio=2.0,
        dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    fill(network)
    cpu = torch.device("cpu")
    holder = torch.nn.Module()
    holder.diffusion_model, holder.get_dtype = network, lambda: torch.float32
    model = comfy.model_patcher.ModelPatcher(holder, load_device=cpu, offload_device=cpu)
    width = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    clip = comfy.sd.CLIP(config.clip_target(), model_options={"dtype": torch.float32,
                         "sam3_clip_model_config": width})  # fmt: skip
    fill(clip.cond_stage_model)
    find = core_nodes.Sam3(model, clip)
    pixels = (picture[0].numpy() * 255).astype(np.uint8)
    one = find._find(core_nodes.image_of([pixels]), "face", 0.0)
    two = find._find(core_nodes.image_of([pixels]), "eye", 0.0)
    assert one[0].shape == (1, 240, 320) and len(one[1]) == 1 and two[0].shape == (2, 240, 320)
    core_nodes.SURE = max(one[1][0], two[1][0]) + 1e-3
    try:
        find_mask(find, pixels, Request(words=("face",)), "picture 1")
    except LikenessError as error:
        say("SAID sam3", error)
    core_nodes.SURE = min(one[1][0], two[1][-1]) - 1e-3
    found = find(pixels, ["face", "eye"])
    assert found.masks.shape == (2, 240, 320) and found.scores[0] == one[1][0]
    say("SEEN sam3", found.masks.mean((1, 2)), found.scores)


def birefnet(picture: torch.Tensor) -> None:
    """All 220 million weights, random, through ComfyUI's loader; asked at 128 pixels instead of 1024."""
    import comfy.ops
    from comfy.background_removal import birefnet as theirs

    if not torchvision_works():
        theirs.deform_conv2d = deformed
    network = theirs.BiRefNet(dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
    fill(network)
    save_file(network.state_dict(), FOLDER / "background_removal" / core_nodes.CORE["birefnet"].file)
    find = core_nodes.load_core("birefnet")
    find.model.image_size = 128
    pixels = (picture[0].numpy() * 255).astype(np.uint8)
    found = find(pixels, ["subject", "background"])
    assert found.masks.shape == (2, 240, 320) and np.isfinite(found.masks).all()
    assert np.allclose(found.masks.sum(0), 1) and len(np.unique(found.masks[0])) > 100, "soft"
    try:
        find(pixels, ["head"])
    except LikenessError as error:
        say("SAID birefnet", error)
    say("SEEN birefnet", found.scores)


def torchvision_works() -> bool:
    """Whether its own operators are there: test machines may have one that was built for another torch."""
    import torchvision

    return torchvision.extension._has_ops()


def deformed(
    input: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor, bias: None, padding: int,
    mask: torch.Tensor, stride: tuple[int, int],
) -> torch.Tensor:  # fmt: skip
    """Modulated deformable convolution (Zhu et al. 2018) in plain torch, for stride 1, zeros outside."""
    assert stride == (1, 1)
    x = input
    height, width = offset.shape[2:]
    whole = torch.zeros(len(x), len(weight), height, width)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = [(i, j) for i in range(weight.shape[2]) for j in range(weight.shape[3])]
    for number, (i, j) in enumerate(places):
        y = rows + i - padding + offset[:, 2 * number]
        z = columns + j - padding + offset[:, 2 * number + 1]
        grid = torch.stack([(2 * z + 1) / x.shape[3] - 1, (2 * y + 1) / x.shape[2] - 1], -1)
        seen = torch.nn.functional.grid_sample(x, grid, align_corners=False)
        seen = seen * mask[:, number, None]
        whole += torch.einsum("oc,bchw->bohw", weight[:, :, i, j], seen)
    return whole


@torch.no_grad()
def fill(module: torch.nn.Module) -> None:
    """Random weights that keep values' size from layer to layer."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in [*module.named_parameters(), *module.named_buffers()]:
        if weight.is_floating_point():
            ones = name.endswith("running_var") or (weight.dim() == 1 and name.endswith("weight"))
            width = weight[0].numel() if weight.dim() > 1 else 400
            drawn = torch.randn(weight.shape, generator=generator) / width**0.5
            weight.copy_(torch.ones_like(weight) if ones else drawn)


if __name__ == "__main__":
    FOLDER, MODEL = Path(sys.stdin.readline().strip()), sys.stdin.readline().strip()
    with torch.inference_mode():  # as ComfyUI runs every node
        main()
