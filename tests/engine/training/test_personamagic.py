"""PersonaMagic as a method: its pictures, settings, ablations, other bases, and mistakes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import BaseModel, unet_base
from likeness_portraits.engine.config import PersonaMagicSettings
from likeness_portraits.engine.data.concepts import Picture, load_concept
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.staged.embedding import adjusted, staged_words
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.methods.personamagic import (
    PersonaMagic,
    miniature_features,
    nearest_mask,
    squashed_pixels,
)
from likeness_portraits.tests.engine.tiny import staged_person, tiny_base, tiny_job
from likeness_portraits.tests.golden.goldens import Golden


def method(folder: Path, base: BaseModel, **settings) -> PersonaMagic:
    job = tiny_job("personamagic", folder, settings=settings)
    torch.manual_seed(1)
    learner = PersonaMagic(job, base, [load_concept(concept) for concept in job.concepts])
    learner.cache_latents()
    return learner


def losses(learner: PersonaMagic, number: int = 0) -> dict[str, torch.Tensor]:
    return learner(learner.batch(learner.phases()[0], number), None)  # type: ignore[arg-type]


def test_training_picture_and_mask_of_the_reference():
    case = Golden("personamagic", "dataset_item")
    picture = Picture("photo", case["in.image_u8"].numpy(), case["in.mask_u8"].numpy() / np.float32(255))
    pixels = squashed_pixels(picture, int(case["in.size"]))
    torch.testing.assert_close(pixels, case["out.pixel_values"], atol=2.1 / 127.5, rtol=0)
    assert torch.equal(nearest_mask(picture, 8), case["out.mask"])


def test_presets_follow_the_released_configuration():
    shipped = PersonaMagicSettings.preset("reference")
    assert shipped.learning_rate == 1e-4 and shipped.gradient_accumulation * shipped.batch_size == 2
    assert (shipped.vectors, shipped.anchors, shipped.interval) == (4, 200, (400, 800))
    assert len(shipped.templates) == 27 and len(shipped.style_templates) == 19
    assert len(shipped.open_prompts) == 20 and len(set(shipped.templates)) == 27
    assert PersonaMagicSettings.preset("paper").late == "class word"


def test_timesteps_stay_inside_the_interval(folder, base):
    learner = method(folder, base, interval=[100, 110], stages=5)
    drawn = torch.cat([learner.batch(learner.phases()[0], number).times for number in range(40)])
    timesteps = base.process.published_timestep(drawn)
    assert timesteps.min() == 100 and timesteps.max() == 109


def test_the_gradient_reaches_every_part_of_the_mapper(folder, base):
    learner = method(folder, base, bypass_dropout=0.0)
    sum(losses(learner).values()).backward()
    silent = [name for name, weight in learner.mapper.named_parameters() if not weight.grad.any()]
    assert silent == []
    assert all(weight.grad is None for weight in base.parameters())


def test_a_dropped_bypass_leaves_the_picture_half_without_gradient(folder, base):
    learner = method(folder, base, bypass_dropout=1.0)
    sum(losses(learner).values()).backward()
    moved = {name for name, weight in learner.mapper.named_parameters() if weight.grad.any()}
    assert moved and not any(name.startswith("image_") for name in moved)


@pytest.mark.parametrize(
    "settings",
    [
        {"balance_weight": 0.0},
        {"bypass": False},
        {"single_stage": True},
        {"interval": [0, 1000], "stages": 10},
        {"zero_init": True, "balance_real_queries": True, "min_snr_gamma": 5.0},
        {"squash": True, "masked_loss": True, "late": "class word"},
        {"vectors": 1, "masked_loss": False},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_switches_train_and_draw(folder, base, settings):
    path = train(tiny_job("personamagic", folder, settings={**settings, "steps": 1}), base=base)
    picture = generate(base, ["a photo of <v0>"], artifacts=[(Artifact.load(path), 1.0)], steps=4)
    assert picture.shape == (1, 32, 32, 3)


def test_without_tandem_equilibrium_there_is_one_loss(folder, base):
    assert set(losses(method(folder, base))) == {"diffusion", "text_attention"}
    assert set(losses(method(folder, base, balance_weight=0.0))) == {"diffusion"}


def test_zero_initialised_heads_begin_as_the_class_word(folder, base):
    words = method(folder, base, zero_init=True).words()
    vectors, bypass = words.at(500)
    row = base.word_rows("woman")["clip_l"]
    torch.testing.assert_close(vectors["clip_l"], row.expand(4, -1))
    assert not bypass["clip_l"].any()


def test_a_single_stage_gives_the_same_words_at_every_noise_level(folder, base):
    learner = method(folder, base, single_stage=True)
    words = learner.words()
    assert torch.equal(words.at(410)[0]["clip_l"], words.at(790)[0]["clip_l"])
    trained, _ = learner._words(learner.batch(learner.phases()[0], 0))
    torch.testing.assert_close(trained["clip_l"][0].detach(), words.at(410)[0]["clip_l"])
    words = method(folder, base).words()
    assert not torch.equal(words.at(410)[0]["clip_l"], words.at(790)[0]["clip_l"])


def tower_folder(folder: Path) -> Path:
    """A CLIP image tower of a few thousand random weights, as transformers saves one."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16,
        patch_size=8, projection_dim=12,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def test_the_pictures_features_come_from_a_tower_and_stay_in_the_artifact(folder, base):
    tower = tower_folder(folder / "tower")
    artifact = Artifact.load(
        train(tiny_job("personamagic", folder, settings={"image_encoder": str(tower)}), base=base)
    )
    assert artifact.tensors["image_features"].shape == (4, 12)
    options = {"artifacts": [(artifact, 1.0)], "steps": 6}
    first = generate(base, ["a photo of <v0>"], **options)
    other = {**artifact.tensors, "image_features": artifact.tensors["image_features"] * 3}
    options["artifacts"] = [(replace(artifact, tensors=other), 1.0)]
    assert (first != generate(base, ["a photo of <v0>"], **options)).any()


