"""PersonaMagic's formulas against numbers of the reference implementation (tests/golden/personamagic)."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from likeness_portraits.engine.bases.attention import Pass
from likeness_portraits.engine.bases.clip_features import clip_pixels
from likeness_portraits.engine.bases.denoisers.seam import using
from likeness_portraits.engine.bases.denoisers.unet import CrossProcessor
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.staged.mapper import Mapper, anchor_codes, time_code
from likeness_portraits.engine.staged.stages import StagePlan
from likeness_portraits.engine.staged.text import Places, SplitValues, TextStates, encode_staged
from likeness_portraits.engine.training.losses import masked_squared_error, tandem_equilibrium
from likeness_portraits.tests.golden.goldens import Golden

ENCODER = "clip_l"


golden = partial(Golden, "personamagic")


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float, rtol: float = 0.0) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


def filled_mapper(case: Golden, params: str, seed: str, anchors: int) -> Mapper:
    weights = case.filled(params, seed)
    weights["input_layer.weight"] = anchor_codes(anchors, (400, 800))
    return Mapper.from_weights(weights, {ENCODER: 768})


def mapped(
    mapper: Mapper, case: Golden, t: torch.Tensor, clip: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    image = clip.expand(len(t), -1)
    vectors, bypass = mapper(t, {ENCODER: case["in.word"]}, {ENCODER: float(case["in.nu"])}, image)
    return vectors[ENCODER], bypass[ENCODER]


def text_model(case: Golden, config: str) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    told = {key: value for key, value in case.json(config).items() if key not in ("eos_and_pad_id", "bos_id")}
    model = CLIPTextModel(CLIPTextConfig(**told))
    weights = case.filled()
    if not any(name.startswith("text_model.") for name in model.state_dict()):
        weights = {name.removeprefix("text_model."): weight for name, weight in weights.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all("position_ids" in name for name in missing)
    return model.requires_grad_(False).eval()


def places_of(
    ids: torch.Tensor, placeholders: torch.Tensor, vectors: torch.Tensor, bypass: torch.Tensor
) -> Places:
    """Where ids (B, T) hold placeholders; vectors, bypass (B, words, D)."""
    prompts, positions = torch.isin(ids, placeholders).nonzero(as_tuple=True)
    words = (ids[prompts, positions][:, None] == placeholders).int().argmax(-1)
    return Places(prompts, positions, vectors[prompts, words], bypass[prompts, words])


def balance_keys(
    ids: torch.Tensor, placeholders: torch.Tensor, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    real = (torch.arange(len(ids)) >= 1) & (torch.arange(len(ids)) <= length)
    ours = torch.isin(ids, placeholders)
    return (ours & real)[None], (~ours & real)[None]


def test_time_code():
    case = golden("time_encoding")
    close(time_code(case["in.t"]), case["out.gamma"], 1e-4)
    close(time_code(case["in.t"]).norm(dim=-1), torch.full((5,), 32.0), 1e-3)


def test_anchors_begin_as_time_codes_of_the_interval():
    case = golden("anchor_init")
    close(anchor_codes(10, (400, 800)), case["out.weight"], 1e-4)
    big = anchor_codes(200, (400, 800))
    close(big[case["in.rows"]], case["out.weight_big_rows"], 1e-4)
    close(big.norm(dim=-1), case["out.weight_big_rownorm"], 1e-3)


def test_parameters_have_the_references_names_and_shapes():
    case = golden("checkpoint_layout")
    mapper = Mapper(text_widths={ENCODER: 768}, image_width=512)
    shapes = {name: list(weight.shape) for name, weight in mapper.state_dict().items()}
    assert shapes == case.json("shapes")
    assert sum(weight.numel() for weight in mapper.parameters()) == int(case["out.total_parameters"])


def test_mapper_with_weights_from_the_file():
    case = golden("mapper_eval")
    weights = case.under("in.weights.")
    for part in ("weight", "bias"):  # the file keeps the first outputs of the bypass alone
        short = weights[f"image_output_layer.0.{part}"]
        weights[f"image_output_layer.0.{part}"] = torch.cat(
            [short, short.new_zeros(768 - len(short), *short.shape[1:])]
        )
    mapper = Mapper.from_weights(weights, {ENCODER: 768})
    vectors, bypass = mapped(mapper, case, case["in.t"], case["in.clip"])
    close(vectors, case["out.base"], 1e-5, 1e-4)
    close(bypass[..., :64], case["out.bypass"], 1e-5, 1e-4)


def test_full_size_mapper_and_its_dropout():
    case = golden("mapper_full_dropout")
    mapper = filled_mapper(case, "params", "fill_seed", 200)
    vectors, bypass = mapped(mapper, case, case["in.t"], case["in.clip"])
    close(vectors, case["out.base"], 1e-5, 1e-4)
    close(bypass, case["out.bypass"], 1e-5, 1e-4)
    middle = case["in.t"][1].expand(3)
    vectors, bypass = mapped(mapper, case, middle, case["in.clip"])
    kept = case["in.draws64"] >= 0.5
    close(vectors, case["out.train_base"], 1e-5, 1e-4)
    close(bypass * kept[:, None, None], case["out.train_bypass"], 1e-5, 1e-4)
    assert (case["out.train_bypass"][~kept] == 0).all()


def test_a_batch_equals_its_samples_one_by_one():
    case = golden("mapper_full_dropout")
    mapper = filled_mapper(case, "params", "fill_seed", 200)
    together = mapped(mapper, case, case["in.t"], case["in.clip"])
    for number, t in enumerate(case["in.t"]):
        alone = mapped(mapper, case, t[None], case["in.clip"])
        for whole, part in zip(together, alone):
            close(whole[number], part[0], 1e-5, 1e-5)


@pytest.mark.parametrize("prompt", ["four", "twice"])
def test_text_contexts_with_pseudo_words(prompt: str):
    case = golden("text_contexts")
    ids = case[f"in.ids_{prompt}"][None]
    places = places_of(ids, case["in.placeholder_ids"], case["in.e"][None], case["in.R"][None])
    states = encode_staged(text_model(case, "config"), ids, places, attention=True)
    close(states.keys[0], case[f"out.CK_{prompt}"], 2e-5, 1e-4)
    close(states.values[0], case[f"out.CV_{prompt}"], 2e-5, 1e-4)
    if prompt == "four":
        assert states.attention is not None
        close(states.attention[0][..., :12], case["out.attn_last_four"], 2e-5, 1e-4)


def test_a_prompt_without_placeholder_is_encoded_as_ever():
    case = golden("text_contexts")
    ids = case["in.ids_none"][None]
    model = text_model(case, "config")
    states = encode_staged(
        model, ids, places_of(ids, case["in.placeholder_ids"], case["in.e"][None], case["in.R"][None])
    )
    assert torch.equal(states.keys, model(ids).last_hidden_state)
    assert torch.equal(states.keys, states.values)
    close(states.keys[0], case["out.stock_none"], 2e-5, 1e-4)


def test_without_bypass_values_equal_keys_to_the_last_bit():
    case = golden("text_contexts")
    ids = case["in.ids_four"][None]
    places = places_of(
        ids, case["in.placeholder_ids"], case["in.e"][None], torch.zeros_like(case["in.R"])[None]
    )
    states = encode_staged(text_model(case, "config"), ids, places)
    assert torch.equal(states.keys, states.values)


def test_penultimate_states_take_the_bypass_without_a_final_norm():
    """As SDXL's encoders are listened to: the length of each state stays, its direction moves."""
    case = golden("text_contexts")
    model, ids = text_model(case, "config"), case["in.ids_four"][None]
    places = places_of(ids, case["in.placeholder_ids"], case["in.e"][None], case["in.R"][None])
    states = encode_staged(model, ids, places, penultimate=True)
    plain = replace(places, bypass=torch.zeros_like(places.bypass))
    assert torch.equal(states.keys, encode_staged(model, ids, plain, penultimate=True).values)
    there = (places.prompts, places.positions)
    close(states.values[there].norm(dim=-1), states.keys[there].norm(dim=-1), 1e-3, 1e-5)
    moved = states.keys[there] + places.bypass
    close(torch.cosine_similarity(states.values[there], moved, dim=-1), torch.ones(len(moved)), 1e-5)


