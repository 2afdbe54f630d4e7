"""Losses beside the CRF's likelihood that are less sure of the gold tags, as callbacks that a config names."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from mner.batch import Batch
from mner.nn.label_losses import entropy, focal, smoothing
from mner.training.module import TaggingModule


class LabelLoss(pl.Callback):
    """A part of the training loss that is made of a batch's emissions, its tags and the CRF.

    It is reduced as the model's `crf_reduction` says, and belongs to the emissions of the tagging loss.

    Args:
        name: What it is logged as: `train/{name}_loss`.
        weight: Of it in the loss, at least 0.
    """

    def __init__(self, name: str, weight: float) -> None:
        if not weight >= 0:
            raise ValueError(f"Expected `weight` of 0 or more, but got {weight}")
        self.name, self.weight = name, weight

    @abstractmethod
    def of(self, crf: Any, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """The loss of each post (b,)."""

    def loss(self, module: Any, batch: Batch, emissions: Tensor) -> Tensor:
        """The weighted loss of emissions (b, w, l)."""
        mask = batch["word_mask"]
        each = self.of(module.crf, emissions, batch["tags"], mask)
        count = mask.sum().clamp(min=1) if module.hparams["crf_reduction"] == "token_mean" else len(each)
        return self.weight * (each.sum() / count).to(torch.promote_types(emissions.dtype, torch.float32))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Register it for this run.

        Raises:
            ValueError: If the model decodes posteriors.
        """
        if not isinstance(pl_module, TaggingModule):
            raise TypeError(f"Expected a mner.fusion.FusionModule, but got {type(pl_module).__name__}")
        if getattr(pl_module, "decodes_posteriors", False):
            raise ValueError(
                f"{type(self).__name__} is a loss of emissions under the CRF, but {type(pl_module).__name__} decodes a "
                "mixture of label distributions; leave it out"
            )
        pl_module.extra_losses[self.name] = self.loss

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take it out again, after a run that failed too."""
        if isinstance(pl_module, TaggingModule):
            pl_module.extra_losses.pop(self.name, None)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """As at the end."""
        self.on_fit_end(trainer, pl_module)


class LabelSmoothing(LabelLoss):
    """Gold labels are taken for right with probability 1 - ε only (Szegedy et al. 2016).

    Source: "Rethinking the Inception architecture for computer vision", section 7.
    Over tag sequences, exactly: the tagging loss becomes its mean over tags that are each replaced by a random one with
    probability ε (`mner.nn.label_losses.smoothing`). Logged as `train/smoothing_loss` is what is added for that. The
    paper has it for one label; that words are drawn independently, stray tags included, is chosen here.

    Args:
        epsilon: ε, from 0 to below 1; the paper has .1.

    Raises:
        ValueError: If `epsilon` is out of its range, or the model decodes posteriors.
    """

    def __init__(self, epsilon: float = 0.1) -> None:
        if not 0 <= epsilon < 1:
            raise ValueError(f"Expected `epsilon` from 0 up to below 1, but got {epsilon}")
        super().__init__("smoothing", 1.0)
        self.epsilon = epsilon

    def of(self, crf: Any, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """What smoothing adds (b,)."""
        return smoothing(crf, emissions, tags, mask, self.epsilon)


class ConfidencePenalty(LabelLoss):
    """Less sure distributions are rewarded: `-weight · H(p)` is added (Pereyra et al. 2017).

    Source: "Regularizing neural networks by penalizing confident output distributions".
    H is the entropy of the whole tag sequence, exactly (`mner.nn.label_losses.entropy`; the recursion of Mann and
    McCallum 2007, who minimise it on posts without labels). The paper has it for one label.

    Args:
        weight: Of the entropy; the paper's values are .1 to 4.

    Raises:
        ValueError: If `weight` is negative, or the model decodes posteriors.
    """

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__("confidence", weight)

    def of(self, crf: Any, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """The negative entropy (b,)."""
        return -entropy(crf, emissions, mask)


class FocalLoss(LabelLoss):
    """Words whose gold label is improbable count more: a focal loss is added (Lin et al. 2017).

    Source: "Focal loss for dense object detection".
    `weight · Σ_t -(1 - p_t)^g log p_t` with p_t the CRF's marginal of the gold label (`mner.nn.label_losses.focal`),
    for the many words that are O and easy. The paper has it in place of cross-entropy, for independent labels; it
    stands beside the likelihood here, from which the transitions learn.

    Args:
        gamma: g, at least 0; the paper has 2.
        weight: Of it in the loss.

    Raises:
        ValueError: If `gamma` or `weight` is negative, or the model decodes posteriors.
    """

    def __init__(self, gamma: float = 2.0, weight: float = 1.0) -> None:
        if not gamma >= 0:
            raise ValueError(f"Expected `gamma` of 0 or more, but got {gamma}")
        super().__init__("focal", weight)
        self.gamma = gamma

    def of(self, crf: Any, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """The focal loss (b,)."""
        return focal(crf, emissions, tags, mask, self.gamma)
