"""Words attend to regions, what they see attends to words: CAM, Exp 2.3 of Chen et al. (2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mner.fusion.base import FusionModule
from mner.nn.attention import AdditiveAttention


class CoAttentionFusion(nn.Module):
    """Adaptive co-attention: two attentions, a gate between their results, and a gate that filters noise.

    ::

        v_i = tanh(W V_i + b)                                                                 (d)

        1. word-guided visual attention, for each word t
           e_ti = w · tanh(W_h h_t + W_v v_i + b);    p_t = softmax over the real i           (r)
           v̂_t  = Σ_i p_ti v_i                                                                (d)
        2. image-guided textual attention
           e'_tj = w' · tanh(W_x v̂_t + W_y h_j + b'); q_t = softmax over the real j           (w)
           ĥ_t   = Σ_j q_tj h_j                                                               (d)
        3. gated multimodal fusion
           a_t = tanh(W_a v̂_t + b_a);  c_t = tanh(W_c ĥ_t + b_c)                              (d)
           g_t = sigmoid(W_g [a_t ; c_t] + b_g);  m_t = g_t ∘ a_t + (1 - g_t) ∘ c_t           (d)
        4. filtration gate
           s_t = sigmoid(w_s · [h_t ; m_t] + b_s)                                             (1)
           u_t = s_t tanh(W_m m_t + b_m)                                                      (d)

        output [h_t ; u_t]                                                                    (2d)

    Paper: Zhang et al. (2018), as used by Chen et al. (2021), section 3.3. Its last matrix W_out, on [h_t ; u_t], is
    the head of `FusionModule`.

    **The printed attention ignores the word.** Zhang et al. print tanh(W_v v_i ⊕ (W_h h_t + b)) with ⊕ concatenation,
    in which h_t adds the same number to the score of each region and leaves the softmax: all words would get one p,
    one v̂, and by the same slip in step 2 one q and one ĥ. We add inside the tanh instead; `AdditiveAttention` has the
    derivation.

    Also chosen here, where print, authors' code and ports differ: attention over words is masked; g reads the
    concatenation and their gated sum is taken (print; the code has it the other way round); s_t is one number (the
    print multiplies a vector of 2k with one of d; ports add a Linear to 1, and as Linear after Linear is one Linear,
    ours reads h_t and m_t directly); k is 200, the width of all of Zhang et al.'s model, since memory grows with
    b · w · max(r, w) · k. Weights start as Keras, which they used, starts them (Glorot, biases 0): with PyTorch's own
    start each Linear passes on a third of the variance, and what is left of the image after three of them is learnt
    much more slowly (docs/strategies/co_attention.md has numbers).

    Args:
        width: Width d of a word's vector.
        region_width: Width f of an image region.
        attention_width: Width k in which words and regions meet.

    >>> fusion = CoAttentionFusion(width=8, region_width=16)
    >>> words, word_mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    >>> regions, region_mask = torch.randn(2, 9, 16), torch.ones(2, 9, dtype=torch.bool)
    >>> fusion(words, word_mask, regions, region_mask).shape
    torch.Size([2, 5, 16])
    """

    def __init__(self, width: int, region_width: int, attention_width: int = 200) -> None:
        super().__init__()
        self.region_projection = nn.Linear(region_width, width)
        self.visual_attention = AdditiveAttention(width, width, attention_width)
        self.textual_attention = AdditiveAttention(width, width, attention_width)
        self.textual_attention.attends_to = "words"
        self.seen_projection = nn.Linear(width, width)
        self.read_projection = nn.Linear(width, width)
        self.fusion_gate = nn.Linear(2 * width, width)
        self.filtration_gate = nn.Linear(2 * width, 1)
        self.filtered_projection = nn.Linear(width, width)
        self.fused_width = 2 * width
        for layer in self.modules():  # Keras's start; see above
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words (b, w, d), regions (b, r, f), masks (b, w) and (b, r), true = real -> (b, w, 2d)."""
        regions = self.region_projection(regions).tanh()  # (b, r, d)
        seen, _ = self.visual_attention(words, regions, region_mask)  # (b, w, d), weights (b, w, r)
        read, _ = self.textual_attention(seen, words, word_mask)  # (b, w, d), weights (b, w, w)
        seen, read = self.seen_projection(seen).tanh(), self.read_projection(read).tanh()
        gate = self.fusion_gate(torch.cat([seen, read], -1)).sigmoid()  # (b, w, d)
        fused = gate * seen + (1 - gate) * read
        passed = self.filtration_gate(torch.cat([words, fused], -1)).sigmoid()  # (b, w, 1)
        return torch.cat([words, passed * self.filtered_projection(fused).tanh()], -1)


class CoAttention(FusionModule):
    """CAM, Exp 2.3: words attend to regions and back, two gates decide what passes; see `CoAttentionFusion`.

    Paper: Zhang et al. (2018), as used by Chen et al. (2021), section 3.3. The attention is not the printed one, in
    which the word has no effect; `CoAttentionFusion` says why, and what else was left open.

    Args:
        args: As for `FusionModule`.
        attention_width: Width k in which words and regions meet.
        kwargs: As for `FusionModule`.
    """

    def __init__(self, *args: Any, attention_width: int = 200, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.region_projection = nn.Identity()  # `fusion` has its own, with the paper's tanh
        self.fusion = CoAttentionFusion(self.width, self.region_width, attention_width)

    @property
    def fused_width(self) -> int:
        """2d: the word and the filtered multimodal vector."""
        return 2 * self.width

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words (b, w, d) and raw regions (b, r, f) -> (b, w, 2d)."""
        fused: Tensor = self.fusion(words, word_mask, regions, region_mask)
        return fused