@pytest.mark.parametrize("prompt", ["b", "c", "d"])
def test_tandem_equilibrium_on_given_attention(prompt: str):
    case = golden("tandem_equilibrium")
    attention = case[f"in.{prompt}.attn"].clone().requires_grad_()
    keys = balance_keys(
        case[f"in.{prompt}.ids"], case["in.placeholder_ids"], int(case[f"in.{prompt}.length"])
    )
    loss = 0.001 * tandem_equilibrium(attention[None], *keys)[0]
    close(loss.detach(), case[f"out.{prompt}.loss"], 0, 1e-5)
    loss.backward()
    assert attention.grad is not None
    s, k = int(case[f"out.{prompt}.s_position"]), int(case[f"out.{prompt}.k_position"])
    close(attention.grad[..., s], case[f"out.{prompt}.grad_s_column"], 1e-9, 1e-4)
    close(attention.grad[..., k], case[f"out.{prompt}.grad_k_column"], 1e-9, 1e-4)
    attention.grad[..., [s, k]] = 0
    assert not attention.grad.any()


def test_tandem_equilibrium_of_a_batch_equals_its_prompts_one_by_one():
    case = golden("tandem_equilibrium")
    attention = torch.stack([case["in.c.attn"], case["in.d.attn"]])
    pairs = [
        balance_keys(case[f"in.{p}.ids"], case["in.placeholder_ids"], int(case[f"in.{p}.length"]))
        for p in "cd"
    ]
    losses = tandem_equilibrium(attention, *(torch.cat(keys) for keys in zip(*pairs)))
    close(0.001 * losses, torch.stack([case["out.c.loss"], case["out.d.loss"]]), 0, 1e-5)


