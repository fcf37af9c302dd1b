"""Makes the Miniature's weights from nothing, stage by stage, and prints their scores.

    python -m likeness_portraits.engine.miniature.make --work DIR [--device cuda] [--scale 4] [STAGE ...]

Seeds are fixed.  A stage that was interrupted goes on where it was; one that is done is not done again.
`--scale` multiplies all step counts: 1 is what the shipped weights were given.  The weights are written into
the package, or into the folder that the environment variable LIKENESS_MINIATURE names, and measured there.
"""

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import nn

from ..config import BaseSpec
from . import model, second, world
from .making import autoencoder, clip, dataset, id_adapter, judges, text, unet, vocabulary
from .making import text16 as second_text
from .making import transformer16 as second_transformer

log = logging.getLogger(__name__)
_Network = TypeVar("_Network", bound=nn.Module)
_PEOPLE = 4500
_SECOND = BaseSpec(kind="miniature-2")
_STEPS = {
    "text": 300, "autoencoder64": 1100, "autoencoder": 450, "decoder": 560, "unet": 1900, "recogniser": 1000,
    "reporting_recogniser": 600, "reader": 700, "reader2": 400, "parser": 450, "parser2": 120, "clip": 2000,
    "autoencoder16": 2200, "text16": 300, "decoder16": 400,
    "transformer16": 5000,
}  # fmt: skip


def write_weights(name: str, network: nn.Module) -> None:
    """Writes `network` as fp16 to its place among the weights."""
    tensors = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for key, value in network.state_dict().items()
    }
    temporary = model.WEIGHTS / f"{name}.tmp"
    temporary.parent.mkdir(exist_ok=True)
    save_file(tensors, temporary)
    temporary.chmod(0o644)
    temporary.replace(model.weights_file(name))


