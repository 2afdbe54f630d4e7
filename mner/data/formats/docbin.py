"""spaCy's binary format `.spacy` (DocBin), read and written by spaCy.

Source: https://spacy.io/api/docbin
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mner.data.examples import Example
from mner.data.formats.lines import Source
from mner.data.formats.records import Mark, Notes, Reading, Record
from mner.errors import DataFormatError, MissingDependencyError
from mner.files import whole
from mner.labels import spans


def import_spacy() -> Any:
    """The package `spacy`.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        import spacy
        import spacy.tokens
        import spacy.vocab
    except ImportError:
        raise MissingDependencyError(
            "Expected the package `spacy` for .spacy files, but it is not installed; `pip install 'mner[spacy]'`"
        ) from None
    return spacy


def read_docbin(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """A record for each document: its tokens, and its entities, or the spans of the group that `fields` names."""
    spacy = import_spacy()
    try:
        found = spacy.tokens.DocBin().from_bytes(source.raw).get_docs(spacy.vocab.Vocab())
        docs = list(found)
    except DataFormatError:
        raise
    except Exception as error:  # zlib, msgpack and spaCy have errors of their own
        raise DataFormatError(source, None, f"no DocBin ({type(error).__name__})", "a .spacy file of spaCy 3") from None
    records = []
    for number, doc in enumerate(docs, start=1):
        group = reading.fields.get("spans")
        if group is not None and group not in doc.spans:
            found = f"no spans {group!r} (there are {', '.join(doc.spans) or 'none'})"
            raise source.fault(f"document {number}", found, "the spans there, in each document")
        marked = doc.ents if group is None else doc.spans[group]
        known = group is not None or not len(doc) or doc.has_annotation("ENT_IOB")
        marks = [Mark(span.start_char, span.end_char, span.label_) for span in marked] if known else None
        places = [(token.idx, token.idx + len(token)) for token in doc if token.text.strip(" \t\r\n")]
        notes.add("tokens of blanks, left out", len(doc) - len(places))
        record = Record(f"document {number}", text=doc.text, places=places, marks=marks)
        record.words = [doc.text[start:end] for start, end in places]
        data = doc.user_data
        record.id = str(data["id"]) if data.get("id") is not None else None
        images = data.get("image_ids") or [data.get("image_id", data.get("image"))]
        record.image_ids = tuple(str(image) for image in images if image is not None)
        records.append(record)
    return records


def write_docbin(path: Path, posts: Sequence[Example]) -> None:
    """Posts as a DocBin; ids and images are the documents' `user_data`."""
    spacy = import_spacy()
    vocab = spacy.vocab.Vocab()
    docbin = spacy.tokens.DocBin(attrs=["ENT_IOB", "ENT_TYPE"], store_user_data=True)
    for post in posts:
        doc = spacy.tokens.Doc(vocab, words=list(post.words), spaces=[True] * (len(post.words) - 1) + [False])
        if post.tags is not None:
            found = [spacy.tokens.Span(doc, one.start, one.end, label=one.type) for one in spans(post.tags)]
            doc.set_ents(found, default="outside")
        doc.user_data["id"] = post.id
        if post.image_ids:
            doc.user_data["image_ids"] = list(post.image_ids)
        docbin.add(doc)
    with whole(path) as stream:
        stream.write(docbin.to_bytes())