def test_tandem_equilibrium_reaches_the_token_head_alone():
    case, text = golden("tandem_gradient"), golden("text_contexts")
    mapper = filled_mapper(case, "mapper_params", "mapper_fill_seed", 10).requires_grad_()
    vectors, bypass = mapped(mapper, case, case["in.t"], case["in.clip"])
    ids = case["in.ids"][None]
    places = places_of(ids, case["in.placeholder_ids"], vectors, bypass)
    states = encode_staged(text_model(text, "config"), ids, places, attention=True)
    assert states.attention is not None
    keys = balance_keys(case["in.ids"], case["in.placeholder_ids"], int(case["in.length"]))
    loss = 0.001 * tandem_equilibrium(states.attention, *keys)[0]
    close(loss.detach(), case["out.loss"], 0, 1e-4)
    loss.backward()
    for name, weight in mapper.named_parameters():
        norm = torch.zeros(()) if weight.grad is None else weight.grad.norm()
        close(norm, case[f"out.gradnorm.{name}"], 0, 2e-3)
        if f"out.grad.{name}" in case.tensors:
            grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            largest = float(case[f"out.grad.{name}"].abs().max())
            close(grad, case[f"out.grad.{name}"], 2e-3 * largest, 2e-3)


def test_keys_and_values_from_two_contexts():
    from diffusers.models.attention_processor import Attention

    case = golden("kv_split_attention")

    def attention(kind: str, context_width: int | None) -> Any:
        layer = Attention(query_dim=16, cross_attention_dim=context_width, heads=2, dim_head=8)
        layer.load_state_dict(case.under(f"in.{kind}."))
        return layer

    cross, hidden = attention("cross", 24), case["in.hidden"]
    cross.set_processor(CrossProcessor("attn2", cross.processor))
    split = Pass({"values": SplitValues((len(hidden), case["in.CV"]))})
    apart = cross(hidden, encoder_hidden_states=case["in.CK"], ip_hidden_states=split)
    close(apart, case["out.split"], 1e-5)
    close(cross(hidden, encoder_hidden_states=case["in.CK"]), case["out.plain"], 1e-5)
    close(case["out.plain"], case["out.no_bypass"], 1e-5)
    close(attention("selfattn", None)(hidden), case["out.self"], 1e-5)


def test_masked_loss_noise_and_velocity():
    from likeness_portraits.tests.engine.tiny import tiny_base

    case = golden("masked_diffusion_loss")
    prediction = case["in.pred"].clone().requires_grad_()
    loss = masked_squared_error(prediction, case["in.target"], case["in.mask"]).mean()
    loss.backward()
    close(loss.detach(), case["out.loss"], 0, 1e-5)
    assert prediction.grad is not None
    close(prediction.grad, case["out.grad_pred"], 1e-9, 1e-5)
    base = tiny_base("v_prediction")
    latent, noise, t = case["in.latent"], case["in.target"], case["in.t"] / 1000
    close(base.process.add_noise(latent, noise, t), case["out.noisy"], 1e-5, 1e-5)
    close(base.process.target(latent, noise, t), case["out.velocity"], 1e-5, 1e-5)


def test_picture_for_the_image_tower():
    case = golden("clip_preprocess")
    close(clip_pixels(case["in.image"])[..., ::2, ::2], case["out.pixel_values"], 1e-4)


@pytest.mark.parametrize("steps", [20, 25, 30, 50])
def test_a_plan_of_single_timesteps_routes_as_the_reference_does(steps: int):
    case = golden("stage_routing")
    plan = StagePlan(stages=400)
    for t, kind in zip(case[f"out.timesteps_{steps}"].tolist(), case[f"out.stage_{steps}"].tolist()):
        stage = plan.at(t)
        assert (stage.timestep is None) == (kind == 0)
        if kind == 1:
            assert stage.timestep == min(t, 799)
        if kind == 2:
            assert stage.timestep == 400  # not the last step's t: held for any sampler and step count


