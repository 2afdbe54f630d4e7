"""Training techniques for any strategy, as callbacks that a config names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import Tensor, nn

from mner.batch import Batch
from mner.data.agreement import tokenizer_of
from mner.data.datamodules.joint import parts_of
from mner.encoders.steps import stack
from mner.nn.objectives import divergence
from mner.runtime import run_seed
from mner.training.callbacks import LoRA
from mner.training.module import TaggingModule
from mner.training.word_vectors import WordVectorPart

log = logging.getLogger(__name__)


class LayerwiseLearningRates(pl.Callback):
    """Smaller rates for lower layers of the text encoder, whose knowledge is more general and should change less.

    Of an encoder with n layers, layer i of 1..n learns with `learning_rate · decay^(n - i)`, the embeddings with
    `learning_rate · decay^n`; all else is as before. Howard & Ruder (2018, "discriminative fine-tuning") divide
    the rate by 2.6 from layer to layer; Clark et al. (2020, ELECTRA) multiply it by .8 or .9, for transformers.

    Args:
        decay: Factor from a layer to the one below it, above 0 and up to 1; 1 changes nothing.

    Raises:
        ValueError: If `decay` is out of its range, or the encoder cannot be taken apart into layers; it says which can.
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0 < decay <= 1:
            raise ValueError(f"Expected `decay` above 0 and up to 1, but got {decay}")
        self.decay = decay

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Divide the optimiser's groups by layer; a schedule multiplies each group's own rate."""
        depth = _depths(_tagging(pl_module).text_encoder)
        for optimizer in trainer.optimizers:
            optimizer.param_groups[:] = [
                part for group in optimizer.param_groups for part in self._divided(group, depth)
            ]
            for config in trainer.lr_scheduler_configs:
                if config.scheduler.optimizer is optimizer:
                    _follow(config.scheduler, optimizer.param_groups)
        log.info("Layer-wise learning rates: %d layers, factor %g", max(depth.values(), default=0), self.decay)

    def _divided(self, group: dict[str, Any], depth: Mapping[int, int]) -> list[dict[str, Any]]:
        """One group for each depth in `group`, from the top down."""
        parts: dict[int, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(depth.get(id(parameter), 0), []).append(parameter)
        rates = [name for name in _RATES if name in group]
        return [
            {**group, "params": parts[below], **{name: group[name] * self.decay**below for name in rates}}
            for below in sorted(parts)
        ]


_RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""What optimisers and schedules keep in a group of parameters that is a learning rate."""


def _follow(schedule: Any, groups: list[dict[str, Any]]) -> None:
    """Give a schedule what it keeps for each group; all groups follow the curve of the first."""
    if hasattr(schedule, "base_lrs"):
        schedule.base_lrs = [group["initial_lr"] for group in groups]
    for name in ("lr_lambdas", "min_lrs"):
        if hasattr(schedule, name):
            setattr(schedule, name, getattr(schedule, name)[:1] * len(groups))


def _depths(encoder: Any) -> dict[int, int]:
    """By id of a parameter, how many layers of n it is below the top: 0 in the last layer, n in the embeddings."""
    layers = stack(encoder.model)
    below = {id(parameter): len(layers) for parameter in encoder.model.parameters()}
    for place, layer in enumerate(layers, start=1):
        below.update({id(parameter): len(layers) - place for parameter in layer.parameters()})
    return below


class AveragedWeights(EMAWeightAveraging):
    """Exponential moving average of the weights; it is what is validated, and what the best checkpoint holds.

    After each step, `mean = decay · mean + (1 - decay) · weights` (Polyak & Juditsky 1992; Lightning's
    `EMAWeightAveraging`, without its buffers: counters have no mean). `decay` .999 averages over about 1,000 steps; the
    average begins at the first step, so give short runs a smaller one.

    Args:
        decay: Part of the old mean that is kept, 0 to below 1.

    Raises:
        ValueError: If `decay` is out of its range.
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"Expected `decay` from 0 up to below 1, but got {decay}")
        super().__init__(decay=decay, use_buffers=False)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copy the weights, with what other callbacks add to the model in them wherever those are in the list."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, (LoRA, WordVectorPart)):
                callback.setup(trainer, pl_module, stage)
        super().setup(trainer, pl_module, stage)


class RDrop(pl.Callback):
    """Two passes through dropout should agree (Liang et al. 2021, R-Drop): adds their divergence to the loss.

    `weight · (KL(p || q) + KL(q || p)) / 2`, exactly over tag sequences and divided by the number of words
    (`mner.nn.objectives.divergence`); each pass in turn is the constant that the other one learns from. It costs one
    more forward pass a step. The paper averages the tagging loss over both passes too; here it is that of the first.

    Args:
        weight: Of the divergence in the loss; the paper's values are 1 to 5.

    Raises:
        ValueError: If `weight` is negative, or the model decodes posteriors.
    """

    def __init__(self, weight: float = 1.0) -> None:
        if weight < 0:
            raise ValueError(f"Expected `weight` of 0 or more, but got {weight}")
        self.weight = weight

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Register the loss for this run."""
        if getattr(pl_module, "decodes_posteriors", False):
            raise ValueError(
                f"RDrop compares emissions under the CRF, but {type(pl_module).__name__} decodes a mixture of label "
                "distributions; leave it out"
            )
        _tagging(pl_module).extra_losses["rdrop"] = self.loss

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take it out again."""
        _tagging(pl_module).extra_losses.pop("rdrop", None)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Take it out of a run that failed, too."""
        self.on_fit_end(trainer, pl_module)

    def loss(self, module: Any, batch: Batch, emissions: Tensor) -> Tensor:
        """The weighted divergence between these emissions (b, w, l) and those of a second pass."""
        second, mask = module.emissions(batch), batch["word_mask"]
        both = divergence(module.crf, second, emissions, mask) + divergence(module.crf, emissions, second, mask)
        return self.weight * both / 2


