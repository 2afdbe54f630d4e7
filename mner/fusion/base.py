"""`FusionModule`: what every strategy shares, from the batch to the loss.

Notation, used in every strategy:

- **b** posts in the batch
- **t** word pieces, special tokens and context included
- **w** words
- **r** image regions (grid cells or boxes)
- **f** width of a region as the image encoder gives it
- **d** width of the model
- **l** labels

Masks are bool, true where something real is. Three depths of override: `fuse` (most papers), `losses` (auxiliary
tasks), `encode` (the image inside the text encoder).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.data.windows import whole_posts
from mner.encoders.text import TextEncoder
from mner.fusion.image_regions import ImageRegions
from mner.fusion.tagging_head import TaggingHead
from mner.nn.crf import CRF

CrfReduction = Literal["token_mean", "sentence_mean"]


class FusionModule(ImageRegions, TaggingHead):
    """Base of all strategies: text encoder, image encoder, fusion, emissions, CRF.

    A strategy overrides `fuse`; see the module's docstring. The constructor takes plain data only, so that a checkpoint
    needs nothing but itself. The defaults are the recipe of Chen et al. (2021, section 5.1).

    Args:
        labels: BIO labels, `O` first (`mner.labels.bio_labels`; a data module has them as `labels`). A mapping from
            names to such lists gives each of these label sets a head and a CRF, to be trained on batches of its own
            (`mner.data.JointDataModule`).
        text_encoder: Hub name or folder of a transformers model, `"tiny"` for the built-in one, or a configuration.
        image_encoder: timm model whose grid of features is fused; None with stored features or text only.
        image_weights: `"pretrained"` (timm's own), a file, or None for random weights.
        freeze_image_encoder: Keep the image encoder in evaluation mode for ever, without gradient.
        region_width: f of stored features (from the data module); not needed with `image_encoder`.
        hidden_size: d; None for the text encoder's width.
        dropout: On what the emissions are computed from.
        learning_rate: Peak rate of the encoders.
        head_learning_rate: Peak rate of the output layers; None for the same. A fresh CRF on a pretrained encoder
            learns best at about 100 times the encoder's rate.
        weight_decay: AdamW's; none on biases and normalisation weights.
        warmup_ratio: Part of the steps during which the rate rises; then it falls linearly to 0.
        crf_reduction: Loss per word (`"token_mean"`) or per post (`"sentence_mean"`); rates do not carry over.
        constrain: Decode well-formed BIO only.
        fusion_learning_rate: Peak rate of what lies between encoders and output layers; None for the geometric mean of
            the two, since gates and tanh layers do not bear the CRF's rate.
        init_from: A checkpoint to begin from, for new types or data: encoders and fusion are taken from it when
            training begins, head and CRF are new. What was kept is told.
        freeze_layers: Layers of the text encoder, from the lowest, that do not learn and have no dropout, and the
            embeddings with them; 0: all learns.
        freeze_cache: Bytes of memory in which the states behind these layers are kept for the posts of training, so
            that they are computed once; 0: each time. A post of 20 pieces takes 30 KB at width 384, 60 at 768.

    Raises:
        ValueError: If the strategy uses images but neither `image_encoder` nor `region_width` is given, or the reverse.
    """

    head: nn.Linear

    def __init__(
        self,
        labels: list[str] | dict[str, list[str]],
        text_encoder: str | dict[str, Any] = "tiny",
        image_encoder: str | None = None,
        image_weights: str | None = "pretrained",
        freeze_image_encoder: bool = True,
        region_width: int | None = None,
        hidden_size: int | None = None,
        dropout: float = 0.1,
        learning_rate: float = 5e-5,
        head_learning_rate: float | None = None,
        weight_decay: float = 0.01,
        warmup_ratio: float = 0.0,
        crf_reduction: CrfReduction = "token_mean",
        constrain: bool = True,
        fusion_learning_rate: float | None = None,
        init_from: str | None = None,
        freeze_layers: int = 0,
        freeze_cache: int = 2**30,
    ) -> None:
        super().__init__(labels)
        self.save_hyperparameters()
        # Linked arguments are not in what LightningCLI hands to save_hyperparameters.
        self.hparams.update(labels=self.label_sets or self.labels, region_width=region_width)
        self.hparams.pop("_instantiator", None)  # our loader reads the class path itself
        if crf_reduction not in ("token_mean", "sentence_mean"):
            raise ValueError(f"Expected `crf_reduction` to be token_mean or sentence_mean, but got {crf_reduction!r}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"Expected `dropout` to be a probability, but got {dropout!r}")
        self.text_encoder = TextEncoder(text_encoder)
        if freeze_layers:
            self.text_encoder.freeze(freeze_layers, freeze_cache)
        self.width = hidden_size or self.text_encoder.width
        self.word_projection: nn.Module = nn.Identity()
        if self.width != self.text_encoder.width:
            self.word_projection = nn.Linear(self.text_encoder.width, self.width)
        if self.uses_image:
            self._build_image_path(image_encoder, image_weights, freeze_image_encoder, region_width)
        elif image_encoder is not None:
            raise ValueError(
                f"{type(self).__name__} uses no image, but got image_encoder={image_encoder!r}; "
                "leave it out, or choose a strategy that uses images"
            )
        self.dropout = nn.Dropout(dropout)
        if self.label_set is None:
            self.head = nn.Linear(self.fused_width, len(self.labels))
            self.crf = CRF(len(self.labels), batch_first=True, labels=self.labels, constrain=constrain)
        else:
            sets = self.label_sets.items()
            self.heads = nn.ModuleDict({name: nn.Linear(self.fused_width, len(some)) for name, some in sets})
            self.crfs = nn.ModuleDict({name: CRF(len(some), True, some, constrain) for name, some in sets})
            self.use(self.label_set)

    @property
    def pretrained(self) -> list[nn.Module]:
        """Text and image encoder; a strategy with a further pretrained part adds it."""
        own = self.image_encoder if self.uses_image else None
        # What is learnt beside the encoder's own layers is as fresh as a fusion.
        text = self.text_encoder.model if self.text_encoder.parts else self.text_encoder
        return [text] if own is None else [text, own]

    @property
    def output_layers(self) -> list[nn.Module]:
        """What scores labels, and the Linear from the text encoder's width; a strategy with a further CRF adds it."""
        labels = [self.head, self.crf] if self.label_set is None else [self.heads, self.crfs]
        return [self.word_projection, *labels]

    @property
    def fused_width(self) -> int:
        """Width of what `fuse` returns; a strategy that returns more than d overrides it."""
        return self.width

    # The model, from outside in

    def forward(self, batch: Batch) -> list[list[int]]:
        """The best label sequence of each post."""
        return self.decode(*whole_posts(self.label_scores(batch), batch))

    def emissions(self, batch: Batch) -> Tensor:
        """Label scores (b, w, l) of each word, before the CRF."""
        words = self.encode(batch)
        regions, region_mask = self.regions(batch)
        return self.emit(words, batch["word_mask"], regions, region_mask)

    def emit(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Fuse and score: words (b, w, d), regions (b, r, d) and their masks -> (b, w, l)."""
        fused = self.fuse(words, word_mask, regions, region_mask)
        expected = (*word_mask.shape, self.fused_width)
        if fused.shape != expected:
            raise ValueError(
                f"Expected {type(self).__name__}.fuse to return shape (b, w, d') = {expected}, but got "
                f"{tuple(fused.shape)}; if d' differs from {self.width} on purpose, override `fused_width`"
            )
        scores: Tensor = self.head(self.dropout(fused))
        return scores

    def encode(self, batch: Batch) -> Tensor:
        """Words (b, w, d): the first word piece of each. Special tokens, later pieces and context stay behind."""
        self.select(batch)
        words: Tensor = self.word_projection(self.text_encoder.words(batch))
        return words

    def regions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Regions (b, r, d) and their mask (b, r); a post without image has one, the learned vector `no_image`.

        It has none where `replaces_missing_images` is False.
        """
        self.select(batch)
        if not self.uses_image:
            none = self.head.weight.new_zeros(batch["token_ids"].shape[0], 0, self.width)
            return none, none.new_zeros(none.shape[:2], dtype=torch.bool)
        raw, mask = self.raw_regions(batch)
        projected: Tensor = self.region_projection(raw)
        return projected, mask

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """What makes a strategy: words (b, w, d) and regions (b, r, d), each with its mask -> (b, w, d')."""
        raise NotImplementedError(f"{type(self).__name__} must define fuse(words, word_mask, regions, region_mask)")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the training loss; each is logged, their sum is minimised."""
        return {"tagging": self.nll(self.emissions(batch), batch)}
