"""Cross-modal transformer layers with span detection beside them: UMT of Yu et al. (2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.fusion.base import FusionModule
from mner.labels import split_tag
from mner.nn.attention import CrossModalLayer
from mner.nn.crf import CRF
from mner.nn.masking import masked_softmax

# Span detection: the labels without their types. In this order, so that padding (0) is `O` here too.
SPAN_LABELS = ("O", "B", "I")


class UnifiedMultimodalFusion(nn.Module):
    """Image-aware words and word-aware regions, joined by a gate; and words for span detection, without the image.

    ::

        S_span = Layer(words, words);     S = Layer(words, words)                             (w, d)
        A = Layer(S, W_1 V + b_1)             words that have seen the image                  (w, d)
        P = Layer(W_2 V + b_2, S)             regions that have read the words                (r, d)
        R = Layer(S, P)                       words that have seen those                      (w, d)
        g = sigmoid(W_g [R ; A] + b_g)        how much of the image each word takes           (w, d)
        fused = [R ; g ∘ A]                                                                   (w, 2d)

    Layer(q, k) is a `CrossModalLayer`. With g = 0 the output is R alone.

    Args:
        width: Width d of a word's vector.
        region_width: Width f of an image region.
        heads: Heads of each layer; see `CrossModalLayer`.
        dropout: In each layer.

    >>> fusion = UnifiedMultimodalFusion(width=8, region_width=16)
    >>> words, word_mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    >>> regions, region_mask = torch.randn(2, 9, 16), torch.ones(2, 9, dtype=torch.bool)
    >>> fusion(words, word_mask, regions, region_mask).shape
    torch.Size([2, 5, 16])
    >>> fusion.span_states(words, word_mask).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, region_width: int, heads: int | None = None, dropout: float = 0.1) -> None:
        super().__init__()
        self.span_layer = CrossModalLayer(width, heads, dropout, attends_to="words")
        self.word_layer = CrossModalLayer(width, heads, dropout, attends_to="words")
        self.image_aware = CrossModalLayer(width, heads, dropout)
        self.word_aware = CrossModalLayer(width, heads, dropout, attends_to="words")
        self.final = CrossModalLayer(width, heads, dropout)
        self.image_projection = nn.Linear(region_width, width)
        self.region_projection = nn.Linear(region_width, width)
        self.gate = nn.Linear(2 * width, width)
        self.fused_width = 2 * width

    def forward(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Fuse.

        Args:
            words: (b, w, d).
            word_mask: (b, w) bool, true = real.
            regions: (b, r, f).
            region_mask: (b, r) bool, true = real.

        Returns:
            (b, w, 2d).
        """
        words, _ = self.word_layer(words, words, word_mask)
        seen, _ = self.image_aware(words, self.image_projection(regions), region_mask)  # (b, w, d)
        aware, _ = self.word_aware(self.region_projection(regions), words, word_mask)  # (b, r, d)
        final, _ = self.final(words, aware, region_mask)  # (b, w, d)
        gate = self.gate(torch.cat([final, seen], -1)).sigmoid()
        return torch.cat([final, gate * seen], -1)

    def span_states(self, words: Tensor, word_mask: Tensor) -> Tensor:
        """What span detection reads: words (b, w, d) after a layer of their own."""
        states: Tensor = self.span_layer(words, words, word_mask)[0]
        return states


class SpanConversion(nn.Module):
    """Span scores as scores of the full labels: U (b, w, 3) -> U M (b, w, l).

    M (3, l) has rows that sum to 1: O gives all to `O`, B an equal part to each `B-` type, I an equal part to each `I-`
    type. The paper keeps it fixed.

    Args:
        labels: BIO labels.
        learnable: Learn how much each type gets of B and I: M = softmax of a parameter that starts as log M, over the
            same entries; the rest stays 0.

    >>> SpanConversion(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]).matrix
    tensor([[1.0000, 0.0000, 0.0000, 0.0000, 0.0000],
            [0.0000, 0.5000, 0.0000, 0.5000, 0.0000],
            [0.0000, 0.0000, 0.5000, 0.0000, 0.5000]])
    """

    allowed: Tensor

    def __init__(self, labels: Sequence[str], learnable: bool = False) -> None:
        super().__init__()
        kinds = span_kinds(labels)  # (l,)
        allowed = kinds == torch.arange(len(SPAN_LABELS))[:, None]  # (3, l)
        self.register_buffer("allowed", allowed, persistent=False)  # built from the labels alone
        # log M up to a constant in each row, which the softmax ignores
        self.logits = nn.Parameter(torch.zeros(allowed.shape)) if learnable else None

    @property
    def matrix(self) -> Tensor:
        """M (3, l)."""
        if self.logits is None:
            return self.allowed / self.allowed.sum(1, keepdim=True)
        return masked_softmax(self.logits, self.allowed)

    def forward(self, span_scores: Tensor) -> Tensor:
        """(b, w, 3) -> (b, w, l)."""
        return span_scores @ self.matrix.to(span_scores.dtype)


class UnifiedMultimodalTransformer(FusionModule):
    """UMT: a transformer of both modalities, with entity span detection as auxiliary task.

    ::

        fused = UnifiedMultimodalFusion(words, V)                                             (w, 2d)
        U = W_u S_span + b_u                                          span scores, O B I      (w, 3)
        E = (1 - s) Linear(dropout(fused)) + s U M                    emissions               (w, l)
        loss = NLL_CRF(E, tags) + λ NLL_CRF'(U, spans)

    `spans` are the tags without their types; CRF' has its own transitions; M is `SpanConversion`.

    Paper: Yu et al., "Improving multimodal named entity recognition via entity span detection with unified multimodal
    transformer", ACL 2020: the comparison row of Chen et al. (2021). The authors take ResNet-152's last map, without
    fine-tuning, as V, and s = λ = 0.5.

    Chosen here: **everything after the text encoder works on words**, not on word pieces. The authors give later
    pieces, [CLS], [SEP] and padding labels of their own, in both CRFs and in M (7 x 13), and let regions attend to
    them; here a post has as many positions as labels, so that M is 3 x l, no loss is spent on predicting where a word
    has a second piece, and context never enters. What later pieces say is in the first one already, after the encoder.
    The authors' image mask is all ones whatever the image; here regions are masked. Fresh layers start as torch's
    Linear does, which is BERT's 0.02 at d = 768 and still right where d is small.

    Args:
        args: As for `FusionModule`.
        heads: Heads of the cross-modal layers; None: one for each 64 features.
        span_weight: λ.
        span_share: s, between 0 and 1.
        learnable_conversion: Learn M; the paper keeps it fixed.
        kwargs: As for `FusionModule`.

    Raises:
        ValueError: If `span_share` is not between 0 and 1, `span_weight` is negative, or `heads` does not divide d.
    """

    span_tags: Tensor

    def __init__(
        self,
        *args: Any,
        heads: int | None = None,
        span_weight: float = 0.5,
        span_share: float = 0.5,
        learnable_conversion: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.label_sets:
            raise ValueError(f"{type(self).__name__} turns spans into labels of one set; give it one list of `labels`")
        if not 0 <= span_share <= 1:
            raise ValueError(f"Expected `span_share` between 0 and 1, but got {span_share}")
        if span_weight < 0:
            raise ValueError(f"Expected `span_weight` of at least 0, but got {span_weight}")
        self.region_projection = nn.Identity()  # the two branches project the raw regions on their own
        self.fusion = UnifiedMultimodalFusion(self.width, self.region_width, heads, self.dropout.p)
        self.span_head = nn.Linear(self.width, len(SPAN_LABELS))
        self.span_crf = CRF(len(SPAN_LABELS), batch_first=True)
        self.conversion = SpanConversion(self.labels, learnable_conversion)
        self.register_buffer("span_tags", span_kinds(self.labels), persistent=False)

    @property
    def output_layers(self) -> list[nn.Module]:
        """With those of span detection."""
        return [*super().output_layers, self.span_head, self.span_crf, self.conversion]

    @property
    def fused_width(self) -> int:
        """2d: words that have seen word-aware regions, and gated image-aware words."""
        return 2 * self.width

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words (b, w, d) and raw regions (b, r, f) -> (b, w, 2d)."""
        fused: Tensor = self.fusion(words, word_mask, regions, region_mask)
        return fused

    def emissions(self, batch: Batch) -> Tensor:
        """Label scores (b, w, l), span detection mixed in."""
        return self._scores(batch)[0]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`tagging`, and `auxiliary`: span detection, times λ."""
        emissions, span_scores = self._scores(batch)
        tagging = self.nll(emissions, batch)
        reduction = "token_mean" if self.hparams["crf_reduction"] == "token_mean" else "mean"
        spans = self.span_tags[batch["tags"]]  # (b, w)
        auxiliary = -self.span_crf(span_scores, spans, batch["word_mask"], reduction=reduction)
        return {"tagging": tagging, "auxiliary": self.hparams["span_weight"] * auxiliary}

    def _scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Emissions (b, w, l) and span scores (b, w, 3)."""
        words = self.dropout(self.encode(batch))
        mask = batch["word_mask"]
        span_scores = self.span_head(self.fusion.span_states(words, mask))
        scores = self.emit(words, mask, *self.regions(batch))
        share = self.hparams["span_share"]
        return (1 - share) * scores + share * self.conversion(span_scores), span_scores


def span_kinds(labels: Sequence[str]) -> Tensor:
    """The index in `SPAN_LABELS` of each label: (l,).

    >>> span_kinds(["O", "B-PER", "I-PER"])
    tensor([0, 1, 2])
    """
    return torch.tensor([SPAN_LABELS.index(split_tag(label)[0]) for label in labels])
