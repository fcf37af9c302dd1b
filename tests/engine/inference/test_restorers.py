"""Restorer and upscaler files: what is refused, what is never run, and the real architectures."""

import io
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from likeness_portraits.engine.artifact import import_file
from likeness_portraits.engine.artifact.inert_pickle import read_checkpoint, read_without_running
from likeness_portraits.engine.data.faces import Face
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.restore import Restoration, restore_picture
from likeness_portraits.engine.inference.restorers import (
    load_restorer,
    load_spandrel,
    load_upscaler,
    read_weights,
)
from likeness_portraits.engine.inference.upscale import upscaled


class Trap:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_nothing_in_a_file_is_ever_run(tmp_path: Path):
    trap = tmp_path / "sprung"
    torch.save({"params": {"a": torch.ones(2)}, "hook": Trap(trap)}, tmp_path / "evil.pth")
    weights = read_weights(tmp_path / "evil.pth")
    assert torch.equal(weights["params"]["a"], torch.ones(2)) and not trap.exists()
    with open(tmp_path / "bare.pth", "wb") as file:
        pickle.dump(Trap(trap), file)
    with pytest.raises(LikenessError, match=r"bare\.pth is no PyTorch checkpoint, or is damaged"):
        read_weights(tmp_path / "bare.pth")
    assert not trap.exists()


def two_faced(path: Path) -> None:
    """A TorchScript program with a second table of contents in front of its end, which names no program: the
    one that Python's zipfile reads, while PyTorch reads the first."""
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    plain = io.BytesIO()
    with zipfile.ZipFile(path) as program, zipfile.ZipFile(plain, "w") as copy:
        for name in program.namelist():
            copy.writestr(name, program.read(name))
    content = plain.getvalue()
    end = content.rindex(b"PK\x05\x06")
    table = content[content.index(b"PK\x01\x02") : end]
    path.write_bytes(content[:end] + table.replace(b"constants.pkl", b"constants.txt") + content[end:])
    with zipfile.ZipFile(path) as seen:
        assert not any("constants.pkl" in name for name in seen.namelist())


@pytest.mark.parametrize("read", [read_weights, read_checkpoint, read_without_running, import_file])
def test_a_program_is_refused_whatever_its_table_of_contents_says(tmp_path: Path, monkeypatch, read):
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was given to the interpreter"))
    two_faced(tmp_path / "program.pth")
    with pytest.raises(LikenessError, match=r"program\.pth is a TorchScript program"):
        read(tmp_path / "program.pth")


def test_missing_files_are_named_with_source_licence_and_folder(tmp_path: Path):
    with pytest.raises(
        LikenessError,
        match=r"codeformer\.pth is missing; get codeformer\.pth from https://github\.com/sczhou/CodeFormer/"
        r"releases/tag/v0\.1\.0 \(S-Lab License 1\.0.*\) and put it into models/facerestore_models",
    ):
        load_restorer(tmp_path / "codeformer.pth")
    with pytest.raises(LikenessError, match=r"xyz\.bin is missing; .*GFPGANv1\.4\.pth from https://"):
        load_restorer(tmp_path / "xyz.bin")
    with pytest.raises(LikenessError, match=r"did you mean 'GFPGANv1\.4\.pth'"):
        load_restorer(tmp_path / "GFPGAN1.4.pth")


def test_files_that_are_no_weights_are_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.safetensors").write_bytes(b"x" * 20)
    torch.save([1, 2], tmp_path / "list.pth")
    for name, message in (
        ("a.txt", "ends in '.txt'; weights end in .pth"),
        ("a.safetensors", "a.safetensors is damaged"),
        ("list.pth", "holds no weights"),
    ):
        with pytest.raises(LikenessError, match=message):
            read_weights(tmp_path / name)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "program.pt")
    with pytest.raises(LikenessError, match="is a TorchScript program, not a checkpoint"):
        read_weights(tmp_path / "program.pt")


