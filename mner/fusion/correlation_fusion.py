"""Vision layers that read the text, text layers that read the image: MKGformer of Chen X. et al. (2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mner.batch import Batch
from mner.fusion.base import FusionModule
from mner.nn.masking import masked_softmax


class Correlation(nn.Module):
    """Correlation-aware fusion: what is added inside a text layer's feed-forward net, before its activation.

    ::

        φ_t = Σ_j softmax over real j of (c_t · v_j [/ sqrt(d)]) v_j        (d)
        output_t = W_f φ_t                                                  (hidden)

    It is 0 without any real token j.

    Paper: Chen X. et al., "Hybrid transformer with multi-level fusion for multimodal knowledge graph completion",
    SIGIR 2022 (MKGformer).

    Args:
        width: d, of pieces and tokens.
        hidden: Width of the text layer's feed-forward net.
        scaled: With the division in brackets; published without.

    >>> correlation = Correlation(width=8, hidden=32)
    >>> correlation(torch.randn(2, 5, 8), torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)).shape
    torch.Size([2, 5, 32])
    """

    def __init__(self, width: int, hidden: int, scaled: bool = False) -> None:
        super().__init__()
        self.scale = width**-0.5 if scaled else 1.0
        self.output = nn.Linear(width, hidden, bias=False)  # the layer has a bias already

    def forward(self, pieces: Tensor, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Text c (b, t, d), tokens of the image v (b, n, d) and their mask (b, n) -> (b, t, hidden)."""
        weights = masked_softmax(pieces @ tokens.mT * self.scale, token_mask[:, None])  # (b, t, n)
        added: Tensor = self.output(weights.to(tokens.dtype) @ tokens)
        return added


