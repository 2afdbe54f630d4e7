"""Words attend to the names of the objects in the image: OCSGA of Wu et al. (2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.encoders.characters import CharacterEncoder, characters_to_ids
from mner.fusion.base import FusionModule
from mner.nn.attention import Attention, CrossModalLayer
from mner.nn.masking import masked_mean, masked_softmax


class NameEncoder(nn.Module):
    """A vector for each name of an object: `Linear(mean over its words of CharacterEncoder(word))`.

    Any name has a vector, known or not, and a name of two words is the mean of both; case means nothing.

    Args:
        width: Width d of a name's vector.
        character_width: Of a word's vector before the Linear.

    >>> names, mask = NameEncoder(8)([["dog", "old car"], ["", "tree"], []])
    >>> names.shape, mask.tolist()
    (torch.Size([3, 2, 8]), [[True, True], [False, True], [False, False]])
    """

    def __init__(self, width: int, character_width: int = 100) -> None:
        super().__init__()
        self.characters = CharacterEncoder(character_width)
        self.projection = nn.Linear(character_width, width)

    def forward(self, names: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Names of each post, `""` for none -> vectors (b, o, d) and their mask (b, o); o is at least 1."""
        device = self.projection.weight.device
        o = max(1, *(len(post) for post in names))
        words = [name.lower().split() for post in names for name in [*post, *[""] * (o - len(post))]]  # b o lists
        ids = characters_to_ids(words, max(1, *map(len, words))).to(device)  # (b o, n, c)
        counts = torch.tensor([len(each) for each in words], device=device)
        mask = torch.arange(ids.shape[1], device=device) < counts[:, None]  # (b o, n)
        vectors = self.projection(masked_mean(self.characters(ids), mask))  # (b o, d)
        return vectors.view(len(names), o, -1), mask.any(1).view(len(names), o)


class HeadAttention(Attention):
    """Scaled dot-product attention with several heads, alone: no residual, no normalisation.

    Args:
        width: d.
        heads: Number of heads.
        dropout: On the weights.

    Raises:
        ValueError: If `heads` does not divide `width`.
    """

    attends_to = "objects"

    def __init__(self, width: int, heads: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"Expected `heads` to divide the width {width}, but got {heads}")
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (b, q, d), memory (b, n, d), mask (b, n) -> output (b, q, d), mean weights (b, q, n)."""
        shape = (queries.shape[0], -1, self.heads, queries.shape[-1] // self.heads)
        query = self.query(queries).view(shape)
        key, value = (part(memory).view(shape) for part in (self.key, self.value))
        scores = torch.einsum("bqhe,bnhe->bhqn", query, key) * shape[-1] ** -0.5
        weights = masked_softmax(scores, mask[:, None, None])
        mixed = torch.einsum("bhqn,bnhe->bqhe", self.dropout(weights).to(value.dtype), value)
        return self.output(mixed.flatten(2)), weights.mean(1)


class GuidingObjectsFusion(nn.Module):
    """Modular co-attention (Yu et al. 2019) in which words are guided by objects.

    ::

        x = layers(h)                                 transformer layers on the words         (w, d)
        y = LN(o + drop(Attention(o, o)))             objects among themselves                (o, d)
        z = LN(drop(Attention(x, y)) [+ x])           words look at objects                   (w, d)
        z = LN(drop(W_2 drop(ReLU(W_1 z))) [+ z])                                             (w, d)
        output = LN(h + z)                            z = 0 in a post without object          (w, d)

    The terms in brackets are residuals, which the released code does not have.

    Paper: Wu et al., "Multimodal representation with embedded visual guiding objects for named entity recognition in
    social media posts", ACM Multimedia 2020 (OCSGA).

    Chosen here: LayerNorm for the BatchNorm at the end, whose statistics are over padded words too; without objects
    z = 0 (released: uniform attention to padding); the layers on words are BERT's, with GELU. As released, the sum is
    with h, not with x.

    Args:
        width: Width d of words and objects.
        heads: Heads of each attention.
        layers: Transformer layers on the words.
        residual: With the terms in brackets.
        dropout: As above.

    Raises:
        ValueError: If `heads` does not divide `width`.

    >>> fusion = GuidingObjectsFusion(width=8)
    >>> words, word_mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    >>> objects, object_mask = torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)
    >>> fusion(words, word_mask, objects, object_mask).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self, width: int, heads: int = 2, layers: int = 1, residual: bool = False, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.residual = residual
        self.text_layers = nn.ModuleList(CrossModalLayer(width, heads, dropout, "words") for _ in range(layers))
        self.object_attention = HeadAttention(width, heads, dropout)
        self.guided_attention = HeadAttention(width, heads, dropout)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.object_norm, self.guided_norm, self.output_norm, self.norm = (nn.LayerNorm(width) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor, word_mask: Tensor, objects: Tensor, object_mask: Tensor) -> Tensor:
        """Words (b, w, d), objects (b, o, d), masks (b, w) and (b, o), true = real -> (b, w, d)."""
        text = words
        for layer in self.text_layers:
            text, _ = layer(text, text, word_mask)
        met, _ = self.object_attention(objects, objects, object_mask)
        objects = self.object_norm(objects + self.dropout(met))
        guided = self.dropout(self.guided_attention(text, objects, object_mask)[0])  # (b, w, d)
        guided = self.guided_norm(guided + text if self.residual else guided)
        inner = self.dropout(self.outer(self.dropout(self.inner(guided).relu())))
        guided = self.output_norm(inner + guided if self.residual else inner)
        fused: Tensor = self.norm(words + guided * object_mask.any(1)[:, None, None])
        return fused


class GuidingObjects(FusionModule):
    """OCSGA: names of objects guide the words; see `GuidingObjectsFusion`. No vector of the image is read.

    Paper: Wu et al. (2020), who take the class names of up to four objects that a Mask R-CNN found, in frozen word
    vectors. The names are the batch's `object_names`, in the order in which they come (falling score); where they come
    from makes no difference.

    Chosen here: a name's vector is made of its characters (`NameEncoder`), so that a checkpoint needs no table of
    words, and a name that was never seen has one too. It knows nothing of what names mean; it learns that.

    Args:
        args: As for `FusionModule`.
        max_objects: How many names of a post are used, the first ones.
        heads: Heads of each attention.
        layers: Transformer layers on the words.
        residual: Add residuals to the guided attention; released without.
        kwargs: As for `FusionModule`.

    Raises:
        ValueError: If `max_objects` is below 1, or `heads` does not divide d.
    """

    uses_image = False
    needs = frozenset({"object_names"})

    def __init__(
        self,
        *args: Any,
        max_objects: int = 4,
        heads: int = 2,
        layers: int = 1,
        residual: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if max_objects < 1:
            raise ValueError(f"Expected `max_objects` of at least 1, but got {max_objects}")
        self.names = NameEncoder(self.width)
        self.fusion = GuidingObjectsFusion(self.width, heads, layers, residual, self.dropout.p)

    def regions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Objects in place of regions: vectors of their names (b, o, d), and their mask (b, o)."""
        found = batch.get("object_names") or [[] for _ in batch["words"]]
        kept = [[name for name in post if name.strip()][: self.hparams["max_objects"]] for post in found]
        objects, mask = self.names(kept)
        return objects, mask

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words (b, w, d) and objects (b, o, d) -> (b, w, d)."""
        fused: Tensor = self.fusion(words, word_mask, regions, region_mask)
        return fused
