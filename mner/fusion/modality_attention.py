"""Each word weighs itself, its characters and the image: Moon et al. (2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.encoders.characters import CharacterEncoder, batch_characters
from mner.fusion.base import FusionModule
from mner.nn.masking import masked_mean, masked_softmax
from mner.nn.recurrent import BiLSTM


class ModalityAttentionFusion(nn.Module):
    """A weighted sum of word, characters and image, with three weights for each word.

    ::

        w_t = W_w x_t + b_w;    c_t = W_c c_t + b_c;    v = W_v (mean of the real V_i) + b_v  (p) each
        a_t = sigmoid(W_m [w_t ; c_t ; v] + b_m)                                              (3)
        q_t = softmax(a_t)                                                                    (3)
        output_t = q_t1 w_t + q_t2 c_t + q_t3 v                                               (p)

    Paper: Moon et al., "Multimodal named entity recognition for short social media posts", NAACL 2018, without code.

    **The sigmoid bounds the weights.** A softmax of three numbers between 0 and 1 gives at least 1 / (1 + 2e) = 0.155
    and at most e / (e + 2) = 0.576: no image can be switched off, and no word relied on alone. `bounded=False` leaves
    the sigmoid out.

    Args:
        width: Width d of a word's vector x_t.
        region_width: Width f of an image region.
        character_width: Width d_c of a word's character vector.
        projected_width: p.
        bounded: With the sigmoid, as published.

    >>> fusion = ModalityAttentionFusion(width=8, region_width=16, character_width=4, projected_width=6)
    >>> words, characters, regions = torch.randn(2, 5, 8), torch.randn(2, 5, 4), torch.randn(2, 9, 16)
    >>> fused, weights = fusion(words, characters, regions, torch.ones(2, 9, dtype=torch.bool))
    >>> fused.shape, weights.shape
    (torch.Size([2, 5, 6]), torch.Size([2, 5, 3]))
    """

    def __init__(
        self, width: int, region_width: int, character_width: int, projected_width: int, bounded: bool = True
    ) -> None:
        super().__init__()
        self.bounded = bounded
        self.word_projection = nn.Linear(width, projected_width)
        self.character_projection = nn.Linear(character_width, projected_width)
        self.image_projection = nn.Linear(region_width, projected_width)
        self.weigh = nn.Linear(3 * projected_width, 3)

    def forward(self, words: Tensor, characters: Tensor, regions: Tensor, region_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse.

        Args:
            words: (b, w, d).
            characters: (b, w, d_c).
            regions: (b, r, f).
            region_mask: (b, r) bool, true = real. The image of a post without any has the weight 0.

        Returns:
            (b, w, p), and the weights of word, characters and image (b, w, 3).
        """
        w, seen = words.shape[1], region_mask.any(1)[:, None, None]  # seen (b, 1, 1)
        image = self.image_projection(masked_mean(regions, region_mask)) * seen[:, 0]  # (b, p)
        parts = [self.word_projection(words), self.character_projection(characters), image[:, None].expand(-1, w, -1)]
        scores = self.weigh(torch.cat(parts, -1)).float()  # (b, w, 3)
        if self.bounded:
            scores = scores.sigmoid()
        there = torch.cat([torch.ones_like(seen), torch.ones_like(seen), seen], -1)  # (b, 1, 3)
        weights = masked_softmax(scores, there)
        return (weights[..., None, :].to(image.dtype) @ torch.stack(parts, -2)).squeeze(-2), weights


class ModalityAttention(FusionModule):
    """Moon et al. (2018): modalities weighed for each word, then a BiLSTM; see `ModalityAttentionFusion`.

    ::

        c_t = last states of a BiLSTM over the word's characters
        emissions = Linear(dropout(BiLSTM(ModalityAttention(x, c, V))))

    Paper: Moon et al. (2018). Their image vector is the last hidden layer of Inception, their words GloVe, their LSTM
    has coupled gates; here the mean of the regions, whichever text encoder is chosen, and an ordinary LSTM.

    Characters travel beside the words: `encode` returns both, and `fuse` takes them apart.

    Args:
        args: As for `FusionModule`.
        character_width: Width d_c of a word's character vector, both directions.
        projected_width: p; None: d.
        hidden: States of each direction of the BiLSTM.
        bounded: With the sigmoid, as published.
        drop_missing_image: Weigh word and characters alone in a post without image, in place of a learned vector.
        kwargs: As for `FusionModule`.
    """

    def __init__(
        self,
        *args: Any,
        character_width: int = 100,
        projected_width: int | None = None,
        hidden: int = 100,
        bounded: bool = True,
        drop_missing_image: bool = False,
        **kwargs: Any,
    ) -> None:
        self.replaces_missing_images = not drop_missing_image  # type: ignore[misc]  # the base builds by it
        self.states = 2 * hidden  # and by this the head
        super().__init__(*args, **kwargs)
        self.region_projection = nn.Identity()  # `fusion` projects their mean, which is cheaper and equal
        self.characters = CharacterEncoder(character_width, kind="bilstm")
        p = projected_width or self.width
        self.fusion = ModalityAttentionFusion(self.width, self.region_width, character_width, p, bounded)
        self.reader = BiLSTM(p, hidden)

    @property
    def fused_width(self) -> int:
        """Both directions of the BiLSTM."""
        return self.states

    def encode(self, batch: Batch) -> Tensor:
        """Words with their characters (b, w, d + d_c)."""
        return torch.cat([super().encode(batch), self.characters(batch_characters(batch))], -1)

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words with their characters (b, w, d + d_c) and raw regions (b, r, f) -> (b, w, 2 · hidden)."""
        fused, _ = self.fusion(words[..., : self.width], words[..., self.width :], regions, region_mask)
        read: Tensor = self.reader(fused, word_mask)
        return read
