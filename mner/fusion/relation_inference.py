"""What words see in an image, times how far the image belongs to its post: RIVA of Sun et al. (2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.fusion.base import FusionModule
from mner.nn.attention import AdditiveAttention
from mner.nn.masking import first_pieces, masked_mean
from mner.nn.objectives import soft_label_loss
from mner.nn.recurrent import BiLSTM


class RelationInferenceFusion(nn.Module):
    """Each word attends to regions; one number a post, inferred from text and image, scales what it sees.

    ::

        s   = w · tanh(W_s [mean of h ; mean of V] + b_s) + b                                 (1)
        r   = sigmoid(s)                              how far the image belongs to the post
        v_t = AdditiveAttention(h_t, V)                                                       (f)
        u_t = BiLSTM([h_t ; r (W v_t + b_v)])                                                 (2k)

    Paper: Sun et al., "RIVA: A pre-trained tweet multimodal model based on text-image relation for multimodal NER",
    COLING 2020. There is no code; the formulas are ours, made of what the abstract says: a relation classifier, and a
    visual context by attention that is multiplied by its probability.

    Args:
        width: Width d of a word's vector.
        region_width: Width f of an image region.
        hidden: k, states of each direction.
        attention_width: Width in which words and regions meet; None: d.

    >>> fusion = RelationInferenceFusion(width=8, region_width=16, hidden=5)
    >>> words, word_mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    >>> regions, region_mask = torch.randn(2, 9, 16), torch.ones(2, 9, dtype=torch.bool)
    >>> fused, score = fusion(words, word_mask, regions, region_mask)
    >>> fused.shape, score.shape
    (torch.Size([2, 5, 10]), torch.Size([2]))
    """

    def __init__(self, width: int, region_width: int, hidden: int = 200, attention_width: int | None = None) -> None:
        super().__init__()
        self.width = width
        self.relation = nn.Sequential(nn.Linear(width + region_width, width), nn.Tanh(), nn.Linear(width, 1))
        self.attention = AdditiveAttention(width, region_width, attention_width or width)
        self.context_projection = nn.Linear(region_width, width)
        self.reader = BiLSTM(2 * width, hidden)

    def forward(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Words (b, w, d), raw regions (b, r, f), masks (b, w) and (b, r) -> (b, w, 2k), and s (b,)."""
        both = torch.cat([masked_mean(words, word_mask), masked_mean(regions, region_mask)], -1)
        score = self.relation(both).squeeze(-1)  # (b,)
        context = self.context_projection(self.attention(words, regions, region_mask)[0])  # (b, w, d)
        context = score.sigmoid()[:, None, None] * context
        return self.reader(torch.cat([words, context], -1), word_mask), score


class LanguageModel(nn.Module):
    """Predicts the next word from the words before it, and the last one from those after it.

    ::

        f, g = both directions of the reader on [P e_t ; 0]                                   (k) each
        next word at t:      softmax over the vocabulary of E (W_f f_t + b_f)
        word before t:       softmax over the vocabulary of E (W_g g_t + b_g)

    e_t is the row in E, the encoder's own table, of the word's first piece. Only such vectors know nothing of the words
    around them: those of the encoder have seen the word that is to be predicted.

    Args:
        embedding_width: Width of the table.
        width: d.
        hidden: k.
    """

    def __init__(self, embedding_width: int, width: int, hidden: int) -> None:
        super().__init__()
        self.projection = nn.Linear(embedding_width, width)
        self.next, self.last = nn.Linear(hidden, embedding_width), nn.Linear(hidden, embedding_width)

    def forward(self, embedded: Tensor, mask: Tensor, reader: BiLSTM) -> tuple[Tensor, Tensor]:
        """Vectors e (b, w, d_e), mask (b, w) -> what is expected after and before each word, both (b, w, d_e)."""
        known = self.projection(embedded)
        ahead, behind = reader(torch.cat([known, torch.zeros_like(known)], -1), mask).chunk(2, -1)
        return self.next(ahead), self.last(behind)

    def loss(self, table: Tensor, ids: Tensor, mask: Tensor, reader: BiLSTM) -> Tensor:
        """Mean cross-entropy of neighbours; table (v, d_e), ids (b, w), mask (b, w). 0 where no word has one."""
        following, previous = self(nn.functional.embedding(ids, table), mask, reader)
        pairs = mask[:, 1:]  # words t and t + 1 are both real
        expected = torch.cat([following[:, :-1][pairs], previous[:, 1:][pairs]])  # (n, d_e)
        found = torch.cat([ids[:, 1:][pairs], ids[:, :-1][pairs]])
        total = nn.functional.cross_entropy((expected @ table.T).float(), found, reduction="sum")
        return total / max(1, len(found))


