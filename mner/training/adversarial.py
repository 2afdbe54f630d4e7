"""Adversarial training: a second pass with word vectors moved to where the loss rises fastest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mner.batch import Batch


class AdversarialTraining(pl.Callback):
    """A second pass with word vectors moved against the model, whose loss is added (Miyato et al. 2017; "FGM").

    With E the text encoder's table of word vectors and G = dloss/dE of a batch::

        E' = E + norm · G / |G|         |G| over the whole table
        the step's gradient = dloss(E)/dθ + dloss(E')/dθ

    The paper moves the vectors of each post's places; here, as is usual with BERT, it is the table, so that a piece is
    moved alike wherever the batch has it. The paper normalises the vectors so that they cannot grow out of reach of
    the norm; BERT has a LayerNorm behind them. The loss is all of it, with what other techniques add, and dropout is
    drawn anew. Weights are never touched: what is added lies on the output of the table.

    A step takes about twice the time, and no more memory. It is for each batch and each process, whatever
    `accumulate_grad_batches`, precision and strategy of the Trainer are; it has no state. Logged as
    `train/adversarial_training_loss`; `train/loss` is that of the first pass.

    Args:
        norm: Length of the step, in the units of the table; 1 is usual with BERT.

    Raises:
        ValueError: If `norm` is not above 0, or the loss does not depend on the text encoder's word vectors.
    """

    def __init__(self, norm: float = 1.0) -> None:
        if not norm > 0:
            raise ValueError(f"Expected `norm` above 0, but got {norm}")
        self.norm = norm
        self._hook: RemovableHandle | None = None
        self._batch: tuple[Batch, int] | None = None
        self._seen: list[tuple[Tensor, Tensor]] = []  # ids (n,) and gradients (n, d) of the first pass
        self._step: tuple[Tensor, Tensor] | None = None  # sorted ids (u,), and what is added to their vectors (u, d)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch the table of word vectors for this run."""
        self._hook = _word_vectors(pl_module).register_forward_hook(self._watch)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the table alone again."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._batch = self._step = None
        self._seen = []

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """After a run that failed, too."""
        self.on_fit_end(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch for its second pass."""
        self._batch = batch, batch_idx

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The second pass; its gradients are added to those of the first."""
        if self._step is not None or self._batch is None:  # Lightning calls this after the second pass too
            return
        if not self._seen:
            raise ValueError(
                "AdversarialTraining moves the text encoder's word vectors, but the loss of "
                f"{type(pl_module).__name__} does not depend on them here; leave it out"
            )
        self._step = self._steepest()
        strategy = trainer.strategy
        try:
            with _unlogged(pl_module):
                loss: Any = strategy.training_step(*self._batch)
            strategy.backward(loss / trainer.accumulate_grad_batches, trainer.optimizers[0])
        finally:
            self._step, self._seen, batch, self._batch = None, [], self._batch[0], None
        pl_module.log("train/adversarial_training_loss", loss.detach(), batch_size=len(batch["id"]))

    def _watch(self, table: nn.Module, inputs: tuple[Tensor, ...], vectors: Tensor) -> Tensor | None:
        """In the first pass, keep the gradient of what the table gives; in the second, add to it."""
        if self._batch is None or not torch.is_grad_enabled():
            return None
        if self._step is not None:
            return vectors + self._added(inputs[0]).to(vectors.dtype)
        if not vectors.requires_grad:
            vectors.requires_grad_()  # of a frozen table, as under LoRA
        ids, table_output = inputs[0].flatten(), cast("Any", vectors)  # torch's hook has no types
        table_output.register_hook(lambda gradient: self._seen.append((ids, gradient.flatten(0, -2).float())))
        return vectors

    def _steepest(self) -> tuple[Tensor, Tensor]:
        ids = torch.cat([ids for ids, _ in self._seen])
        found, place = torch.unique(ids, return_inverse=True)
        gradients = torch.cat([gradient for _, gradient in self._seen])
        slope = gradients.new_zeros(len(found), gradients.shape[-1]).index_add_(0, place, gradients)
        length = slope.norm()
        usable = length.isfinite() & (length > 0)  # fp16 may overflow: then the scaler drops the step
        return found, torch.where(usable, self.norm * slope / length, 0.0)

    def _added(self, ids: Tensor) -> Tensor:
        """What is added to the vectors of these ids (…, d); 0 for those that the first pass did not read."""
        assert self._step is not None
        known, vectors = self._step
        place = torch.searchsorted(known, ids).clamp(max=len(known) - 1)
        return vectors[place] * (known[place] == ids)[..., None]


def _word_vectors(module: Any) -> nn.Module:
    try:
        found: nn.Module = module.text_encoder.model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        raise ValueError(
            f"AdversarialTraining moves word vectors, but the text encoder of {type(module).__name__} does not say "
            "where it has them (`get_input_embeddings`); leave it out"
        ) from None
    return found


@contextmanager
def _unlogged(module: Any) -> Iterator[None]:
    """With a module that logs nothing: the second pass would replace what the first one logged."""
    module.log = module.log_dict = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del module.log, module.log_dict
