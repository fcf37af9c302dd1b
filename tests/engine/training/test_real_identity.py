"""The identity loss on trained networks: in Stable Diffusion's latents, judged by another recogniser."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from likeness_portraits.engine.bases.loaders.vae import read_vae
from likeness_portraits.engine.data.examples import square_pixels
from likeness_portraits.engine.data.faces import FaceFinder, load_faces
from likeness_portraits.engine.data.pictures import read_picture
from likeness_portraits.engine.training.arcface import load_recogniser
from likeness_portraits.engine.training.identity_loss import FaceJudge, IdentityLoss, to_images
from likeness_portraits.tests.engine.data.kit_made import FIRST, PEOPLE, SECOND, pack_of

pytest.importorskip("insightface", reason="insightface is not installed", exc_type=ImportError)
pytestmark = pytest.mark.real
SIDE, STEPS = 160, 10


def likeness(finder: FaceFinder, pixels: Tensor, known: list[np.ndarray]) -> float:
    """Mean cosine of the largest face of pixels (1, 3, S, S) to vectors of the person; -1 without a face."""
    faces = finder(to_images(pixels)[0])
    return float(np.mean([faces[0].embedding @ vector for vector in known])) if faces else -1.0


def test_the_loss_in_taesds_latents_raises_a_recogniser_that_it_never_sees(kit: Path, tmp_path: Path):
    seen, unseen = (
        load_faces("mine", pack_of(tmp_path / name, kit, name)) for name in ("mobileface", "dlib112")
    )
    photographs = {name: read_picture(kit / PEOPLE / name) for name in (*FIRST, SECOND[0])}
    known = [unseen(photographs[name])[0].embedding for name in FIRST]
    pixels = torch.stack([square_pixels(picture, SIDE) for picture in photographs.values()])
    loss = IdentityLoss(FaceJudge(load_recogniser(kit / "mobileface.onnx"), seen), True, False)
    loss.look(pixels, torch.ones(4, 1, SIDE, SIDE), list(photographs), subjects=[0, 1, 2])
    taesd = str(kit / "taesd" / "taesd_encoder.safetensors")
    autoencoder = read_vae(kit, {}, "sd1", taesd).requires_grad_(False)
    with torch.no_grad():
        latents = autoencoder.encode(pixels[3:]).latents
        before = likeness(unseen, autoencoder.decode(latents).sample, known)
    latents.requires_grad_()
    optimiser = torch.optim.Adam([latents], lr=0.06)
    distances = []
    for _ in range(STEPS):
        estimate = autoencoder.decode(latents).sample
        distance = loss(estimate, torch.tensor([0]), torch.tensor([3])).mean()
        optimiser.zero_grad()
        distance.backward()
        optimiser.step()
        distances.append(float(distance))
    assert loss.skipped == 0 and distances[-1] < distances[0] / 2
    with torch.no_grad():
        after = likeness(unseen, autoencoder.decode(latents).sample, known)
    assert before < 0.25 < 0.4 < after, (before, after)
