"""Words and placed regions, each encoded alone and then across: LXMERT of Tan and Bansal (2019)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.fusion.base import FusionModule

LXMERT = "lxmert"


class CrossModalEncoder(FusionModule):
    """LXMERT: a language encoder, an encoder of objects in their places, and layers that cross.

    ::

        H_0 = language layers(post);    o_i = (LayerNorm(W v_i + b) + LayerNorm(W' box_i + b')) / 2
        O_0 = object layers(o)                                                       (t, d), (r, d)

        each cross layer, C and S its attention to the other side and to its own:
            H' = C(H_k, O_k);    O' = C(O_k, H_k)            the same weights both ways
            H_k+1 = FFN(S(H'));  O_k+1 = FFN(S(O'))          weights of their own

        emissions = Linear(dropout(H_K at first pieces))                                     (w, l)

    C, S and FFN each end in a residual and a LayerNorm. A box is left, top, right, bottom in 0..1.

    Paper: Tan and Bansal, "LXMERT: Learning cross-modality encoder representations from transformers", EMNLP 2019.
    All layers are those of `transformers.LxmertModel`, which a test compares with its own call.

    - **With an LXMERT as** `text_encoder` the whole model is its own, pre-trained: 9 language, 5 object, 5 cross
      layers. It was trained on regions of a Faster R-CNN, 2048 wide; others go through a fresh Linear first.
    - **With any other encoder of word pieces** that one is the language half, and object and cross layers are fresh
      LXMERT layers of its width.

    Chosen here, where the released code differs: the last cross layer's visual half, which no word reads, is frozen,
    and the pooler left out; so every parameter that learns has a gradient. The tables of positions and segments of an
    LXMERT have no padding row: there position 0 and segment 0, which are [CLS] and the post itself, never learn. A
    post without image has one region, the learned vector, in the box (0, 0, 1, 1).

    Args:
        args: As for `FusionModule`.
        object_layers: Layers over the regions, at least 0; of an LXMERT, its own count.
        cross_layers: Layers that cross, at least 1; of an LXMERT, its own count.
        kwargs: As for `FusionModule`.

    Raises:
        ValueError: If a count is too small, or the text encoder is one of words and their characters.

    >>> model = CrossModalEncoder(["O", "B-PER", "I-PER"], region_width=8, object_layers=1, cross_layers=2)
    >>> len(model.layers.r_layers), len(model.layers.x_layers)
    (1, 2)
    """

    needs = frozenset({"boxes"})

    def __init__(self, *args: Any, object_layers: int = 5, cross_layers: int = 5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        from transformers import LxmertConfig, LxmertModel  # slow to import

        if object_layers < 0 or cross_layers < 1:
            raise ValueError(
                f"Expected `object_layers` of at least 0 and `cross_layers` of at least 1, but got {object_layers} and "
                f"{cross_layers}"
            )
        if self.text_encoder.reads_characters:
            raise ValueError("Expected a text encoder of word pieces, but it reads characters; choose another encoder")
        model = self.text_encoder.model
        self.has_own_layers = model.config.model_type == LXMERT
        self.region_projection = nn.Identity()
        if self.has_own_layers:
            if (width := model.config.visual_feat_dim) != self.region_width:
                self.region_projection = nn.Linear(self.region_width, width)
            for table in (model.embeddings.position_embeddings, model.embeddings.token_type_embeddings):
                table.padding_idx = None
        else:
            width = self.text_encoder.width
            config = LxmertConfig(
                vocab_size=1,  # none of its words is read
                hidden_size=width,
                num_attention_heads=getattr(model.config, "num_attention_heads", None) or math.gcd(width, 12),
                intermediate_size=4 * width,
                l_layers=0,
                r_layers=object_layers,
                x_layers=cross_layers,
                visual_feat_dim=self.region_width,
            )
            self.fresh = LxmertModel(config).encoder
        last = self.layers.x_layers[-1]
        for part in (last.visn_self_att, last.visn_inter, last.visn_output):
            part.requires_grad_(False)

    @property
    def pretrained(self) -> list[nn.Module]:
        """The encoders, and all layers that cross; fresh ones, too, bear no higher rate than an encoder."""
        return [*super().pretrained, self.layers]

    @property
    def layers(self) -> Any:
        """The `LxmertEncoder`: the text encoder's own, or the fresh one."""
        return self.text_encoder.model.encoder if self.has_own_layers else self.fresh

    def encode(self, batch: Batch) -> Tensor:
        """Words (b, w, d) that have seen the regions."""
        text = (batch["token_ids"], batch["token_mask"], batch["segment_ids"])
        if self.has_own_layers:
            states = self.text_encoder.model.embeddings(text[0], text[2])  # (b, t, d)
        else:
            states = self.text_encoder(*text)
        regions, region_mask = self.raw_regions(batch)
        _, (language, _), _ = self.layers(
            states,
            _additive(text[1]),
            visual_feats=self.region_projection(regions),
            visual_pos=self.boxes(batch, region_mask),
            visual_attention_mask=_additive(region_mask),
        )
        words: Tensor = self.word_projection(self.text_encoder.pool(language[-1], batch))
        return words

    def regions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """None (b, 0, d): words have seen them."""
        none = self.head.weight.new_zeros(*batch["word_mask"][:, :0].shape, self.width)
        return none, batch["word_mask"][:, :0]

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """The words as they are (b, w, d)."""
        return words


def _additive(mask: Tensor) -> Tensor:
    """What LXMERT adds to its scores (b, 1, 1, n): 0 where something is, else the lowest number."""
    scores = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)
    return scores[:, None, None]
