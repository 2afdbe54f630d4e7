"""What `mner tag` wrote, as pre-annotations: tasks of annotation tools that hold a model's predictions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mner.data.examples import Example
from mner.data.formats.docbin import import_spacy
from mner.data.formats.posts import FORMATS
from mner.errors import MNERError
from mner.files import name_on_disk, output_folder
from mner.tagger.bulk import OURS

Tagged = Mapping[str, Any]
"""A line of JSON that `mner tag` wrote."""
NAMES = {"labelstudio": "label_studio"}
"""Other names of formats."""
WRITTEN = ("jsonl", *NAMES, *(name for name, one in FORMATS.items() if one.write is not None))
"""All formats by name."""
_BY_SUFFIX = {".conll": "conll", ".txt": "conll", ".spacy": "spacy", ".parquet": "parquet", ".iob": "spacy_iob"}
_IMAGES = ("image", "image_ids", "image_id")


def format_of(name: str, output: str) -> str:
    """The format that is written: `jsonl` (mner's own), or one of `mner.data.formats.posts`.

    Args:
        name: Its name; `auto` to go by the suffix of the output.
        output: The output.

    Raises:
        MNERError: If there is no such format.
    """
    if name == "auto":
        return _BY_SUFFIX.get(Path(output).suffix.lower(), "jsonl")
    if name not in WRITTEN:
        raise MNERError(f"there is no format {name!r} to write; there are {', '.join(WRITTEN)}")
    return NAMES.get(name, name)


def write_pre_annotations(tagged: Path, out: Path, format: str, model_version: str) -> int:
    """Write the posts of a file of `mner tag` in another format; those that could not be tagged stay behind.

    Label Studio, Prodigy, doccano and brat get the text as it was given, with spans over its characters, and the scores
    where they have a place; so does spaCy's DocBin. The other formats get words and tags. What stood beside a post in
    the input stays beside it in formats of JSON.

    Args:
        tagged: The file, JSON lines.
        out: A file, or for brat a folder; what mner wrote there is replaced.
        format: Its format.
        model_version: What Label Studio is told of the model.

    Returns:
        The number of posts.

    Raises:
        DataFormatError: If there is a file that mner did not write.
        MNERError: If the format cannot express a post.
    """
    if format == "brat":
        with output_folder(out) as folder:
            return _write_brat(tagged, folder)
    with output_folder(out.parent) as draft:
        place = draft / out.name
        if format in ("prodigy", "doccano"):
            return _write_lines(tagged, place, {"prodigy": _prodigy, "doccano": _doccano}[format])
        if format == "label_studio":
            return _write_label_studio(tagged, place, model_version)
        if format == "spacy":
            return _write_docbin(tagged, place)
        posts = [_example(record, format) for record in _records(tagged)]
        write = FORMATS[format].write
        assert write is not None
        write(place, posts)
        return len(posts)


def _records(tagged: Path) -> Iterator[Tagged]:
    with tagged.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            if "error" not in record:
                yield record


def _write_lines(tagged: Path, place: Path, task: Callable[[Tagged], dict[str, Any]]) -> int:
    count = 0
    with place.open("w", encoding="utf-8", newline="\n") as file:
        for record in _records(tagged):
            file.write(json.dumps(task(record), ensure_ascii=False) + "\n")
            count += 1
    return count


def _named(record: Tagged) -> str:
    """The id of a post; of one without, its place in the input."""
    name = f"line {record['number']}" if record["id"] is None else str(record["id"])
    return f"{record['source_file']}/{name}" if "source_file" in record else name


def _own(record: Tagged, taken: tuple[str, ...]) -> dict[str, Any]:
    """What stood beside the post in the input; under `given` what has the name of a field of the task."""
    own = {key: value for key, value in record.items() if key not in OURS}
    given = {**(record.get("given") or {}), **{key: own.pop(key) for key in taken if key in own}}
    return {**own, **({"given": given} if given else {})}


def _write_label_studio(tagged: Path, place: Path, model_version: str) -> int:
    """A list of tasks with a prediction each; the least score of its entities is the task's, by which they are sorted.

    Source: https://labelstud.io/guide/predictions
    """
    count = 0
    with place.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for count, record in enumerate(_records(tagged), start=1):
            task = json.dumps(_label_studio(record, count, model_version), ensure_ascii=False, indent=1)
            file.write(",\n" + task if count > 1 else task)
        file.write("]\n")
    return count


def _label_studio(record: Tagged, number: int, model_version: str) -> dict[str, Any]:
    text = record["text"]
    results = [
        {
            "id": f"{number}-{place}",
            "from_name": "label",
            "to_name": "text",
            "type": "labels",
            "score": entity["score"],
            "value": {
                "start": _utf16(text, entity["start"]),
                "end": _utf16(text, entity["end"]),
                "text": entity["text"],
                "labels": [entity["type"]],
            },
        }
        for place, entity in enumerate(record["entities"])
    ]
    prediction: dict[str, Any] = {"model_version": model_version, "result": results}
    if results:
        prediction["score"] = min(entity["score"] for entity in record["entities"])
    data = {"id": _named(record), "text": text, **_own(record, ("id", "text"))}
    return {"data": data, "predictions": [prediction]}


def _utf16(text: str, place: int) -> int:
    """Label Studio counts as its browser does."""
    return len(text[:place].encode("utf-16-le", "surrogatepass")) // 2


def _prodigy(record: Tagged) -> dict[str, Any]:
    """A task of `ner_manual` with its tokens; without `answer`, since nobody gave one.

    Source: https://prodi.gy/docs/api-interfaces#ner_manual
    """
    text, places = record["text"], _places(record)
    tokens = [
        {"text": text[start:end], "start": start, "end": end, "id": number, "ws": text[end : end + 1] == " "}
        for number, (start, end) in enumerate(places)
    ]
    spans = [
        {
            "start": entity["start"],
            "end": entity["end"],
            "token_start": entity["word_start"],
            "token_end": entity["word_end"] - 1,
            "label": entity["type"],
            "score": entity["score"],
        }
        for entity in record["entities"]
    ]
    own = _own(record, ("text", "tokens", "spans", "answer", "meta", "_view_id"))
    beside = own.get("given", {}).pop("meta", {})
    meta = {**(beside if isinstance(beside, dict) else {"meta": beside}), "id": _named(record)}
    if "given" in own and not own["given"]:
        del own["given"]
    return {"text": text, "tokens": tokens, "spans": spans, "meta": meta, "_view_id": "ner_manual", **own}


def _doccano(record: Tagged) -> dict[str, Any]:
    """Source: https://doccano.github.io/doccano/tutorial/."""
    labels = [[entity["start"], entity["end"], entity["type"]] for entity in record["entities"]]
    own = _own(record, ("id", "text", "label", "labels", "entities", "annotations"))
    return {"id": _named(record), "text": record["text"], "label": labels, **own}


def _places(record: Tagged) -> list[tuple[int, int]]:
    """Where the words are in the text; they follow one another."""
    places, start = [], 0
    for word in record["words"]:
        start = record["text"].index(word, start)
        places.append((start, start + len(word)))
        start += len(word)
    return places


def _write_brat(tagged: Path, folder: Path) -> int:
    """A `.txt` with an `.ann` beside it for each post, named by its id; scores are annotators' notes.

    A span over a line break has a part in each line. Source: https://brat.nlplab.org/standoff.html
    """
    count = 0
    for record in _records(tagged):
        count += 1
        name = _named(record)
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or str(pure) != name or "\0" in name:
            raise MNERError(f"The id {name!r} cannot be the name of a file; brat has no other place for ids")
        place = folder / name_on_disk(f"{name}.txt")
        if place.exists():
            raise MNERError(f"Two posts have the id {name!r}, the name of a file for brat; give each its own")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(record["text"].encode(errors="replace"))
        place.with_suffix(".ann").write_bytes("".join(_brat(record)).encode(errors="replace"))
    return count


def _brat(record: Tagged) -> Iterator[str]:
    for number, entity in enumerate(record["entities"], start=1):
        pieces, start = [], entity["start"]
        for line in entity["text"].split("\n"):
            if line.strip():
                pieces.append(f"{start} {start + len(line)}")
            start += len(line) + 1
        text = " ".join(line for line in entity["text"].split("\n") if line.strip())
        yield f"T{number}\t{entity['type']} {';'.join(pieces)}\t{text}\n"
        yield f"#{number}\tAnnotatorNotes T{number}\tscore {entity['score']}\n"


def _write_docbin(tagged: Path, place: Path) -> int:
    """Documents with the words as tokens, the entities as `ents`, and their scores in `user_data`."""
    spacy = import_spacy()
    vocab = spacy.vocab.Vocab()
    docbin = spacy.tokens.DocBin(attrs=["ENT_IOB", "ENT_TYPE"], store_user_data=True)
    for record in _records(tagged):
        tokens, spaces, where = _tokens(record)
        doc = spacy.tokens.Doc(vocab, words=tokens, spaces=spaces)
        ents = [
            spacy.tokens.Span(doc, where[e["word_start"]], where[e["word_end"] - 1] + 1, label=e["type"])
            for e in record["entities"]
        ]
        doc.set_ents(ents, default="outside")
        doc.user_data["id"] = _named(record)
        doc.user_data["scores"] = [entity["score"] for entity in record["entities"]]
        if images := _images(record):
            doc.user_data["image_ids"] = list(images)
        docbin.add(doc)
    place.write_bytes(docbin.to_bytes())
    return len(docbin)


def _tokens(record: Tagged) -> tuple[list[str], list[bool], list[int]]:
    """Words and what is between them as spaCy's tokens, which of them a space follows, and the place of each word.

    One space belongs to the token before it; other white space is a token. What is not seen (zero-width signs) belongs
    to the token before it, or is one behind a space.
    """
    text = record["text"]
    tokens: list[str] = []
    spaces: list[bool] = []
    where = []
    done = 0
    for start, end in [*_places(record), (len(text), len(text))]:
        gap = text[done:start]
        if gap and tokens and gap[0] == " " and not spaces[-1]:
            spaces[-1], gap = True, gap[1:]
        if gap.strip() and tokens and not spaces[-1]:
            tokens[-1], gap = tokens[-1] + gap, ""
        if gap:
            tokens.append(gap)
            spaces.append(False)
        if end > start:
            where.append(len(tokens))
            tokens.append(text[start:end])
            spaces.append(False)
        done = end
    return tokens, spaces, where


def _images(record: Tagged) -> tuple[str, ...]:
    for key in _IMAGES:
        value = record.get(key)
        if value is not None:
            return tuple(map(str, value)) if isinstance(value, list) else (str(value),)
    return ()


def _example(record: Tagged, format: str) -> Example:
    images = (_named(record),) if format == "conll" else _images(record)  # CoNLL has one id a post
    first = images[0] if images else None
    return Example(_named(record), first, tuple(record["words"]), tuple(record["tags"]), more_images=images[1:])
