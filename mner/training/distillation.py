"""Distillation: a model learns what a trained one, or an ensemble of them, says of labelled and of other posts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from mner.batch import Batch
from mner.data.batching import Collate
from mner.data.dataset import MNERDataset
from mner.data.formats.posts import read_posts
from mner.errors import MNERError
from mner.nn.posteriors import log_marginals
from mner.training.module import TaggingModule
from mner.training.teacher import Teacher

NAME = "distillation"


class Distillation(pl.Callback):
    """A model learns the label distributions of a teacher, on its training posts and on posts without labels.

    Hinton et al. (2015); for tag sequences Wang et al. (2020, ACL), "Structure-level knowledge distillation for
    multilingual sequence labeling", of which this is the posterior distillation. With q_t(y) the teacher's distribution
    of the labels of word t, and p_t(y) the marginals of the model's CRF, both over all tag sequences::

        loss = weight · 1/w Σ_t Σ_y q_t(y) (log q_t(y) - log p_t(y))

    added to the tagging loss of the training posts, which the teacher reads too, without dropout. With `posts`,
    each step also reads a batch of posts without labels, and the model learns what the teacher says of them: with
    `confidence` above 0, only of posts on all of whose words the teacher's likeliest label has that probability, which
    is self-training with soft labels (Xie et al. 2020, "Noisy student"). The model sees both through dropout.

    Which posts without labels a step reads is a matter of its number and of `seed`, so that a run that goes on reads
    those that it would have read. Checkpoints hold that number and the model, not the teacher.

    Args:
        teacher: A checkpoint for the same labels, such as one of `mner ensemble` or of a larger encoder. With other
            word pieces than the model's it has to read text alone (`mner.training.teacher.Teacher`).
        weight: Of the divergence in the loss.
        posts: A file of posts without labels, in any format that is read; labels in it are not looked at. For models
            that read text alone.
        batch_size: How many of `posts` are read at each step.
        confidence: What the teacher has to be sure of, 0 to 1.
        seed: Of the order of `posts`.
        answers: A file in which what the teacher said is kept for other runs, such as those of other seeds: they read
            it there. For a teacher that reads text alone; it is made if it is not there.

    Raises:
        ValueError: If an option is out of its range, or the model has several label sets or decodes posteriors.
        MNERError: If the teacher is for other labels, or has other word pieces and reads more than text, or `posts`
            cannot be read by the model, or `answers` are those of another teacher or precision.
    """

    def __init__(
        self,
        teacher: str,
        weight: float = 1.0,
        posts: str | None = None,
        batch_size: int = 16,
        confidence: float = 0.0,
        seed: int = 0,
        answers: str | None = None,
    ) -> None:
        if weight < 0 or not 0 <= confidence <= 1 or batch_size < 1:
            raise ValueError(
                "Expected `weight` of 0 or more, `confidence` from 0 to 1 and `batch_size` of 1 or more, but got "
                f"{weight}, {confidence} and {batch_size}"
            )
        self.path, self.weight, self.posts = teacher, weight, posts
        self.batch_size, self.confidence, self.seed, self.answers = batch_size, confidence, seed, answers
        self.teacher: Teacher | None = None
        self._batches = 0  # of training, so far
        self._turn = 0  # that of this process among all
        self._others: MNERDataset | None = None
        self._collate: Collate | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the teacher and register the loss for this run."""
        if not isinstance(pl_module, TaggingModule):
            raise TypeError(f"Expected a mner.fusion.FusionModule, but got {type(pl_module).__name__}")
        if pl_module.label_sets or getattr(pl_module, "decodes_posteriors", False):
            raise ValueError(
                f"Distillation compares the marginals of one CRF, but {type(pl_module).__name__} has several label "
                "sets or decodes a mixture of label distributions; leave it out"
            )
        data: Any = getattr(trainer, "datamodule", None)
        files = None if data is None else data.describe().get("tokenizer")
        precision = str(getattr(trainer, "precision", "32-true"))
        self.teacher = Teacher(self.path, pl_module.labels, files, pl_module.device, self.answers, precision)
        if self.posts is not None:
            self._read(Path(self.posts), pl_module, data)
        pl_module.extra_losses[NAME] = self.loss

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count, so that each batch and each process has posts of its own."""
        self._turn = self._batches * trainer.world_size + trainer.global_rank
        self._batches += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what the teacher said."""
        if self.teacher is not None:
            self.teacher.answers.save()

    def state_dict(self) -> dict[str, Any]:
        """How many batches of training have been seen."""
        return {"batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on behind them."""
        self._batches = state_dict["batches"]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Take it out again."""
        pl_module.extra_losses.pop(NAME, None)
        if self.teacher is not None:
            self.teacher.answers.save()
        self.teacher = self._others = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Take it out of a run that failed, too."""
        self.on_fit_end(trainer, pl_module)

    def loss(self, module: Any, batch: Batch, emissions: Tensor) -> Tensor:
        """The weighted divergence of these emissions (b, w, l), and of those of posts without labels."""
        found = self._divergence(module, batch, emissions, 0.0)
        if self._others is not None:
            others = module.transfer_batch_to_device(self._next(self._turn), module.device, 0)
            found = found + self._divergence(module, others, module.emissions(others), self.confidence)
        return self.weight * found

    def _divergence(self, module: Any, batch: Batch, emissions: Tensor, confidence: float) -> Tensor:
        mask = batch["word_mask"]
        assert self.teacher is not None
        said = self.teacher(batch)
        sure = (said.amax(-1) >= confidence) | ~mask  # (b, w)
        mask = mask & sure.all(1, keepdim=True)
        by_label = torch.xlogy(said, said) - said * log_marginals(module.crf, emissions, batch["word_mask"])
        total: Tensor = by_label.sum(-1).masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
        return total.to(torch.promote_types(emissions.dtype, torch.float32))

    def _read(self, path: Path, module: Any, data: Any) -> None:
        assert self.teacher is not None
        if module.uses_image or self.teacher.model.uses_image or data is None or not hasattr(data, "post_tokenizer"):
            raise MNERError(
                "Expected a model and a teacher that read text alone, and a data module, for posts without labels; "
                f"leave `posts` ({path}) out"
            )
        tokenizer, posts = data.post_tokenizer, [replace(post, tags=None) for post in read_posts(path)]
        self._others = MNERDataset(posts, module.labels, tokenizer)
        self._collate = Collate(tokenizer.pad_id, labels=module.labels, tokenizer=tokenizer.fingerprint)

    def _next(self, turn: int) -> Batch:
        """The posts of a turn: each once in a pass, in an order of the pass."""
        assert self._others is not None
        assert self._collate is not None
        count = len(self._others)
        places = range(turn * self.batch_size, (turn + 1) * self.batch_size)
        orders = {
            passed: torch.randperm(count, generator=torch.Generator().manual_seed(self.seed + passed)).tolist()
            for passed in {place // count for place in places}
        }
        return self._collate([self._others[orders[place // count][place % count]] for place in places])