def prefix_guided(
    block: Any, tokens: Tensor, token_mask: Tensor, keys: Tensor, values: Tensor, text_mask: Tensor
) -> Tensor:
    """Prefix-guided interaction: a vision layer whose tokens attend to the text as they attend to each other.

    ::

        attention = softmax(Q [K_text; K]^T / sqrt(d / heads)) [V_text; V]      over real pieces and real tokens

    With a text that is masked throughout it is the block itself.

    Args:
        block: A block of timm's vision transformers.
        tokens: (b, n, d).
        token_mask: (b, n), bool.
        keys: Of a text layer, (b, t, d).
        values: (b, t, d).
        text_mask: (b, t), bool.

    Returns:
        (b, n, d).
    """
    attention = block.attn
    heads = attention.num_heads
    query, key, value = attention.qkv(block.norm1(tokens)).unflatten(-1, (3, heads, -1)).unbind(2)  # (b, n, heads, e)
    query, key = attention.q_norm(query), attention.k_norm(key)
    of_text = (*keys.shape[:2], heads, keys.shape[-1] // heads)
    key = torch.cat([keys.reshape(of_text).to(key.dtype), key], 1)
    value = torch.cat([values.reshape(of_text).to(value.dtype), value], 1)
    mask = torch.cat([text_mask, token_mask], 1)[:, None, None]  # (b, 1, 1, t + n)
    dropped = attention.attn_drop.p if attention.training else 0.0
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    seen = scaled_dot_product_attention(query, key, value, mask, dropped)
    seen = attention.proj_drop(attention.proj(attention.norm(seen.transpose(1, 2).flatten(2))))
    tokens = tokens + block.drop_path1(block.ls1(seen))
    updated: Tensor = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
    return updated


class CorrelationFusion(FusionModule):
    """MKGformer: in the last layers of two encoders, tokens of the image read the text, then the text reads them.

    ::

        for each of the last k layers l, of vision and of text:
            v = vision layer l, its attention over [K_l-1; K], [V_l-1; V]        K_l-1, V_l-1 of text layer l-1
            h = text layer l, its feed-forward net W_2 GELU(W_1 c + b + W_f φ)   φ = softmax(c v^T) v
        emissions = Linear(dropout(h at first pieces))                                                   (w, l)

    `prefix_guided` and `Correlation` are the two halves. Post without image: φ = 0, and its emissions are those of the
    text encoder alone.

    - **With a vision transformer of timm as** `image_encoder`, such as `vit_base_patch32_clip_quickgelu_224.openai`,
      these are its own last k layers; below, it reads the image alone. Width and heads must be the text encoder's.
    - **With stored regions, or another image encoder,** they are fresh layers over the projected regions.

    Paper: Chen X. et al. (2022). There k = 4 of 12 layers, BERT and CLIP.

    Chosen here, where the released code differs: padded pieces are masked when the image reads the text (there, they
    are attended to, so that emissions depend on the batch); tokens are those of the whole image or of all regions
    (there, of three crops by grounding and three by a detector, while the whole image is loaded and never read); c is
    what enters the feed-forward net, as the paper has it (there, attention before its last Linear); W_f has no bias.

    Args:
        args: As for `FusionModule`.
        fused_layers: k, from 1 to the number of text layers; None for a third of them. The lowest text layer has none
            below, and lends its own keys and values.
        scaled: Divide c v^T by sqrt(d). Published without.
        kwargs: As for `FusionModule`. All but emissions and CRF learns at `learning_rate`.

    Raises:
        ValueError: If k does not fit; if the text encoder cannot be run layer by layer (it says which can); or if the
            vision transformer has another width or other heads than it.
    """

    replaces_missing_images = False

    def __init__(self, *args: Any, fused_layers: int | None = None, scaled: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        from timm.models.vision_transformer import Block  # slow to import

        text, width = self.text_encoder.layers, self.text_encoder.width
        heads = self.text_encoder.model.config.num_attention_heads
        count = max(1, len(text) // 3) if fused_layers is None else fused_layers
        if not 1 <= count <= len(text):
            raise ValueError(f"Expected `fused_layers` from 1 to {len(text)}, as many as text layers, but got {count}")
        encoder: Any = self.image_encoder
        own = [] if encoder is None else encoder.blocks
        self.own_layers = bool(own)
        self.region_projection = nn.Identity() if own else nn.Linear(self.region_width, width)
        self.vision_layers = nn.ModuleList()
        if not own:
            some = {"qkv_bias": True, "proj_drop": self.dropout.p}
            self.vision_layers.extend(Block(width, heads, **some) for _ in range(count))
        elif (found := (self.region_width, own[0].attn.num_heads)) != (width, heads) or len(own) <= count:
            raise ValueError(
                f"Expected a vision transformer of the text encoder's width {width} and heads {heads}, with more than "
                f"{count} layers, but {encoder.name!r} has width {found[0]}, {found[1]} heads, {len(own)} "
                "layers; choose another, or store its features (`mner features`) for fresh layers"
            )
        else:
            encoder.backbone.norm.requires_grad_(False)  # nobody reads what it gives
        hidden = _parts(text[-1])[2].out_features
        self.correlations = nn.ModuleList(Correlation(width, hidden, scaled) for _ in range(count))

    @property
    def pretrained(self) -> list[nn.Module]:
        """The encoders, and what lies between their layers."""
        return [*super().pretrained, self.region_projection, self.vision_layers, self.correlations]

    def encode(self, batch: Batch) -> Tensor:
        """Words (b, w, d) that have seen the regions."""
        regions, region_mask = self.raw_regions(batch)
        tokens = self.region_projection(regions)  # (b, n, d)
        layers, (states, mask) = self.text_encoder.layers, self.text_encoder.embed(batch)
        first = len(layers) - len(self.correlations)
        encoder: Any = self.image_encoder
        vision = encoder.blocks[-len(self.correlations) :] if self.own_layers else self.vision_layers
        below = states
        for layer in layers[:first]:
            below, states = states, layer(states, mask)
        guides = [layers[max(first - 1, 0)], *layers[first:-1]]  # the lowest layer has none below and is its own
        for guide, block, layer, correlation in zip(guides, vision, layers[first:], self.correlations, strict=True):
            key, value, _ = _parts(guide)
            tokens = prefix_guided(block, tokens, region_mask, key(below), value(below), batch["token_mask"])
            with added(_parts(layer)[2], partial(correlation, tokens=tokens, token_mask=region_mask)):
                below, states = states, layer(states, mask)
        words: Tensor = self.word_projection(self.text_encoder.pool(states, batch))
        return words

    def _encode_images(self, batch: Batch, encoder: Any) -> tuple[Tensor, Tensor]:
        """Of its own layers only those below the fused ones read the image alone."""
        if self.own_layers:
            encoder = partial(encoder.tokens, blocks=len(encoder.blocks) - len(self.correlations))
        return super()._encode_images(batch, encoder)

    def regions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """None (b, 0, d): words have seen them."""
        mask = batch["word_mask"][:, :0]
        return self.head.weight.new_zeros(*mask.shape, self.width), mask

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """The words as they are (b, w, d)."""
        return words


@contextmanager
def added(linear: nn.Module, correlation: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block, a layer gives what it gives plus `correlation` of what it got."""
    hook = linear.register_forward_hook(lambda _, inputs, output: output + correlation(inputs[0]))
    try:
        yield
    finally:
        hook.remove()


def _parts(layer: Any) -> tuple[Any, Any, Any]:
    """Of a text layer: what makes its keys, its values, and the first Linear of its feed-forward net."""
    layer = getattr(layer, "layer", layer)  # VisualBERT's are wrapped
    if hasattr(layer, "ffn"):  # DistilBERT's names
        return layer.attention.k_lin, layer.attention.v_lin, layer.ffn.lin1
    return layer.attention.self.key, layer.attention.self.value, layer.intermediate.dense
