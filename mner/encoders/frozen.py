"""The lower layers of a text encoder kept as they are, and what they make of each post computed once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mner.encoders import steps


class FrozenLayers:
    """Embeddings and the first layers of a text encoder, which do not learn and have no dropout.

    What they give for a post is the same in each epoch. It is kept in memory by the post's pieces, segments and mask,
    so that words which are hidden or a context that is dropped make another entry, until `limit` bytes are taken; from
    there on what is not kept is computed each time. A change of the weights (loading a checkpoint, another device)
    lets go of everything. A copy, or what is pickled, has nothing kept.

    Args:
        model: The transformers model.
        count: How many layers.
        limit: Bytes of states to keep, on the device of the model; 0 keeps nothing.

    Raises:
        ValueError: If the model has fewer layers, cannot be taken apart (it says which can), or `limit` is negative.
    """

    def __init__(self, model: Any, count: int, limit: int) -> None:
        layers = steps.layers(model)
        if not 0 < count <= len(layers):
            raise ValueError(f"Expected `freeze_layers` from 0 to {len(layers)}, the encoder's layers, but got {count}")
        if limit < 0:
            raise ValueError(f"Expected `freeze_cache` of 0 or more bytes, but got {limit}")
        self.count = count
        self.limit = limit
        self.bytes = 0
        self._known: dict[bytes, Tensor] = {}
        self._weights: list[tuple[int, int]] = []
        for part in self._parts(model):
            part.requires_grad_(False)

    def without_dropout(self, model: Any) -> None:
        """Put the frozen parts into evaluation mode, in which they stay while the rest is trained."""
        for part in self._parts(model):
            part.eval()

    def used(self, model: Any) -> bool:
        """Whether states are kept, and nobody listens to the word vectors (adversarial training), whom they pass."""
        return bool(self.limit) and not model.get_input_embeddings()._forward_hooks

    def __call__(self, model: Any, token_ids: Tensor, token_mask: Tensor, segment_ids: Tensor | None) -> Tensor:
        """The model's last states (b, t, d), out of what is kept for the frozen layers. Zeros go in at padding."""
        states = self.states(model, token_ids, token_mask, segment_ids)
        mask = steps.layer_mask(model, states, token_mask)
        for layer in steps.layers(model)[self.count :]:
            states = layer(states, mask)
        return states

    @torch.no_grad()
    def states(self, model: Any, token_ids: Tensor, token_mask: Tensor, segment_ids: Tensor | None) -> Tensor:
        """States (b, t, d) behind the frozen layers; zeros at padding."""
        weights = [(weight.data_ptr(), weight._version) for part in self._parts(model) for weight in part.parameters()]
        if weights != self._weights:
            self._weights, self._known, self.bytes = weights, {}, 0
        read = [token_ids, token_mask.long(), *([] if segment_ids is None else [segment_ids])]
        rows = torch.stack(read, 1).cpu().numpy()  # (b, 2 or 3, t)
        ends = [int(row[1].nonzero()[0].max(initial=-1)) + 1 for row in rows]
        keys = [row[:, :end].tobytes() for row, end in zip(rows, ends, strict=True)]
        new = [row for row, key in enumerate(keys) if key not in self._known]
        made: dict[int, Tensor] = {}
        if new:
            part = slice(None, max(ends[row] for row in new))
            segments = None if segment_ids is None else segment_ids[new, part]
            states = self._run(model, token_ids[new, part], token_mask[new, part], segments)
            made = {row: states[place, : ends[row]] for place, row in enumerate(new)}
            for row, own in made.items():
                size = own.numel() * own.element_size() + len(keys[row])
                if self.bytes + size <= self.limit and keys[row] not in self._known:
                    self._known[keys[row]] = own.clone()
                    self.bytes += size
        found = [made[row] if row in made else self._known[key] for row, key in enumerate(keys)]
        out = found[0].new_zeros(*token_ids.shape, found[0].shape[-1])
        for row, own in enumerate(found):
            out[row, : ends[row]] = own
        return out

    def _run(self, model: Any, token_ids: Tensor, token_mask: Tensor, segment_ids: Tensor | None) -> Tensor:
        states, mask = steps.embed(model, token_ids, token_mask, segment_ids)
        for layer in steps.layers(model)[: self.count]:
            states = layer(states, mask)
        return states

    def _parts(self, model: Any) -> list[nn.Module]:
        project = getattr(model, "embeddings_project", None)
        return [model.embeddings, *([] if project is None else [project]), *steps.layers(model)[: self.count]]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "bytes": 0, "_known": {}, "_weights": []}
