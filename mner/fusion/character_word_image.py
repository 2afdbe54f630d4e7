"""Words, characters and the image by multi-head attention, then a BiLSTM: CWI of Asgari-Chenaghlu et al. (2020)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.encoders.characters import CharacterEncoder, batch_characters
from mner.fusion.base import FusionModule
from mner.nn.attention import Attention
from mner.nn.masking import masked_softmax
from mner.nn.recurrent import BiLSTM


class MultiplicativeAttention(Attention):
    """Luong's "general" attention (2015) with several heads, from words to regions.

    ::

        e_tki = q_t · (W_k V_i) / √(width of q),    p_tk = softmax over the real i            (r)   for each head k
        o_tk  = Σ_i p_tki U_k V_i                                                             (d)
        v_t   = tanh(W_o [o_t1 ; … ; o_tK ; q_t] + b)                                         (d)

    The root is ours: without it weights start nearly one-hot where q is hundreds wide.

    Args:
        query_width: Width of q.
        region_width: Width f of a region.
        width: d.
        heads: K.

    >>> attention = MultiplicativeAttention(query_width=12, region_width=16, width=8)
    >>> seen, weights = attention(torch.randn(2, 5, 12), torch.randn(2, 9, 16), torch.ones(2, 9, dtype=torch.bool))
    >>> seen.shape, weights.shape
    (torch.Size([2, 5, 8]), torch.Size([2, 5, 9]))
    """

    def __init__(self, query_width: int, region_width: int, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.key = nn.Linear(region_width, heads * query_width, bias=False)
        self.value = nn.Linear(region_width, heads * width, bias=False)
        self.output = nn.Linear(heads * width + query_width, width)

    def forward(self, queries: Tensor, regions: Tensor, region_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (b, w, q), regions (b, r, f), mask (b, r) -> v (b, w, d), weights (b, w, r), mean of the heads."""
        keys, values = (part(regions).unflatten(-1, (self.heads, -1)) for part in (self.key, self.value))
        scores = torch.einsum("bwq,brkq->bkwr", queries, keys) * queries.shape[-1] ** -0.5
        weights = masked_softmax(scores, region_mask[:, None, None])
        seen = torch.einsum("bkwr,brkd->bwkd", weights.to(values.dtype), values).flatten(2)
        return self.output(torch.cat([seen, queries], -1)).tanh(), weights.mean(1)


class CharacterWordImage(FusionModule):
    """CWI: word, its characters and what both see in the image, side by side, read by a BiLSTM.

    ::

        q_t = [w_t ; c_t]
        emissions = Linear(dropout(BiLSTM([w_t ; c_t ; MultiplicativeAttention(q_t, V)])))

    Paper: Asgari-Chenaghlu et al., "CWI: A multimodal deep learning approach for named entity recognition from social
    media using character, word and image features", Neural Computing and Applications 2022 (2020 as a preprint). Its
    formulas could not be had, and there is no code: words (GloVe beside fastText), characters, Inception-v3 and
    Luong's attention are known; how they are put together is ours. Its second system, image features beside the text
    in a transformer, is `TransformerAttention`.

    Three subclasses leave out a part each.

    Args:
        args: As for `FusionModule`.
        character_width: Width of a word's character vector.
        heads: K.
        hidden: States of each direction of the BiLSTM.
        kwargs: As for `FusionModule`.
    """

    reads_words: ClassVar[bool] = True
    reads_characters: ClassVar[bool] = True

    def __init__(
        self, *args: Any, character_width: int = 100, heads: int = 4, hidden: int = 200, **kwargs: Any
    ) -> None:
        self.states = 2 * hidden  # the base builds the head by it
        super().__init__(*args, **kwargs)
        width = self.reads_words * self.width + self.reads_characters * character_width
        if not self.reads_words:
            self.text_encoder.requires_grad_(False)
            self.word_projection = nn.Identity()
        if self.reads_characters:
            self.characters = CharacterEncoder(character_width)
        if self.uses_image:
            self.region_projection = nn.Identity()  # the attention reads the regions as they are
            self.attention = MultiplicativeAttention(width, self.region_width, self.width, heads)
        self.reader = BiLSTM(width + self.uses_image * self.width, hidden)

    @property
    def fused_width(self) -> int:
        """Both directions of the BiLSTM."""
        return self.states

    def encode(self, batch: Batch) -> Tensor:
        """Words, characters or both: q (b, w, d + d_c)."""
        parts = [super().encode(batch)] if self.reads_words else []
        if self.reads_characters:
            parts.append(self.characters(batch_characters(batch)))
        return torch.cat(parts, -1)

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """The queries (b, w, q) and raw regions (b, r, f) -> (b, w, 2 · hidden)."""
        if self.uses_image:
            words = torch.cat([words, self.attention(words, regions, region_mask)[0]], -1)
        read: Tensor = self.reader(words, word_mask)
        return read


class CharacterImage(CharacterWordImage):
    """CWI without words, whose encoder is not run: characters and image alone.

    Paper: as for `CharacterWordImage`.
    """

    reads_words = False


class WordImage(CharacterWordImage):
    """CWI without characters.

    Paper: as for `CharacterWordImage`.
    """

    reads_characters = False


class CharacterWord(CharacterWordImage):
    """CWI without the image.

    Paper: as for `CharacterWordImage`.
    """

    uses_image = False