def test_features_that_somebody_else_computed_are_taken(folder, base):
    file = folder / "features.safetensors"
    save_file({"image_embeds": torch.ones(4, 5)}, file)
    assert method(folder, base, image_encoder=str(file)).features.shape == (4, 5)
    save_file({"image_embeds": torch.ones(3, 5)}, file)
    with pytest.raises(LikenessError, match="not one for each of 4 pictures"):
        method(folder, base, image_encoder=str(file))


def test_the_miniature_looks_with_its_own_tower():
    from likeness_portraits.engine.miniature import model, world

    people = [world.example_pictures(seed, 2) for seed in world.TUNING_SEEDS[:3]]
    pixels = np.stack([portrait.pixels for person in people for portrait in person])
    features = miniature_features(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1)
    assert features.shape == (6, model.TEXT_WIDTH) and features.isfinite().all()
    assert (features.std(0) > 0).any()


def test_an_sd2_base_with_velocity_and_its_own_text_encoder(folder, base):
    other = tiny_base("v_prediction")
    sd2 = unet_base(
        unet=other.unet, vae=other.vae, text_encoders={"clip_h": other.text_encoders["clip_l"]},
        tokenizers={"clip_h": other.tokenizers["clip_l"]}, family="sd2",
        alphas_cumprod=other.process.alphas_cumprod, resolution=other.resolution,
        prediction_type="v_prediction",
    )  # fmt: skip
    artifact = Artifact.load(train(tiny_job("personamagic", folder), base=sd2))
    assert "word.clip_h" in artifact.tensors and artifact.base_family == "sd2"
    assert generate(sd2, ["a photo of <v0>"], artifacts=[(artifact, 1.0)], steps=3).shape == (1, 32, 32, 3)
    with pytest.raises(LikenessError, match="family sd2"):
        generate(base, ["a photo of <v0>"], artifacts=[(artifact, 1.0)], steps=3)


def test_it_trains_in_half_precision(folder, base):
    full = Artifact.load(train(tiny_job("personamagic", folder, "full"), base=base))
    half = Artifact.load(train(tiny_job("personamagic", folder, "half", precision="bf16"), base=base))
    name = "mapper.output_layer.0.weight"
    assert not torch.equal(full.tensors[name], half.tensors[name])
    torch.testing.assert_close(full.tensors[name], half.tensors[name], atol=2e-2, rtol=0)


def test_it_draws_together_with_a_lora_and_a_plain_embedding(folder, base):
    staged = Artifact.load(train(tiny_job("personamagic", folder, "staged"), base=base))
    person = {"folder": str(folder / "person"), "token": "<v1>"}
    others = [
        Artifact.load(train(tiny_job("textual-inversion", folder, "word", concepts=[person]), base=base)),
        Artifact.load(
            train(
                tiny_job("dreambooth-lora", folder, "lora", concepts=[{**person, "token": "<v2>"}]), base=base
            )
        ),
    ]
    together = [(staged, 1.0), *((artifact, 1.0) for artifact in others)]
    prompts = ["<v0> beside <v1> and <v2>", "<v2> alone"]
    drawn = generate(base, prompts, artifacts=together, steps=4)
    alone = generate(base, prompts[:1], artifacts=together, steps=4)
    assert np.abs(drawn[0].astype(int) - alone[0]).max() <= 1


