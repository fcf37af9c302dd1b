"""The recipe's own mathematics: optimiser, schedule, the autoencoder's growth and its folded scale."""

import numpy as np
import pytest
import torch
from torch import nn

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.identity.adapter import miniature_adapter
from likeness_portraits.engine.miniature import model
from likeness_portraits.engine.miniature.making import autoencoder, dataset, id_adapter, judges
from likeness_portraits.engine.miniature.making.fitting import (
    Muon,
    fit,
    is_matrix,
    learning_rate_factor,
    orthogonalised,
)


def test_orthogonalising_brings_all_singular_values_near_one():
    matrix = torch.randn(24, 60, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.6 and values.max() < 1.3


def test_a_diagonal_matrix_keeps_its_signs():
    result = orthogonalised(torch.diag(torch.tensor([3.0, -2.0])))
    assert result[0, 0] > 0.6 and result[1, 1] < -0.6
    assert result[0, 1].abs() < 1e-5 and result[1, 0].abs() < 1e-5


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((128,), False),
        ((64, 128, 3, 3), True),
        ((32, 3, 3, 3), False),
        ((4, 64, 3, 3), False),
        ((256, 64), True),
    ],
)
def test_edges_and_vectors_are_left_to_adamw(shape: tuple[int, ...], expected: bool):
    assert is_matrix(torch.zeros(shape)) is expected


def test_embeddings_are_left_to_adamw():
    network = nn.Sequential(nn.Embedding(100, 64), nn.Linear(64, 64))
    optimizer = Muon(network, [{"params": list(network.parameters()), "rate": 1.0}], 1e-3)
    muon = [p for group in optimizer.param_groups if group["muon"] for p in group["params"]]
    assert len(muon) == 1 and muon[0] is network[1].weight


def test_the_learning_rate_climbs_stays_and_falls():
    factors = [learning_rate_factor(step, 1000) for step in range(1000)]
    assert factors[0] == pytest.approx(0.01) and factors[300] == 1.0
    assert all(a >= b for a, b in zip(factors[500:], factors[501:], strict=False))
    assert factors[-1] == pytest.approx(0.02, abs=1e-3)


def test_an_interrupted_fit_ends_where_an_uninterrupted_one_does(tmp_path):
    def network() -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 1))

    def loss_of(net: nn.Module, rng: np.random.Generator, progress: float) -> torch.Tensor:
        if progress == stop:
            raise KeyboardInterrupt
        inputs = torch.from_numpy(rng.normal(size=(8, 40)).astype(np.float32))
        return (net(inputs) - inputs.sum(1, keepdim=True)).square().mean()

    stop, settings = None, {"steps": 8, "learning_rate": 1e-2, "save_seconds": 0.0}
    whole = fit("whole", network(), loss_of, work=tmp_path, **settings)
    stop = 5 / 8
    with pytest.raises(KeyboardInterrupt):
        fit("parts", network(), loss_of, work=tmp_path, **settings)
    stop = None
    parts = fit("parts", network(), loss_of, work=tmp_path, **settings)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def tiny_autoencoder():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(**model.vae_config()).eval()


def test_folding_the_scale_standardises_latents_and_changes_no_picture():
    vae, pixels = (
        tiny_autoencoder(),
        torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1,
    )
    with torch.no_grad():
        before = vae.encode(pixels).latent_dist.mode()
        picture = vae.decode(before).sample
        folded = autoencoder.fold_scale(vae, float(before.mean()), float(before.std()))
        after = folded.encode(pixels).latent_dist
        scaled = after.mode() * model.vae_config()["scaling_factor"]
        assert torch.allclose(folded.decode(after.mode()).sample, picture, atol=1e-4)
    assert abs(float(scaled.mean())) < 1e-3 and float(scaled.std()) == pytest.approx(1, abs=1e-3)
    assert float(after.std.mean() * model.vae_config()["scaling_factor"]) == pytest.approx(0.05, abs=1e-3)


