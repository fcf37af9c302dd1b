"""Drawing people from pictures of them, on a tiny random base and an adapter of random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from likeness_portraits.engine.artifact import Artifact, read_metadata
from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.identity.adapter import encode_identity, factors_of, id_adapter, read_adapter
from likeness_portraits.engine.identity.attention import IdAttention
from likeness_portraits.engine.identity.conditioning import IdentityConditioning, IdentityTokens, each_once
from likeness_portraits.engine.identity.encoder import IdEncoder
from likeness_portraits.engine.identity.files import adapter_tensors, released_names, sd1_layers
from likeness_portraits.engine.identity.references import ImageTower, Reference
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.golden.goldens import Golden

PROMPT = "a photo of a woman"


def adapter_for(base: BaseModel, face_width: int = 0, **changes: Any) -> Artifact:
    """Random, and loud enough to be seen."""
    width = base.unet.config.cross_attention_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        encoder = IdEncoder(dim=width, image_width=12, queries=4, head_width=16, face_width=face_width)
        attention = IdAttention.beside(base.denoiser.cross_attention())
        for weight in attention.parameters():
            weight.data += 2 * torch.randn_like(weight) / width**0.5
    extra = {"head_width": 16, "image_encoder": "a tiny tower"}
    return Artifact(
        kind="id_adapter", method="masterweaver", tensors=adapter_tensors(encoder, attention),
        **{"base_family": base.family, "extra": extra, **changes},
    )  # fmt: skip


def tower(width: int = 12) -> ImageTower:
    """Sees the brightness of every row."""
    return ImageTower(
        "a tiny tower", 8, (0.5,) * 3, (0.5,) * 3, lambda x: x.mean((1, 3))[..., None].expand(-1, -1, width)
    )


def reference(shade: int, face: int = 0) -> Reference:
    return Reference(np.full((16, 16, 3), shade, np.uint8), np.full(face, 0.5, np.float32) if face else None)


def somebody(base: BaseModel, shade: int = 250, count: int = 1) -> IdentityTokens:
    return encode_identity(id_adapter(adapter_for(base)), [reference(shade)] * count, tower())


def drawn(base: BaseModel, *people: IdentityConditioning, **options: Any) -> np.ndarray:
    return generate(base, [PROMPT], people=people, steps=3, **options).astype(int)


def apart(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).mean())


def test_an_adapter_survives_its_file_and_tells_what_it_is(base: BaseModel, tmp_path: Path):
    artifact = adapter_for(base)
    path = artifact.save(tmp_path / "ids.safetensors")
    assert read_metadata(path)["kind"] == "id_adapter"
    read = id_adapter(read_adapter(path))
    own = id_adapter(artifact)
    features = torch.randn(1, 3, 8, 12)
    assert torch.equal(read.encoder.slots(features), own.encoder.slots(features))
    assert (read.family, read.image_encoder, read.slots) == ("sd1", "a tiny tower", 3)


def test_somebody_shows_by_their_weight_and_the_base_is_unchanged_afterwards(base: BaseModel):
    plain, identity = drawn(base), somebody(base)
    shown = drawn(base, IdentityConditioning(identity=identity))
    assert apart(shown, plain) > 2
    assert apart(drawn(base, IdentityConditioning(identity=identity, weight=0.3)), plain) < apart(
        shown, plain
    )
    assert np.array_equal(drawn(base, IdentityConditioning(identity=identity, weight=0.0)), plain)
    assert np.array_equal(drawn(base), plain)


def test_two_references_are_another_person_than_one_and_their_order_means_nothing(base: BaseModel):
    adapter = id_adapter(adapter_for(base))
    pair = [reference(250), reference(30)]
    one, both, turned = (encode_identity(adapter, refs, tower()) for refs in (pair[:1], pair, pair[::-1]))
    assert one.tokens.shape == both.tokens.shape == (1, 12, 32)
    first, second = (
        drawn(base, IdentityConditioning(identity=both)),
        drawn(base, IdentityConditioning(identity=turned)),
    )
    assert np.abs(first - second).max() <= 1
    assert apart(first, drawn(base, IdentityConditioning(identity=one))) > 0.1
    assert torch.equal(one.nobody, both.nobody)


def test_slots_that_hold_the_same_are_read_once_and_count_as_often(base: BaseModel):
    """One picture leaves two slots empty: what is read of them is the same as of all three places."""
    identity = somebody(base)
    queries = identity.adapter.encoder.queries
    both = torch.cat([identity.nobody, identity.tokens])
    once, often = each_once(both, queries)
    assert once.shape[1] == 2 * queries < both.shape[1] and often is not None
    asking = torch.randn(2, 1, 5, 32, generator=torch.Generator().manual_seed(0))
    whole = torch.nn.functional.scaled_dot_product_attention(asking, both[:, None], both[:, None])
    read = torch.nn.functional.scaled_dot_product_attention(
        asking, once[:, None], once[:, None], attn_mask=often[:, None, None]
    )
    torch.testing.assert_close(read, whole)
    three = encode_identity(identity.adapter, [reference(shade) for shade in (250, 130, 20)], tower())
    assert each_once(torch.cat([three.nobody, three.tokens]), queries)[1] is None  # nothing is saved


@pytest.mark.parametrize("guidance", [1.0, 0.5, 0.0])
def test_without_guidance_every_picture_still_has_its_own_slots(base: BaseModel, guidance: float):
    """The reference folds the rows of a missing unconditional pass into the tokens of the pictures."""
    people = [IdentityConditioning(identity=somebody(base))]
    together = generate(base, [PROMPT, "a man"], people=people, steps=3, guidance=guidance, seed=[1, 2])
    alone = generate(base, ["a man"], people=people, steps=3, guidance=guidance, seed=2)
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1
    if guidance:
        assert apart(alone, generate(base, ["a man"], steps=3, guidance=guidance, seed=2)) > 1


def test_the_unconditional_samples_show_nobody(base: BaseModel):
    """With guidance 0 only they are left: who is shown makes no difference."""
    first, second = (
        drawn(base, IdentityConditioning(identity=somebody(base, shade)), guidance=0.0) for shade in (250, 20)
    )
    assert np.array_equal(first, second)


def test_noise_levels_and_layers_limit_where_somebody_shows(base: BaseModel):
    identity, plain = somebody(base), drawn(base)
    early, late = (
        IdentityConditioning(identity=identity, end=0.5),
        IdentityConditioning(identity=identity, start=0.5001),
    )  # fmt: skip
    assert early.at(0.0) and not early.at(0.7) and late.at(0.7) and not late.at(0.0)
    whole = drawn(base, IdentityConditioning(identity=identity))
    assert apart(drawn(base, early), plain) > 0.1 and apart(drawn(base, early), whole) > 0.1
    assert np.array_equal(drawn(base, early, late), whole)
    assert np.array_equal(drawn(base, IdentityConditioning(identity=identity, start=0.5, end=0.5)), plain)
    only = IdentityConditioning(
        identity=identity, layers=factors_of("down_blocks=0, mid_block=0, up_blocks=0, up_blocks.1=1")
    )
    assert 0 < apart(drawn(base, only), plain) < apart(whole, plain)


def test_two_people_in_regions_of_their_own_are_another_picture_than_the_two_swapped(base: BaseModel):
    left = torch.zeros(32, 32)
    left[:, :16] = 1
    first, second = somebody(base, 250), somebody(base, 20)
    both = drawn(
        base,
        IdentityConditioning(identity=first, region=left),
        IdentityConditioning(identity=second, region=1 - left),
    )
    swapped = drawn(
        base,
        IdentityConditioning(identity=second, region=left),
        IdentityConditioning(identity=first, region=1 - left),
    )
    assert apart(both, swapped) > 1
    split = drawn(
        base,
        IdentityConditioning(identity=first, region=left),
        IdentityConditioning(identity=first, region=1 - left),
    )
    assert np.abs(split - drawn(base, IdentityConditioning(identity=first))).max() <= 1


def test_somebody_may_be_in_some_pictures_of_a_run_only(base: BaseModel):
    identity = somebody(base)
    pair = generate(
        base, [PROMPT] * 2, people=[IdentityConditioning(identity=identity, among=(True, False))], steps=3
    )
    assert np.abs(pair[0].astype(int) - drawn(base, IdentityConditioning(identity=identity))[0]).max() <= 1
    assert np.abs(pair[1].astype(int) - drawn(base)[0]).max() <= 1


def test_an_adapter_for_another_base_is_refused(base: BaseModel):
    foreign = IdentityConditioning(identity=encode_identity(
        id_adapter(adapter_for(base, base_family="sd2")), [reference(1)], tower()
    ))  # fmt: skip
    with pytest.raises(LikenessError, match="trained for sd2, but the model is sd1"):
        drawn(base, foreign)
    artifact = adapter_for(base)
    fewer = {key: rows for key, rows in artifact.tensors.items() if "up_blocks" not in key}
    name = "id_attention.up_blocks.7.attentions.0.transformer_blocks.0.attn2"
    fewer |= {f"{name}.{part}_img.weight": torch.ones(32, 32) for part in ("to_k", "to_v")}
    other = id_adapter(
        Artifact(kind="id_adapter", method="x", tensors=fewer, base_family="sd1", extra=artifact.extra)
    )
    with pytest.raises(LikenessError, match=r"trained for another network: its layer up_blocks\.7"):
        drawn(base, IdentityConditioning(identity=encode_identity(other, [reference(1)], tower())))


def test_bad_references_and_settings_are_said(base: BaseModel):
    adapter, identity = id_adapter(adapter_for(base)), somebody(base)
    for wrong, message in (
        (lambda: encode_identity(adapter, [], tower()), "no reference picture is given"),
        (lambda: somebody(base, count=4), "4 reference pictures are given"),
        (lambda: encode_identity(adapter, [reference(1)], tower(9)), "a tiny tower; .* 9 wide, not 12"),
        (lambda: IdentityConditioning(identity=identity, start=0.8, end=0.2), "cannot last from 0.8 to 0.2"),
        (lambda: IdentityConditioning(identity=identity, region=torch.zeros(4, 4)), "region marks nothing"),
        (
            lambda: IdentityConditioning(identity=identity, layers={"up_blocks.9": 1}),
            "no layer 'up_blocks.9'; did you mean",
        ),
        (lambda: factors_of("up_blocks.1"), r"write it like up_blocks\.1=1\.3"),
        (
            lambda: id_adapter(Artifact(kind="lora", method="magictailor", tensors={})),
            "is no identity adapter",
        ),
        (lambda: id_adapter(Artifact(kind="id_adapter", method="x", tensors={})), "incomplete or damaged"),
        (lambda: generate(base, [PROMPT], artifacts=[(adapter_for(base), 1.0)]), "give them with --identity"),
    ):
        with pytest.raises(LikenessError, match=message):
            wrong()


def test_an_adapter_that_looks_at_embeddings_wants_them_for_every_reference(base: BaseModel):
    adapter = id_adapter(adapter_for(base, face_width=6))
    known = encode_identity(adapter, [reference(9, 6)], tower())
    assert apart(drawn(base, IdentityConditioning(identity=known)), drawn(base)) > 1
    with pytest.raises(LikenessError, match="a face embedding of 6 numbers"):
        encode_identity(adapter, [reference(9, 6), reference(9)], tower())


# ----------------------------------------------------------------------------------------- released files


def released(folder: Path, **changes: Any) -> Path:
    """A file in the layout of the reference, narrow but of all layers."""
    layout = Golden("masterweaver", "checkpoint_layout").json("layout")
    generator = torch.Generator().manual_seed(1)

    def small(shape: list[int]) -> list[int]:
        return [max(1, side // 32) if side > 16 else side for side in shape]

    content = {
        part: {key: torch.randn(small(shape), generator=generator) for key, shape in tensors.items()}
        for part, tensors in layout.items()
    }
    for key in ("layers.0.0.to_q", "layers.0.0.to_kv", "final_attn.to_q", "final_attn.to_kv"):
        rows = content["id_encoder"][f"{key}.weight"]
        content["id_encoder"][f"{key}.weight"] = torch.randn(64 * (1 + key.endswith("kv")), rows.shape[1])
    for key in ("layers.0.0.to_out", "final_attn.to_out"):
        content["id_encoder"][f"{key}.weight"] = torch.randn(24, 64)
    content["adapter_modules"] |= changes
    path = folder / "adapter_100000.pt"
    torch.save(content, path)
    return path


def test_the_released_layout_is_imported_by_layer_name(tmp_path: Path, capsys: pytest.CaptureFixture):
    path, out = released(tmp_path), tmp_path / "released.safetensors"
    assert main(["import", str(path), "--output", str(out)]) == 0
    artifact = Artifact.load(out)
    assert (artifact.kind, artifact.base_family, artifact.extra["slots"]) == ("id_adapter", "sd1", 3)
    content = torch.load(path, weights_only=True)
    names = released_names(sd1_layers())
    for key, rows in content["adapter_modules"].items():
        number, rest = key.split(".", 1)
        assert torch.equal(artifact.tensors[f"id_attention.{names[number]}.{rest}"], rows)
    assert names["31"].startswith("mid_block") and names["13"].startswith("up_blocks.1.attentions.0")
    direct = read_adapter(path)
    assert artifact.tensors.keys() == direct.tensors.keys()
    assert id_adapter(direct).image_encoder == "clip-vit-large-patch14"


def test_foreign_or_broken_adapters_are_refused_by_name(tmp_path: Path):
    with pytest.raises(LikenessError, match="unknown layer 33"):
        read_adapter(released(tmp_path, **{"33.to_k_img.weight": torch.ones(1)}))
    torch.save({"unet": {}}, tmp_path / "a.pt")
    with pytest.raises(LikenessError, match="holds no id_encoder"):
        read_adapter(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"no zip")
    with pytest.raises(LikenessError, match="is damaged"):
        read_adapter(tmp_path / "b.pt")
    with pytest.raises(LikenessError, match="does not exist"):
        read_adapter(tmp_path / "c.pt")


# ----------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def miniature_ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter for the Miniature, and pictures of a person."""
    folder = tmp_path_factory.mktemp("ids")
    base = load_base(BaseSpec())
    torch.manual_seed(2)
    encoder = IdEncoder(dim=128, image_width=128, face_width=128)
    artifact = Artifact(
        kind="id_adapter", method="masterweaver", base_family="miniature",
        tensors=adapter_tensors(encoder, IdAttention.beside(base.denoiser.cross_attention())),
        extra={"image_encoder": "miniature"},
    )  # fmt: skip
    artifact.save(folder / "ids.safetensors")
    for number, portrait in enumerate(world.example_pictures(world.TUNING_SEEDS[0], 4)):
        Image.fromarray(portrait.pixels).save(folder / f"{number}.png")
    Image.new("RGB", (128, 128), "grey").save(folder / "wall.png")
    half = np.zeros((128, 128, 3), np.uint8)
    half[:, :64] = 255
    Image.fromarray(half).save(folder / "left.png")
    Image.fromarray(255 - half).save(folder / "right.png")
    return folder


