"""From words, context and what is seen to tags: batches, and windows for posts longer than the encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from mner.batch import Batch
from mner.data.batching import Collate
from mner.data.dataset import Item
from mner.data.examples import Example
from mner.data.inputs import OF_REGIONS
from mner.data.tokenizer import MAX_WORD, PostTokenizer
from mner.data.windows import encode_windows
from mner.data.word_splitter import Word, readable
from mner.errors import MNERError
from mner.fusion.base import FusionModule
from mner.labels import spans
from mner.tagger.image_processor import NOTHING, Seen

log = logging.getLogger(__name__)


class Section(NamedTuple):
    """Words that are decoded together: a post, or a part of a very long one."""

    post: int
    words: Sequence[Word]
    context: tuple[str, ...] = ()
    seen: Seen = NOTHING
    object_names: tuple[str, ...] = ()
    relation: float = float("nan")


class Found(NamedTuple):
    """Tags of a section, and its entities as (start, end, type, score), in words."""

    tags: list[str]
    entities: list[tuple[int, int, str, float]]


class Decoder:
    """Tags sections with a model.

    A section that is too long for the encoder is read in windows that overlap, as in training and evaluation. Their
    emissions are put together, and the CRF decodes the section as a whole, so that no word is lost and no entity is cut
    at a window's edge.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokeniser.
        device: Where it is.
    """

    def __init__(self, model: FusionModule, tokenizer: PostTokenizer, device: torch.device) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = device
        self.label_set: str | None = getattr(model, "label_set", None)  # taggers with other sets may share the model

    @torch.no_grad()
    def __call__(self, sections: Sequence[Section], batch_size: int) -> list[Found]:
        """Tags and entities of each section."""
        windows = [self.items(section) for section in sections]
        rows = [(number, item) for number, some in enumerate(windows) for item in some]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row][1]["token_ids"]))
        found: dict[int, Found] = {}
        parts: dict[int, Tensor] = {}  # by row: emissions (w, l) of a window
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = self.batch([rows[row][1] for row in chosen])
            emissions = self.model.label_scores(batch)
            if any(len(windows[rows[row][0]]) > 1 for row in chosen):
                parts |= {row: emissions[place, : len(batch["words"][place])] for place, row in enumerate(chosen)}
            else:
                results = self._best(emissions, batch)
                found |= {rows[row][0]: result for row, result in zip(chosen, results, strict=True)}
        joined: dict[int, list[Tensor]] = {}
        for row in sorted(parts):
            joined.setdefault(rows[row][0], []).append(parts[row])
        for number, some in joined.items():
            emissions = torch.cat(some)[None]  # (1, w, l)
            found[number] = self._best(emissions, self._bare_batch(sections[number], emissions))[0]
        return [found[number] for number in range(len(sections))]

    def items(self, section: Section) -> list[Item]:
        """A section as `Collate` takes it: an item for each of its windows."""
        words = _shown(section.words)
        known = self.tokenizer.learn(words, section.context)
        seen, found = section.seen, section.seen.known
        return [
            Item(
                token_ids=np.asarray(ids, dtype=np.int32),
                post_length=post_length,
                bounds=np.asarray(bounds, dtype=np.int32),
                word_starts=np.asarray(starts, dtype=np.int32),
                tags=None,
                image=seen.image,
                image_mask=seen.image_mask,
                regions=seen.regions,
                boxes=None if found is None else found.boxes,
                scores=None if found is None else found.scores,
                groups=None if found is None else found.groups,
                object_names=list(section.object_names),
                relation=section.relation,
                example=Example(str(section.post), None, words[begin:end], None, section.context),
            )
            for ids, starts, post_length, bounds, (begin, end) in encode_windows(
                self.tokenizer, words, section.context, known
            )
        ]

    def batch(self, items: Sequence[Item]) -> Batch:
        """Items as a batch on the model's device."""
        image = next((item["image"] for item in items if item["image"] is not None), None)
        regions = next((item["regions"] for item in items if item["regions"] is not None), None)
        needs: frozenset[str] = getattr(self.model, "needs", frozenset())  # an exported model has none
        grid = (1, 1)
        if image is not None and needs & OF_REGIONS and self.model.image_encoder is not None:
            grid = self.model.image_encoder.grid(image.shape[-1])
        collate = Collate(
            self.tokenizer.pad_id,
            None if image is None else (3, image.shape[-2], image.shape[-1]),
            None if regions is None else regions.shape[1],
            needs,
            grid,
        )
        batch = self._of_set(collate(items))
        moved: Any = {name: v.to(self.device) if isinstance(v, Tensor) else v for name, v in batch.items()}
        return cast(Batch, moved)

    def _bare_batch(self, section: Section, emissions: Tensor) -> Batch:
        """What decoding needs of a section whose windows were read apart."""
        mask = torch.ones(emissions.shape[:2], dtype=torch.bool, device=emissions.device)
        words = [_shown(section.words)]
        return self._of_set(Batch(word_mask=mask, words=words, id=[str(section.post)], image_id=[None]))

    def _of_set(self, batch: Batch) -> Batch:
        if self.label_set is not None:
            batch["label_set"] = self.label_set
        return batch

    def _best(self, emissions: Tensor, batch: Batch) -> list[Found]:
        tags = [[self.model.labels[index] for index in path] for path in self.model.decode(emissions, batch)]
        entities = [spans(some) for some in tags]
        scores = self.model.entity_scores(emissions, batch, entities)
        return [
            Found(some, [(*span, score) for span, score in zip(its, of, strict=True)])
            for some, its, of in zip(tags, entities, scores, strict=True)
        ]


def choose_label_set(model: FusionModule, label_set: str | None) -> str | None:
    """Use a label set of a model, and say so where nobody chose among several."""
    sets = list(getattr(model, "label_sets", ()))  # an exported model has none
    if label_set is None and not sets:
        return None
    if not sets:
        raise MNERError(f"Expected no label set for a model with one list of labels, but got {label_set!r}")
    if label_set is None and len(sets) > 1:
        log.warning("The model has label sets %s; tagging with %r, as label_set= chooses no other", sets, sets[0])
    model.use(label_set or sets[0])
    return model.label_set


def _shown(words: Sequence[Word]) -> tuple[str, ...]:
    """Words as the model reads them."""
    return tuple(readable(word.text[:MAX_WORD]) for word in words)