class WordDropout(pl.Callback):
    """Some words of a training post are hidden, so that the words around them have to tell (Iyyer et al. 2015).

    Each word is dropped with probability `p`: all of its pieces become the tokeniser's mask, as in the training of BERT
    (Devlin et al. 2019), or its unknown piece where it has no mask. Labels stay, so that the model learns to name an
    entity from its surroundings, not by heart. Context is left whole (the data module's `context_dropout` drops it),
    and so are the characters of words for models that read them.

    Random numbers are torch's, which a run that goes on takes from its checkpoint. It has no other state.

    Args:
        p: Probability with which a word is dropped; flair has .05.

    Raises:
        ValueError: If `p` is no probability, or nobody knows the tokeniser.
    """

    def __init__(self, p: float = 0.05) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"Expected `p` to be a probability, but got {p}")
        self.p = p
        self._mask = 0
        self._kept = torch.empty(0, dtype=torch.long)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Learn what stands for a word that is hidden, and what is no word."""
        parts = list(parts_of(getattr(trainer, "datamodule", None), pl_module).values())
        own = parts[0].post_tokenizer if parts else tokenizer_of(_tagging(pl_module))
        if own is None:
            raise ValueError("WordDropout needs the tokeniser's mask; fit with a data module, which has the tokeniser")
        of = own.tokenizer
        self._mask = of.unk_token_id if of.mask_token_id is None else of.mask_token_id
        ends = {of.cls_token_id, of.sep_token_id, of.bos_token_id, of.eos_token_id} - {None, of.unk_token_id}
        self._kept = torch.tensor(sorted(ends), dtype=torch.long)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Hide words of the batch."""
        batch["token_ids"] = self.hide(batch)

    def hide(self, batch: Batch) -> Tensor:
        """The ids (b, t) of a batch, some words hidden."""
        ids, starts, words = batch["token_ids"], batch["word_starts"], batch["word_mask"]
        place = torch.zeros_like(ids).scatter_add_(1, starts, words.long()).cumsum(1)  # (b, t), from 1; 0 before words
        dropped = torch.rand(words.shape, device=ids.device) < self.p
        dropped = torch.nn.functional.pad(dropped & words, (1, 0)).gather(1, place)
        pieces = batch["token_mask"] & (batch["segment_ids"] == 0) & ~torch.isin(ids, self._kept.to(ids.device))
        if "word_ends" in batch:  # in a window other words follow, which are not the last word's pieces
            pieces &= torch.arange(ids.shape[1], device=ids.device) < batch["word_ends"].amax(1, keepdim=True)
        return ids.masked_fill(dropped & pieces, self._mask)


class ReinitializedLayers(pl.Callback):
    """The last layers of the text encoder begin anew (Zhang et al. 2021, "Revisiting few-sample BERT fine-tuning").

    What these layers learnt is about the words that were masked in pretraining; the paper finds that begun anew, as
    they were before it, 1 to 6 of BERT-large's 24 bear few training posts better. A run that goes on from a checkpoint
    keeps its layers, and so does a second `fit` with the same callback. All processes begin alike.

    Args:
        layers: How many of the last layers.

    Raises:
        ValueError: If the encoder has fewer layers or is no stack of layers, or if its weights are frozen by LoRA.
    """

    def __init__(self, layers: int = 1) -> None:
        if layers < 1:
            raise ValueError(f"Expected `layers` of 1 or more, but got {layers}")
        self.layers = layers
        self._done = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin them anew, once."""
        if self._done or trainer.ckpt_path is not None:
            return
        encoder = _tagging(pl_module).text_encoder
        if encoder.adapters is not None:
            raise ValueError("Layers that begin anew have to learn, but LoRA freezes them; leave one of the two out")
        found = stack(encoder.model)
        if self.layers > len(found):
            raise ValueError(f"Expected `layers` of up to {len(found)}, which the encoder has, but got {self.layers}")
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(run_seed() or 0)  # for each process the same
            for part in (part for layer in found[-self.layers :] for part in layer.modules()):
                for parameter in part.parameters(recurse=False):
                    parameter.__dict__.pop("_is_hf_initialized", None)  # transformers would leave it as it was loaded
                encoder.model._init_weights(part)
        self._done = True
        log.info("The last %d of %d layers of the text encoder begin anew", self.layers, len(found))

    def state_dict(self) -> dict[str, Any]:
        """Whether it is done."""
        return {"done": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over whether it is done."""
        self._done = state_dict["done"]


def _tagging(module: pl.LightningModule) -> TaggingModule:
    if not isinstance(module, TaggingModule):
        raise TypeError(f"Expected a mner.fusion.FusionModule, but got {type(module).__name__}")
    return module