class RelationInference(FusionModule):
    """RIVA: visual context of words, scaled by an inferred relation of text and image; see `RelationInferenceFusion`.

    ::

        loss = NLL_CRF(emissions, tags) + λ BCE(sigmoid(s), relation) + μ language loss

    Paper: Sun et al. (2020). There the relation is taught by a labelled set, and by a teacher's soft labels for
    unlabelled tweets; here both are a field of the batch, `relation` (0 to 1, NaN where unknown). With λ = 0 nobody
    needs it, and the tags alone teach s. The language loss is their pre-training task; here it may run beside the tags,
    on vectors that have not seen what is predicted (`LanguageModel`), with the same BiLSTM.

    Args:
        args: As for `FusionModule`.
        hidden: k, states of each direction of the BiLSTM.
        attention_width: Width in which words and regions meet; None: d.
        relation_weight: λ; above 0 the data have to bring `relation`.
        language_weight: μ; 0.1 is a start.
        kwargs: As for `FusionModule`.

    Raises:
        ValueError: If a weight is negative.
    """

    def __init__(
        self,
        *args: Any,
        hidden: int = 200,
        attention_width: int | None = None,
        relation_weight: float = 0.0,
        language_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.k = hidden  # the head's width depends on it
        super().__init__(*args, **kwargs)
        if min(relation_weight, language_weight) < 0:
            raise ValueError(f"Expected weights of at least 0, but got {relation_weight} and {language_weight}")
        if relation_weight:
            self.needs = frozenset({"relation"})  # type: ignore[misc]  # only a model that learns from it needs it
        self.region_projection = nn.Identity()  # `fusion` reads the regions as they are
        self.fusion = RelationInferenceFusion(self.width, self.region_width, hidden, attention_width)
        if language_weight:
            table = self.text_encoder.model.get_input_embeddings().weight
            self.language = LanguageModel(table.shape[1], self.width, hidden)

    @property
    def fused_width(self) -> int:
        """2k: both directions."""
        return 2 * self.k

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words (b, w, d) and raw regions (b, r, f) -> (b, w, 2k)."""
        fused: Tensor = self.fusion(words, word_mask, regions, region_mask)[0]
        return fused

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`tagging`; `relation` of posts with an image, times λ; `language`, times μ; where they are asked for."""
        options, mask = self.hparams, batch["word_mask"]
        fused, score = self.fusion(self.encode(batch), mask, *self.regions(batch))
        found = {"tagging": self.nll(self.head(self.dropout(fused)), batch)}
        relation = batch.get("relation")
        if options["relation_weight"] and relation is not None:
            known = relation.masked_fill(~batch["has_image"], torch.nan)
            found["relation"] = options["relation_weight"] * soft_label_loss(score, known)
        if options["language_weight"]:
            ids = first_pieces(batch["token_ids"][..., None], batch["word_starts"]).squeeze(-1)  # (b, w)
            table = self.text_encoder.model.get_input_embeddings().weight
            found["language"] = options["language_weight"] * self.language.loss(table, ids, mask, self.fusion.reader)
        return found