def attention_of_layer(encoder, ids: torch.Tensor, vectors: dict, layer: int) -> torch.Tensor:
    """The post-softmax attention of one layer as transformers itself tells it, with vectors in places."""

    def write(_module, _inputs, out):
        return out.index_put(vectors["where"], vectors["rows"])

    implementation = encoder.config._attn_implementation
    encoder.set_attn_implementation("eager")
    hook = encoder.get_input_embeddings().register_forward_hook(write)
    try:
        return encoder(ids, output_attentions=True).attentions[layer]
    finally:
        hook.remove()
        encoder.set_attn_implementation(implementation)


def test_sdxl_is_balanced_in_both_encoders_where_they_are_listened_to(folder):
    """Attention of the last layer but one: what the last one does is never heard."""
    base = tiny_base(family="sdxl")
    learner = method(folder, base, bypass=False)
    batch = learner.batch(learner.phases()[0], 0)
    prompts = batch.prompts + batch.open_prompts
    states = learner._text_states(prompts, *learner._words(batch), attention=True)
    vectors, _ = learner._words(batch)
    terms, count = [], len(batch.prompts)
    for name, encoder in base.text_encoders.items():
        tokens = [learner._tokens(prompt, name) for prompt in prompts]
        places = [(row, place[1], place[3]) for row, token in enumerate(tokens) for place in token.places]
        rows, positions, numbers = torch.tensor(places).T
        written = {"where": (rows, positions), "rows": vectors[name][rows % count, numbers]}
        expected = attention_of_layer(encoder, torch.cat([token.ids for token in tokens]), written, -2)
        torch.testing.assert_close(states[name].attention, expected, atol=1e-6, rtol=1e-4)
        terms.append(learner._balance(expected[count:], prompts[count:], name))
    assert set(states) == {"clip_l", "clip_g"} and terms[0].item() != terms[1].item()
    weight = learner.settings.balance_weight
    found = losses(learner)["text_attention"]
    torch.testing.assert_close(found, weight * torch.stack(terms).mean())
    head = learner.mapper.output_layer[0].weight
    (gradient,) = torch.autograd.grad(found, head)
    widths = list(learner.mapper.text_widths.values())
    for part in gradient.unflatten(0, (learner.mapper.words, -1)).split(widths, dim=1):
        assert part.abs().sum() > 0


