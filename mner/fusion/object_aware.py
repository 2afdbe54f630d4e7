"""Bilinear attention of words and objects, and a classifier that must not tell them apart: Zheng et al. (2020)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.fusion.base import FusionModule
from mner.nn.attention import Attention
from mner.nn.masking import masked_softmax
from mner.nn.objectives import reverse_gradient, soft_label_loss


class BilinearAttention(Attention):
    """Bilinear attention (Kim et al. 2018) of rank k d and one glimpse, from words to objects.

    ::

        s_ji = h · (ReLU(W_q t_j + b_q) ∘ dropout(ReLU(W_v o_i + b_v)))                       a number
        A    = softmax of s over all pairs of a post, or for each word over its objects       (w, r)
        b_j  = Σ_i A_ji ReLU(W_b o_i + b_b)                                                   (d)

    Args:
        width: Width d of words and objects.
        rank: k; words and objects meet in k d features.
        joint: Over all pairs, as released, so that the words of a post share a total of 1.
        dropout: On the objects' side of the scores.
    """

    def __init__(self, width: int, rank: int = 3, joint: bool = True, dropout: float = 0.1) -> None:
        super().__init__()
        self.joint = joint
        self.returns_attention = not joint  # type: ignore[misc]  # no map of a word where its weights do not sum to 1
        self.words = nn.Linear(width, rank * width)
        self.objects = nn.Linear(width, rank * width)
        self.values = nn.Linear(width, width)
        self.score = nn.Parameter(nn.init.uniform_(torch.empty(rank * width), -1.0, 1.0) * (rank * width) ** -0.5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor, word_mask: Tensor, objects: Tensor, object_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Words (b, w, d), objects (b, r, d), masks (b, w) and (b, r) -> output (b, w, d) and weights (b, w, r)."""
        seen = self.dropout(self.objects(objects).relu()) * self.score  # (b, r, k d)
        scores = self.words(words).relu() @ seen.transpose(1, 2)  # (b, w, r)
        pairs = word_mask[:, :, None] & object_mask[:, None]
        if self.joint:
            weights = masked_softmax(scores.flatten(1), pairs.flatten(1)).view_as(scores)
        else:
            weights = masked_softmax(scores, pairs)
        values = self.values(objects).relu()
        return weights.to(values.dtype) @ values, weights


