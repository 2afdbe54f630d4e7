"""`LabelSets`: the labels and scores of a model; of one with several label sets, those in use.

Data sets with other entity types can share everything but the last layer (Collobert and Weston 2008, section 4): each
has a head and a CRF of its own. What one data set does not label is then no negative example for another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from torch import nn

from mner.batch import Batch
from mner.errors import MNERError
from mner.labels import MODES, check_types
from mner.metrics import SpanF1

STAGES = ("val", "test")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class LabelSets(pl.LightningModule):
    """Labels, and what depends on them.

    `labels`, `metrics`, `head` and `crf` are those of the set in use: of the batch's `label_set`, or else of the one
    that was chosen with `use`, at first the first. Batches choose on their own.

    Args:
        labels: BIO labels, `O` first; or a list of them for each label set, by name.

    Attributes:
        labels: The BIO labels of the set in use.
        label_sets: The labels of each set; empty for a model with one list of labels.
        label_set: The chosen set; None for a model with one list of labels.

    Raises:
        ValueError: If there is no label set, or scores could not be logged under a set's name.
    """

    labels: list[str]

    def __init__(self, labels: Sequence[str] | Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.label_sets: dict[str, list[str]] = {}
        self.label_set: str | None = None
        if not isinstance(labels, Mapping):
            self.labels = list(labels)
            self.metrics: Any = _metrics(self.labels)
            return
        if not labels:
            raise ValueError("Expected `labels` of one label set at least, but got an empty mapping")
        check_types(labels)
        for name in labels:
            if not _NAME.fullmatch(name) or hasattr(nn.ModuleDict, name):
                raise ValueError(
                    f"Expected names of label sets of letters, digits, - and _, such as 'twitter2017', but got {name!r}"
                )
        self.label_sets = {name: list(some) for name, some in labels.items()}
        self.label_set = next(iter(self.label_sets))
        self.all_metrics = nn.ModuleDict({name: _metrics(some) for name, some in self.label_sets.items()})

    def use(self, label_set: str) -> None:
        """Choose the label set of batches that say none, as in tagging.

        Args:
            label_set: Its name.

        Raises:
            MNERError: If the model has no such set.
        """
        self._put(label_set)
        self.label_set = label_set

    def select(self, batch: Batch) -> None:
        """Use the label set of a batch.

        Raises:
            MNERError: If the model has several label sets, but not this one.
        """
        if self.label_set is not None:
            self._put(batch.get("label_set", self.label_set))

    def _put(self, name: str) -> None:
        if name not in self.label_sets:
            has = f"one of the model's label sets, {list(self.label_sets)}" if self.label_sets else "no label set"
            raise MNERError(f"Expected {has}, but got {name!r}")
        self.labels = self.label_sets[name]
        # Beside the registered modules, not among them: nothing is twice in the state dict.
        parts = {"metrics": "all_metrics", "head": "heads", "crf": "crfs"}
        for part, whole in parts.items():
            if part in self._modules:
                raise MNERError(f"{type(self).__name__} has its own `{part}`, so it cannot have several label sets")
            if whole in self._modules:
                self.__dict__[part] = getattr(self, whole)[name]

    def scored(self, stage: str) -> dict[str, str]:
        """The label sets that a stage saw posts of, by the prefix of their scores."""
        if not self.label_sets:
            return {stage: ""}
        return {f"{stage}/{name}": name for name in self.label_sets if f"{stage}/{name}/f1" in self._logged}

    @property
    def _logged(self) -> Mapping[str, Any]:
        return {} if self._trainer is None else self._trainer.callback_metrics


def _metrics(labels: Sequence[str]) -> nn.ModuleDict:
    return nn.ModuleDict({f"{stage}_{mode}": SpanF1(labels, mode=mode) for stage in STAGES for mode in MODES})
