"""One attention over the image for each post, gated into each word: VAM, Exp 2.2 of Chen et al. (2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mner.fusion.base import FusionModule
from mner.nn.attention import AdditiveAttention
from mner.nn.recurrent import LSTM


class VisualAttentionFusion(nn.Module):
    """A query from all words looks at the image once; gates say how much of what it sees each word takes.

    ::

        Q   = last state of a one-way LSTM over the real words h_1 … h_T            (d)
        e_i = w_a · tanh(W_t Q + W_v V_i + b);  p = softmax of e over the real i    (r)
        c   = W' (Σ_i p_i V_i) + b'                                                 (d)
        β_v = sigmoid(W_v h_t + U_v c + b_v)                                        (d)   how much image
        β_w = sigmoid(W_w h_t + U_w c + b_w)                                        (d)   how much text
        m_t = tanh(W_m h_t + U_m c + b_m)                                           (d)
        o_t = β_w ∘ h_t + β_v ∘ m_t                                                 (d)

    Paper: Lu et al. (2018), as used by Chen et al. (2021), section 3.3. One map p a post, shared by its words: the maps
    of Chen et al.'s Figure 1.

    **The printed attention ignores the text.** Lu et al. print e_i = W_a [tanh(W_t Q) ; tanh(W_v V_i)] + b_a, in which
    Q adds the same number to each e_i and leaves the softmax: p would be a function of the image alone, and the LSTM
    would learn nothing. We add inside the tanh instead; `AdditiveAttention` has the derivation.

    Also chosen here: the attention's width k is d; the image is projected to d after the weighted sum, which is equal
    to before since the weights sum to 1. With β_v = 0 a word is β_w ∘ h_t: the gate β_w still sees the image, as in
    the paper.

    Args:
        width: Width d of a word's vector.
        region_width: Width f of an image region.
        attention_width: Width k in which query and regions meet; None: d.

    >>> fusion = VisualAttentionFusion(width=8, region_width=16)
    >>> words, word_mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    >>> regions, region_mask = torch.randn(2, 9, 16), torch.ones(2, 9, dtype=torch.bool)
    >>> fusion(words, word_mask, regions, region_mask).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, region_width: int, attention_width: int | None = None) -> None:
        super().__init__()
        self.query = LSTM(width, width)
        self.attention = AdditiveAttention(width, region_width, attention_width or width)
        self.context_projection = nn.Linear(region_width, width)
        # Rows: β_v, β_w, m. One product for the three; only the first carries the biases.
        self.from_word = nn.Linear(width, 3 * width)
        self.from_image = nn.Linear(width, 3 * width, bias=False)

    def forward(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Fuse.

        Args:
            words: (b, w, d).
            word_mask: (b, w) bool, true = real; real words come first.
            regions: (b, r, f).
            region_mask: (b, r) bool, true = real.

        Returns:
            (b, w, d).
        """
        states = self.query(words)  # (b, w, d); a state never sees what comes after it, so padding needs no packing
        last = (word_mask.sum(1) - 1).clamp(min=0)  # (b,)
        query = states[torch.arange(words.shape[0], device=words.device), last]  # (b, d)
        context, _ = self.attention(query[:, None], regions, region_mask)  # (b, 1, f)
        context = self.context_projection(context)  # (b, 1, d), the same for every word
        visual, textual, mixed = (self.from_word(words) + self.from_image(context)).chunk(3, -1)  # 3 x (b, w, d)
        fused: Tensor = textual.sigmoid() * words + visual.sigmoid() * mixed.tanh()
        return fused


class VisualAttention(FusionModule):
    """VAM, Exp 2.2: one attention over the image for each post, gated into each word by `VisualAttentionFusion`.

    Paper: Lu et al. (2018), as used by Chen et al. (2021), section 3.3. The attention is not the printed one, in which
    the text has no effect; `VisualAttentionFusion` says why, and what else was left open.

    Args:
        args: As for `FusionModule`.
        attention_width: Width k in which query and regions meet; None: d.
        kwargs: As for `FusionModule`.
    """

    def __init__(self, *args: Any, attention_width: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.region_projection = nn.Identity()  # the attention reads the regions as they are
        self.fusion = VisualAttentionFusion(self.width, self.region_width, attention_width)

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words (b, w, d) and raw regions (b, r, f) -> (b, w, d)."""
        fused: Tensor = self.fusion(words, word_mask, regions, region_mask)
        return fused
