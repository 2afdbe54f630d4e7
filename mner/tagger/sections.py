"""From words, context and what is seen to tags, in windows where a post is longer than the encoder; without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mner.data.examples import Example
from mner.data.padding import Item, padded_regions, padded_text
from mner.data.tokenizer import MAX_WORD, PostTokenizer
from mner.data.windows import encode_windows
from mner.data.word_splitter import Word, readable
from mner.errors import MNERError
from mner.labels import spans
from mner.tagger.image_processor import NOTHING, Seen
from mner.tagger.lengths import cut
from mner.tagger.names import Names

if TYPE_CHECKING:
    from mner.batch import Batch


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


class SectionDecoder:
    """Tags sections with a model whose label scores are arrays: an exported one. `Decoder` does so with tensors.

    A section that is too long for the encoder is read in windows that overlap, as in training and evaluation. Their
    emissions are put together, and the CRF decodes the section as a whole, so that no word is lost and no entity is cut
    at a window's edge.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokeniser.
        names: Names that are always, or never, entities of a type.
    """

    start = 48
    """What beginning a batch costs on a processor, in word pieces (`mner.tagger.lengths`)."""

    def __init__(self, model: Any, tokenizer: PostTokenizer, names: Names | None = None) -> None:
        self.model = model
        self.names = names
        self.tokenizer = tokenizer

    def __call__(self, sections: Sequence[Section], batch_size: int) -> list[Found]:
        """Tags and entities of each section."""
        found: dict[int, Found] = {}
        for numbers, scores, batch in self.scored(sections, batch_size):
            words = [sections[number].words for number in numbers]
            found |= zip(numbers, self._best(scores, batch, words), strict=True)
        return [found[number] for number in range(len(sections))]

    def scored(self, sections: Sequence[Section], batch_size: int) -> Iterator[tuple[list[int], Any, Batch]]:
        """Numbers of sections, and what is decoded of them: label scores (b, w, l) and what else decoding needs."""
        windows = [self.items(section) for section in sections]
        rows = [(number, item) for number, some in enumerate(windows) for item in some]
        pieces = [len(item["token_ids"]) for _, item in rows]
        order = sorted(range(len(rows)), key=pieces.__getitem__)
        parts: dict[int, Any] = {}  # by row: emissions (w, l) of a window
        ends = cut([pieces[row] for row in order], batch_size, self.start)
        for begin, end in pairwise([0, *ends]):
            chosen = order[begin:end]
            batch = self.batch([rows[row][1] for row in chosen])
            emissions = self.label_scores(batch)
            if any(len(windows[rows[row][0]]) > 1 for row in chosen):
                parts |= {row: emissions[place, : len(batch["words"][place])] for place, row in enumerate(chosen)}
            else:
                yield [rows[row][0] for row in chosen], emissions, batch
        joined: dict[int, list[Any]] = {}
        for row in sorted(parts):
            joined.setdefault(rows[row][0], []).append(parts[row])
        for number, some in joined.items():
            emissions, mask = self.join(some)
            words = [shown(sections[number].words)]
            yield [number], emissions, self._of_set({"word_mask": mask, "words": words, "id": [str(number)]})

    def items(self, section: Section) -> list[Item]:
        """A section as `Collate` takes it: an item for each of its windows."""
        words = shown(section.words)
        known = self.tokenizer.learn(words, section.context)
        seen, found = section.seen, section.seen.known
        return [
            Item(
                token_ids=np.asarray(window.ids, dtype=np.int32),
                post_length=window.post_length,
                bounds=np.asarray(window.bounds, dtype=np.int32),
                word_starts=np.asarray(window.word_starts, dtype=np.int32),
                words_end=window.words_end,
                tags=None,
                image=seen.image,
                image_mask=seen.image_mask,
                regions=seen.regions,
                boxes=None if found is None else found.boxes,
                scores=None if found is None else found.scores,
                groups=None if found is None else found.groups,
                object_names=list(section.object_names),
                relation=section.relation,
                example=Example(str(section.post), None, words[slice(*window.words)], None, section.context),
            )
            for window in encode_windows(self.tokenizer, words, section.context, known)
        ]

    def _best(self, emissions: Any, batch: Batch, words: Sequence[Sequence[Word]]) -> list[Found]:
        labels = self.model.labels
        allowed = None if self.names is None else self.names.allowed(words, labels, emissions.shape[1])
        if allowed is not None:
            emissions = self.without(emissions, ~allowed)
        paths = self.model.decode(emissions, batch)
        if allowed is not None and not all(row[range(len(p)), p].all() for row, p in zip(allowed, paths, strict=True)):
            raise MNERError(f"{type(self.model).__name__} decodes in a way of its own, which names cannot restrict")
        tags = [[labels[index] for index in path] for path in paths]
        entities = [spans(some) for some in tags]
        scores = self.model.entity_scores(emissions, batch, entities)
        return [
            Found(some, [(*span, score) for span, score in zip(its, of, strict=True)])
            for some, its, of in zip(tags, entities, scores, strict=True)
        ]

    def _of_set(self, batch: Any) -> Batch:
        """A batch, which knows whose labels are meant where the model has several sets; an exported one has none."""
        known: Batch = batch
        return known

    # What is done with arrays, or with tensors

    def batch(self, items: Sequence[Item]) -> Batch:
        """Items as a batch for the model."""
        batch: Any = padded_text(items, self.tokenizer.pad_id)
        batch |= {"words": [item["example"].words for item in items], "id": [item["example"].id for item in items]}
        known = [item["regions"] for item in items if item["regions"] is not None]
        if known:
            batch["regions"], batch["region_mask"] = padded_regions(items, known[0].shape[1])
        images = [item["image"] for item in items]
        first = next((np.asarray(image) for image in images if image is not None), None)
        if first is not None:
            several = any(item["image_mask"] is not None for item in items)
            if several:
                raise ValueError("Expected one image a post, since the exported model takes no more, but got several")
            batch["image"] = np.stack([np.zeros_like(first) if i is None else np.asarray(i) for i in images])
            batch["has_image"] = np.array([image is not None for image in images])
        return self._of_set(batch)

    def label_scores(self, batch: Batch) -> Any:
        """Label scores (b, w, l)."""
        return self.model.label_scores(batch)

    def join(self, parts: Sequence[Any]) -> tuple[Any, Any]:
        """Emissions (w, l) of windows as those of their post (1, w, l), and its word mask (1, w)."""
        joined = np.concatenate(parts)[None]
        return joined, np.ones(joined.shape[:2], dtype=np.bool_)

    def without(self, emissions: Any, forbidden: Any) -> Any:
        """Emissions (b, w, l) that leave labels out (b, w, l)."""
        return np.where(forbidden, -np.inf, emissions)


def shown(words: Sequence[Word]) -> tuple[str, ...]:
    """Words as the model reads them."""
    return tuple(readable(word.text[:MAX_WORD]) for word in words)
