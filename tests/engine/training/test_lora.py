import torch

from likeness_portraits.engine.artifact.lora import adaptable, merged
from likeness_portraits.engine.bases.denoisers.conditional_unet import LORA_TARGETS
from likeness_portraits.engine.training import lora
from likeness_portraits.tests.engine.tiny import tiny_base


def test_kohya_tensors_folded_into_the_weights_give_what_peft_gave():
    base = tiny_base()
    text = base.text_encoders["clip_l"]
    added = lora.inject(base.unet, LORA_TARGETS["attention"], rank=3, alpha=6.0)
    added += lora.inject(text, base.text.lora_targets, rank=3, alpha=6.0)
    with torch.no_grad():
        for weight in added:
            weight.normal_(0, 0.2)
    noisy, t, prompts = torch.randn(2, 4, 8, 8), torch.tensor([0.1, 0.9]), ["a man", "a woman"]

    def outputs():
        with torch.no_grad():
            context = base.encode_text(prompts)
            return context.states, base.predict(noisy, t, context)

    while_training = outputs()
    tensors = lora.tensors(base)
    lora.remove(base.unet)
    lora.remove(text)
    plain = outputs()
    modules = adaptable(base.unet, [text])
    with merged(modules, tensors, 1.0):
        folded = outputs()
    with merged(modules, tensors, 0.0):
        off = outputs()
    for ours, theirs, untouched, none in zip(folded, while_training, plain, off):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(none, untouched)
        assert (ours - untouched).abs().max() > 1e-2


def test_names_are_kohyas_with_an_explicit_alpha():
    base = tiny_base()
    lora.inject(base.unet, LORA_TARGETS["attention"], rank=3, alpha=6.0)
    lora.inject(base.text_encoders["clip_l"], base.text.lora_targets, rank=3, alpha=6.0)
    tensors = lora.tensors(base)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0"
    assert tensors[f"{name}.lora_down.weight"].shape == (3, 32)
    assert tensors[f"{name}.lora_up.weight"].shape == (32, 3)
    assert tensors[f"{name}.alpha"] == 6.0
    assert "lora_te_text_model_encoder_layers_1_self_attn_q_proj.lora_down.weight" in tensors


def test_removing_leaves_no_trace():
    base, untouched = tiny_base(), tiny_base()
    lora.inject(base.unet, LORA_TARGETS["attention"], rank=3, alpha=6.0)
    lora.remove(base.unet)
    assert [(name, type(part)) for name, part in base.named_modules()] == [
        (name, type(part)) for name, part in untouched.named_modules()
    ]
    lora.inject(base.unet, LORA_TARGETS["attention"], rank=2, alpha=2.0)  # and it can be done again
