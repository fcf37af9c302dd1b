"""A base of another kind in one file, for tests only: FLUX.2's joint attention, rectified flow, a causal
language model as text encoder, with a few thousand random weights. No method knows it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from likeness_portraits.engine.bases.base import BaseModel
from likeness_portraits.engine.bases.conditioning import Conditioning
from likeness_portraits.engine.bases.denoisers.protocol import AttentionLayer, CrossAttention
from likeness_portraits.engine.bases.families import Family
from likeness_portraits.engine.bases.process.flow import RectifiedFlow
from likeness_portraits.engine.bases.text.placeholders import pieces_of, vectors_in_place
from likeness_portraits.engine.bases.text.protocol import Rows, Tokens
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.miniature import model as miniature

SIZE, WIDTH, LENGTH = 32, 32, 40  # pixels a side; of text states; how many of them
ENCODER = "toy_lm"
TOY = Family(
    key="toy_joint", name="a toy with joint attention", architecture="toy", text_widths={ENCODER: WIDTH},
    latent_scale=0.18215, sample_size=8, learned_sizes=None, buckets=False,
)  # fmt: skip


class ToyText:
    """The last layer's states of a causal language model; prompts are filled up to one length."""

    offers = frozenset[str]()
    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    pooled = False

    def __init__(self, model: nn.Module) -> None:
        self.encoders: Any = nn.ModuleDict({ENCODER: model})
        self.tokenizers: dict[str, Any] = {ENCODER: miniature.tokenizer()}

    def longest(self, encoder: str) -> int:
        return LENGTH

    def tokenize(
        self, prompts: Sequence[str], rows: Rows | None, encoder: str, *, weights: bool = False
    ) -> Tokens:
        tokenizer = self.tokenizers[encoder]
        ids = torch.full((len(prompts), LENGTH), tokenizer.eos_token_id, dtype=torch.long)
        places: list[tuple[int, int, str, int]] = []
        for number, prompt in enumerate(prompts):
            groups = pieces_of(tokenizer, prompt, rows or {}, encoder)
            line = [piece for group in groups for piece, _weight in group]
            if len(line) > LENGTH:
                raise LikenessError(f"'{prompt}' is longer than {LENGTH} tokens; shorten it")
            for position, piece in enumerate(line):
                if isinstance(piece, tuple):
                    places.append((number, position, *piece))
                else:
                    ids[number, position] = piece
        return Tokens(ids, tuple(places))

    def encode(
        self, prompts: Sequence[str], rows: Rows | None, device: torch.device, *, weights: bool = False
    ) -> Conditioning:
        tokens, model = self.tokenize(prompts, rows, ENCODER), self.encoders[ENCODER]
        with vectors_in_place(model.get_input_embeddings(), tokens, rows or {}, ENCODER):
            return Conditioning(states=model(input_ids=tokens.ids).last_hidden_state.to(device))

    def blocks(self) -> list[nn.Module]:
        return []

    def word_rows(self, text: str) -> dict[str, Tensor]:
        ids = self.tokenizers[ENCODER](text, add_special_tokens=False)["input_ids"]
        return {ENCODER: self.encoders[ENCODER].get_input_embeddings().weight[ids].detach().clone()}


class ToyJoint:
    """FLUX.2's transformer on unpacked latents: words and picture attend to one another."""

    offers = frozenset[str]()
    whole_blocks = False
    side_multiple = 1
    value_width: int | None = None

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        doubles = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
        singles = [path for path, part in module.named_modules()
                   if path.startswith("single") and isinstance(part, nn.Linear)]  # fmt: skip
        attention = (*doubles, *singles)
        self.lora_targets = {
            "attention": attention, "feed-forward": (*attention, "ff.linear_in"),
            "transformer": (*attention, "ff.linear_in", "ff.linear_out"),
        }  # fmt: skip

    def blocks(self) -> list[nn.Module]:
        return [*self.module.transformer_blocks, *self.module.single_transformer_blocks]

    def attention_layers(self) -> dict[str, AttentionLayer]:
        return {}

    def cross_attention(self) -> dict[str, CrossAttention]:
        return {}

    def shards(self) -> list[nn.Module]:
        return self.blocks()

    def __call__(self, xt: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.values is None and conditioning.mask is None
        height, width = xt.shape[-2:]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        img_ids = torch.zeros(height * width, 4, dtype=torch.long, device=xt.device)
        img_ids[:, 1], img_ids[:, 2] = rows.flatten(), columns.flatten()
        txt_ids = torch.zeros(conditioning.length, 4, dtype=torch.long, device=xt.device)
        txt_ids[:, 3] = torch.arange(conditioning.length)
        output = self.module(
            xt.flatten(2).transpose(1, 2), encoder_hidden_states=conditioning.states, timestep=t,
            img_ids=img_ids, txt_ids=txt_ids, return_dict=False,
        )[0]  # fmt: skip
        return output.transpose(1, 2).unflatten(2, (height, width))


def toy_joint() -> BaseModel:
    """Always the same weights; `TOY` has to be among the families."""
    from diffusers import AutoencoderKL, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        transformer = Flux2Transformer2DModel(
            in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=WIDTH, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )  # fmt: skip
        for path, weight in transformer.named_parameters():
            if path.endswith(("attn.to_out.0.weight", "attn.to_out.weight")):
                weight.data *= 8  # random attention is weak: four steps on words should show
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            sample_size=SIZE,
        )
        text = Qwen3Model(
            Qwen3Config(
                vocab_size=len(miniature.tokenizer()), hidden_size=WIDTH, intermediate_size=64,
                num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
            )
        )  # fmt: skip
    return BaseModel(
        denoiser=ToyJoint(transformer), vae=vae, text=ToyText(text), process=RectifiedFlow(shift=2.0),
        family=TOY.key, resolution=SIZE,
    )  # fmt: skip
