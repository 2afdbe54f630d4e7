"""Span-level precision, recall and F1, counted as seqeval counts them, without a loop over words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from mner.labels import MODES, Mode, check_types, entity_types, split_tag


class SpanF1(Metric):
    """Micro-averaged and per-type precision, recall and F1 over whole entities.

    An entity counts as found if its start, its end and its type are right. Malformed tags are read as in `mner.labels`:
    `lenient` equals seqeval's default, `strict` equals seqeval's `mode="strict", scheme=IOB2`. What is kept are sums of
    counts, one per type, so that results are exact however the data is cut into batches or spread over processes.

    Args:
        labels: All labels, in the order of their indices. Types are those that `mner.labels.check_types` lets pass.
        mode: `lenient` or `strict`.
        kwargs: Of `torchmetrics.Metric`.

    >>> metric = SpanF1(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    >>> metric.update(torch.tensor([[1, 2, 0, 3]]), torch.tensor([[1, 2, 0, 1]]), torch.ones(1, 4, dtype=torch.bool))
    >>> metric.compute()["f1"]
    tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    tp: Tensor  # (types,) int64, entities found
    fp: Tensor  # (types,) int64, predictions that are no entity
    fn: Tensor  # (types,) int64, entities missed

    def __init__(self, labels: Sequence[str], mode: Mode = "lenient", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if mode not in MODES:
            raise ValueError(f"Expected argument `mode` to be one of {MODES}, but got {mode!r}")
        if "O" not in labels or len(set(labels)) != len(labels):
            raise ValueError(f"Expected argument `labels` to be distinct, `O` among them, but got {list(labels)}")
        check_types(entity_types(labels))
        self.labels, self.mode = tuple(labels), mode
        self.types = tuple(entity_types(labels))
        pairs = [split_tag(label) for label in labels]
        number = {type_: place for place, type_ in enumerate(("", *self.types))}
        # (l,) 0 for O, 2 x for I- and 2 x + 1 for B- of type x, types being counted from 1
        self._codes = np.array([2 * number[type_] + (prefix == "B") for prefix, type_ in pairs], dtype=np.int16)
        self._o = np.array([labels.index("O")])
        for name in ("tp", "fp", "fn"):
            self.add_state(name, torch.zeros(len(self.types), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, pred: Tensor, gold: Tensor, mask: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            pred: (b, w) predicted label indices; whatever at padding.
            gold: (b, w) gold label indices; whatever at padding.
            mask: (b, w), true = real; None if all words are.

        Raises:
            ValueError: If shapes differ or a real index is no label.
        """
        if mask is None:
            mask = torch.ones_like(gold, dtype=torch.bool)
        if not pred.shape == gold.shape == mask.shape or pred.dim() != 2:
            raise ValueError(
                "Expected arguments `pred`, `gold` and `mask` to have one shape (batch, words), but got "
                f"{tuple(pred.shape)}, {tuple(gold.shape)} and {tuple(mask.shape)}"
            )
        # On the host and in numpy: decoded tags are there anyway, and its calls cost a third of torch's.
        real = mask.bool().cpu().numpy()  # (b, w)
        at = real.ravel().nonzero()[0]  # (m,)
        o = self._o  # (1,)
        # Both sides, each row after row, with an O before, between and behind: entities end with their side.
        labels = np.concatenate(
            [o, pred.cpu().numpy().ravel().take(at), o, gold.cpu().numpy().ravel().take(at), o]
        )  # (2 m + 3,)
        if labels.min() < 0 or labels.max() >= len(self.labels):
            raise ValueError(
                f"Expected real labels to be within 0..{len(self.labels) - 1}, but got {labels.min()}..{labels.max()}; "
                "mask padding"
            )
        codes = self._codes.take(labels)  # (2 m + 3,)
        # O and I- go on with a run of their type and otherwise begin one; B- and the start of a row always begin one.
        begins = ((codes[:-1] | 1) != codes[1:] + 1).reshape(2, -1)  # (2, m + 1)
        ends = real.sum(1).cumsum()  # (b,)
        begins[0, ends] = begins[1, ends] = True
        places = (begins[0] | begins[1]).nonzero()[0]  # (p,)
        begins, codes = begins.take(places, 1), codes[1:].reshape(2, -1).take(places, 1)  # (2, p)
        opens = (codes >> 1) * begins  # (2, p), number of the type whose entity opens there, else 0
        if self.mode == "strict":
            opens *= codes & 1
        # Two runs that begin at one place are the same if neither ends before the other: at the next place where either
        # gives way to another run, both do. The last runs are of O.
        same, together = opens[0] == opens[1], begins[0] & begins[1]  # (p,)
        found = opens[0, :-1] * (same[:-1] & together[1:])  # (p - 1,)
        size = len(self.types) + 1
        tp = np.bincount(found, minlength=size)[1:]  # (types,)
        fp = np.bincount(opens[0], minlength=size)[1:] - tp
        fn = np.bincount(opens[1], minlength=size)[1:] - tp
        # Out of place: in-place addition would change the defaults that spawned processes share.
        self.tp, self.fp, self.fn = (
            state + torch.from_numpy(counts).to(state.device)
            for state, counts in ((self.tp, tp), (self.fp, fp), (self.fn, fn))
        )

    def compute(self) -> dict[str, Tensor]:
        """`precision`, `recall` and `f1` over all types, and `PER/precision` and so on of each; 0 where undefined."""
        tp, fp, fn = (torch.cat([state.sum()[None], state]) for state in (self.tp, self.fp, self.fn))  # (1 + types,)
        scores = {
            "precision": tp / (tp + fp).clamp(min=1),
            "recall": tp / (tp + fn).clamp(min=1),
            "f1": 2 * tp / (2 * tp + fp + fn).clamp(min=1),
        }
        prefixes = ["", *(f"{type_}/" for type_ in self.types)]
        return {prefix + name: score[at] for at, prefix in enumerate(prefixes) for name, score in scores.items()}
