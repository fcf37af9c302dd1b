"""The second Miniature with random weights, in a folder of weights: its tests need none that are trained."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from likeness_portraits.engine.miniature import model, second


def write_weights(folder: Path) -> Path:
    """The three networks' files in `folder`, beside the first's own, which lie where they are."""
    from diffusers import AutoencoderKL, Flux2Transformer2DModel

    from likeness_portraits.engine.miniature.making.text16 import chat_text_encoder

    (folder / "second").mkdir(parents=True, exist_ok=True)
    for file in model.WEIGHTS.iterdir():
        if file.name != "second" and not (folder / file.name).exists():
            (folder / file.name).symlink_to(file)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        transformer = Flux2Transformer2DModel(**second.transformer_config())
        networks = (transformer, AutoencoderKL(**second.second_vae_config()), chat_text_encoder())
        with torch.no_grad():
            for name, weight in transformer.named_parameters():
                if "to_out" in name or "modulation" in name:
                    weight.mul_(4)  # random blocks are weak: what is wrong in one should show
        for name, network in zip(second.SECOND_NETWORKS, networks, strict=True):
            state = {key: value.half().contiguous() for key, value in network.state_dict().items()}
            save_file(state, folder / f"{name}.safetensors")
    return folder