def command(folder: Path, *words: Any, out: str = "out.png") -> int:
    return main([
        "generate", PROMPT, "--steps", "2", "--out", str(folder / out),
        "--adapter", str(folder / "ids.safetensors"), *map(str, words),
    ])  # fmt: skip


def test_the_command_line_draws_somebody_from_pictures(miniature_ids: Path):
    folder = miniature_ids
    two = f"{folder / '0.png'},{folder / '1.png'}:0.8"
    assert command(folder, "--identity", two) == 0
    assert command(folder, "--identity", f"{two[:-4]}:0", out="plain.png") == 0
    first, plain = (np.asarray(Image.open(folder / name)).astype(int) for name in ("out.png", "plain.png"))
    assert apart(first, plain) > 1
    regions = ("--identity-region", folder / "left.png", "--identity-region", folder / "right.png")
    pair = ("--identity", folder / "0.png", "--identity", folder / "2.png")
    later = ("--identity-start", 0.1, "--identity-layers", "mid_block=0.5")
    assert command(folder, *pair, *regions, *later, out="two.png") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--identity", "{}/wall.png"], "no picture of the Miniature's world"),
        (["--identity", "{0}/0.png,{0}/1.png,{0}/2.png,{0}/3.png"], "the adapter has places for 3"),
        (["--identity", "{}/0.png", *["--identity-region", "{}/left.png"] * 2],
         "2 regions are given for 1 people"),
        (["--identity", "{}/nobody.png"], "does not exist"),
        (["--identity", "{}/0.png", "--base", "{}/none"], "there is no base model"),
    ],
)  # fmt: skip
def test_mistakes_at_the_command_line_are_one_sentence(
    miniature_ids: Path, words: list[str], message: str, capsys: pytest.CaptureFixture
):
    assert command(miniature_ids, *(word.format(miniature_ids) for word in words), out="never.png") == 2
    assert message in capsys.readouterr().err
