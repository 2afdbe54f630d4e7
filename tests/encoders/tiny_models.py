"""Two-layer models with random weights, of every architecture that the tests name."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModel

from mner.encoders.text import TextEncoder

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 24, "pad_token_id": 1,
}  # fmt: skip
EXTRA = {
    "electra": {"embedding_size": 8},
    "albert": {"embedding_size": 8},
    "camembert": {"type_vocab_size": 1},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "visual_bert": {"visual_embedding_dim": 6},
    # Layer 0 sees everything, layer 1 a window of 2 to each side, which is narrower than the posts.
    "modernbert": {"layer_types": ["full_attention", "sliding_attention"], "local_attention": 4,
                   "bos_token_id": 0, "cls_token_id": 0, "eos_token_id": 2, "sep_token_id": 2},
    "deberta-v2": {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
}
T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "pad_token_id": 1}
BART = {
    "vocab_size": 40, "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 24,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
OWN_SIZES = {"t5": T5, "mt5": T5, "umt5": T5, "bart": BART, "mbart": BART}
DISTILBERT_CALLS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def plain(kind: str, **changes: object) -> dict:
    """The configuration of a tiny model of a kind, as plain data."""
    sizes = OWN_SIZES.get(kind, SIZES)
    if kind == "distilbert":
        sizes = {key: value for key, value in SIZES.items() if key not in DISTILBERT_CALLS}
    return {**sizes, **EXTRA.get(kind, {}), **changes, "model_type": kind}


def encoder(kind: str, attention: str | None = None, **changes: object) -> TextEncoder:
    """A text encoder in evaluation mode."""
    made = TextEncoder(plain(kind, **changes))
    spread(made.model)
    if attention is not None:
        made.model.set_attn_implementation(attention)
    return made.eval()


def spread(model: torch.nn.Module) -> None:
    """Weights so large that attention is far from uniform and each part has a visible effect."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)


def vision(kind: str, attention: str | None = None) -> torch.nn.Module:
    """The vision tower of ViT or CLIP for images of 8 x 8, in evaluation mode."""
    sizes = {key: SIZES[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    config = AutoConfig.for_model(kind, **sizes, intermediate_size=24, image_size=8, patch_size=4)
    model = AutoModel.from_config(config).eval()
    spread(model)
    if attention is not None:
        model.set_attn_implementation(attention)
    return model


def padded(b: int = 3, t: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask and segments of posts of different lengths, padded as RoBERTa's kin want it."""
    lengths = torch.tensor([t, t - 4, 2])[:b]
    mask = torch.arange(t) < lengths[:, None]
    ids = torch.randint(3, 40, (b, t)).masked_fill(~mask, 1)
    return ids, mask, (torch.arange(t) >= 2).long().expand(b, t) * mask


PREFIX_MASK = torch.tensor([[True, True, True, False], [True, False, False, False], [False, True, True, True]])


def built(kind: str, attention: str | None = None) -> tuple:
    """A model and a function that runs it on fixed inputs: states (3, t, 16)."""
    if kind not in ("vit", "clip_vision_model"):
        text_encoder, inputs = encoder(kind, attention), padded()
        return text_encoder.model, lambda: text_encoder(*inputs)
    tower, images = vision(kind, attention), torch.randn(3, 3, 8, 8)
    return tower, lambda: tower(images).last_hidden_state


def random_prefix(b: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of four places for the models of `built`."""
    return torch.randn(2, b, 2, 4, 8, requires_grad=True), torch.randn(2, b, 2, 4, 8, requires_grad=True)


def clean(model: torch.nn.Module) -> bool:
    """Whether nothing of a prefix is left on a model."""
    return not any(hasattr(part, "_mner_prefix") for part in model.modules())
