"""The Miniature's identity adapter: MasterWeaver trained on rendered people, after a cheap start.

    python -m likeness_portraits.engine.miniature.making.id_adapter --work DIR [--scale 2]

It is also a stage of `make`. Kept in DIR and gone on with after an interruption: shards of people whom no
other network saw; a beginning that costs no pass through the U-Net with gradients (an ID encoder that says in
the text encoder's own states what a caption would say of the person, then a branch that adds in each layer
what the fuller caption would); both stages of MasterWeaver from there. It is made with the U-Net and text
encoder as they are.
"""

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...artifact import Artifact
from ...bases.base import BaseModel, load_base
from ...bases.denoisers.unet import cross_attention_layers
from ...config import BaseSpec, Job, MasterWeaverSettings
from ...data.identity_examples import masked, resized
from ...data.shard_sources import context_of, rendered
from ...data.shards import INDEX, ReadStats, ShardSample, decoded, entries, find_shards, write_shards
from ...identity.attention import IdAttention
from ...identity.encoder import IdEncoder
from ...identity.files import adapter_tensors
from ...identity.references import ImageTower, miniature_tower
from ...training.launch import train
from ...training.observer import Logged
from .. import model, world
from .fitting import half_precision

log = logging.getLogger(__name__)

PEOPLE = range(10_000, 13_000)  # the U-Net and the judges saw those before
_TWINS = 2
LISTENING_STEPS, LISTENING_BATCH, LISTENING_RATE = 600, 64, 2e-3
ABSORBING_STEPS, ABSORBING_BATCH = 500, 32
ABSORBED, _PLACES = 768, 64  # portraits, and places in each layer, that the branch learns from
ALTERNATIVES = {
    "a bald head": "bald",
    "a mustache": "mustache",
    "a goatee": "goatee",
    "a full beard": "beard",
}


def wanted_words(who: world.Character) -> tuple[str, list[str]]:
    """A caption that says all there is to say of a person, and the words in it that say it."""
    phrases = world.identity_phrases(who, lambda probability: True)
    hair = ["bald", "head"] if who.hair_style == "bald" else [who.hair_colour, who.hair_style, "hair"]
    words = [who.gender, *(hair * 2)[:3]]
    words += [ALTERNATIVES[world.BEARD_WORDS[who.beard]] if who.beard != "none" else who.gender]
    words += [who.skin, "skin", who.eye_colour, "eyes", "freckles" if who.freckles != "none" else "eyes"]
    return f"a photo of a {who.gender} with " + " and ".join(phrases), words


@torch.no_grad()
def spoken_states(base: BaseModel, who: world.Character, queries: int) -> Tensor:
    """Text states (queries, D): those of the words above, then of the sentence's end and what follows it."""
    caption, words = wanted_words(who)
    states = base.encode_text([caption]).states[0]
    ids = base.tokenize([caption]).ids[0].tolist()
    tokenizer = base.tokenizers["clip_l"]
    places = []
    for word in words:
        (token, *_) = tokenizer(word, add_special_tokens=False)["input_ids"]
        places.append(
            len(ids) - 1 - ids[::-1].index(token) if token in ids else ids.index(tokenizer.eos_token_id)
        )
    end = ids.index(tokenizer.eos_token_id, 1)
    places += list(range(end, end + queries - len(places)))
    return states[places]


def samples_of(folder: Path) -> list[ShardSample]:
    paths = [shard.path for shard in find_shards(str(folder))]
    return [decoded(parts) for path in paths for parts in entries(path, ReadStats())]


@torch.no_grad()
def seen(tower: ImageTower, samples: list[ShardSample]) -> Tensor:
    """States (N, T, W) of what each reference keeps, as drawn and mirrored: (2, N, T, W)."""
    views = []
    for mirrored in (False, True):
        faces = [masked(sample.faces[0], 0) for sample in samples]
        pixels = [
            resized(np.ascontiguousarray(face[:, ::-1]) if mirrored else face, tower.side) for face in faces
        ]
        views.append(
            torch.cat([tower.states(torch.stack(pixels[i : i + 32])) for i in range(0, len(pixels), 32)])
        )
    return torch.stack(views)


