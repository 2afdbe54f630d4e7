"""Text alone: experiments 1.1 and 1.2 of Chen et al. (2021); with context sources, experiments 4.1 and 4.2."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mner.fusion.base import FusionModule


class TextOnly(FusionModule):
    """BERT + CRF, without any image vector.

    `emissions = Linear(dropout(h))`, h (b, w, d) the first word piece of each word. Captions and other texts reach the
    encoder as second segment where the data module has `context` (experiment 4.1); with a VisualBERT as `text_encoder`
    these are experiments 1.2 and 4.2.

    Paper: Chen et al., "Can images help recognize entities?", W-NUT 2021, sections 3.2 and 5.1. The authors' code
    trains the CRF on special tokens and later pieces too, and never decodes with it; here it sees words only, and
    Viterbi decodes.

    >>> TextOnly(["O", "B-PER", "I-PER"], hidden_size=8).head
    Linear(in_features=8, out_features=3, bias=True)
    """

    uses_image: ClassVar[bool] = False

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """The words as they are (b, w, d)."""
        return words
