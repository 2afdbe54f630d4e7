"""`FusionModule`: what every strategy shares, from the batch to the loss and the score.

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

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.data.windows import whole_posts
from mner.encoders.image import ImageEncoder
from mner.encoders.text import TextEncoder
from mner.labels import Span
from mner.nn.crf import CRF
from mner.nn.posteriors import log_posteriors, posterior_crf
from mner.training.module import TaggingModule

CrfReduction = Literal["token_mean", "sentence_mean"]


class FusionModule(TaggingModule):
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
        head_learning_rate: Peak rate of everything else; None for the same. A fresh CRF on a pretrained encoder
            learns best at about 100 times the encoder's rate.
        weight_decay: AdamW's; none on biases and normalisation weights.
        warmup_ratio: Part of the steps during which the rate rises; then it falls linearly to 0.
        crf_reduction: Loss per word (`"token_mean"`) or per post (`"sentence_mean"`); rates do not carry over.
        constrain: Decode well-formed BIO only.
        init_from: A checkpoint to begin from, for new types or data: encoders and fusion are taken from it when
            training begins, head and CRF are new. What was kept is told.

    Attributes:
        replaces_missing_images: Whether a post without image shows the learned vector `no_image`. If False it has no
            region at all, for strategies whose words then stay as they are.

    Raises:
        ValueError: If the strategy uses images but neither `image_encoder` nor `region_width` is given, or the reverse.
    """

    replaces_missing_images: ClassVar[bool] = True
    head: nn.Linear
    crf: CRF

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
        init_from: str | None = None,
    ) -> None:
        super().__init__(labels)
        self.save_hyperparameters()
        # Linked arguments are not in what LightningCLI hands to save_hyperparameters.
        self.hparams.update(labels=self.label_sets or self.labels, region_width=region_width)
        self.hparams.pop("_instantiator", None)  # our loader reads the class path itself
        if crf_reduction not in ("token_mean", "sentence_mean"):
            raise ValueError(f"Expected `crf_reduction` to be token_mean or sentence_mean, but got {crf_reduction!r}")
        self.text_encoder = TextEncoder(text_encoder)
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

    def _build_image_path(self, name: str | None, weights: str | None, frozen: bool, width: int | None) -> None:
        self.image_encoder: ImageEncoder | None = None
        if name is not None:
            self.image_encoder = ImageEncoder(name, frozen=frozen, weights=weights)
            width = self.image_encoder.width
        if width is None:
            raise ValueError(
                f"{type(self).__name__} uses images, but got neither `image_encoder` (a timm model, with `images` of "
                "the data module) nor `region_width` (with stored `features`, from which the data module takes it)"
            )
        self.region_width = width
        self.no_image = nn.Parameter(torch.randn(width) * 0.02, requires_grad=self.replaces_missing_images)
        self.region_projection: nn.Module = nn.Linear(width, self.width)

    @property
    def pretrained(self) -> list[nn.Module]:
        """Text and image encoder; a strategy with a further pretrained part adds it."""
        own = self.image_encoder if self.uses_image else None
        return [self.text_encoder] if own is None else [self.text_encoder, own]

    @property
    def fused_width(self) -> int:
        """Width of what `fuse` returns; a strategy that returns more than d overrides it."""
        return self.width

    # The model, from outside in

    def forward(self, batch: Batch) -> list[list[int]]:
        """The best label sequence of each post."""
        return self.decode(*whole_posts(self.label_scores(batch), batch))

    def label_scores(self, batch: Batch) -> Tensor:
        """What is decoded (b, w, l): log posteriors for a strategy that defines `posterior`, else emissions."""
        self.select(batch)
        if not self.decodes_posteriors:
            return self.emissions(batch)
        posterior = self.posterior(batch)
        if posterior is None:
            posterior = self.crf.marginals(self.emissions(batch), batch["word_mask"])
        expected = (*batch["word_mask"].shape, len(self.labels))
        if posterior.shape != expected:
            raise ValueError(
                f"Expected {type(self).__name__}.posterior to return shape (b, w, l) = {expected}, but got "
                f"{tuple(posterior.shape)}"
            )
        return log_posteriors(posterior)

    def posterior(self, batch: Batch) -> Tensor | None:
        """Probability of each label at each word (b, w, l), for strategies that mix distributions of labels.

        Where a strategy defines it, tags and probabilities of entities come from it, words being independent but for
        BIO (`mner.nn.posteriors`); None then stands for the marginals of the CRF. Training is up to `losses`, for which
        there is `posterior_nll`.
        """
        return None

    @property
    def decodes_posteriors(self) -> bool:
        """Whether posteriors are decoded, not emissions: in classes that define `posterior`."""
        return type(self).posterior is not FusionModule.posterior

    @property
    def decoding_crf(self) -> CRF:
        """What decodes `label_scores`: the model's CRF, or for posteriors one whose transitions are all 0."""
        if self.decodes_posteriors:
            return posterior_crf(tuple(self.labels), self.hparams["constrain"])
        return self.crf

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
            none = self.head.weight.new_zeros(len(batch["token_ids"]), 0, self.width)
            return none, none.new_zeros(none.shape[:2], dtype=torch.bool)
        raw, mask = self.raw_regions(batch)
        projected: Tensor = self.region_projection(raw)
        return projected, mask

    def raw_regions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Regions (b, r, f) as the image encoder or the feature store gives them, with `no_image` put in."""
        b = len(batch["token_ids"])
        if "image" in batch and self.image_encoder is not None:
            regions, mask = self._encode_images(batch, self.image_encoder)
        elif "regions" in batch:
            # Stored as float16 and cast only here, on the device: half as much to copy there.
            regions, mask = batch["regions"].to(self.no_image.dtype), batch["region_mask"]
        else:
            regions = self.no_image.new_zeros(b, 1, self.region_width)
            mask = torch.zeros(b, 1, dtype=torch.bool, device=regions.device)
        if regions.shape[-1] != self.region_width:
            raise ValueError(
                f"Expected regions of width {self.region_width}, as the model was built for, but got "
                f"{regions.shape[-1]}; use the features that it was trained with"
            )
        # Rows without any valid region: the first slot becomes the learned vector and is valid.
        bare = ~mask.any(1, keepdim=True)  # (b, 1)
        first = torch.zeros_like(mask)
        first[:, 0] = True
        slot = bare & first & self.replaces_missing_images  # (b, r)
        regions = torch.where(slot[..., None], self.no_image.to(regions.dtype), regions)
        regions = regions.masked_fill(~(mask | slot)[..., None], 0.0)
        return regions, mask | slot

    def _encode_images(self, batch: Batch, encoder: ImageEncoder) -> tuple[Tensor, Tensor]:
        """The cells of a post's image, or of all its images (b, n * cells, f), and which of them are there."""
        image = batch["image"]
        if image.dim() == 4:
            regions: Tensor = encoder(image)
            return regions, batch["has_image"][:, None].expand(-1, regions.shape[1])
        regions = encoder(image.flatten(0, 1)).unflatten(0, image.shape[:2])  # (b, n, cells, f)
        mask = batch["image_mask"][..., None].expand(regions.shape[:3])
        return regions.flatten(1, 2), mask.flatten(1)

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """What makes a strategy: words (b, w, d) and regions (b, r, d), each with its mask -> (b, w, d')."""
        raise NotImplementedError(f"{type(self).__name__} must define fuse(words, word_mask, regions, region_mask)")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the training loss; each is logged, their sum is minimised."""
        return {"tagging": self.nll(self.emissions(batch), batch)}

    def evaluation_loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """What is logged as `val/loss`: the loss of the gold tags under `label_scores`."""
        self.select(batch)
        return self._nll(self.decoding_crf, scores, batch)

    def nll(self, emissions: Tensor, batch: Batch) -> Tensor:
        """Negative log-likelihood of the gold tags under the CRF, reduced as `crf_reduction` says."""
        self.select(batch)
        return self._nll(self.crf, emissions, batch)

    def posterior_nll(self, posterior: Tensor, batch: Batch) -> Tensor:
        """Negative log-probability of the gold tags under a `posterior` (b, w, l), reduced as `crf_reduction` says."""
        self.select(batch)
        return self._nll(posterior_crf(tuple(self.labels)), log_posteriors(posterior), batch)

    def _nll(self, crf: CRF, scores: Tensor, batch: Batch) -> Tensor:
        if "tags" not in batch:
            raise ValueError(f"Expected gold tags for a loss, but some of the posts {batch['id'][:3]}… have none")
        reduction = "token_mean" if self.hparams["crf_reduction"] == "token_mean" else "mean"
        likelihood: Tensor = crf(scores, batch["tags"], batch["word_mask"], reduction=reduction)
        return -likelihood

    def decode(self, scores: Tensor, batch: Batch) -> list[list[int]]:
        """Viterbi over `label_scores`: the best label indices of each post, as long as its words."""
        self.select(batch)
        paths: list[list[int]] = self.decoding_crf.decode(scores, batch["word_mask"])
        return paths

    def entity_scores(self, scores: Tensor, batch: Batch, found: list[list[Span]]) -> list[list[float]]:
        """Probability of each span under `label_scores`."""
        self.select(batch)
        probabilities: list[list[float]] = self.decoding_crf.span_probabilities(scores, batch["word_mask"], found)
        return probabilities
