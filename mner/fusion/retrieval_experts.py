"""One expert for each kind of retrieved text, and a gate that mixes what they say: MoRe of Wang et al. (2022)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.errors import CheckpointError
from mner.fusion.base import FusionModule
from mner.fusion.text_only import TextOnly
from mner.labels import entity_types
from mner.nn.masking import masked_mean
from mner.nn.objectives import only_context, without_padding
from mner.nn.posteriors import log_marginals, log_posteriors, mix

PARTS = ("text_encoder", "word_projection", "head", "crf")
"""What an expert is made of, by the names that `TextOnly` gives them."""


class RetrievalExperts(TextOnly):
    """MoRe's mixture: each source of context has an expert; a gate says for each post how far to trust it.

    ::

        h_k = encoder_k(post, context k);    μ_k,t(y) = p(y_t = y) by the CRF of expert k              (w, d), (w, l)
        w = softmax(W [mean h_1; …; mean h_K] + b)                                                    (K)    gate
        p_t(y) = Σ_k w_k μ_k,t(y)                                                                     (w, l)
        loss = -Σ_t log p_t(gold)          and, while the experts learn, + 1/K Σ_k NLL of expert k

    Tags are the best sequence of Π_t p_t(y_t) among those that BIO allows (`mner.nn.posteriors`). The sources are those
    of the data module's `context`, in its order; in MoRe the first is what a search with the text found, the second
    what a search with the image found. Each expert reads the post with its own source alone.

    Two ways:

    - **Experts that were trained before**, as in the paper: `experts` names their checkpoints, of `TextOnly` or
      `CrossViewAlignment` with the text encoder that is named here. They are frozen, without dropout, and the gate
      learns. Checkpoints of the mixture hold all of it.
    - **One encoder** that reads each source in a pass of its own and learns with the gate: without `experts`.

    Paper: Wang et al., "Named entity and relation extraction with multi-modal retrieval", Findings of EMNLP 2022. The
    mixture was never released; that its experts are frozen, and what the gate reads, are from other descriptions.

    Chosen here: that texts of all sources share the encoder's room, where each of the paper's experts has all of it;
    marginals without BIO constraints, like those of the loss; all of the second way.

    Args:
        args: As for `FusionModule`.
        experts: Checkpoints, one for each source in order; None as an entry for weights that come from elsewhere, as
            when a checkpoint of the mixture is loaded. None for one encoder.
        sources: K without `experts`, at least 2; with them, their number counts.
        kwargs: As for `FusionModule`.

    Raises:
        ValueError: If there are fewer than two experts, or some for a model with several label sets.
        CheckpointError: If a checkpoint is of another strategy, of other labels or of another text encoder.

    >>> from mner.data.sample.batches import SampleBatches
    >>> batches = SampleBatches(needs={"contexts"})
    >>> RetrievalExperts(batches.labels).weights(batches()).shape
    torch.Size([6, 2])
    """

    needs = frozenset({"contexts"})

    def __init__(self, *args: Any, experts: list[str | None] | None = None, sources: int = 2, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sources = sources if experts is None else len(experts)
        if self.sources < 2:
            raise ValueError(f"Expected two experts at least, but got {self.sources}; with one, use TextOnly")
        if experts is not None and self.label_set is not None:
            raise ValueError("Expected one list of labels with `experts`, but got label sets; leave `experts` out")
        self.frozen = experts is not None
        self.others = nn.ModuleList()  # the first expert is the model's own encoder, Linear and CRF
        if experts is not None:
            parts = {name: getattr(self, name) for name in PARTS}
            self.others.extend(nn.ModuleDict(copy.deepcopy(parts)) for _ in experts[1:])
            for path, expert in zip(experts, (nn.ModuleDict(parts), *self.others), strict=True):
                if path is not None:
                    _fill(expert, path, self.labels)
                expert.requires_grad_(False)
            self.hparams.update(experts=[None] * len(experts))  # a checkpoint needs nothing but itself
        self.gate = nn.Linear(self.sources * self.width, self.sources)

    def train(self, mode: bool = True) -> RetrievalExperts:
        """Training mode, in which frozen experts stay in evaluation mode."""
        super().train(mode)
        if self.frozen:
            for part in (*(getattr(self, name) for name in PARTS), self.others):
                part.eval()
        return self

    def setup(self, stage: str) -> None:
        """Refuse data with another number of sources."""
        super().setup(stage)
        names = getattr(getattr(self.trainer, "datamodule", None), "context_names", None)
        if names is not None and len(names) != self.sources:
            raise ValueError(
                f"Expected as many experts as sources of context, but got {self.sources} for {names}; change `experts` "
                "or `sources` of the model, or `context` of the data module"
            )

    def weights(self, batch: Batch) -> Tensor:
        """How far each expert is trusted with each post: w (b, K), which sum to 1."""
        self.select(batch)
        return self._weigh([words for words, _ in self._read(batch)], batch)

    def posterior(self, batch: Batch) -> Tensor:
        """The mixture p (b, w, l)."""
        self.select(batch)
        return self._mix(self._read(batch), batch)

    def emissions(self, batch: Batch) -> Tensor:
        """The logarithm of the mixture (b, w, l)."""
        return log_posteriors(self.posterior(batch))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`tagging` by the mixture; and `experts`, the mean of theirs, unless they are frozen."""
        self.select(batch)
        read = self._read(batch)
        parts = {"tagging": self.posterior_nll(self._mix(read, batch), batch)}
        if not self.frozen:
            parts["experts"] = torch.stack([self.nll(emissions, batch) for _, emissions in read]).mean()
        return parts

    def _experts(self) -> list[Any]:
        own = {name: getattr(self, name) for name in PARTS}
        return [own, *self.others] if self.frozen else [own] * self.sources

    def _read(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Words (b, w, d) and emissions (b, w, l) of each expert, with its own source."""
        read = []
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            for source, expert in enumerate(self._experts(), start=1):
                view = only_context(batch, source)
                if not torch.compiler.is_compiling():
                    view = without_padding(view)
                words = expert["word_projection"](expert["text_encoder"].words(view))
                read.append((words, expert["head"](self.dropout(words) if not self.frozen else words)))
        return read

    def _weigh(self, words: list[Tensor], batch: Batch) -> Tensor:
        means = [masked_mean(each, batch["word_mask"]) for each in words]  # (b, d) each
        weights: Tensor = self.gate(torch.cat(means, -1)).softmax(-1)
        return weights

    def _mix(self, read: list[tuple[Tensor, Tensor]], batch: Batch) -> Tensor:
        mask = batch["word_mask"]
        marginals = [
            expert["crf"].marginals(emissions, mask, constrained=False)
            if self.frozen
            else log_marginals(expert["crf"], emissions, mask).exp()
            for expert, (_, emissions) in zip(self._experts(), read, strict=True)
        ]
        return mix(marginals, self._weigh([words for words, _ in read], batch))


def _fill(expert: nn.ModuleDict, path: str, labels: list[str]) -> None:
    """Give an expert the weights of a checkpoint."""
    model = FusionModule.load_from_checkpoint(path)
    if not isinstance(model, TextOnly) or isinstance(model, RetrievalExperts):
        raise CheckpointError(
            f"Expected an expert of TextOnly or CrossViewAlignment, but {path} is one of {type(model).__name__}"
        )
    if model.labels != labels:
        raise CheckpointError(
            f"Expected an expert for the entity types {entity_types(labels)}, but that at {path} is for "
            f"{entity_types(model.labels)}"
        )
    model.text_encoder.merge()
    try:
        expert.load_state_dict(model.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"Expected an expert with the `text_encoder` and `hidden_size` that are named here, but that at {path} has "
            f"others: {str(error).splitlines()[1].strip()}"
        ) from error