def listen(base: BaseModel, samples: list[ShardSample], steps: int) -> IdEncoder:
    """An ID encoder whose tokens are the text states of the person's own caption."""
    tower = miniature_tower()
    people = [world.sample_identity(int(sample.key.split("-")[0])) for sample in samples]
    torch.manual_seed(0)
    encoder = IdEncoder(dim=model.TEXT_WIDTH, image_width=tower.nothing().shape[-1])
    features = seen(tower, samples)
    goals = torch.stack([spoken_states(base, who, encoder.queries) for who in people])
    nothing, nobody = tower.nothing()[None], goals.mean(0, keepdim=True)
    optimizer = torch.optim.AdamW(encoder.parameters(), weight_decay=1e-2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LISTENING_RATE * min(1, (step + 1) / 50) * (1 - step / steps)
        rng = np.random.default_rng([step, 31])
        picked = torch.from_numpy(rng.integers(len(samples), size=LISTENING_BATCH))
        views = torch.from_numpy(rng.integers(2, size=LISTENING_BATCH))
        tokens = encoder(torch.cat([features[views, picked], nothing]))
        loss = F.mse_loss(tokens, torch.cat([goals[picked], nobody]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            spread = F.mse_loss(nobody.expand_as(goals), goals)
            log.info("listening %d/%d: %.4f of %.4f", step + 1, steps, loss.item(), spread.item())
    return encoder


# ---------------------------------------------------------- the branch says what a fuller caption says


def captions_of(sample: ShardSample) -> tuple[str, str]:
    """The portrait's caption without a word about the person, and with all there is to say."""
    person, number = (int(part) for part in sample.key.split("-"))
    who, context = world.sample_identity(person), context_of(person, number)
    mood = "" if context.expression == "neutral" else f"{context.expression} "
    plain = f"{world.STYLE_WORDS[context.style][0]} a {mood}{who.gender}{world.context_phrase(context)}"
    return plain, world.caption(who, context)


@dataclass(frozen=True)
class Lesson:
    """What every cross-attention layer should add: queries and differences (N, P, hidden) by layer."""

    queries: dict[str, Tensor]
    differences: dict[str, Tensor]


@torch.no_grad()
def lesson(base: BaseModel, samples: list[ShardSample]) -> Lesson:
    """From passes over noisy portraits: how a fuller caption changes what each layer reads."""
    generator = torch.Generator().manual_seed(0)
    layers = {name: attention.layer for name, attention in cross_attention_layers(base.unet).items()}
    asked, answers = {}, {}
    hooks = [layer.to_q.register_forward_hook(lambda *parts, name=name: asked.__setitem__(name, parts[2]))
             for name, layer in layers.items()]  # fmt: skip
    for start in range(0, len(samples), 16):
        few = samples[start : start + 16]
        pixels = torch.stack(
            [torch.from_numpy(one.pixels.copy()).permute(2, 0, 1) / 127.5 - 1 for one in few]
        )
        with half_precision("cpu"):
            latents = base.vae.encode(pixels).latent_dist.mean.float() * base.latent_scale
        plain, full = (base.encode_text(texts) for texts in zip(*map(captions_of, few)))
        times = base.process.sample_times(len(few), generator, low=base.process.published_time(50))
        noise = torch.randn(latents.shape, generator=generator)
        base.predict(base.process.add_noise(latents, noise, times), times, full)
        for name, layer in layers.items():
            places = torch.randperm(asked[name].shape[1], generator=generator)[:_PLACES]
            queries = asked[name][:, places]
            full_out, plain_out = (
                attended(queries, layer.to_k(text.states), layer.to_v(text.states), layer.heads)
                for text in (full, plain)
            )
            answers.setdefault(name, []).append((queries, full_out - plain_out))
    for hook in hooks:
        hook.remove()
    return Lesson(
        {name: torch.cat([queries for queries, _ in parts]) for name, parts in answers.items()},
        {name: torch.cat([difference for _, difference in parts]) for name, parts in answers.items()},
    )


def attended(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Attention (B, P, hidden) of queries to keys and values, in so many heads."""
    queries, keys, values = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (queries, keys, values)
    )
    return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)


def absorb(base: BaseModel, encoder: IdEncoder, samples: list[ShardSample], steps: int) -> IdAttention:
    """Keys and values, and the encoder further, so that each layer adds what the fuller caption would."""
    tower, attention = miniature_tower(), IdAttention.beside(cross_attention_layers(base.unet))
    features, taught = seen(tower, samples), lesson(base, samples)
    heads = {name: cross.layer.heads for name, cross in cross_attention_layers(base.unet).items()}
    sizes = {name: difference.square().mean() for name, difference in taught.differences.items()}
    optimizer = torch.optim.AdamW(
        [{"params": encoder.parameters(), "full": 5e-4}, {"params": attention.parameters(), "full": 2e-3}]
    )
    shown: list[float] = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["full"] * min(1, (step + 1) / 30) * (1 - step / steps)
        rng = np.random.default_rng([step, 32])
        picked = torch.from_numpy(rng.integers(len(samples), size=ABSORBING_BATCH))
        views = torch.from_numpy(rng.integers(2, size=ABSORBING_BATCH))
        tokens = encoder(torch.cat([tower.nothing()[None], features[views, picked]]))
        nobody = tokens[:1].expand(len(picked), -1, -1)
        keys_values = attention(
            torch.cat([torch.cat([tokens[1:], nobody, nobody], 1), nobody.repeat(1, 3, 1)[:4]])
        )
        terms = []
        for name, (keys, values) in keys_values.items():
            queries = torch.cat([taught.queries[name][picked], taught.queries[name][picked[:4]]])
            difference = taught.differences[name][picked]
            goal = torch.cat([difference, torch.zeros_like(difference[:4])])  # of nobody nothing is said
            output = attended(queries, keys, values, heads[name])
            terms.append(F.mse_loss(output, goal) / sizes[name])
        loss = torch.stack(terms).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shown.append(loss.item())
        if step % 50 == 49:
            log.info("absorbing %d/%d: %.4f of 1", step + 1, steps, np.mean(shown[-50:]))
    return attention


def begin(base: BaseModel, shards: Path, path: Path, steps: tuple[int, int]) -> None:
    """Writes the adapter that training begins from."""
    samples = samples_of(shards)
    encoder = listen(base, samples, steps[0])
    attention = absorb(base, encoder, samples[:ABSORBED], steps[1])
    tensors = adapter_tensors(encoder, attention)
    extra = {"slots": 3, "head_width": encoder.head_width, "image_encoder": "miniature",
             "image_width": encoder.image_width, "face_width": 0, "keep": "face and hair"}  # fmt: skip
    plain = {name: one.detach().clone() for name, one in tensors.items()}
    Artifact(
        kind="id_adapter",
        method="masterweaver",
        tensors=plain,
        base_family=base.family,
        base_fingerprint=base.fingerprint,
        extra=extra,
    ).save(path)


def job(work: Path, scale: float = 1.0, name: str = "trained", **changes: object) -> Job:
    """Both stages of MasterWeaver from the beginning made in `work`."""
    start = MasterWeaverSettings.preset("miniature")
    settings = replace(
        start,
        shards=str(work / "shards"),
        adapter=str(work / "begun.safetensors"),
        identity_steps=max(1, round(start.identity_steps * scale)),
        editing_steps=max(1, round(start.editing_steps * scale)),
    )
    settings = replace(settings, **changes)  # pyright: ignore[reportArgumentType]
    return Job(
        method="masterweaver", concepts=(), output=str(work / f"{name}.safetensors"), settings=settings,
        base=BaseSpec(), device="cpu", checkpoint_every=50, resume=True,
    )  # fmt: skip


def prepare_adapter(
    work: Path, steps: tuple[int, int] = (LISTENING_STEPS, ABSORBING_STEPS), people: range = PEOPLE
) -> None:
    """Shards and the adapter to begin from, unless they are there."""
    if not (work / "shards" / INDEX).exists():
        write_shards(work / "shards", rendered(people, each=1, twins=_TWINS), each=128)
    if not (work / "begun.safetensors").exists():
        begin(load_base(BaseSpec()), work / "shards", work / "begun.safetensors", steps)


def make_id_adapter(
    work: Path, out: Path, scale: float = 1.0, people: range = PEOPLE, **changes: object
) -> None:
    """All of it in one go, to the file `out`; `scale` multiplies the steps of the beginning and both stages.

    What an earlier call finished in `work` is not done again; `changes` are settings of MasterWeaver.
    """
    work.mkdir(parents=True, exist_ok=True)
    beginning = [max(1, round(steps * scale)) for steps in (LISTENING_STEPS, ABSORBING_STEPS)]
    prepare_adapter(work, (beginning[0], beginning[1]), people)
    spec = job(work, scale, "trained", **changes)
    trained = Path(spec.output)
    ship(trained if trained.exists() else train(spec, Logged(25)), out)


def ship(trained: Path, place: Path) -> None:
    """Writes the adapter as fp16, without where its training data lay."""
    adapter = Artifact.load(trained)
    settings = {name: value for name, value in adapter.settings.items() if name not in ("shards", "adapter")}
    tensors = {name: tensor.half() for name, tensor in adapter.tensors.items()}
    replace(adapter, tensors=tensors, settings=settings).save(place)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and unfinished weights")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all step counts")
    parser.add_argument("--people", type=int, default=len(PEOPLE), help="to learn from")
    parser.add_argument(
        "--out", type=Path, default=model.weights_file("id_adapter"), help="the file to write"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    make_id_adapter(arguments.work, arguments.out, arguments.scale, PEOPLE[: arguments.people])


if __name__ == "__main__":
    main()
