"""Damaged files for every reader of text: posts or an error that says where, and nothing lost in silence.

Valid files are made of invented posts with odd words, then broken as files are in real life (cut off, joined, saved in
another encoding, columns dropped) and as an enemy would break them (bytes flipped, thousands of brackets, lines of a
megabyte). What a reader gives is counted against the file by rules that share no code with it.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from outcomes import READ, Outcome, Target, broken, tried

from mner.data.examples import Example
from mner.data.formats.conll import conll_text, read_conll
from mner.data.formats.context import read_context
from mner.data.formats.images import image_key
from mner.data.formats.json_lines import jsonl_text, read_jsonl
from mner.data.formats.predictions import Prediction, ScoredSpan, prediction_header, read_predictions, write_predictions
from mner.data.formats.relations import read_relations
from mner.data.formats.word_vectors import read_vectors
from mner.labels import spans
from mner.tagger.bulk_input import MAX_BYTES, Images, from_folder, from_lines

# Words of real posts that have broken readers: among them what `str.splitlines` splits at.
ODD = ["\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\xa0", "\ufeff", "\ufe0f", "\u200d", "\r", "\x00"]
ODD += [
    " ",
    "a b",
    "IMGID:7",
    "#",
    "{",
    '"',
    "\\",
    "O",
    "B-PER",
    "é",
    "😀",
    "👨\u200d👩",
    "\U0010ffff",
    ":",
    ",",
    "null",
]
TAGS = ["O", "O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


class Reader(NamedTuple):
    """A way in: what writes a valid file, what reads it, and what must be true of what was read."""

    suffix: str
    make: Callable[[random.Random, Path], None]
    read: Callable[[Path], Any]
    lost: Callable[[list[str], Any], str]  # non-empty lines and what was read -> what is missing


def posts(pick: random.Random, one_id: bool = False) -> list[Example]:
    """Some posts, with odd words among plain ones."""
    found = []
    for number in range(pick.randint(1, 6)):
        length = pick.randint(1, 8)
        words = tuple(pick.choice(ODD) if pick.random() < 0.2 else f"word{pick.randrange(99)}" for _ in range(length))
        tags = tuple(pick.choice(TAGS) for _ in words)
        image = f"16_{number}.jpg"
        found.append(
            Example(f"16_{number}", image, words, tags)
            if one_id
            else Example(str(number), pick.choice([image, None]), words, tags if pick.random() < 0.8 else None)
        )
    return found


def make_predictions(pick: random.Random, path: Path) -> None:
    """A prediction file of ours."""
    found = []
    for post in posts(pick):
        pred = tuple(pick.choice(TAGS) for _ in post.words)
        entities = tuple(ScoredSpan(*span, round(pick.random(), 4)) for span in spans(pred))
        found.append(Prediction(post.id, post.image_id, post.words, post.tags, pred, entities, pick.random() < 0.5))
    labels = sorted(set(TAGS))
    header = prediction_header(model="a.B", split="test", data="D", fingerprint="0" * 16, labels=labels)
    write_predictions(path, header, found)


def make_conll(pick: random.Random, path: Path) -> None:
    """Posts in CoNLL format."""
    path.write_bytes(conll_text(posts(pick, one_id=True)).encode())


def make_json_lines(pick: random.Random, path: Path) -> None:
    """Posts as JSON lines."""
    path.write_bytes(jsonl_text(posts(pick)).encode())


def make_columns(pick: random.Random, path: Path) -> None:
    """CoNLL output of another system."""
    separator, ids, gold = pick.choice(["\t", " "]), pick.random() < 0.5, pick.random() < 0.7
    blocks = []
    for post in posts(pick):
        words = [word if separator == "\t" else "w" for word in post.words]
        rows = [separator.join([word, *pick.choices(TAGS, k=1 + gold)]) for word in words]
        blocks.append("\n".join([f"IMGID:{post.id}"] * ids + rows) + "\n")
    path.write_bytes("\n".join(blocks).encode())


def make_json_context(pick: random.Random, path: Path) -> None:
    """Captions as JSON lines."""
    key = pick.choice(["caption", "text"])
    records = [{"image_id": post.image_id or post.id, key: " ".join(post.words)} for post in posts(pick)]
    path.write_bytes("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())


def make_plain_context(pick: random.Random, path: Path) -> None:
    """Captions as the public files have them."""
    path.write_bytes("".join(f"16_{n}.jpg :{' '.join(p.words)}\n" for n, p in enumerate(posts(pick))).encode())


def make_lines(pick: random.Random, path: Path) -> None:
    """Posts for `mner tag`."""
    lines = []
    for post in posts(pick):
        record: dict[str, Any] = {"id": post.id} if pick.random() < 0.8 else {}
        record |= {"text": " ".join(post.words)} if pick.random() < 0.5 else {"tokens": post.words}
        record |= {"image": post.image_id} if post.image_id else {}
        record |= pick.choice([{}, {"context": "a dog"}, {"context": ["a", ""]}, {"context": {"captions": "a"}}])
        lines.append(json.dumps(record, ensure_ascii=pick.random() < 0.5) + "\n")
    path.write_bytes("".join(lines).encode())


def make_text(pick: random.Random, path: Path) -> None:
    """One text for `mner tag`."""
    path.write_bytes(" ".join(posts(pick)[0].words).encode())


def make_relations(pick: random.Random, path: Path) -> None:
    """Does an image add to its text, as a number."""
    values = [(f"16_{number}", round(pick.random(), 3)) for number in range(pick.randint(1, 6))]
    as_json = pick.random() < 0.5
    lines = [json.dumps({"image_id": key, "relation": n}) if as_json else f"{key}\t{n}" for key, n in values]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


WANTED = {f"word{number}" for number in range(0, 99, 3)}


def make_vectors(pick: random.Random, path: Path) -> None:
    """Word vectors: GloVe's text, word2vec's text and binary, gzipped or not."""
    words = list(dict.fromkeys(f"word{pick.randrange(99)}" for _ in range(pick.randint(1, 8))))
    width, kind = pick.randint(1, 4), pick.choice(("glove", "text", "binary"))
    raw = b"" if kind == "glove" else f"{len(words)} {width}\n".encode()
    for word in words:
        numbers = [pick.uniform(-2, 2) for _ in range(width)]
        if kind == "binary":
            raw += word.encode() + b" " + np.array(numbers, np.float32).tobytes() + b"\n"
        else:
            raw += f"{word} {' '.join(f'{number:.3f}' for number in numbers)}\n".encode()
    path.write_bytes(gzip.compress(raw, 1) if pick.random() < 0.2 else raw)


def tag_lines(path: Path) -> Any:
    """What `mner tag` makes of a file."""
    with path.open("rb") as stream:
        return list(from_lines(stream, str(path), IMAGES))


def tag_folder(path: Path) -> Any:
    """What `mner tag` makes of a folder; it has this one file."""
    return list(from_folder(path.parent, IMAGES))


IMAGES = Images(Path(tempfile.mkdtemp(prefix="fuzz-images-")))


def lost_posts(lines: list[str], found: Any) -> str:
    """CoNLL: as many posts as id lines, as many words as other lines; without id lines comments are no words."""
    ids = sum(line.startswith("IMGID:") and "\t" not in line for line in lines)
    comments = 0 if ids else sum(line.startswith(("#", "-DOCSTART-")) and "\t" not in line for line in lines)
    words = sum(len(post.words) for post in found)
    lost = words != len(lines) - ids - comments or (ids > 0 and len(found) != ids)
    return f"{len(found)} posts, {words} words" if lost else ""


def lost_lines(lines: list[str], found: Any) -> str:
    """JSON lines: as many posts as lines."""
    return "" if len(found) == len(lines) else f"{len(found)} posts of {len(lines)} lines"


def lost_rows(lines: list[str], found: Any) -> str:
    """Predictions: as many posts as lines but the header, or, in columns, as many words as lines."""
    if "mner_predictions" in found.header:
        return "" if len(found.posts) == len(lines) - 1 else f"{len(found.posts)} posts of {len(lines)} lines"
    with_ids = found.posts[0].image_id is not None
    ids = sum(line.startswith("IMGID:") and "\t" not in line for line in lines) if with_ids else 0
    words = sum(len(post.words) for post in found.posts)
    return "" if words == len(lines) - ids else f"{words} words of {len(lines) - ids}"


def lost_texts(lines: list[str], found: Any) -> str:
    """Context: the text of each line is found under its key, those of posts and those of images each for themselves."""
    for line in lines:
        if lines[0].startswith("{"):
            record = json.loads(line)
            text = record["caption"] if "caption" in record else record["text"]
        else:
            key, text = re.split("[ \t]+:", line.removeprefix("\ufeff"), maxsplit=1)
            record = {"image_id": key}
        places = {"id": found.by_post, "image_id": found.by_image}
        if not any(places[kind].get(image_key(record[kind])) == text.strip() for kind in places if record.get(kind)):
            return f"the text of {record}"
    return ""


def lost_values(lines: list[str], found: Any) -> str:
    """Relations: a value for each image that is named, in its range."""
    as_json = lines[0].startswith("{")
    keys = {image_key(json.loads(line)["image_id"] if as_json else line.split("\t")[0]) for line in lines}
    good = keys == found.keys() and all(0 <= value <= 1 for value in found.values())
    return "" if good else f"{found} of {keys}"


def lost_vectors(lines: list[str], found: Any) -> str:
    """Word vectors: all as wide as said, and finite."""
    good = all(vector.shape == (found.width,) and np.isfinite(vector).all() for vector in found.vectors.values())
    return "" if good else "a vector of another width, or with numbers that are none"


def lost_given(lines: list[str], found: Any) -> str:
    """`mner tag`: each line that is not blank is a post or has an error, not both."""
    if any((one.post is None) == (not one.error) for one in found):
        return "a post without outcome"
    return "" if len(found) == len(lines) else f"{len(found)} of {len(lines)} lines"


def lost_file(lines: list[str], found: Any) -> str:
    """`mner tag` on a folder: one file, one outcome."""
    return lost_given(["the file"], found)


READERS = {
    "read_conll": Reader(".txt", make_conll, read_conll, lost_posts),
    "read_jsonl": Reader(".jsonl", make_json_lines, read_jsonl, lost_lines),
    "read_predictions, JSON lines": Reader(".jsonl", make_predictions, read_predictions, lost_rows),
    "read_predictions, CoNLL": Reader(".txt", make_columns, read_predictions, lost_rows),
    "read_context, JSON lines": Reader(".jsonl", make_json_context, read_context, lost_texts),
    "read_context, plain lines": Reader(".txt", make_plain_context, read_context, lost_texts),
    "read_relations": Reader(".txt", make_relations, read_relations, lost_values),
    "read_vectors": Reader(".txt", make_vectors, lambda path: read_vectors(path, WANTED, 3), lost_vectors),
    "mner tag, lines": Reader(".jsonl", make_lines, tag_lines, lost_given),
    "mner tag, folder": Reader(".txt", make_text, tag_folder, lost_file),
}




def non_empty(raw: bytes, name: str) -> list[str]:
    """The lines that must have an outcome: only a line feed ends one."""
    if name.startswith("mner tag"):
        lines = raw.split(b"\n")
        return [line.decode(errors="replace") for line in lines if line.strip() or len(line) > MAX_BYTES]
    if name == "read_vectors":
        return []
    lines = (line.removesuffix("\r") for line in raw.decode("utf-8-sig").split("\n"))
    return [line for line in lines if line]


def reader_target(name: str) -> Target:
    """What breaks a valid file of one reader and reads it."""
    reader = READERS[name]

    def target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
        path = folder / f"a{reader.suffix}"

        def read(raw: bytes) -> Outcome:
            path.write_bytes(raw)
            where = "" if name == "read_vectors" else str(path)  # of a binary file there is no line to name
            return tried(lambda: reader.read(path), lambda found: reader.lost(non_empty(raw, name), found), where)

        valid: list[bytes] = []
        while len(valid) < 60:
            path.unlink(missing_ok=True)
            reader.make(pick, path)
            raw = path.read_bytes()
            if raw.strip() and (name == "mner tag, folder" or read(raw) == READ):
                valid.append(raw)
        foreign = []  # of other readers, since files are joined by mistake
        for other in READERS.values():
            path.unlink()
            other.make(pick, path)
            foreign.append(path.read_bytes())

        def once() -> Outcome:
            others = valid if pick.random() < 0.7 else foreign
            raw = broken(pick, pick.choice(valid), others)
            result, details = read(raw)
            return result, details and f"{details}\n{raw[:500]!r}"

        return once

    return target


TARGETS: dict[str, Target] = {name: reader_target(name) for name in READERS}