@pytest.mark.parametrize("interval", [(400, 800), (0, 1000), (0, 300), (37, 1000), (250, 251)])
@pytest.mark.parametrize("late", ["hold", "class word"])
def test_stages_cover_every_timestep_once(interval: tuple[int, int], late: str):
    plan = StagePlan(interval=interval, stages=min(7, interval[1] - interval[0]), late=late)
    covered = [t for stage in reversed(plan.all()) for t in range(stage.low, stage.high + 1)]
    assert covered == list(range(1000))
    percents = plan.percents()
    assert percents[0][0] == 0.0 and percents[-1][1] == 1.0
    assert all(first[1] == second[0] for first, second in zip(percents, percents[1:]))
    for (start, end), stage in zip(percents, plan.all()):
        inside = [t for t in range(1000) if start <= 1 - t / 999 <= end]
        assert inside == list(range(stage.low, stage.high + 1))


def test_bad_plans_are_refused():
    with pytest.raises(LikenessError, match="0 to 999"):
        StagePlan(interval=(400, 1200))
    with pytest.raises(LikenessError, match="do not fit"):
        StagePlan(interval=(400, 410), stages=50)
    with pytest.raises(LikenessError, match="late mode"):
        StagePlan(late="holt")


def test_training_steps_follow_the_references_trace():
    from diffusers import UNet2DConditionModel

    from likeness_portraits.engine.bases.process.ddpm import noise_schedule
    from likeness_portraits.tests.engine.tiny import SCHEDULE

    case = golden("trace_training")
    unet: Any = UNet2DConditionModel(**case.json("unet_config"))
    unet.load_state_dict(case.under("in.unet."))
    unet.requires_grad_(False).eval()
    text = text_model(case, "text_config")
    mapper = filled_mapper(case, "mapper_params", "mapper_fill_seed", 10).requires_grad_()
    before = {name: weight.detach().clone() for name, weight in mapper.named_parameters()}
    optimizer = torch.optim.AdamW(mapper.parameters(), lr=float(case["in.lr64"]), weight_decay=0.01)
    alphas = noise_schedule(SCHEDULE).float()
    word = text.get_input_embeddings().weight[int(case["in.word_row"])]
    for number in range(4):
        step = case.under(f"in.step{number}.")
        vectors, bypass = mapper(
            step["t"], {ENCODER: word}, {ENCODER: float(case["in.nu"])}, step["clip"][None]
        )
        open_ids, ids = step["open_ids"][None], step["ids"][None]
        keep = case["in.dropout_draws64"][number, 1] >= 0.5
        holders = case["in.placeholder_ids"]
        opened = encode_staged(
            text, open_ids, places_of(open_ids, holders, vectors[ENCODER], bypass[ENCODER]), attention=True
        )
        assert opened.attention is not None
        keys = balance_keys(step["open_ids"], holders, int(step["open_length"]))
        balance = 0.001 * tandem_equilibrium(opened.attention, *keys).mean()
        p = case["out.balance_p"][number]
        close(balance.detach(), -0.001 * p * (1 - p), 0, 1e-4)
        states = encode_staged(text, ids, places_of(ids, holders, vectors[ENCODER], bypass[ENCODER] * keep))
        loss = diffusion_loss(unet, states, step, alphas) + balance
        close(loss.detach(), case["out.loss"][number], 0, 2e-5)
        (loss / int(case["in.accumulation"])).backward()
        if (number + 1) % int(case["in.accumulation"]) == 0:
            optimizer.step()
            optimizer.zero_grad()
    for name, weight in mapper.named_parameters():
        delta = weight.detach() - before[name]
        close(delta.norm(), case[f"out.final_delta_norm.{name}"], 1e-7, 2e-2)
        close(weight.detach().flatten()[:64], case[f"out.final_head.{name}"].flatten(), 2e-5)


def diffusion_loss(
    unet: Any, states: TextStates, step: dict[str, torch.Tensor], alphas: torch.Tensor
) -> torch.Tensor:
    latent, noise, share = 0.18215 * step["latent_sample"], step["noise"], alphas[step["t"]].view(-1, 1, 1, 1)
    noisy = share.sqrt() * latent + (1 - share).sqrt() * noise
    with using(unet, "values", SplitValues((len(noisy), states.values))):
        prediction = unet(noisy, step["t"], encoder_hidden_states=states.keys, return_dict=False)[0]
    return masked_squared_error(prediction, noise, step["mask"]).mean()
