"""`TaggingHead`: what a strategy's emissions become, which is a loss, tags, and probabilities of entities."""

from __future__ import annotations

from contextlib import nullcontext

from torch import Tensor

from mner.batch import Batch
from mner.labels import Span
from mner.nn.crf import CRF
from mner.nn.neighbours import HeadInputs, WordNeighbours
from mner.nn.posteriors import log_posteriors, posterior_crf
from mner.training.module import TaggingModule


class TaggingHead(TaggingModule):
    """A CRF over emissions; or over what a strategy defines as its `posterior`.

    Attributes:
        crf: The CRF of the label set in use.
        neighbours: Training words whose labels are mixed into the posteriors (`mner.nn.neighbours.use_neighbours`).
    """

    crf: CRF
    neighbours: WordNeighbours | None = None

    def label_scores(self, batch: Batch) -> Tensor:
        """What is decoded (b, w, l): log posteriors for a strategy that defines `posterior`, else emissions."""
        self.select(batch)
        if not self.decodes_posteriors:
            return self.emissions(batch)
        with nullcontext() if self.neighbours is None else HeadInputs(self) as seen:
            posterior = self.posterior(batch)
            if posterior is None:
                posterior = self.crf.marginals(self.emissions(batch), batch["word_mask"])
        expected = (*batch["word_mask"].shape, len(self.labels))
        if posterior.shape != expected:
            raise ValueError(
                f"Expected {type(self).__name__}.posterior to return shape (b, w, l) = {expected}, but got "
                f"{tuple(posterior.shape)}"
            )
        if self.neighbours is not None and seen is not None:
            mask = batch["word_mask"]
            posterior = self.neighbours.mix(posterior, seen.states(mask), batch["words"], mask)
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
        """Whether posteriors are decoded, not emissions: in classes that define `posterior`, and with `neighbours`."""
        return type(self).posterior is not TaggingHead.posterior or self.neighbours is not None

    @property
    def decoding_crf(self) -> CRF:
        """What decodes `label_scores`: the model's CRF, or for posteriors one whose transitions are all 0."""
        if self.decodes_posteriors:
            return posterior_crf(tuple(self.labels), self.hparams["constrain"])
        return self.crf

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
        """Probability of each span under `label_scores`, at the model's `temperature`."""
        self.select(batch)
        probabilities: list[list[float]] = self.decoding_crf.span_probabilities(
            scores, batch["word_mask"], found, self.temperature
        )
        return probabilities
