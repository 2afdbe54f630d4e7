"""Public CRFs behind one interface: `loss`, the summed negative log-likelihood, and `decode`, a list of paths.

Each class takes the scores of a `torchcrf.CRF`, so that all of them compute the same. Peers that are not installed are
left out; `pip install --no-deps` is enough for most.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torchcrf
from torch import Tensor, nn

from mner.nn.crf import CRF


class Torchcrf:
    """pytorch-crf."""

    def __init__(self, crf: torchcrf.CRF) -> None:
        self.crf = crf

    def loss(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Summed over the batch."""
        return -self.crf(emissions, tags, mask)

    def decode(self, emissions: Tensor, mask: Tensor) -> list[list[int]]:
        """One path a row, without padding."""
        return self.crf.decode(emissions, mask)


class Mner(Torchcrf):
    """mner.CRF."""

    def __init__(self, crf: torchcrf.CRF) -> None:
        super().__init__(CRF(crf.num_tags, batch_first=True))
        self.crf.load_state_dict(crf.state_dict())


class AllenNLP:
    """allennlp-light."""

    def __init__(self, crf: torchcrf.CRF) -> None:
        from allennlp_light.modules.conditional_random_field import ConditionalRandomField

        self.crf = ConditionalRandomField(crf.num_tags)
        self.crf.load_state_dict(crf.state_dict(), strict=False)

    def loss(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Summed over the batch."""
        return -self.crf(emissions, tags, mask)

    def decode(self, emissions: Tensor, mask: Tensor) -> list[list[int]]:
        """One path a row, without padding."""
        return [path for path, _ in self.crf.viterbi_tags(emissions, mask)]


class PartialCRF:
    """pytorch-partial-crf."""

    def __init__(self, crf: torchcrf.CRF) -> None:
        from pytorch_partial_crf import CRF as Module

        self.crf = Module(crf.num_tags)
        self.crf.load_state_dict(crf.state_dict(), strict=False)

    def loss(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Summed over the batch."""
        return self.crf(emissions, tags, mask)

    def decode(self, emissions: Tensor, mask: Tensor) -> list[list[int]]:
        """One path a row, without padding."""
        return self.crf.viterbi_decode(emissions, mask)


class Supar:
    """supar.structs."""

    def __init__(self, crf: torchcrf.CRF) -> None:
        from supar.structs import LinearChainCRF

        self.distribution = LinearChainCRF
        edges = torch.zeros(crf.num_tags + 1, crf.num_tags + 1)
        edges[:-1, :-1], edges[-1, :-1], edges[:-1, -1] = crf.transitions, crf.start_transitions, crf.end_transitions
        self.edges = nn.Parameter(edges.detach())

    def loss(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Summed over the batch."""
        return -self.distribution(emissions, self.edges, mask.sum(1)).log_prob(tags).sum()

    def decode(self, emissions: Tensor, mask: Tensor) -> list[list[int]]:
        """One path a row, without padding."""
        lengths = mask.sum(1)
        with torch.enable_grad():  # its arg-max is the gradient of the maximum
            paths = self.distribution(emissions.detach().requires_grad_(), self.edges, lengths).argmax
        return [row[:length] for row, length in zip(paths.tolist(), lengths.tolist(), strict=True)]


class Torchlatent:
    """torchlatent."""

    def __init__(self, crf: torchcrf.CRF) -> None:
        from torchlatent.crf import CrfDecoder
        from torchrua import C

        self.sequences, self.decoder = C, CrfDecoder(num_targets=crf.num_tags)
        with torch.no_grad():
            self.decoder.transitions.copy_(crf.transitions)
            self.decoder.head_transitions.copy_(crf.start_transitions)
            self.decoder.last_transitions.copy_(crf.end_transitions)

    def loss(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Summed over the batch."""
        lengths = mask.sum(1)
        distribution = self.decoder(self.sequences(emissions[mask], lengths))
        return -distribution.log_probs(self.sequences(tags[mask], lengths)).sum()

    def decode(self, emissions: Tensor, mask: Tensor) -> list[list[int]]:
        """One path a row, without padding."""
        lengths = mask.sum(1)
        with torch.enable_grad():
            found = self.decoder(self.sequences(emissions[mask].detach().requires_grad_(), lengths)).argmax
        return [path.tolist() for path in found.data.split(lengths.tolist())]


class TorchStruct:
    """torch-struct."""

    def __init__(self, crf: torchcrf.CRF) -> None:
        from torch_struct import LinearChainCRF

        self.distribution = LinearChainCRF
        self.scores = [nn.Parameter(parameter.detach().clone()) for parameter in crf.parameters()]

    def _potentials(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        start, end, transitions = self.scores
        edges = transitions.T + emissions[:, 1:, :, None]  # (b, w - 1, to, from)
        first = (torch.arange(edges.shape[1]) == 0)[None, :, None, None]
        last = (torch.arange(edges.shape[1]) == (lengths - 2)[:, None])[..., None, None]
        return edges + first * (start + emissions[:, :1])[:, :, None] + last * end[:, None]

    def loss(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Summed over the batch."""
        lengths = mask.sum(1)
        potentials = self._potentials(emissions, lengths)
        rows, words = torch.arange(len(tags))[:, None], torch.arange(tags.shape[1] - 1)
        gold = (potentials[rows, words, tags[:, 1:], tags[:, :-1]] * mask[:, 1:]).sum()
        return self.distribution(potentials, lengths).partition.sum() - gold

    def decode(self, emissions: Tensor, mask: Tensor) -> list[list[int]]:
        """One path a row, without padding."""
        lengths = mask.sum(1)
        with torch.enable_grad():
            distribution = self.distribution(self._potentials(emissions, lengths), lengths)
            paths, _ = distribution.from_event(distribution.argmax)
        return [row[:length] for row, length in zip(paths.tolist(), lengths.tolist(), strict=True)]


class Flair:
    """flair; it decodes to names with a confidence each, which nobody asked for here."""

    def __init__(self, crf: torchcrf.CRF) -> None:
        from flair.models.sequence_tagger_utils.crf import CRF as Module
        from flair.models.sequence_tagger_utils.viterbi import ViterbiDecoder, ViterbiLoss

        labels = crf.num_tags
        names = [*map(str, range(labels)), "<START>", "<STOP>"]

        class Dictionary:
            def __len__(self) -> int:
                return labels + 2

            get_idx_for_item = staticmethod(names.index)
            get_item_for_index = staticmethod(lambda index: names[index])

        self.crf = Module(Dictionary(), labels + 2, init_from_state_dict=False)
        edges = torch.full((labels + 2, labels + 2), -10_000.0)  # (to, from)
        edges[:labels, :labels], edges[:labels, labels] = crf.transitions.T, crf.start_transitions
        edges[labels + 1, :labels] = crf.end_transitions
        self.crf.transitions = nn.Parameter(edges.detach())
        self.module = SimpleNamespace(loss=ViterbiLoss(Dictionary()), decoder=ViterbiDecoder(Dictionary()))

    def _features(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        lengths, order = mask.sum(1).sort(descending=True)
        return self.crf(nn.functional.pad(emissions[order], (0, 2))), lengths, self.crf.transitions, order

    def loss(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Summed over the batch."""
        *features, order = self._features(emissions, mask)
        return self.module.loss(tuple(features), tags[order][mask[order]])

    def decode(self, emissions: Tensor, mask: Tensor) -> list[list[int]]:
        """One path a row, without padding."""
        *features, order = self._features(emissions, mask)
        found, _ = self.module.decoder.decode(tuple(features), False, [])
        paths: list[list[int]] = [[] for _ in found]
        for row, path in zip(order.tolist(), found, strict=True):
            paths[row] = [int(name) for name, _ in path]
        return paths


PEERS: dict[str, Callable[[torchcrf.CRF], Any]] = {
    "pytorch-crf": Torchcrf,
    "mner": Mner,
    "supar": Supar,
    "torchlatent": Torchlatent,
    "allennlp-light": AllenNLP,
    "pytorch-partial-crf": PartialCRF,
    "torch-struct": TorchStruct,
    "flair": Flair,
}


def available(names: list[str]) -> dict[str, Callable[[torchcrf.CRF], Any]]:
    """Those of the named peers that can be imported; why not is printed for the others."""
    found = {}
    for name in names:
        try:
            PEERS[name](torchcrf.CRF(3, batch_first=True))
        except Exception as error:
            print(f"- {name} left out: {type(error).__name__}: {error}")
        else:
            found[name] = PEERS[name]
    return found