@dataclass(frozen=True)
class Workshop:
    """The stages; each makes what it needs from the stages before it."""

    work: Path
    device: str
    scale: float
    processes: int
    people: int = _PEOPLE

    def steps(self, name: str) -> int:
        return max(1, round(_STEPS[name] * self.scale))

    @cached_property
    def training(self) -> dataset.Dataset:
        return dataset.prepare_dataset(
            self.work / "train", world.TRAINING_SEEDS[: self.people], self.processes
        )

    @cached_property
    def held_out(self) -> dataset.Dataset:
        """People on whom work in progress is looked at; the card is measured on others."""
        return dataset.prepare_dataset(
            self.work / "tuning", world.TUNING_SEEDS[: self.people], self.processes
        )

    @cached_property
    def listener(self) -> text.Listener:
        return text.make_text_encoder(self.work, self.steps("text"), device=self.device)

    @cached_property
    def inner(self) -> AutoencoderKL:
        return autoencoder.make_inner(
            self.training, self.held_out, self.work, self.steps("autoencoder64"), device=self.device
        )

    @cached_property
    def latents(self) -> tuple[torch.Tensor, float, float]:
        """Latents of unit variance, with the mean and deviation taken out."""
        side = model.RESOLUTION // 2
        latents = unet.cache_latents(self.inner, self.training, self.work / "latents.npy", side, self.device)
        mean, deviation = float(latents.mean()), float(latents.std())
        return (latents - mean) / deviation, mean, deviation

    @cached_property
    def painter(self) -> unet.UNetTrainer:
        steps = self.steps("unet")
        return unet.make_unet(
            self.listener, self.training, self.latents[0], self.work, steps, device=self.device
        )

    def vocabulary(self) -> None:
        vocabulary.write_tokenizer(model.tokenizer_folder())

    def autoencoder(self) -> None:
        steps = self.steps("autoencoder")
        whole = autoencoder.make_whole(
            self.inner, self.training, self.held_out, self.work, steps, device=self.device
        )
        latents, mean, deviation = self.latents
        raw, steps = latents * deviation + mean, self.steps("decoder")
        whole = autoencoder.finish_decoder(
            whole, raw, self.training, self.held_out, self.work, steps, device=self.device
        )
        write_weights("vae", autoencoder.fold_scale(whole, mean, deviation))

    def autoencoder16(self) -> None:
        """The second Miniature's, kept in the work folder until its network stands on it."""
        shipped = AutoencoderKL(**model.vae_config())
        shipped.load_state_dict(model.state_dict("vae"))
        steps = self.steps("autoencoder16")
        wide = autoencoder.make_wide(
            shipped, self.training, self.held_out, self.work, steps, device=self.device
        )
        save_file(wide.state_dict(), self.work / "autoencoder16.safetensors")

    @cached_property
    def chat_listener(self) -> second_text.ChatListener:
        return second_text.make_chat_listener(self.work, self.steps("text16"), device=self.device)

    def text16(self) -> None:
        _ = self.chat_listener

    @cached_property
    def wide(self) -> tuple[AutoencoderKL, torch.Tensor]:
        """The finished autoencoder, and the training pictures' latents (N, 16, 16, 16) of unit weight."""
        vae = AutoencoderKL(**second.second_vae_config())
        vae.load_state_dict(load_file(self.work / "autoencoder16.safetensors"))
        raw = unet.cache_latents(
            vae, self.training, self.work / "latents16.npy", model.RESOLUTION, self.device
        )
        mean, deviation = (of(raw, (0, 2, 3), keepdim=True) for of in (torch.mean, torch.std))
        return autoencoder.evened(vae, raw), (raw - mean) / deviation

    def decoder16(self) -> None:
        vae, latents = self.wide
        steps = self.steps("decoder16")
        vae = autoencoder.finish_decoder(
            vae, latents, self.training, self.held_out, self.work, steps, device=self.device, name="decoder16"
        )
        write_weights("second/vae", vae)

    def transformer16(self) -> None:
        vae, latents = self.wide
        weights = second_transformer.cell_weights(self.training, self.work / "weights16.npy")
        side, held_out = model.RESOLUTION, self.held_out.first(second_transformer.LOOKED_AT)
        seen = unet.cache_latents(vae, held_out, self.work / "tuning16.npy", side, self.device)
        people = world.TUNING_SEEDS[: self.people]
        look = second_transformer.looker(vae, held_out, seen, people, self.work / "looks")
        painter = second_transformer.make_transformer(
            self.chat_listener, self.training, latents, weights, self.work, self.steps("transformer16"),
            device=self.device, report=look,
        )  # fmt: skip
        write_weights("second/transformer", painter.transformer)
        write_weights("second/text_encoder", painter.listener.encoder)

    def unet(self) -> None:
        write_weights("unet", self.painter.unet)
        write_weights("text_encoder", self.painter.listener.encoder)

    def clip(self) -> None:
        encoder = self.painter.listener.encoder
        write_weights("image_encoder", self.trained("clip", clip.make_clip, encoder))

    def trained(self, name: str, make: Callable[..., _Network], *network: nn.Module) -> _Network:
        return make(*network, self.training, self.held_out, self.work, self.steps(name), device=self.device)

    def judges(self) -> None:
        write_weights("recogniser", self.trained("recogniser", judges.make_recogniser))
        write_weights("reporting_recogniser", self.trained("reporting_recogniser", judges.make_reporting))
        reader = self.trained("reader", judges.make_reader)
        write_weights("reader", self.trained("reader2", judges.finish_reader, reader))
        parser = self.trained("parser", judges.make_parser)
        write_weights("parser", self.trained("parser2", judges.finish_parser, parser))

    def id_adapter(self) -> None:
        place, people = model.weights_file("id_adapter"), id_adapter.PEOPLE[: self.people]
        id_adapter.make_id_adapter(self.work / "id_adapter", place, self.scale, people)

    def card(self) -> None:
        from ..bench.card import gates, measure_card

        scores = measure_card(people=min(50, self.people), drawn=min(96, 2 * self.people))
        (model.WEIGHTS / "card.json").write_text(json.dumps(scores, indent=1) + "\n")
        log.info("%s", json.dumps(scores, indent=1))
        for gate in gates(scores):
            log.info("%s", gate)

    def learnability(self) -> None:
        from ..bench.learnability import measure_learnability

        scores = measure_learnability(self.work / "bench", on_cell=lambda *seen: log.info("%s %s", *seen))
        file = model.WEIGHTS / "card.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"learnability": scores}, indent=1) + "\n")

    def sheets(self) -> None:
        from ..bench.claims.bench import Bench
        from ..bench.gallery import write_sheets

        write_sheets(self.work / "sheets", Bench(self.work / "bench"))

    def card16(self) -> None:
        from ..bench.card import measure_second_card, second_gates

        scores = measure_second_card(people=min(50, self.people), drawn=min(96, 2 * self.people))
        second.card_file().write_text(json.dumps(scores, indent=1) + "\n")
        log.info("%s", json.dumps(scores, indent=1))
        for gate in second_gates(scores, model.card()):
            log.info("%s", gate)

    def learnability16(self) -> None:
        from ..bench.learnability import SECOND_SEEDS, all_cells, measure_learnability

        scores = measure_learnability(
            self.work / "bench16", all_cells(seeds=SECOND_SEEDS),
            lambda *seen: log.info("%s %s", *seen), _SECOND,
        )  # fmt: skip
        card = second.second_card() | {"learnability": scores}
        second.card_file().write_text(json.dumps(card, indent=1) + "\n")

    def sheets16(self) -> None:
        from ..bench.claims.bench import Bench
        from ..bench.gallery import write_sheets

        write_sheets(self.work / "sheets16", Bench(self.work / "bench16", base_spec=_SECOND))


MAKING_STAGES = (
    "vocabulary", "autoencoder", "unet", "judges", "clip", "id_adapter", "card", "learnability", "sheets",
)  # fmt: skip
SECOND_STAGES = (
    "autoencoder16", "text16", "transformer16", "decoder16", "card16", "learnability16", "sheets16",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "stages",
        nargs="*",
        choices=[*MAKING_STAGES, *SECOND_STAGES, []],
        default=MAKING_STAGES,
        metavar="STAGE",
        help=f"{', '.join(MAKING_STAGES)}; only where named: {', '.join(SECOND_STAGES)}",
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures and unfinished weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all step counts")
    parser.add_argument("--people", type=int, default=_PEOPLE, help="to learn from")
    parser.add_argument("--processes", type=int, default=2, help="that render pictures")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for folder in (arguments.work, model.WEIGHTS):
        folder.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(
        arguments.work, arguments.device, arguments.scale, arguments.processes, arguments.people
    )
    for stage in arguments.stages:
        log.info("stage %s", stage)
        getattr(workshop, stage)()


if __name__ == "__main__":
    main()
