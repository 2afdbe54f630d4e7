"""The image as keys and values before those of the text encoder's own attention: HVPNeT of Chen X. et al. (2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from mner.batch import Batch
from mner.encoders.prefix import attentions
from mner.fusion.base import FusionModule


class PrefixMaker(nn.Module):
    """Keys and values for each layer of a text encoder, out of an image's regions.

    ::

        region i = [V_i1; …; V_is]                          s places of f / s numbers
        [G_is1; …; G_isg] = W_2 tanh(W_1 V_is)              g slices of a key and a value      (2d) each

        for each layer:
            a_i = softmax(LeakyReLU(W_layer [mean_g G_i1g; …; mean_g G_isg]))                  (g)
            [K'_is; V'_is] = Σ_g a_ig G_isg                                                    (2d)

    so that each place of each region becomes one slot of the prefix. Weights are the same for all regions, whole image
    and crops alike.

    Paper: Chen X. et al., "Good visual guidance makes a better extractor: Hierarchical visual prefix for multimodal
    entity and relation extraction", Findings of NAACL 2022 (HVPNeT).

    Chosen here, where the released code differs: head h of a slot reads columns h d/heads to (h + 1) d/heads of that
    slot, and a place's numbers are those of that place. There, both are reshaped without being transposed, which mixes
    channels with places and slots with heads.

    Args:
        region_width: Width f of a region.
        width: Width d of the text encoder.
        heads: Its heads.
        layers: Its layers.
        places: s; 4 for a pyramid (`mner features --pyramid`), 1 where a region is one vector.
        hidden: Width between W_1 and W_2.
        slices: g. The paper calls them levels of the image; they are learned slices.

    Raises:
        ValueError: If `places` does not divide `region_width`.

    >>> maker = PrefixMaker(region_width=24, width=8, heads=2, layers=3, places=4)
    >>> keys, values = maker(torch.randn(5, 2, 24))
    >>> keys.shape  # three layers, five posts, two heads, two regions of four places, width 8 / 2
    torch.Size([3, 5, 2, 8, 4])
    """

    def __init__(
        self,
        region_width: int,
        width: int,
        heads: int,
        layers: int,
        places: int = 1,
        hidden: int = 800,
        slices: int = 4,
    ) -> None:
        super().__init__()
        if places < 1 or region_width % places:
            raise ValueError(
                f"Expected `places` to divide the region's width {region_width}, but got {places}; it is 4 for "
                "features of `mner features --pyramid`, else 1"
            )
        self.heads, self.places, self.slices = heads, places, slices
        self.projection = nn.Sequential(
            nn.Linear(region_width // places, hidden), nn.Tanh(), nn.Linear(hidden, slices * 2 * width)
        )
        self.gates = nn.ModuleList(nn.Linear(places * 2 * width, slices) for _ in range(layers))

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Regions (b, r, f) -> keys and values, each (layers, b, heads, r s, d / heads)."""
        b, r, f = regions.shape
        places = regions.reshape(b, r, self.places, f // self.places)
        slices = self.projection(places).unflatten(-1, (self.slices, -1))  # (b, r, s, g, 2d)
        mixed = torch.einsum("nbrg,brsgd->nbrsd", self.weights(slices), slices)
        heads = mixed.reshape(len(self.gates), b, r * self.places, 2 * self.heads, -1).transpose(2, 3)
        keys, values = heads.chunk(2, 2)
        return keys, values

    def weights(self, slices: Tensor) -> Tensor:
        """Weights a of the slices (b, r, s, g, 2d) in each layer: (layers, b, r, g)."""
        mean = slices.mean(3).flatten(2)  # (b, r, s 2d)
        return torch.stack([leaky_relu(gate(mean)).softmax(-1) for gate in self.gates])


class VisualPrefix(FusionModule):
    """HVPNeT: in each layer of the text encoder, words attend to the image's prefix as they attend to each other.

    ::

        K', V' = PrefixMaker(V)
        every layer's attention = softmax(Q [K'; K]^T / sqrt(d / heads)) [V'; V]
        emissions = Linear(dropout(H at first pieces))                                         (w, l)

    The prefix has no positions, so that the order of regions does not count. A region that is not there is masked; a
    post without image has no prefix, and its emissions are those of the text encoder alone.

    Paper: Chen X. et al. (2022). Its regions are the whole image and three crops found by visual grounding, each as
    the last four layers of a frozen ResNet-50 pooled to 2 x 2. `mner features --crops 3 --pyramid` makes such, with a
    detector's boxes. Other regions and cells of a grid do with `places` 1.

    Chosen here, where the released code differs: see `PrefixMaker`; absent crops are masked (there, a black image
    stands for them, whose prefix is attended to).

    Args:
        args: As for `FusionModule`.
        places: Places of a region, each a slot of the prefix: 4 for a pyramid, else 1.
        prefix_hidden: Width of the layer that makes the prefix.
        kwargs: As for `FusionModule`. What makes the prefix learns at `learning_rate`, as the text encoder does.

    Raises:
        ValueError: If `places` does not divide the width of a region, or the text encoder takes no prefix; it says
            which do.
    """

    replaces_missing_images = False

    def __init__(self, *args: Any, places: int = 1, prefix_hidden: int = 800, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.region_projection = nn.Identity()  # `prefix` has its own
        model = self.text_encoder.model
        layers, heads = len(attentions(model)), model.config.num_attention_heads
        self.prefix = PrefixMaker(self.region_width, self.text_encoder.width, heads, layers, places, prefix_hidden)

    @property
    def pretrained(self) -> list[nn.Module]:
        """The encoders, and what makes the prefix, which is as tender as what reads it."""
        return [*super().pretrained, self.prefix]

    def encode(self, batch: Batch) -> Tensor:
        """Words (b, w, d) that have seen the regions."""
        regions, region_mask = self.raw_regions(batch)
        mask = region_mask.repeat_interleave(self.prefix.places, 1)  # (b, r s)
        with self.text_encoder.prefixed(*self.prefix(regions), mask):
            words: Tensor = self.word_projection(self.text_encoder.words(batch))
        return words

    def regions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """None (b, 0, d): words have seen them."""
        mask = batch["word_mask"][:, :0]
        return self.head.weight.new_zeros(*mask.shape, self.width), mask

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """The words as they are (b, w, d)."""
        return words