def test_the_grown_autoencoder_begins_with_the_inner_ones_colours():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    inner = AutoencoderKL(**autoencoder.inner_config()).eval()
    whole = autoencoder.grow(inner).eval()
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        small, large = inner.decode(latents).sample, whole.decode(latents).sample
    assert large.shape[-1] == 2 * small.shape[-1]
    pooled = nn.functional.avg_pool2d(large, 2)
    assert torch.corrcoef(torch.stack([pooled.flatten(), small.flatten()]))[0, 1] > 0.8


def test_the_widened_autoencoder_begins_with_the_shipped_ones_pictures():
    from diffusers import AutoencoderKL

    shipped = AutoencoderKL(**model.vae_config())
    shipped.load_state_dict(model.state_dict("vae"))
    wide, pixels = autoencoder.widened(shipped).eval(), torch.rand(1, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        own, found = (net.encode(pixels).latent_dist.mode() for net in (shipped.eval(), wide))
        assert found.shape == (1, autoencoder.WIDE, 16, 16) and found[:, 4:].std() > 0
        torch.testing.assert_close(found[:, :4], own * 0.18215, atol=1e-4, rtol=1e-4)
        drawn, expected = wide.decode(found).sample, shipped.decode(own).sample
    torch.testing.assert_close(drawn, expected, atol=1e-3, rtol=1e-3)


def test_weights_count_features_most_and_background_least():
    from likeness_portraits.engine.miniature import world

    parts = torch.zeros(1, 4, 4, dtype=torch.long)
    parts[0, 0, 0], parts[0, 0, 1] = world.PART_ID["eye"], world.PART_ID["skin"]
    nose, beard = world.PART_ID["nose"], world.PART_ID["beard"]
    last = autoencoder.weight_map(torch.tensor([[[0, beard, nose]]]), 3, person=1.5, face=3.0, features=6.0)
    assert last[0, 0, 0].tolist() == [1, 3, 6]
    weight = autoencoder.weight_map(parts, 4)[0, 0]
    assert weight[0, 0] == 5 and weight[0, 1] == 2 and weight[3, 3] == 1


def test_overlap_counts_what_both_have_of_what_either_has():
    true = torch.tensor([[[0, 0, 1, 1]]])
    sure = torch.full((1, 13, 1, 4), -50.0)
    sure[0, [0, 1, 1, 1], 0, [0, 1, 2, 3]] = 50.0  # one of the two zeros is taken for a one
    overlap = judges.soft_overlap(sure, true)
    assert overlap[:2].tolist() == pytest.approx([1 / 2, 2 / 3])


def test_finishing_the_decoder_leaves_the_encoder_alone(tmp_path):
    from likeness_portraits.engine.miniature import world

    data = dataset.prepare_dataset(tmp_path / "data", world.TUNING_SEEDS[:2])
    vae = tiny_autoencoder()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    latents = torch.randn(len(data), 4, 16, 16, generator=torch.Generator().manual_seed(0))
    after = autoencoder.finish_decoder(vae, latents, data, data, tmp_path, steps=2, batch=2).state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed and all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)


def test_one_command_makes_an_identity_adapter_at_any_scale_and_again_finds_it_done(tmp_path, monkeypatch):
    work, out = tmp_path / "work", tmp_path / "adapter.safetensors"
    command = ["id_adapter", "--work", work, "--out", out, "--scale", 0.001, "--people", 2]
    monkeypatch.setattr("sys.argv", [str(word) for word in command])
    id_adapter.main()
    made, begun = Artifact.load(out), Artifact.load(work / "begun.safetensors")
    assert (made.kind, made.steps) == ("id_adapter", 2)  # one of each stage
    assert made.settings["identity_steps"] == made.settings["editing_steps"] == 1
    assert made.tensors.keys() == begun.tensors.keys() == miniature_adapter().tensors.keys()
    assert any((made.tensors[name] - begun.tensors[name]).abs().max() > 1e-4 for name in made.tensors)
    trained = (work / "trained.safetensors").stat().st_mtime_ns
    out.unlink()
    id_adapter.main()
    assert out.exists() and (work / "trained.safetensors").stat().st_mtime_ns == trained
