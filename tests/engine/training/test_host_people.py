"""Learning words while an identity adapter shows somebody: who is seen in which pass, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import BaseModel
from likeness_portraits.engine.bases.conditioning import Conditioning
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.identity.attention import IdAttention
from likeness_portraits.engine.identity.conditioning import (
    IdAdapter,
    IdentityConditioning,
    IdentityTokens,
    with_identities,
)
from likeness_portraits.engine.identity.encoder import IdEncoder
from likeness_portraits.engine.identity.files import adapter_tensors
from likeness_portraits.engine.identity.pictures import IdentityOptions, people_of, people_on
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.training.drawing import PreviewDrawing
from likeness_portraits.engine.training.host import merged_adapters
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.methods import method_class
from likeness_portraits.tests.engine.tiny import tiny_base, tiny_job, write_person, write_portraits


def somebody(base: BaseModel, **how) -> IdentityConditioning:
    """An adapter of random weights that shows, and a person of random tokens."""
    width = base.unet.config.cross_attention_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        encoder = IdEncoder(dim=width, image_width=12, queries=4, head_width=16)
        attention = IdAttention.beside(base.denoiser.cross_attention())
        for weight in attention.parameters():
            weight.data += 2 * torch.randn_like(weight) / width**0.5
        tokens, nobody = torch.randn(2, 1, 12, width)
    adapter = IdAdapter(encoder=encoder, attention=attention, family=base.family, image_encoder="none")
    return IdentityConditioning(identity=IdentityTokens(adapter=adapter, tokens=tokens, nobody=nobody), **how)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    write_person(folder / "person")
    return folder


def inputs(base: BaseModel) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(2, 4, 8, 8, generator=generator)
    return noisy, torch.tensor([0.9, 0.1]), base.encode_text(["a photo of a woman", "a drawing of a dog"])


@torch.no_grad()
def test_a_training_pass_shows_the_person_as_a_sampling_pass_does():
    base = tiny_base()
    noisy, _, context = inputs(base)
    alike = torch.tensor([0.5, 0.5])
    person = somebody(base)
    with with_identities(base, [person]) as shows:
        wanted = shows(base, range(2)).predict(noisy, alike, context)
    stock = base.predict(noisy, alike, context)
    with merged_adapters(base, [], [person]):
        assert torch.equal(base.predict(noisy, alike, context), wanted)
    assert (wanted - stock).abs().max() > 0.01
    assert torch.equal(base.predict(noisy, alike, context), stock)


@torch.no_grad()
def test_each_sample_of_a_training_pass_shows_them_at_its_own_noise_level():
    base = tiny_base()
    given = inputs(base)  # at 0.9 and 0.1 of the way to noise
    stock = base.predict(*given)
    with merged_adapters(base, [], [somebody(base, start=0.5)]):
        early, late = (base.predict(*given) - stock).abs().amax((1, 2, 3)).tolist()
    assert early < 1e-5 and late > 0.01


@pytest.mark.parametrize("method", ["textual-inversion", "personamagic"])
def test_previews_show_the_person_as_pictures_drawn_with_them_do(folder: Path, method: str):
    """Under guidance the negative half of a pass shows nobody, unlike a pass that is learned from."""
    base = tiny_base()
    person, job = somebody(base), tiny_job(method, folder, "preview")
    with merged_adapters(base, [], [person]):
        made = method_class(method)(job, base, [load_concept(job.concepts[0])])
        preview = made.pictures(["a photo of <v0>"], PreviewDrawing(seeds=[3], steps=3, check=lambda: None))
        artifact = made.artifact()
    drawn = generate(base, ["a photo of <v0>"], seed=3, steps=3, artifacts=[(artifact, 1.0)], people=[person])
    nobody = generate(base, ["a photo of <v0>"], seed=3, steps=3, artifacts=[(artifact, 1.0)])
    assert np.abs(preview.astype(int) - drawn).max() <= 1
    assert np.abs(nobody.astype(int) - drawn).mean() > 1


@pytest.mark.parametrize("method", ["textual-inversion", "personamagic"])
def test_words_learned_on_a_person_differ_and_leave_base_and_person_alone(folder: Path, method: str):
    base = tiny_base()
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    person = somebody(base)
    plain = Artifact.load(train(tiny_job(method, folder, "plain"), base=base))
    on = Artifact.load(train(tiny_job(method, folder, "on"), base=base, people=[person]))
    assert any(not torch.equal(on.tensors[name], tensor) for name, tensor in plain.tensors.items())
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
    again = Artifact.load(train(tiny_job(method, folder, "again"), base=base))
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in plain.tensors.items())


@pytest.mark.parametrize(
    ("method", "changes", "how", "message"),
    [
        ("dreambooth-lora", {}, {}, "dreambooth-lora cannot be learned while an identity adapter shows"),
        ("magictailor", {}, {}, "from before Apply Face Identity"),
        ("personamagic", {}, {"region": torch.ones(4, 4)}, "inside a mask cannot be learned on"),
        ("personamagic", {"compile": "eager"}, {}, "learn without --compile"),
    ],
)
def test_what_cannot_be_learned_on_a_person_is_told_before_it_begins(
    folder: Path, method: str, changes: dict, how: dict, message: str
):
    base = tiny_base()
    with pytest.raises(LikenessError, match=message):
        train(tiny_job(method, folder, "refused", **changes), base=base, people=[somebody(base, **how)])
    assert not (folder / "refused.safetensors").exists()


def test_several_concepts_on_one_person_are_refused(folder: Path):
    base, job = tiny_base(), tiny_job("textual-inversion", folder, "two")
    one = {"folder": str(folder / "person")}
    job = tiny_job("textual-inversion", folder, "two", concepts=[one, {**one, "token": "<v1>"}])
    with pytest.raises(LikenessError, match="learn one concept at a time"):
        train(job, base=base, people=[somebody(base)])


def test_an_adapter_of_another_kind_of_model_is_refused(folder: Path):
    base = tiny_base()
    person = somebody(base)
    base.family = "sd2"
    with pytest.raises(LikenessError, match="trained for sd1, but the model is sd2"):
        train(tiny_job("personamagic", folder, "other"), base=base, people=[person])


def test_a_job_that_names_an_adapter_is_not_run_without_its_person(folder: Path):
    with pytest.raises(LikenessError, match="miniature=me.png is an identity adapter.*likeness train"):
        train(tiny_job("personamagic", folder, "unread", on=["miniature=me.png"]), base=tiny_base())


# ---------------------------------------------------------------------------------- as typed behind --on


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A concept folder of four of the Miniature's pictures."""
    return write_portraits(tmp_path_factory.mktemp("typed"))


