"""Labels of the nearest training words, mixed into a model's label distributions (kNN-NER, Wang et al. 2022).

A store has the vector of each training word, as the model's last layer gets it, with its gold label. At inference::

    p_kNN(y) = Σ_{i in the k nearest} 1[y_i = y] exp(cos(z, z_i) / τ) / Σ_{i in the k nearest} exp(cos(z, z_i) / τ)
    p(y)     = λ p_kNN(y) + (1 - λ) p_model(y)

with cosines as in the authors' code. p_model are the marginals of the CRF (the authors' models have none), and what is
decoded is the best sequence that BIO allows under p (`mner.nn.posteriors`). A word is never a neighbour of itself: the
words of training posts with the very words of the post are left out.

Notation: b posts, w words, d width, l labels, n stored words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from mner.errors import CheckpointError, MNERError
from mner.files import refuse_foreign, whole

MARK = "mner_neighbours"
"""What files of ours have in their beginning."""
BLOCK = 1024
"""Words that are compared with the store together."""


@dataclass(frozen=True)
class Nearest:
    """The stored words nearest to each of some words, nearest first.

    Attributes:
        cosines: (m, k), -inf where there are no more.
        labels: (m, k) their gold labels.
    """

    cosines: Tensor
    labels: Tensor

    def distribution(self, k: int, temperature: float, size: int) -> tuple[Tensor, Tensor]:
        """p_kNN (m, l) of the k nearest, and which words have neighbours at all (m,)."""
        cosines, labels = self.cosines[:, :k], self.labels[:, :k]
        found = cosines[:, 0].isfinite()
        weights = torch.where(found[:, None], cosines / temperature, 0.0).softmax(-1)
        return torch.zeros(len(cosines), size).scatter_add_(1, labels, weights), found


class WordNeighbours:
    """A store of training words, to be mixed into the label distributions of the model that they come from.

    Args:
        vectors: (n, d), any length.
        gold: (n,) label indices.
        owners: (n,) marks of the posts that the words are from, see `owner`.
        labels: Names of the labels.
        model: Mark of the model, see `model_mark`.
        k: Nearest words that count.
        temperature: τ.
        weight: λ, 0 for the model alone.

    Raises:
        ValueError: If a number is out of its range, or shapes differ.
    """

    def __init__(
        self,
        vectors: Tensor,
        gold: Tensor,
        owners: Tensor,
        labels: Sequence[str],
        model: str,
        k: int = 64,
        temperature: float = 0.1,
        weight: float = 0.5,
    ) -> None:
        if not len(vectors) or len(vectors) != len(gold) or len(gold) != len(owners):
            raise ValueError(f"Expected some words, but got {len(vectors)} vectors, {len(gold)} labels, {len(owners)}")
        if k < 1 or temperature <= 0 or not 0 <= weight <= 1:
            raise ValueError(
                f"Expected k of at least 1, a temperature over 0 and a weight from 0 to 1, but got {k}, {temperature}, "
                f"{weight}"
            )
        self.vectors = nn.functional.normalize(vectors.float(), dim=-1)
        self.gold, self.owners, self.labels, self.model = gold.long(), owners.long(), list(labels), model
        self.k, self.temperature, self.weight = k, temperature, weight

    def nearest(self, states: Tensor, owners: Tensor, k: int) -> Nearest:
        """The k nearest stored words of each word.

        Args:
            states: (m, d).
            owners: (m,) marks of the words' posts, whose own words are left out.
            k: How many.
        """
        words = nn.functional.normalize(states.float().cpu(), dim=-1)
        parts = []
        for start in range(0, len(words), BLOCK):
            cosines = words[start : start + BLOCK] @ self.vectors.T
            cosines.masked_fill_(owners[start : start + BLOCK, None] == self.owners, -torch.inf)
            parts.append(cosines.topk(min(k, cosines.shape[1]), dim=1))
        if not parts:
            return Nearest(torch.empty(0, 1), torch.empty(0, 1, dtype=torch.long))
        return Nearest(torch.cat([part.values for part in parts]), self.gold[torch.cat([p.indices for p in parts])])

    def mix(self, posterior: Tensor, states: Tensor, words: Sequence[Sequence[str]], mask: Tensor) -> Tensor:
        """The model's distributions with those of the neighbours, p (b, w, l).

        A word without any neighbour keeps the model's.

        Args:
            posterior: (b, w, l) of the model.
            states: (b, w, d).
            words: The words of each post.
            mask: (b, w), true = real.
        """
        marks = torch.tensor([owner(some) for some in words])
        rows = mask.nonzero()[:, 0].cpu()
        near = self.nearest(states[mask], marks[rows], self.k)
        its, found = near.distribution(self.k, self.temperature, len(self.labels))
        share = (self.weight * found).to(posterior)[:, None]
        mixed = posterior.clone()
        mixed[mask] = share * its.to(posterior) + (1 - share) * posterior[mask]
        return mixed

    def save(self, path: str | PathLike[str], more: dict[str, Any] | None = None) -> None:
        """Write the store, with facts that are only to be read by people.

        Raises:
            DataFormatError: If there is a file of somebody else.
        """
        from safetensors.torch import save

        facts = {name: getattr(self, name) for name in ("labels", "model", "k", "temperature", "weight")}
        tensors = {"vectors": self.vectors.half(), "gold": self.gold.to(torch.int32), "owners": self.owners}
        refuse_foreign(path, MARK)
        content = save(tensors, {MARK: json.dumps({**facts, "facts": more or {}})})
        with whole(path) as stream:
            stream.write(content)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> WordNeighbours:
        """Read what `save` wrote.

        Raises:
            CheckpointError: If there is no such file, or it is another.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})[MARK])
                tensors = [file.get_tensor(name) for name in ("vectors", "gold", "owners")]
            names = ("labels", "model", "k", "temperature", "weight")
            return cls(*tensors, *(facts[name] for name in names))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"Expected what `mner neighbours` wrote at {path}, not {error}") from error


