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

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from mner.crf import CRF
from mner.data.batch import Batch
from mner.data.datamodule import MNERDataModule
from mner.data.predictions import Prediction, ScoredSpan
from mner.encoders.image import ImageEncoder
from mner.encoders.text import TextEncoder
from mner.fusion.checkpoint import accept, load_module, write_extras
from mner.fusion.inputs import check_inputs, check_restored
from mner.labels import Span, spans
from mner.metrics import SpanF1

CrfReduction = Literal["token_mean", "sentence_mean"]


class FusionModule(pl.LightningModule):
    """Base of all strategies: text encoder, image encoder, fusion, emissions, CRF.

    A strategy overrides `fuse`; see the module's docstring. The constructor takes plain data only, so that a checkpoint
    needs nothing but itself. The defaults are the recipe of Chen et al. (2021, section 5.1).

    Args:
        labels: BIO labels, `O` first (`mner.labels.bio_labels`; a data module has them as `labels`).
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

    Raises:
        ValueError: If the strategy uses images but neither `image_encoder` nor `region_width` is given, or the reverse.
    """

    uses_image: ClassVar[bool] = True

    def __init__(
        self,
        labels: list[str],
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
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        # Linked arguments are not in what LightningCLI hands to save_hyperparameters.
        self.hparams.update(labels=list(labels), region_width=region_width)
        self.hparams.pop("_instantiator", None)  # our loader reads the class path itself
        if crf_reduction not in ("token_mean", "sentence_mean"):
            raise ValueError(f"Expected `crf_reduction` to be token_mean or sentence_mean, but got {crf_reduction!r}")
        self.labels = list(labels)
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
        self.head = nn.Linear(self.fused_width, len(labels))
        self.crf = CRF(len(labels), batch_first=True, labels=labels, constrain=constrain)
        self.metrics: Any = nn.ModuleDict(
            {
                f"{stage}_{mode}": SpanF1(labels, mode=mode)
                for stage in ("val", "test")
                for mode in ("lenient", "strict")
            }
        )
        self._tested: list[tuple[list[str], list[str]]] = []
        self.restored: dict[str, Any] | None = None  # what the checkpoint that it came from says of its data

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
        self.no_image = nn.Parameter(torch.randn(width) * 0.02)
        self.region_projection: nn.Module = nn.Linear(width, self.width)

    @property
    def fused_width(self) -> int:
        """Width of what `fuse` returns; a strategy that returns more than d overrides it."""
        return self.width

    # The model, from outside in

    def forward(self, batch: Batch) -> list[list[int]]:
        """The best label sequence of each post."""
        return self.decode(self.emissions(batch), batch)

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
        words: Tensor = self.word_projection(self.text_encoder.words(batch))
        return words

    def regions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Regions (b, r, d) and their mask (b, r); a post without image has one, the learned vector `no_image`."""
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
            regions = self.image_encoder(batch["image"])
            mask = batch["has_image"][:, None].expand(-1, regions.shape[1])
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
        slot = bare & first  # (b, r)
        regions = torch.where(slot[..., None], self.no_image.to(regions.dtype), regions)
        regions = regions.masked_fill(~(mask | slot)[..., None], 0.0)
        return regions, mask | slot

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """What makes a strategy: words (b, w, d) and regions (b, r, d), each with its mask -> (b, w, d')."""
        raise NotImplementedError(f"{type(self).__name__} must define fuse(words, word_mask, regions, region_mask)")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the training loss; each is logged, their sum is minimised."""
        return {"tagging": self.nll(self.emissions(batch), batch)}

    def nll(self, emissions: Tensor, batch: Batch) -> Tensor:
        """Negative log-likelihood of the gold tags under the CRF, reduced as `crf_reduction` says."""
        if "tags" not in batch:
            raise ValueError(f"Expected gold tags for a loss, but some of the posts {batch['id'][:3]}… have none")
        reduction = "token_mean" if self.hparams["crf_reduction"] == "token_mean" else "mean"
        likelihood: Tensor = self.crf(emissions, batch["tags"], batch["word_mask"], reduction=reduction)
        return -likelihood

    def decode(self, emissions: Tensor, batch: Batch) -> list[list[int]]:
        """Viterbi: the best label indices of each post, as long as its words."""
        paths: list[list[int]] = self.crf.decode(emissions, batch["word_mask"])
        return paths

    # Training and evaluation

    def setup(self, stage: str) -> None:
        """Refuse data that do not bring what the model was built for."""
        if stage == "fit" and self.restored is not None and not self.training:
            self.train()  # a loaded module is in evaluation mode, and Lightning would train it so, without dropout
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, MNERDataModule):
            check_inputs(self, data)
            if self.restored is not None:
                check_restored(data, self.restored.get("data", {}))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step of training."""
        parts = self.losses(batch)
        loss = torch.stack(list(parts.values())).sum()
        size = len(batch["id"])
        self.log_dict({f"train/{name}_loss": part for name, part in parts.items()}, batch_size=size)
        self.log("train/loss", loss, batch_size=size, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch of the valid split."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch of the test split."""
        paths = self._evaluate(batch, "test")
        gold = self._names(batch["tags"].tolist(), [len(words) for words in batch["words"]])
        self._tested += zip(gold, self._names(paths), strict=True)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the valid split."""
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """Forget the posts of an earlier test."""
        self._tested = []

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test split."""
        self._log_scores("test")

    @property
    def tested(self) -> list[tuple[list[str], list[str]]]:
        """Gold and predicted tags of each post that this process tested last."""
        return self._tested

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        """Tags and entities of each post, with the probability of each entity."""
        emissions = self.emissions(batch)
        pred = self._names(self.decode(emissions, batch))
        found = [spans(tags) for tags in pred]
        scores = self.entity_scores(emissions, batch, found)
        gold: list[list[str] | None] = [None] * len(pred)
        if "tags" in batch:
            gold = list(self._names(batch["tags"].tolist(), [len(words) for words in batch["words"]]))
        has_image = batch["has_image"].tolist()
        return [
            Prediction(
                id=batch["id"][row],
                image_id=batch["image_id"][row],
                words=batch["words"][row],
                gold=None if (tags := gold[row]) is None else tuple(tags),
                pred=tuple(pred[row]),
                entities=tuple(
                    ScoredSpan(*span, round(score, 6)) for span, score in zip(found[row], scores[row], strict=True)
                ),
                has_image=has_image[row],
            )
            for row in range(len(pred))
        ]

    def entity_scores(self, emissions: Tensor, batch: Batch, found: list[list[Span]]) -> list[list[float]]:
        """Probability of each span under the CRF."""
        scores: list[list[float]] = self.crf.span_probabilities(emissions, batch["word_mask"], found)
        return scores

    def _evaluate(self, batch: Batch, stage: str) -> list[list[int]]:
        emissions = self.emissions(batch)
        size = len(batch["id"])
        self.log(f"{stage}/loss", self.nll(emissions, batch), batch_size=size, on_epoch=True, sync_dist=True)
        paths = self.decode(emissions, batch)
        w = batch["word_mask"].shape[1]
        pred = torch.tensor([path + [0] * (w - len(path)) for path in paths])  # the metric counts on the host
        for mode in ("lenient", "strict"):
            self.metrics[f"{stage}_{mode}"].update(pred, batch["tags"], batch["word_mask"])
        return paths

    def _log_scores(self, stage: str) -> None:
        for mode in ("lenient", "strict"):
            metric = self.metrics[f"{stage}_{mode}"]
            prefix = f"{stage}/" if mode == "lenient" else f"{stage}/strict/"
            for name, value in metric.compute().items():
                # The same in each process; sync_dist only tells Lightning so, which else warns of each of them.
                self.log(prefix + name, value, prog_bar=prefix + name == f"{stage}/f1", sync_dist=True)
            metric.reset()

    def _names(self, paths: list[list[int]], lengths: list[int] | None = None) -> list[list[str]]:
        ends = lengths or [len(path) for path in paths]
        return [[self.labels[index] for index in path[:end]] for path, end in zip(paths, ends, strict=True)]

    # Optimisation

    def configure_optimizers(self) -> Any:
        """AdamW with a rate for the encoders and one for the rest; linear warm-up and decay over all steps."""
        from transformers import get_linear_schedule_with_warmup

        options = self.hparams
        head_rate = options["head_learning_rate"] or options["learning_rate"]
        encoders = [self.text_encoder, *([self.image_encoder] if self.uses_image and self.image_encoder else [])]
        inside = {id(parameter) for encoder in encoders for parameter in encoder.parameters()}
        rated = [(parameter, id(parameter) in inside) for parameter in self.parameters() if parameter.requires_grad]
        plain = _undecayed(self)
        groups = [
            {
                "params": [p for p, in_encoder in rated if in_encoder is encoder and (id(p) in plain) is undecayed],
                "lr": options["learning_rate"] if encoder else head_rate,
                "weight_decay": 0.0 if undecayed else options["weight_decay"],
            }
            for encoder in (True, False)
            for undecayed in (True, False)
        ]
        # One pass over each parameter: four times as fast on a CPU as the default.
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
        # Gradients are unscaled outside the optimiser; it says that it could do so itself, and Lightning then refuses
        # to clip them under mixed precision.
        optimizer._step_supports_amp_scaling = False
        total = int(self.trainer.estimated_stepping_batches)
        schedule = get_linear_schedule_with_warmup(optimizer, int(options["warmup_ratio"] * total), total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to build the model again: class, configuration, tokeniser, data fingerprint."""
        write_extras(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another class or of other labels; Lightning calls this when it restores one."""
        accept(self, checkpoint)
        data = getattr(self.trainer, "datamodule", None)
        if self.restored is not None and isinstance(data, MNERDataModule):
            check_restored(data, self.restored.get("data", {}), resumed=bool(self.trainer.training))

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # no hparams_file, and never anything but weights
        cls, checkpoint_path: Any, map_location: Any = None, **kwargs: Any
    ) -> Any:
        """Load a checkpoint as the class that wrote it (a subclass of this one), weights only.

        Args:
            checkpoint_path: The file.
            map_location: Device, as for `torch.load`; None for the CPU.
            kwargs: Constructor arguments that replace stored ones.
        """
        return load_module(checkpoint_path, cls, map_location, **kwargs)


def _undecayed(module: nn.Module) -> set[int]:
    """Ids of parameters without weight decay: biases and everything of normalisation layers."""
    norms = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
    found: set[int] = set()
    for part in module.modules():
        named: Iterable[tuple[str, nn.Parameter]] = part.named_parameters(recurse=False)
        found |= {
            id(parameter)
            for name, parameter in named
            if isinstance(part, norms) or "bias" in name or "norm" in name.lower()
        }
    return found