def test_without_pictures_the_adapter_looks_at_the_first_that_are_learned_from(person: Path):
    (shown,) = people_on(["miniature"], [str(person)])
    (told,) = people_of([",".join(str(person / f"{number}.png") for number in range(3))], IdentityOptions())
    assert torch.equal(shown.identity.tokens, told.identity.tokens)


def test_pictures_weight_and_settings_are_read_from_what_was_typed(person: Path):
    text = f"miniature={person / '1.png'}:0.8;start=0.2;layers=mid_block=0.5"
    (shown,) = people_on([text], [str(person)])
    (told,) = people_of([str(person / "1.png")], IdentityOptions())
    assert (shown.weight, shown.start, shown.end, shown.layers) == (0.8, 0.2, 1.0, {"mid_block": 0.5})
    assert torch.equal(shown.identity.tokens, told.identity.tokens)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("miniature;strat=0.2", "unknown setting 'strat' in 'miniature;strat=0.2'; did you mean 'start'"),
        ("miniature;start=soon", "'soon' in 'miniature;start=soon' is not a number"),
        ("miniature={0}", "4 reference pictures are given, but the adapter has places for 3"),
        ("nowhere.safetensors={0}", "nowhere.safetensors"),
        ("{1}={0}", "looks through a tiny tower; .* behind --on as ;image_encoder=FOLDER"),
    ],
)
def test_what_is_wrong_with_an_adapter_as_typed_is_told(
    person: Path, tmp_path: Path, text: str, message: str
):
    adapter = somebody(tiny_base()).identity.adapter
    of_photographs = Artifact(
        kind="id_adapter", method="masterweaver", base_family="sd1",
        tensors=adapter_tensors(adapter.encoder, adapter.attention),
        extra={"head_width": 16, "image_encoder": "a tiny tower"},
    ).save(tmp_path / "photographs.safetensors")  # fmt: skip
    with pytest.raises(LikenessError, match=message):
        people_on([text.format(person, of_photographs)], [str(person)])