def test_without_spandrel_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_file({"a.weight": torch.ones(2)}, tmp_path / "a.safetensors")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(LikenessError, match="ComfyUI brings it along, elsewhere run `pip install spandrel`"):
        load_restorer(tmp_path / "a.safetensors")


# --- real architectures on weights made here ---------------------------------------------------------------


@pytest.fixture(scope="module")
def spandrel():
    pytest.importorskip("einops", reason="spandrel is not installed: pip install spandrel")
    try:
        return load_spandrel()
    except LikenessError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def files(spandrel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real architectures, as small as their files allow."""
    from spandrel.architectures.ESRGAN import ESRGAN
    from spandrel.architectures.RestoreFormer import RestoreFormer

    folder = tmp_path_factory.mktemp("restorers")
    torch.manual_seed(0)
    former = RestoreFormer(
        n_embed=16, embed_dim=32, ch=32, ch_mult=(1, 1, 1, 1, 1, 1), num_res_blocks=1, z_channels=32
    )
    torch.save({"params_ema": former.state_dict(), "iteration": 7}, folder / "former.pth")
    save_file(ESRGAN(num_filters=8, num_blocks=1, scale=4).state_dict(), folder / "enlarge.safetensors")
    thin = ESRGAN(num_filters=8, num_blocks=1, scale=2, in_nc=1, out_nc=1)
    torch.save(thin.state_dict(), folder / "grey.pth")
    torch.save({"a.weight": torch.ones(2)}, folder / "unknown.pth")
    cut = {name: value for name, value in former.state_dict().items() if "decoder.mid" not in name}
    torch.save(cut, folder / "cut.pth")
    return folder


def test_spandrel_loads_where_torchvision_does_not_and_leaves_no_stand_in_behind(spandrel):
    try:
        import torchvision  # noqa: F401
    except Exception:
        assert not [name for name in sys.modules if name.split(".")[0] == "torchvision"]
    assert spandrel.MAIN_REGISTRY.get("RestoreFormer") is not None


def test_a_restorer_is_recognised_and_called_with_faces_from_minus_one_to_one(files: Path):
    restorer = load_restorer(files / "former.pth")
    assert restorer.kind == "RestoreFormer"
    face = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    restored = restorer(face)
    x = torch.from_numpy(face).permute(2, 0, 1)[None] * 2 - 1
    with torch.no_grad():
        by_hand = ((restorer.network(x)[0][0] + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
    assert restored.dtype == np.float32 and np.array_equal(restored, by_hand)
    picture = np.full((96, 96, 3), 0.5, np.float32)
    made = restore_picture(picture, [Face(np.float32([20, 20, 70, 70]), None, 1.0)], restorer,
                           Restoration(side=64, match_colours=False))  # fmt: skip
    assert (made.pixels != picture).any() and (made.pixels[made.mask == 0] == 0.5).all()


def test_networks_of_other_uses_and_broken_files_are_refused(files: Path):
    for load, name, message in (
        (
            load_restorer,
            "enlarge.safetensors",
            r"enlarge\.safetensors is ESRGAN, which does not restore faces",
        ),
        (load_restorer, "unknown.pth", r"unknown\.pth is no network that spandrel knows; choose GFPGAN"),
        (load_restorer, "cut.pth", r"cut\.pth does not hold what it promises"),
        (load_upscaler, "former.pth", r"former\.pth is RestoreFormer, which does not enlarge pictures"),
        (load_upscaler, "grey.pth", r"grey\.pth is ESRGAN for other pictures than RGB"),
    ):
        with pytest.raises(LikenessError, match=message):
            load(files / name)
    with pytest.raises(LikenessError, match="fidelity is 2; it goes from 0"):
        load_restorer(files / "former.pth", fidelity=2)


def test_codeformer_needs_consent_to_its_licence_before_anything_is_loaded(tmp_path: Path):
    save_file(
        {"position_emb": torch.ones(256, 512), "idx_pred_layer.1.weight": torch.ones(2, 512)},
        tmp_path / "codeformer.safetensors",
    )
    with pytest.raises(
        LikenessError, match=r"is CodeFormer, under S-Lab License 1\.0.*; allow non-commercial restorers"
    ):
        load_restorer(tmp_path / "codeformer.safetensors")


def test_values_that_are_no_numbers_do_not_reach_the_picture(files: Path):
    restorer = load_restorer(files / "former.pth")
    restorer.network.decoder.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(LikenessError, match="RestoreFormer gave values that are no numbers"):
        restorer(np.zeros((64, 64, 3), np.float32))


def test_tiles_meet_without_a_seam(files: Path):
    network = load_upscaler(files / "enlarge.safetensors")
    picture = np.random.default_rng(0).random((80, 72, 3), dtype=np.float32)
    seen = []
    tiled = upscaled(picture, network, tile=64, margin=32, on_tile=lambda *done: seen.append(done))
    whole = upscaled(picture, network, tile=128)
    assert tiled.shape == (320, 288, 3) and seen == [(number, 4) for number in range(1, 5)]
    assert np.abs(tiled - whole).max() < 1e-5
    half = upscaled(picture, network, shrink=2, tile=64, margin=32)
    assert np.abs(half - whole.reshape(160, 2, 144, 2, 3).mean((1, 3))).max() < 1e-5
    with pytest.raises(LikenessError, match="4 times enlarged cannot be shrunk by 3; use a divisor of 4"):
        upscaled(picture, network, shrink=3)
    with pytest.raises(LikenessError, match="tile 8, margin 0: use 64 or more"):
        upscaled(picture, network, tile=8, margin=0)


def test_tiles_are_halved_where_memory_runs_out(files: Path):
    network, sides = load_upscaler(files / "enlarge.safetensors"), []

    class Small:
        scale = 4

        def __call__(self, x):
            sides.append(x.shape[-1])
            if x.shape[-1] > 100:
                raise torch.OutOfMemoryError
            return network(x)

    picture = np.random.default_rng(0).random((64, 200, 3), dtype=np.float32)
    assert upscaled(picture, Small(), tile=256, margin=16).shape == (256, 800, 3)
    assert sides[:2] == [200, 144] and max(sides[2:]) <= 96


@pytest.mark.slow
def test_gfpgan_of_real_size_restores_a_face(spandrel, tmp_path: Path):
    from spandrel.architectures.GFPGAN import GFPGAN

    torch.manual_seed(0)
    torch.save({"params_ema": GFPGAN().state_dict()}, tmp_path / "GFPGANv1.4.pth")
    restorer = load_restorer(tmp_path / "GFPGANv1.4.pth")
    face = np.random.default_rng(0).random((512, 512, 3), dtype=np.float32)
    restored = restorer(face)
    assert restorer.kind == "GFPGAN" and restored.shape == face.shape
    assert np.array_equal(restored, restorer(face)), "the noise is the file's own"


@pytest.mark.slow
def test_codeformer_of_real_size_heeds_its_fidelity(spandrel, tmp_path: Path):
    pytest.importorskip("spandrel_extra_arches", reason="not installed: pip install spandrel_extra_arches")
    load_spandrel(extra=True)
    from spandrel_extra_arches.architectures.CodeFormer import CodeFormer

    torch.manual_seed(0)
    torch.save({"params_ema": CodeFormer(n_layers=1).state_dict()}, tmp_path / "codeformer.pth")
    face = np.random.default_rng(0).random((512, 512, 3), dtype=np.float32)
    restored = {}
    for fidelity in (0.0, 1.0):
        restorer = load_restorer(tmp_path / "codeformer.pth", fidelity=fidelity, non_commercial=True)
        restored[fidelity] = restorer(face)
    assert restorer.kind == "CodeFormer" and not np.array_equal(restored[0.0], restored[1.0])
