"""`Evaluation`: a model's tags beside the gold ones, in validation, test and prediction.

Names of what is logged: `val/loss`, `val/f1` and `test/f1` (lenient; also precision, recall, and `{type}/f1`),
`val/strict/f1`. With several label sets, those of each are under `val/{set}/`, and `val/f1` is their mean.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from mner.batch import Batch
from mner.data.agreement import check_batch
from mner.data.formats.predictions import Prediction, ScoredSpan
from mner.data.windows import whole_posts
from mner.labels import MODES, Span, spans
from mner.training.label_sets import LabelSets
from mner.training.stored_facts import temperature_of


class Evaluation(LabelSets):
    """Scores a model on the valid and test splits, and gives predictions.

    Args:
        labels: BIO labels, `O` first; or such a list for each label set, by name.

    Attributes:
        uses_image: Whether images are read.
        needs: Inputs beyond regions: some of `boxes`, `scores`, `object_names`, `relation`, `groups`, `contexts`.
            Batches then have them, or the data are refused before training (`mner.data.inputs`).
        text_alone: Set to True, a strategy that uses images takes batches without any; else it refuses them.
        restored: What the checkpoint that it came from says of its data; None for a new model.
    """

    uses_image: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    text_alone: bool = False
    text_encoder: Any

    def __init__(self, labels: list[str] | dict[str, list[str]]) -> None:
        super().__init__(labels)
        self._tested: dict[str, list[tuple[list[str], list[str]]]] = {}  # by label set
        self.restored: dict[str, Any] | None = None
        self._tokenizer: str | None = None

    @property
    def temperature(self) -> float:
        """What label scores are divided by where they become probabilities: as `mner calibrate` found it, else 1."""
        return temperature_of(self.restored, self.label_set)

    # What the strategy's half has

    def label_scores(self, batch: Batch) -> Tensor:
        """What is decoded (b, w, l): scores of the labels of each word."""
        raise NotImplementedError

    def evaluation_loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Loss of the gold tags."""
        raise NotImplementedError

    def decode(self, scores: Tensor, batch: Batch) -> list[list[int]]:
        """The best label indices of each post, as long as its words."""
        raise NotImplementedError

    def entity_scores(self, scores: Tensor, batch: Batch, found: list[list[Span]]) -> list[list[float]]:
        """Probability of each span."""
        raise NotImplementedError

    # Lightning's steps

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch of the valid split."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch of the test split."""
        paths, batch = self._evaluate(batch, "test")
        gold = self._names(batch["tags"].tolist(), [len(words) for words in batch["words"]])
        self._tested.setdefault(self._set_of(batch), []).extend(zip(gold, self._names(paths), strict=True))

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the valid split."""
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """Forget the posts of an earlier test."""
        self._tested = {}

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test split."""
        self._log_scores("test")

    @property
    def tested(self) -> list[tuple[list[str], list[str]]]:
        """Gold and predicted tags of each post that this process tested last; of the chosen label set."""
        return self._tested.get(self._set_of(Batch()), [])

    def _set_of(self, batch: Batch) -> str:
        return batch.get("label_set", self.label_set or "") if self.label_sets else ""

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        """Tags and entities of each post, with the probability of each entity."""
        self.select(batch)
        check_batch(self, batch, self._tokenizer)
        label_scores, batch = whole_posts(self.label_scores(batch), batch)
        pred = self._names(self.decode(label_scores, batch))
        found = [spans(tags) for tags in pred]
        scores = self.entity_scores(label_scores, batch, found)
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

    def _evaluate(self, batch: Batch, stage: str) -> tuple[list[list[int]], Batch]:
        self.select(batch)
        check_batch(self, batch, self._tokenizer)
        scores, batch = whole_posts(self.label_scores(batch), batch)
        size = len(batch["id"])
        self.log(f"{stage}/loss", self.evaluation_loss(scores, batch), batch_size=size, on_epoch=True, sync_dist=True)
        paths = self.decode(scores, batch)
        w = batch["word_mask"].shape[1]
        pred = torch.tensor([path + [0] * (w - len(path)) for path in paths])  # the metric counts on the host
        for mode in MODES:
            self.metrics[f"{stage}_{mode}"].update(pred, batch["tags"], batch["word_mask"])
        return paths, batch

    def _log_scores(self, stage: str) -> None:
        for mode in MODES:
            prefix = f"{stage}/" if mode == "lenient" else f"{stage}/strict/"
            if self.label_sets:
                scores = self._scores_of_sets(stage, mode, prefix)
            else:
                metric = self.metrics[f"{stage}_{mode}"]
                scores = {prefix + name: value for name, value in metric.compute().items()}
                metric.reset()
            for name, value in scores.items():
                # The same in each process; sync_dist only tells Lightning so, which else warns of each of them.
                self.log(name, value, prog_bar=name == f"{stage}/f1", sync_dist=True)

    def _scores_of_sets(self, stage: str, mode: str, prefix: str) -> dict[str, Tensor]:
        """Scores of the label sets that posts were seen of, and the mean over these sets."""
        scores: dict[str, Tensor] = {}
        seen: list[dict[str, Tensor]] = []
        for label_set, metrics in self.all_metrics.items():
            metric: Any = metrics[f"{stage}_{mode}"]  # type: ignore[index]
            if metric.update_count:
                seen.append(metric.compute())
                scores |= {prefix.replace("/", f"/{label_set}/", 1) + name: value for name, value in seen[-1].items()}
            metric.reset()
        if seen:
            for name in ("precision", "recall", "f1"):
                scores[prefix + name] = torch.stack([found[name] for found in seen]).mean()
        return scores

    def _names(self, paths: list[list[int]], lengths: list[int] | None = None) -> list[list[str]]:
        ends = lengths or [len(path) for path in paths]
        return [[self.labels[index] for index in path[:end]] for path, end in zip(paths, ends, strict=True)]
