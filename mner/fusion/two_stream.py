"""Two streams, text and placed regions, that attend to each other between their layers: ViLBERT of Lu et al. (2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.fusion.base import FusionModule
from mner.nn.attention import CrossModalLayer
from mner.nn.masking import masked_mean


class PlacedRegions(nn.Module):
    """Regions and where they are, in one vector each, and their mean before them.

    ::

        o_i = dropout(LayerNorm(W v_i + b + W' [box_i ; area_i] + b'))                        (1 + r, v)

    where v_0 is the mean of the real regions and box_0 the whole image.

    Args:
        region_width: Width f of a region.
        width: Width v of what comes out.
        dropout: After the normalisation.

    >>> regions, boxes, mask = torch.randn(2, 3, 16), torch.rand(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    >>> states, mask = PlacedRegions(16, 8)(regions, boxes, mask)
    >>> states.shape, mask.shape
    (torch.Size([2, 4, 8]), torch.Size([2, 4]))
    """

    def __init__(self, region_width: int, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.content = nn.Linear(region_width, width)
        self.place = nn.Linear(5, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)  # BERT's
        self.dropout = nn.Dropout(dropout)

    def forward(self, regions: Tensor, boxes: Tensor, region_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embed regions (b, r, f) in boxes (b, r, 4) -> states (b, 1 + r, v) and their mask (b, 1 + r)."""
        regions = torch.cat([masked_mean(regions, region_mask)[:, None], regions], 1)
        boxes = torch.cat([boxes.new_tensor([0.0, 0.0, 1.0, 1.0]).expand_as(boxes[:, :1]), boxes], 1)
        left, top, right, bottom = boxes.unbind(-1)
        place = torch.cat([boxes, ((right - left) * (bottom - top))[..., None]], -1).to(regions.dtype)
        states = self.dropout(self.norm(self.content(regions) + self.place(place)))
        return states, torch.cat([region_mask.any(1, keepdim=True), region_mask], 1)


class CoAttentionalLayer(nn.Module):
    """Text attends to regions and regions to text, each to the other as it came in; then each has a layer of its own.

    ::

        H' = Layer(H, O)          (t, d)
        O' = Layer'(O, H)         (n, v)

    Layer(q, k) is a `CrossModalLayer`, in which both meet in v; the inner layer of Layer' is v wide too.

    Args:
        width: Of the text, d.
        visual_width: Of the regions, v.
        heads: Of either side.
        dropout: In either side.
        both_ways: Whether regions attend to text too: not where nothing reads them afterwards.
    """

    def __init__(self, width: int, visual_width: int, heads: int, dropout: float = 0.1, both_ways: bool = True) -> None:
        super().__init__()
        sizes: dict[str, Any] = {"attention_width": visual_width, "dropout": dropout, "attends_to": "all"}
        self.text = CrossModalLayer(width, heads, memory_width=visual_width, **sizes)
        self.visual: CrossModalLayer | None = None
        if both_ways:
            self.visual = CrossModalLayer(visual_width, heads, memory_width=width, inner_width=visual_width, **sizes)

    def forward(self, text: Tensor, text_mask: Tensor, regions: Tensor, region_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Text (b, t, d) and regions (b, n, v), with masks (b, t) and (b, n) -> both, as wide as they were."""
        seen, _ = self.text(text, regions, region_mask)
        if self.visual is not None:
            regions, _ = self.visual(regions, text, text_mask)
        return seen, regions


class TwoStreamEncoder(nn.Module):
    """Runs the layers of a text encoder beside a visual stream, with co-attention before some of them.

    ::

        O = PlacedRegions(V, boxes)                                                           (1 + r, v)

        for each layer of the text encoder, H being what it gets:
            if co-attention comes before it, the k-th, counted from 0:
                O = Layer(O, O), `visual_layers` times, unless k = 0
                H, O = CoAttentionalLayer_k(H, O)
            H = layer(H)                                                                      (t, d)

    The text encoder's layers are given at each call, not kept: in a `FusionModule` they belong to the text encoder, in
    the checkpoint and for the learning rate.

    Args:
        width: Of the text, d.
        region_width: Width f of a region.
        at: Layers of the text encoder, counted from 0, before which co-attention comes, in rising order; may be empty.
        visual_layers: Layers of the visual stream between two co-attentions.
        visual_width: v, in which both streams meet.
        heads: Of each layer that is not the text encoder's.
        dropout: In those layers.
    """

    def __init__(
        self,
        width: int,
        region_width: int,
        at: Sequence[int],
        visual_layers: int = 1,
        visual_width: int = 1024,
        heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.at = list(at)
        self.placed = PlacedRegions(region_width, visual_width, dropout)
        sizes: dict[str, Any] = {"inner_width": visual_width, "dropout": dropout, "attends_to": "all"}
        self.visual = nn.ModuleList(
            nn.ModuleList(CrossModalLayer(visual_width, heads, **sizes) for _ in range(visual_layers if place else 0))
            for place in range(len(self.at))
        )
        self.co_attention = nn.ModuleList(
            CoAttentionalLayer(width, visual_width, heads, dropout, both_ways=layer != self.at[-1]) for layer in self.at
        )

    def forward(
        self,
        layers: Sequence[nn.Module],
        states: Tensor,
        layer_mask: Tensor | None,
        token_mask: Tensor,
        regions: Tensor,
        boxes: Tensor,
        region_mask: Tensor,
    ) -> Tensor:
        """Read text and regions.

        Args:
            layers: Of the text encoder; `TextEncoder.layers`.
            states: What the first of them gets (b, t, d), and
            layer_mask: its mask, as the layers want it; `TextEncoder.embed` gives both.
            token_mask: (b, t) bool, true = real.
            regions: (b, r, f).
            boxes: (b, r, 4): left, top, right, bottom in 0..1.
            region_mask: (b, r) bool, true = real.

        Returns:
            (b, t, d).
        """
        objects, object_mask = self.placed(regions, boxes, region_mask)  # (b, 1 + r, v)
        for number, layer in enumerate(layers):
            if number in self.at:
                place = self.at.index(number)
                for visual in self.visual[place]:  # type: ignore[attr-defined]
                    objects, _ = visual(objects, objects, object_mask)
                states, objects = self.co_attention[place](states, token_mask, objects, object_mask)
            states = layer(states, layer_mask)
        return states


class TwoStream(FusionModule):
    """ViLBERT: words from a text encoder that runs beside a visual stream; see `TwoStreamEncoder`.

    `emissions = Linear(dropout(states of first pieces))`. With `at` empty it is the text encoder alone.

    Paper: Lu et al., "ViLBERT: Pretraining task-agnostic visiolinguistic representations for vision-and-language
    tasks", NeurIPS 2019: a BERT-base with co-attention before each of its last six layers, one visual layer between
    two of them, v = 1024, 8 heads. Those are the defaults.

    Chosen here, where the released code differs: what no word reads is left out, which is the visual half of the last
    co-attention and the visual layer after it; so every parameter has a gradient. All but the text encoder is fresh and
    learns at the encoders' rate all the same. A post without image has one region, the learned vector, in the box
    (0, 0, 1, 1).

    Args:
        args: As for `FusionModule`.
        at: Layers of the text encoder, counted from 0, before which co-attention comes; None for its last half.
        visual_layers: Layers of the visual stream between two co-attentions.
        visual_width: v, in which both streams meet.
        heads: Of each layer that is not the text encoder's.
        kwargs: As for `FusionModule`.

    Raises:
        ValueError: If the text encoder cannot be run layer by layer, `at` does not rise or names a layer that is not
            there, `visual_layers` is negative, or `heads` does not divide `visual_width`.
    """

    needs = frozenset({"boxes"})

    def __init__(
        self,
        *args: Any,
        at: list[int] | None = None,
        visual_layers: int = 1,
        visual_width: int = 1024,
        heads: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        count = len(self.text_encoder.layers)
        at = list(range(count // 2, count)) if at is None else list(at)
        if at != sorted(set(at) & set(range(count))):
            raise ValueError(f"Expected `at` to rise within the encoder's layers 0 to {count - 1}, but got {at}")
        if visual_layers < 0:
            raise ValueError(f"Expected `visual_layers` of at least 0, but got {visual_layers}")
        self.region_projection = nn.Identity()  # the stream has its own
        self.stream = TwoStreamEncoder(
            self.text_encoder.width, self.region_width, at, visual_layers, visual_width, heads, self.dropout.p
        )
        if not at:  # nothing reads the image: a parameter without gradient would stop distributed training
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(parameter.requires_grad and not name.startswith(("stream", "no_", "image_")))

    @property
    def pretrained(self) -> list[nn.Module]:
        """The encoders, and the stream between the layers of the text encoder, which bears no higher rate."""
        return [*super().pretrained, self.stream]

    def encode(self, batch: Batch) -> Tensor:
        """Words (b, w, d) that have seen the regions."""
        states, layer_mask = self.text_encoder.embed(batch)
        regions, region_mask = self.raw_regions(batch)
        boxes = self.boxes(batch, region_mask)
        states = self.stream(
            self.text_encoder.layers, states, layer_mask, batch["token_mask"], regions, boxes, region_mask
        )
        words: Tensor = self.word_projection(self.text_encoder.pool(states, batch))
        return words

    def regions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """None (b, 0, d): words have seen them."""
        return self.head.weight.new_zeros(batch["token_ids"].shape[0], 0, self.width), batch["word_mask"][:, :0]

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """The words as they are (b, w, d)."""
        return words