def test_sdxls_bypass_moves_the_states_of_the_last_layer_but_one_at_its_words_alone():
    base = tiny_base(family="sdxl")
    widths = {name: encoder.config.hidden_size for name, encoder in base.text_encoders.items()}
    words = staged_words(staged_person("<v0>", widths, "sdxl"))
    from likeness_portraits.engine.staged.words import StagedModel

    found = StagedModel(base, ["a photo of <v0> on a beach"], {}, [words]).states(600)
    vectors, bypass = words.at(words.plan.at(600).timestep)
    plain = base.encode_text(["a photo of <v0> on a beach"], {"<v0>": vectors}).states
    torch.testing.assert_close(found.states, plain)
    expected, start = plain.clone(), 0
    for name, width in widths.items():
        part = plain[0, 4:6, start : start + width]
        moved = part + bypass[name]
        expected[0, 4:6, start : start + width] = moved * (part.norm(dim=-1) / moved.norm(dim=-1))[:, None]
        start += width
    assert (expected - plain).abs().max() > 0.01
    torch.testing.assert_close(found.values, expected)
    class_prompt = base.encode_text(["a photo of woman on a beach"])
    torch.testing.assert_close(found.pooled, class_prompt.pooled)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_staged_prompt_may_be_long_and_begin_a_chunk_with_its_words(family):
    """The class word fits into the first chunk, the two learned words go on to the second."""
    from likeness_portraits.engine.staged.words import StagedModel

    base = tiny_base(family=family)
    widths = {name: encoder.config.hidden_size for name, encoder in base.text_encoders.items()}
    words = staged_words(staged_person("<v0>", widths, family))
    model = StagedModel(base, ["a " * 74 + "<v0>"], {}, [words])
    plain = base.encode_text(["a " * 74 + "woman"])
    vectors, _ = words.at(model._concepts[0].plan.at(600).timestep)
    spoken = base.encode_text(["a " * 74, "<v0>"], {"<v0>": vectors}).states
    early, dynamic = model.states(900), model.states(600)
    assert early.length == dynamic.length == 154
    torch.testing.assert_close(early.states, plain.lengthened(154).states)
    texts = spoken[:, :77].reshape(1, 154, -1)
    torch.testing.assert_close(dynamic.states, texts)
    moved = (dynamic.values - texts).abs().amax(-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == [78, 79]
    drawn = generate(
        base, ["a " * 74 + "<v0>", "<v0>"], negative="a man " * 60,
        artifacts=[(staged_person("<v0>", widths, family), 1.0)], steps=5,
    )  # fmt: skip
    short = generate(base, ["<v0>"], artifacts=[(staged_person("<v0>", widths, family), 1.0)], steps=5)
    assert drawn.shape == (2, *short.shape[1:]) and drawn.std() > 0


def test_strength_scales_the_bypass(folder, base):
    artifact = Artifact.load(train(tiny_job("personamagic", folder), base=base))
    words = staged_words(artifact)
    assert adjusted(words, bypass=0.5).bypass == 0.5
    assert adjusted(words, start=900, end=300).plan.interval == (300, 900)
    assert adjusted(words, late="class word").plan.all()[-1].timestep is None
    with pytest.raises(LikenessError, match="come at timestep 300 and go at 900.*such as 800 and 400"):
        adjusted(words, start=300, end=900)
    with pytest.raises(LikenessError, match="0 to 999"):
        adjusted(words, start=1200)


def test_a_prompt_of_placeholders_alone_is_drawn(folder, base):
    artifact = Artifact.load(train(tiny_job("personamagic", folder), base=base))
    one, two = (
        generate(base, [prompt], artifacts=[(artifact, 1.0)], steps=2) for prompt in ("<v0>", "<v0> <v0>")
    )
    assert one.std() > 0 and (one != two).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": [400, 1200]}, "0 to 999"),
        ({"interval": [800, 400]}, "0 to 999"),
        ({"open_prompts": ["{}"]}, "something beside"),
        ({"open_prompts": ["on a beach"]}, "where the subject goes"),
        ({"late": "holt"}, "did you mean 'hold'"),
        ({"image_encoder": "nowhere"}, "no CLIP image tower"),
        ({"image_encoder": "auto"}, "connect a CLIP vision model"),
        ({"bypass_dropout": 2.0}, "0 to 1"),
    ],
)
def test_mistaken_settings_are_told(folder, base, settings, message):
    with pytest.raises(LikenessError, match=message):
        method(folder, base, **settings)


def test_a_class_word_of_several_tokens_is_refused(folder, base):
    job = tiny_job("personamagic", folder)
    concept = replace(load_concept(job.concepts[0]), class_word="old man")
    with pytest.raises(LikenessError, match="'old man' is 2 tokens long; personamagic needs a single"):
        PersonaMagic(job, base, [concept])


def test_a_training_prompt_too_long_to_look_into_is_told(folder, base):
    learner = method(folder, base, templates=["a photo of {}, " + "a man " * 40])
    with pytest.raises(LikenessError, match="longer than the 75 tokens that personamagic can look into"):
        losses(learner)


def test_two_concepts_at_once_are_refused(folder, base):
    job = tiny_job("personamagic", folder)
    concept = load_concept(job.concepts[0])
    with pytest.raises(LikenessError, match="one concept at a time"):
        PersonaMagic(job, base, [concept, concept])


def test_prompts_and_bases_that_do_not_fit_are_told(folder, base):
    artifact = Artifact.load(train(tiny_job("personamagic", folder), base=base))
    with pytest.raises(LikenessError, match="no prompt mentions <v0>"):
        generate(base, ["a photo of a woman"], artifacts=[(artifact, 1.0)])
    wide = {**artifact.tensors, "word.clip_l": torch.zeros(64)}
    with pytest.raises(LikenessError, match="incomplete or damaged"):
        generate(base, ["<v0>"], artifacts=[(replace(artifact, tensors=wide), 1.0)])
    from likeness_portraits.engine.staged.mapper import Mapper

    other = Mapper(text_widths={"clip_l": 64}, image_width=0, anchors=10, hidden=16).state_dict()
    wide |= {f"mapper.{name}": weight for name, weight in other.items()}
    with pytest.raises(LikenessError, match="64 wide, this model's is 32"):
        generate(base, ["<v0>"], artifacts=[(replace(artifact, tensors=wide), 1.0)])
    with pytest.raises(LikenessError, match="two concepts use the placeholder"):
        generate(base, ["<v0>"], artifacts=[(artifact, 1.0), (artifact, 1.0)])