class ObjectAwareFusion(nn.Module):
    """Objects are projected next to the words, attended to, and gated into them.

    ::

        o_i = W_3 ReLU(LN(W_2 ReLU(LN(W_1 V_i))))        widths 512, 256, d                   (d)
        b   = BilinearAttention(t, o)                                                         (w, d)
        g_j = sigmoid(W_g [t_j ; b_j] + c)                                                    (d)
        output_j = LN(t_j + g_j ∘ b_j)                                                        (d)

        modality: D(x) = W ReLU(LN(W ReLU(LN(W x))))     widths 100, 50, 1
        loss = mean over words of BCE(D(t_j), 0) + mean over objects of BCE(D(o_i), 1)

    where D is behind a gradient reversal: it learns to tell words from objects, they learn to be alike. Without objects
    b = 0, and a word is LN(t_j).

    Paper: Zheng et al., "Object-aware multimodal named entity recognition in social media posts with adversarial
    learning", IEEE Transactions on Multimedia 2020 (AGBAN). The attention is that of Kim et al. (2018).

    Chosen here: LayerNorm in place of BatchNorm, whose statistics, in the released code, are over padded words and
    padded objects too; the classifier sees real words and objects only, of posts that have objects, and each side
    counts as much (there, padding is classified too); no constant in the scores, which the softmax cancels; no weight
    normalisation, which is another way to write the same matrices; W_g reads t and b directly, since Linear after
    Linear is one Linear; a sigmoid in place of a softmax over two.

    Args:
        width: Width d of a word's vector.
        region_width: Width f of an object's vector.
        rank: k of the attention.
        joint: Softmax over all pairs of a post (as released) or over the objects of each word.
        dropout: In the attention.

    >>> fusion = ObjectAwareFusion(width=8, region_width=16)
    >>> words, word_mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    >>> objects, object_mask = torch.randn(2, 3, 16), torch.ones(2, 3, dtype=torch.bool)
    >>> fusion(words, word_mask, objects, object_mask).shape
    torch.Size([2, 5, 8])
    >>> fusion.modality_loss(words, word_mask, objects, object_mask).shape
    torch.Size([])
    """

    def __init__(self, width: int, region_width: int, rank: int = 3, joint: bool = True, dropout: float = 0.1) -> None:
        super().__init__()
        self.objects = perceptron(region_width, 512, 256, width)
        self.attention = BilinearAttention(width, rank, joint, dropout)
        self.gate = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.modality = perceptron(width, 100, 50, 1)

    def forward(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words (b, w, d), raw regions (b, r, f), masks (b, w) and (b, r), true = real -> (b, w, d)."""
        seen, _ = self.attention(words, word_mask, self.objects(regions), region_mask)
        gate = self.gate(torch.cat([words, seen], -1)).sigmoid()
        fused: Tensor = self.norm(words + gate * seen)
        return fused

    def modality_loss(
        self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor, scale: float = 1.0
    ) -> Tensor:
        """How well D tells words from objects; what comes back to both is times `-scale`. 0 without any object."""
        parts = []
        of_posts = region_mask.any(1, keepdim=True)
        for states, mask, label in ((words, word_mask & of_posts, 0.0), (self.objects(regions), region_mask, 1.0)):
            scores = self.modality(reverse_gradient(states, scale)).squeeze(-1)  # (b, w or r)
            targets = torch.full_like(scores, label).masked_fill(~mask, torch.nan)
            parts.append(soft_label_loss(scores, targets))
        return torch.stack(parts).sum()


class ObjectAware(FusionModule):
    """AGBAN: bilinear attention to objects, and adversarial learning of a space for both; see `ObjectAwareFusion`.

    ::

        loss = NLL_CRF(emissions, tags) + λ modality loss,    reversed at scale 2 / (1 + e^(-10 p)) - 1

    with p from 0 to 1 the part of the training that is done (Ganin and Lempitsky 2015).

    Paper: Zheng et al. (2020). Its objects are at most three boxes of a Mask R-CNN; here, whatever regions there are.
    The authors keep D fixed at each eighth step; here it always learns. Post without image: no object.

    Args:
        args: As for `FusionModule`.
        rank: k: words and objects meet in k d features.
        joint_softmax: One softmax over all pairs of a post, as released; otherwise one for each word.
        adversarial_weight: λ.
        kwargs: As for `FusionModule`.

    Raises:
        ValueError: If the weight is negative.
    """

    replaces_missing_images = False

    def __init__(
        self,
        *args: Any,
        rank: int = 3,
        joint_softmax: bool = True,
        adversarial_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if adversarial_weight < 0:
            raise ValueError(f"Expected `adversarial_weight` of at least 0, but got {adversarial_weight}")
        self.region_projection = nn.Identity()  # `fusion` has its own
        self.fusion = ObjectAwareFusion(self.width, self.region_width, rank, joint_softmax, self.dropout.p)

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words (b, w, d) and raw regions (b, r, f) -> (b, w, d)."""
        fused: Tensor = self.fusion(words, word_mask, regions, region_mask)
        return fused

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`tagging`, and `adversarial`: telling words from objects, times λ."""
        inputs = (self.encode(batch), batch["word_mask"], *self.regions(batch))
        modality = self.fusion.modality_loss(*inputs, scale=reversal_scale(self.progress))
        return {
            "tagging": self.nll(self.emit(*inputs), batch),
            "adversarial": self.hparams["adversarial_weight"] * modality,
        }


def reversal_scale(progress: float) -> float:
    """How strongly a gradient is reversed, 0 at the start of training (progress 0) and nearly 1 at its end (1).

    >>> [round(reversal_scale(progress), 3) for progress in (0, 0.1, 0.5, 1)]
    [0.0, 0.462, 0.987, 1.0]
    """
    return 2 / (1 + math.exp(-10 * progress)) - 1


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, with LayerNorm and ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
