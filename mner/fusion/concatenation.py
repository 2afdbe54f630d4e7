"""Concatenation of words, characters and the image: CM, Exp 2.1 of Chen et al. (2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.encoders.characters import CharacterEncoder, batch_characters
from mner.fusion.base import FusionModule
from mner.nn.masking import masked_mean


class ConcatenationFusion(nn.Module):
    """Project each word, its characters and the whole image to one width, and put them side by side.

    ::

        v = mean of the real V_i                       (f)    the same for every word
        m_t = [W_w x_t + b_w ; W_c c_t + b_c ; W_v v + b_v]   (3p)

    Paper: Chen et al. (2021), section 3.3, "Concatenation Module": "project word, character and image feature vectors
    to the same dimension, then concatenate". Open there and chosen here: the image vector is the mean of the regions;
    p is the text encoder's width; the projections are linear; nothing but the head's Linear follows.

    Note what follows from the last two: emissions are a sum of a word's, its characters' and the image's part, so that
    an image can raise a label for all words of its post alike, but cannot meet a single word.

    Args:
        width: Width d of a word's vector x_t.
        region_width: Width f of an image region.
        character_width: Width d_c of a word's character vector c_t; 0 leaves characters out, and m_t is 2p wide.
        projected_width: Width p of each part; None: d.

    >>> fusion = ConcatenationFusion(width=8, region_width=16, character_width=4)
    >>> words, characters, regions = torch.randn(2, 5, 8), torch.randn(2, 5, 4), torch.randn(2, 9, 16)
    >>> fusion(words, regions, torch.ones(2, 9, dtype=torch.bool), characters).shape
    torch.Size([2, 5, 24])
    """

    def __init__(
        self, width: int, region_width: int, character_width: int = 0, projected_width: int | None = None
    ) -> None:
        super().__init__()
        projected_width = projected_width or width
        self.word_projection = nn.Linear(width, projected_width)
        self.character_projection = nn.Linear(character_width, projected_width) if character_width else None
        self.region_projection = nn.Linear(region_width, projected_width)
        self.fused_width = (3 if character_width else 2) * projected_width

    def forward(self, words: Tensor, regions: Tensor, region_mask: Tensor, characters: Tensor | None = None) -> Tensor:
        """Fuse.

        Args:
            words: (b, w, d).
            regions: (b, r, f).
            region_mask: (b, r) bool, true = real.
            characters: (b, w, d_c), where `character_width` is not 0.

        Returns:
            (b, w, fused_width).

        Raises:
            ValueError: If `characters` is given although `character_width` is 0, or the other way round.
        """
        parts = [self.word_projection(words)]
        if (characters is None) != (self.character_projection is None):
            needed, found = ("no characters", "some") if self.character_projection is None else ("characters", "None")
            raise ValueError(f"Expected {needed}, as `character_width` says, but got {found}")
        if self.character_projection is not None:
            parts.append(self.character_projection(characters))
        image = self.region_projection(masked_mean(regions, region_mask))  # (b, p)
        parts.append(image[:, None].expand(-1, words.shape[1], -1))
        return torch.cat(parts, -1)


class Concatenation(FusionModule):
    """CM, Exp 2.1: word, characters and image mean side by side; see `ConcatenationFusion`.

    Paper: Chen et al. (2021), section 3.3. What makes character vectors is open there; we use `CharacterEncoder`.

    Characters travel beside the words: `encode` returns [x_t ; c_t] (b, w, d + d_c), and `fuse` takes them apart.

    Args:
        args: As for `FusionModule`.
        character_width: Width d_c of a word's character vector.
        projected_width: Width p to which word, characters and image are projected; None: d.
        kwargs: As for `FusionModule`.
    """

    def __init__(
        self, *args: Any, character_width: int = 100, projected_width: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.region_projection = nn.Identity()  # `fusion` projects their mean, which is cheaper and equal
        self.characters = CharacterEncoder(character_width)
        self.fusion = ConcatenationFusion(self.width, self.region_width, character_width, projected_width)

    @property
    def fused_width(self) -> int:
        """3p."""
        return 3 * (self.hparams["projected_width"] or self.width)

    def encode(self, batch: Batch) -> Tensor:
        """Words with their characters (b, w, d + d_c)."""
        words = super().encode(batch)
        return torch.cat([words, self.characters(batch_characters(batch))], -1)

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words with their characters (b, w, d + d_c) and raw regions (b, r, f) -> (b, w, 3p)."""
        words, characters = words[..., : self.width], words[..., self.width :]
        fused: Tensor = self.fusion(words, regions, region_mask, characters)
        return fused


class ConcatenationWithoutCharacters(FusionModule):
    """CM without its character vectors: word and image mean side by side.

    Paper: Chen et al. (2021), section 3.3, which does not report this ablation. Beside TextOnly, CM adds two things,
    characters and the image; this class tells how much of a gain is the image's.

    Args:
        args: As for `FusionModule`.
        projected_width: Width p to which word and image are projected; None: d.
        kwargs: As for `FusionModule`.
    """

    def __init__(self, *args: Any, projected_width: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.region_projection = nn.Identity()
        self.fusion = ConcatenationFusion(self.width, self.region_width, projected_width=projected_width)

    @property
    def fused_width(self) -> int:
        """2p."""
        return 2 * (self.hparams["projected_width"] or self.width)

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Words (b, w, d) and raw regions (b, r, f) -> (b, w, 2p)."""
        fused: Tensor = self.fusion(words, regions, region_mask)
        return fused
