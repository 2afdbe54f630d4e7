"""The image inside the attention of words to words: Arshad et al. (2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mner.fusion.base import FusionModule
from mner.nn.masking import masked_softmax


class DirectionalAttention(nn.Module):
    """Each word attends, feature by feature, to the words on one side of it; with an image, through what pairs see.

    ::

        l_ij = s(W_1 h_j + W_2 h_i + f)                    s(z) = 5 tanh(z / 5)               (k)   pair of words
        with an image:
          m_ij  = W_4 dropout(ReLU(W_3 l_ij + b))                                             (k)
          c_ij  = Σ_n a_ijn ∘ g_n,  a = softmax over the real n of s(m_ij + W_5 g_n + f')     (k)   what it sees
          q_ij  = sigmoid(W_6 c_ij + W_7 l_ij + b), b starting at 1                           (k)   gate
          l_ij := q_ij ∘ l_ij + (1 - q_ij) ∘ c_ij
        s_i  = Σ_j p_ij ∘ h_j,  p = softmax over the real j < i (or j > i) of l_ij            (k)
               Σ_j p_ij ∘ (h_j + c_ij) where what is seen is read, too
        F_i  = sigmoid(W_8 h_i + W_9 s_i + b);    u_i = F_i ∘ h_i + (1 - F_i) ∘ s_i           (k)

    All softmaxes are for each feature alone. The first word (or last) has nobody to attend to, and s = 0.

    Memory is b · words · regions · k for each i, over which a loop goes; in training its inside is computed again in
    the backward pass in place of being kept.

    Args:
        width: k.
        backward: Attend to j > i.
        image: With the image.
        reads_image: What a pair sees is read with the word.
        dropout: As above.
    """

    def __init__(
        self, width: int, backward: bool, image: bool, reads_image: bool = False, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.backward, self.image, self.reads_image = backward, image, reads_image
        self.of_other = nn.Linear(width, width, bias=False)
        self.of_self = nn.Linear(width, width)
        self.fusion_gate = nn.Linear(2 * width, width)
        if image:
            self.inner = nn.Linear(width, width)
            self.outer = nn.Linear(width, width, bias=False)
            self.of_region = nn.Linear(width, width)
            self.image_gate = nn.Linear(2 * width, width)
            nn.init.ones_(self.image_gate.bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words h (b, w, k), regions g (b, r, k) and their masks -> u (b, w, k)."""
        pairs = bounded(self.of_self(words)[:, :, None] + self.of_other(words)[:, None])  # (b, i, j, k)
        values = words[:, None]  # (b, 1 or i, j, k)
        if self.image:
            queries = self.outer(self.dropout(self.inner(pairs).relu()))
            seen = self._see(queries, self.of_region(regions), regions, region_mask)  # (b, i, j, k)
            gate = self.image_gate(torch.cat([seen, pairs], -1)).sigmoid()
            pairs = gate * pairs + (1 - gate) * seen
            values = values + seen if self.reads_image else values
        place = torch.arange(words.shape[1], device=words.device)
        side = place[:, None] < place if self.backward else place[:, None] > place  # (i, j)
        allowed = (word_mask[:, None] & side)[..., None]  # (b, i, j, 1)
        read = (masked_softmax(pairs, allowed, dim=2) * values).sum(2)  # (b, i, k)
        kept: Tensor = self.fusion_gate(torch.cat([words, read], -1)).sigmoid()
        return kept * words + (1 - kept) * read

    def _see(self, queries: Tensor, keys: Tensor, regions: Tensor, mask: Tensor) -> Tensor:
        """What each pair sees (b, i, j, k), one i after the other."""

        def look(query: Tensor) -> Tensor:  # (b, j, k)
            scores = bounded(query[:, :, None] + keys[:, None])  # (b, j, r, k)
            return (masked_softmax(scores, mask[:, None, :, None], dim=2) * regions[:, None]).sum(2)

        rows = queries.unbind(1)
        if self.training and torch.is_grad_enabled():
            return torch.stack([checkpoint(look, row, use_reentrant=False) for row in rows], 1)
        return torch.stack([look(row) for row in rows], 1)


class VisuallyAidedAttentionFusion(nn.Module):
    """Two directional attentions, of which the forward one sees the image.

    ::

        h_j = ReLU(W_h x_j + b_h),  g_n = ReLU(W_g V_n + b_g)                                 (k)
        output_i = ReLU(W [forward u_i ; backward u_i] + b)                                   (600)

    Paper: Arshad et al., "Aiding intra-text representations with visual context for multimodal named entity
    recognition", ICDAR 2019. The feature-wise attention is that of DiSAN (Shen et al. 2018).

    **The image is never read**: it helps to choose among the words before. What all pairs of a word see alike cancels
    in the softmax over them, and the first two words, which have no choice, never see it. `both_directions` lets the
    backward block see it too; `reads_image` lets what a pair sees be read with the word: a mended formula.

    Chosen here: everything between words is k = 64 wide, in place of 250 (cost grows with b · w² · r · k); as in the
    released code only the forward block sees the image.

    Args:
        width: Width d of a word's vector.
        region_width: Width f of an image region.
        attention_width: k.
        fused_width: Of the output.
        both_directions: The backward block sees the image too.
        reads_image: What a pair sees is read, too, by each block that sees the image.
        dropout: In the attention.

    >>> fusion = VisuallyAidedAttentionFusion(width=8, region_width=16, attention_width=4)
    >>> words, word_mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    >>> regions, region_mask = torch.randn(2, 9, 16), torch.ones(2, 9, dtype=torch.bool)
    >>> fusion(words, word_mask, regions, region_mask).shape
    torch.Size([2, 5, 600])
    """

    def __init__(
        self,
        width: int,
        region_width: int,
        attention_width: int = 64,
        fused_width: int = 600,
        both_directions: bool = False,
        reads_image: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.words = nn.Linear(width, attention_width)
        self.regions = nn.Linear(region_width, attention_width)
        self.ahead = DirectionalAttention(attention_width, False, True, reads_image, dropout)
        self.behind = DirectionalAttention(attention_width, True, both_directions, reads_image, dropout)
        self.output = nn.Linear(2 * attention_width, fused_width)

    def forward(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words (b, w, d), raw regions (b, r, f), masks (b, w) and (b, r), true = real -> (b, w, fused_width)."""
        inputs = (self.words(words).relu(), word_mask, self.regions(regions).relu(), region_mask)
        fused: Tensor = self.output(torch.cat([self.ahead(*inputs), self.behind(*inputs)], -1))
        return fused.relu()


class VisuallyAidedAttention(FusionModule):
    """Arshad et al. (2019): what a pair of words sees decides how one attends to the other.

    Paper: Arshad et al. (2019); `VisuallyAidedAttentionFusion` has the formula. Their words are vectors beside a
    character convolution, their regions VGG-16's last map; here whichever are chosen.

    Args:
        args: As for `FusionModule`.
        attention_width: k.
        both_directions: Let the backward block see the image too.
        reads_image: Let what a pair of words sees be read, and not only choose among words.
        kwargs: As for `FusionModule`.
    """

    def __init__(
        self,
        *args: Any,
        attention_width: int = 64,
        both_directions: bool = False,
        reads_image: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.region_projection = nn.Identity()  # `fusion` has its own
        self.fusion = VisuallyAidedAttentionFusion(
            self.width, self.region_width, attention_width, self.fused_width, both_directions, reads_image,
            self.dropout.p,
        )  # fmt: skip

    @property
    def fused_width(self) -> int:
        """As released: 600."""
        return 600

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words (b, w, d) and raw regions (b, r, f) -> (b, w, 600)."""
        fused: Tensor = self.fusion(words, word_mask, regions, region_mask)
        return fused


def bounded(scores: Tensor) -> Tensor:
    """5 tanh(z / 5): nearly z where z is small, never beyond 5."""
    return 5 * (scores / 5).tanh()
