"""A trained model as a component of spaCy: `nlp.add_pipe("mner", config={"checkpoint": "best.ckpt"})`.

Source: https://spacy.io/usage/processing-pipelines#custom-components
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

from mner.data.formats.docbin import import_spacy
from mner.errors import CheckpointError
from mner.tagger.post import Entity, Post, Tagged
from mner.tagger.tagger import Tagger

spacy = import_spacy()
log = logging.getLogger(__name__)
Alignment = Literal["expand", "contract", "strict"]
DEFAULTS: dict[str, Any] = {
    "checkpoint": None,
    "device": "auto",
    "batch_size": 32,
    "min_score": 0.0,
    "names": None,
    "captioner": None,
    "label_set": None,
    "alignment": "expand",
    "overwrite_ents": True,
}
"""The configuration of the component."""


class Component:
    """Finds entities in documents: `doc.ents`, and the probability of each in `span._.score`.

    `doc._.image` (a path, bytes, an image from PIL, or a list of those) and `doc._.context` (a text, a list or a
    mapping) are what the model is given beside the text. The model splits the text in its own way, as in training. An
    entity whose edges fall within tokens of spaCy is grown to whole tokens (`expand`), cut to those that it covers
    wholly (`contract`), or left out (`strict`). Those are in `doc._.unaligned`, as (start, end, type, score) with
    places in characters. What was found in all documents is counted in `counts`.

    Args:
        checkpoint: The checkpoint that `mner fit` wrote, or the folder or Hub name of a shared model; None where it is
            to come from disk.
        alignment: What is done with entities that cut tokens.
        overwrite_ents: Whether entities that the document has already are replaced; else ours make way for them.
        options: As for `Tagger`.
    """

    def __init__(
        self, checkpoint: str | None, alignment: Alignment = "expand", overwrite_ents: bool = True, **options: Any
    ) -> None:
        if alignment not in get_args(Alignment):
            raise ValueError(f"Expected `alignment` to be one of {get_args(Alignment)}, but got {alignment!r}")
        self.alignment = alignment
        self.overwrite_ents = overwrite_ents
        self.options = options
        self.counts: Counter[str] = Counter()
        self._tagger: Tagger | None = None
        self._why = "the component has no model; give `checkpoint` in its config, or load it from disk"
        extend()
        if checkpoint is not None:
            try:
                self._tagger = Tagger.load(checkpoint, **options)
            except CheckpointError as error:  # a pipeline from disk brings the model itself
                self._why = str(error)
                log.warning("mner: %s", error)

    @property
    def tagger(self) -> Tagger:
        """The tagger.

        Raises:
            CheckpointError: If there is no model.
        """
        if self._tagger is None:
            raise CheckpointError(self._why)
        return self._tagger

    def __call__(self, doc: Any) -> Any:
        """The document with its entities."""
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Any], batch_size: int | None = None) -> Iterator[Any]:
        """The documents with their entities, tagged in batches.

        Args:
            stream: Documents.
            batch_size: How many are read at once; None for the tagger's own.
        """
        documents = iter(stream)
        while batch := list(islice(documents, batch_size or self.tagger.batch_size)):
            posts = [Post(text=doc.text, image=doc._.image, context=doc._.context) for doc in batch]
            yield from map(self._marked, batch, self.tagger(posts))

    def score(self, examples: Iterable[Any], **options: Any) -> dict[str, Any]:
        """Precision, recall and F1 of entities, as spaCy's own components have them."""
        from spacy.scorer import get_ner_prf

        scores: dict[str, Any] = get_ner_prf(examples, **options)
        return scores

    def _marked(self, doc: Any, tagged: Tagged) -> Any:
        kept, unaligned = [], []
        taken = [False] * len(doc)
        before = [] if self.overwrite_ents else list(doc.ents)
        for span in before:
            taken[span.start : span.end] = [True] * len(span)
        for entity in sorted(tagged, key=lambda one: -one.score):  # where two meet in a token, the surer one stays
            span = doc.char_span(entity.start, entity.end, label=entity.type, alignment_mode=self.alignment)
            if span is None or (span.start_char, span.end_char) != (entity.start, entity.end):
                unaligned.append(entity)
            if span is None or any(taken[span.start : span.end]):
                self.counts["left out" if span is None else "overlapping, left out"] += 1
                continue
            taken[span.start : span.end] = [True] * len(span)
            span._.score = entity.score
            kept.append(span)
        if unaligned and not self.counts["cut tokens"]:
            log.warning(
                "mner: entities that cut tokens of spaCy, such as %r, are treated by alignment=%r; doc._.unaligned has "
                "them", unaligned[0].text, self.alignment,
            )  # fmt: skip
        self.counts.update({"documents": 1, "entities": len(kept), "cut tokens": len(unaligned)})
        doc._.unaligned = [(one.start, one.end, one.type, one.score) for one in _in_order(unaligned)]
        doc.set_ents([*before, *kept], default="outside")
        return doc

    # To disk and back: the model goes along

    def to_disk(self, path: Any, *, exclude: Iterable[str] = ()) -> None:
        """Write the model as `Tagger.save_pretrained` does."""
        self.tagger.save_pretrained(path)

    def from_disk(self, path: Any, *, exclude: Iterable[str] = ()) -> Component:
        """Take the model from a folder that `to_disk` wrote."""
        self._tagger = Tagger.from_pretrained(path, **self.options)
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """The model as bytes: the files of `to_disk` in a ZIP archive."""
        content = io.BytesIO()
        with TemporaryDirectory() as folder, zipfile.ZipFile(content, "w") as archive:
            self.to_disk(folder)
            for file in sorted(Path(folder).iterdir()):
                if file.is_file() and not file.name.startswith("."):
                    archive.write(file, file.name)
        return content.getvalue()

    def from_bytes(self, content: bytes, *, exclude: Iterable[str] = ()) -> Component:
        """Take the model from what `to_bytes` gave."""
        with TemporaryDirectory() as folder, zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(folder)
            return self.from_disk(folder)

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_tagger"}
        return {**state, "model": None if self._tagger is None else self.to_bytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        model = state.pop("model")
        self.__dict__.update(state, _tagger=None)
        extend()
        if model is not None:
            self.from_bytes(model)


def _in_order(entities: Iterable[Entity]) -> list[Entity]:
    return sorted(entities, key=lambda one: (one.start, one.end))


def extend() -> None:
    """Give documents `image`, `context` and `unaligned`, and spans `score`; what is there already stays."""
    for kind, names in ((spacy.tokens.Doc, ("image", "context", "unaligned")), (spacy.tokens.Span, ("score",))):
        for name in names:
            if not kind.has_extension(name):
                kind.set_extension(name, default=None)


def make(
    nlp: Any,
    name: str,
    checkpoint: str | None,
    device: str,
    batch_size: int,
    min_score: float,
    names: list[str] | None,
    captioner: str | None,
    label_set: str | None,
    alignment: str,
    overwrite_ents: bool,
) -> Component:
    """The component, as spaCy makes it from its configuration."""
    options: dict[str, Any] = {"device": device, "batch_size": batch_size, "min_score": min_score, "names": names}
    options |= {"captioner": captioner, "label_set": label_set}
    kind: Any = alignment
    return Component(checkpoint, kind, overwrite_ents, **options)


spacy.Language.factory(
    "mner",
    default_config=DEFAULTS,
    assigns=["doc.ents", "token.ent_iob", "token.ent_type", "span._.score"],
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0, "ents_per_type": None},
    func=make,
)
