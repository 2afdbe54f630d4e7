"""An image counts as far as it matches its post, and matching pairs are drawn together: MAF of Xu et al. (2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.fusion.base import FusionModule
from mner.nn.attention import CrossModalLayer
from mner.nn.masking import masked_mean
from mner.nn.objectives import info_nce


class MatchingAlignmentFusion(nn.Module):
    """Words look at the regions; what they see is scaled by how well the image matches the post, and gated.

    ::

        A = Layer(h, V)                       words that have seen the image                  (w, d)
        s = w · [mean h ; mean A] + b;    p = sigmoid(s), 0 without image                     (1)    matching
        g = sigmoid(W_g [h ; p A] + b_g)                                                      (w, d) gate
        fused = [h ; g ∘ p A]                                                                 (w, 2d)

        alignment: MLP_h(mean h) and MLP_v(mean of the regions as they come), for InfoNCE     (d) each

    Layer is a `CrossModalLayer`; means are over real words and regions. Without image, the fused words are [h ; 0].

    Paper: Xu et al., "MAF: A general matching and alignment framework for multimodal named entity recognition", WSDM
    2022. Its softmax over two numbers is our sigmoid of their difference.

    Chosen here, where the released code differs: the matcher reads the means of words (there all 128 padded positions,
    flattened, so that it depends on padding and ends at 128), and InfoNCE the mean of the words (there the pooler).

    Args:
        width: Width d of a word's vector.
        region_width: Width f of an image region.
        heads: Heads of the layer; see `CrossModalLayer`.
        dropout: In the layer.

    >>> fusion = MatchingAlignmentFusion(width=8, region_width=16)
    >>> words, word_mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    >>> regions, region_mask = torch.randn(2, 9, 16), torch.ones(2, 9, dtype=torch.bool)
    >>> fusion(words, word_mask, regions, region_mask).shape
    torch.Size([2, 5, 16])
    """

    def __init__(self, width: int, region_width: int, heads: int | None = None, dropout: float = 0.1) -> None:
        super().__init__()
        self.projection = nn.Linear(region_width, width)
        self.layer = CrossModalLayer(width, heads, dropout)
        self.matcher = nn.Linear(2 * width, 1)
        self.gate = nn.Linear(2 * width, width)
        self.text_side = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.image_side = nn.Sequential(nn.Linear(region_width, width), nn.ReLU(), nn.Linear(width, width))
        self.fused_width = 2 * width

    def forward(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Fuse.

        Args:
            words: (b, w, d).
            word_mask: (b, w) bool, true = real.
            regions: (b, r, f).
            region_mask: (b, r) bool, true = real; false throughout for a post without image.

        Returns:
            (b, w, 2d).
        """
        return self.fuse(words, *self.match(words, word_mask, regions, region_mask), region_mask)

    def match(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> tuple[Tensor, Tensor]:
        """What words see A (b, w, d), and how well it matches them, s before its sigmoid (b,)."""
        seen, _ = self.layer(words, self.projection(regions), region_mask)
        both = torch.cat([masked_mean(words, word_mask), masked_mean(seen, word_mask)], -1)  # (b, 2d)
        return seen, self.matcher(both).squeeze(-1)

    def fuse(self, words: Tensor, seen: Tensor, score: Tensor, region_mask: Tensor) -> Tensor:
        """The fused words (b, w, 2d), from what `match` gave."""
        matching = score.sigmoid() * region_mask.any(1)  # (b,)
        seen = matching[:, None, None] * seen
        gate = self.gate(torch.cat([words, seen], -1)).sigmoid()
        return torch.cat([words, gate * seen], -1)

    def sides(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> tuple[Tensor, Tensor]:
        """A vector of each post and one of its image (b, d), which are to be alike."""
        return self.text_side(masked_mean(words, word_mask)), self.image_side(masked_mean(regions, region_mask))


class MatchingAlignment(FusionModule):
    """MAF: `MatchingAlignmentFusion`, which learns from wrong pairs too.

    ::

        emissions = Linear(dropout(fused))                                                    (w, l)
        loss = NLL_CRF(emissions, tags) + λ_m BCE(sigmoid(s), 1; sigmoid(s'), 0) + λ_a InfoNCE_τ

    s' is the score of the post beside the image of the next post in the batch that has one. InfoNCE is
    `mner.nn.info_nce`. Posts without image take no part in these losses; they are 0 where fewer than two posts of a
    batch have one. Images of a batch are taken to be different.

    Paper: Xu et al. (2022). Released: λ_m = λ_a = .38 / .62, τ = .179, .7 and .3 for the directions of InfoNCE, and the
    tagging loss as a mean over posts (`crf_reduction="sentence_mean"`).

    Chosen here, where the released code differs: wrong images are for the matching loss alone (there 16 posts of each
    batch are tagged with the image of another post, too); the post looks at the wrong image itself (there it is given
    what the *words* of the other post saw, which tells the matcher that words differ, whatever the image); both
    directions of InfoNCE count alike; a post without image is tagged by its text alone (there a stand-in picture).

    Args:
        args: As for `FusionModule`.
        matching_weight: λ_m.
        alignment_weight: λ_a.
        temperature: τ of InfoNCE.
        heads: Heads of the cross-modal layer.
        kwargs: As for `FusionModule`.

    Raises:
        ValueError: If a weight is negative or τ not above 0.
    """

    replaces_missing_images = False

    def __init__(
        self,
        *args: Any,
        matching_weight: float = 0.6,
        alignment_weight: float = 0.6,
        temperature: float = 0.179,
        heads: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if min(matching_weight, alignment_weight) < 0 or not temperature > 0:
            raise ValueError(
                "Expected weights of at least 0 and `temperature` above 0, but got "
                f"matching_weight={matching_weight}, alignment_weight={alignment_weight}, temperature={temperature}"
            )
        self.region_projection = nn.Identity()  # the fusion has its own
        self.fusion = MatchingAlignmentFusion(self.width, self.region_width, heads, self.hparams["dropout"])

    @property
    def fused_width(self) -> int:
        """Words beside what they see: 2d."""
        return 2 * self.width

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words and what they see of a matching image (b, w, 2d)."""
        fused: Tensor = self.fusion(words, word_mask, regions, region_mask)
        return fused

    def matching(self, batch: Batch) -> Tensor:
        """How far the image of each post matches it: p (b,), 0 without image."""
        regions, region_mask = self.regions(batch)
        _, score = self.fusion.match(self.encode(batch), batch["word_mask"], regions, region_mask)
        return score.sigmoid() * region_mask.any(1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`tagging`, `matching` times λ_m and `alignment` times λ_a."""
        words, word_mask = self.encode(batch), batch["word_mask"]
        regions, region_mask = self.regions(batch)
        seen, score = self.fusion.match(words, word_mask, regions, region_mask)
        emissions = self.head(self.dropout(self.fusion.fuse(words, seen, score, region_mask)))
        shown = region_mask.any(1).nonzero()[:, 0]  # rows with an image
        other, pairs = shown.roll(-1), len(shown) if len(shown) > 1 else 0  # alone, it has no wrong image
        _, wrong = self.fusion.match(words[shown], word_mask[shown], regions[other], region_mask[other])
        both = nn.functional.softplus(-score[shown]) + nn.functional.softplus(wrong)
        matching = both.sum() * (bool(pairs) / max(1, 2 * pairs))
        text, image = self.fusion.sides(words, word_mask, regions, region_mask)
        alignment = info_nce(text[shown], image[shown], self.hparams["temperature"])
        return {
            "tagging": self.nll(emissions, batch),
            "matching": self.hparams["matching_weight"] * matching,
            "alignment": self.hparams["alignment_weight"] * alignment,
        }