class HeadInputs:
    """The vectors that a model's last layer gets in a block, `with HeadInputs(model) as seen: …; seen.states`.

    Args:
        model: A `FusionModule`.

    Raises:
        MNERError: On `states`, if the last layer did not get one vector for each word.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._seen: list[Tensor] = []

    def __enter__(self) -> HeadInputs:
        head: nn.Module = self.model.head
        self._hook = head.register_forward_pre_hook(lambda _, inputs: self._seen.append(inputs[0]))
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def states(self, mask: Tensor) -> Tensor:
        """They (b, w, d), for words with this mask."""
        if len(self._seen) != 1 or self._seen[0].shape[:2] != mask.shape:
            raise MNERError(
                f"Expected a model that scores the words of a post once, in one last layer, for its neighbours, but "
                f"{type(self.model).__name__} is another"
            )
        return self._seen[0].detach()


def use_neighbours(model: Any, neighbours: WordNeighbours | str | PathLike[str]) -> None:
    """Let a model's tags come from its label distributions with those of neighbours mixed in, from now on.

    Args:
        model: The `FusionModule` that the store was made with.
        neighbours: The store, or its file.

    Raises:
        MNERError: If the store is of another model, or this one has no last layer to compare by (an exported one).
        CheckpointError: If the file is another.
    """
    if not isinstance(getattr(model, "head", None), nn.Linear):
        raise MNERError(f"Expected a model in PyTorch for its neighbours, but got {type(model).__name__}")
    store = neighbours if isinstance(neighbours, WordNeighbours) else WordNeighbours.load(neighbours)
    if store.labels != model.labels or store.model != model_mark(model):
        name = "the neighbours" if isinstance(neighbours, WordNeighbours) else neighbours
        raise MNERError(f"Expected {name} to be of this model, but got those of another; `mner neighbours` makes them")
    model.neighbours = store


def owner(words: Sequence[str]) -> int:
    """What tells one post's words from another's."""
    return int.from_bytes(hashlib.sha256("\n".join(words).encode(errors="replace")).digest()[:8], "big", signed=True)


def model_mark(model: Any) -> str:
    """What tells one trained model from another: a checksum of its last layer."""
    digest = hashlib.sha256()
    for part in (model.head.weight, model.head.bias):
        digest.update(part.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
