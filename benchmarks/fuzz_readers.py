"""Damaged files for every reader: each must give posts or an error that says where, and lose nothing in silence.

Valid files are made of invented posts with odd words, then broken as files are in real life (cut off, joined, saved in
another encoding, columns dropped) and as an enemy would break them (bytes flipped, thousands of brackets, lines of a
megabyte). What a reader gives is counted against the file by rules that share no code with it.

    python benchmarks/fuzz_readers.py --inputs 200000
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from breakage import BREAKS

from mner.data.examples import Example
from mner.data.formats.conll import read_conll, write_conll
from mner.data.formats.context import read_context
from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.feature_writer import FeatureWriter
from mner.data.formats.images import image_key
from mner.data.formats.json_lines import read_jsonl, write_jsonl
from mner.data.formats.predictions import Prediction, ScoredSpan, prediction_header, read_predictions, write_predictions
from mner.errors import DataFormatError
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
Outcome = str  # "read", "refused", "lost: …", or the name of another exception


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


def tag_lines(path: Path) -> Any:
    """What `mner tag` makes of a file."""
    with path.open("rb") as stream:
        return list(from_lines(stream, str(path), IMAGES))


def tag_folder(path: Path) -> Any:
    """What `mner tag` makes of a folder; it has this one file."""
    return list(from_folder(path.parent, IMAGES))


IMAGES = Images(Path(tempfile.mkdtemp(prefix="fuzz-images-")))


def lost_posts(lines: list[str], found: Any) -> str:
    """CoNLL: as many posts as id lines, as many words as other lines."""
    ids = sum(line.startswith("IMGID:") and "\t" not in line for line in lines)
    words = sum(len(post.words) for post in found)
    return "" if (len(found), words) == (ids, len(lines) - ids) else f"{len(found)} posts, {words} words"


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


def lost_given(lines: list[str], found: Any) -> str:
    """`mner tag`: each line that is not blank is a post or has an error, not both."""
    if any((one.post is None) == (not one.error) for one in found):
        return "a post without outcome"
    return "" if len(found) == len(lines) else f"{len(found)} of {len(lines)} lines"


def lost_file(lines: list[str], found: Any) -> str:
    """`mner tag` on a folder: one file, one outcome."""
    return lost_given(["the file"], found)


READERS = {
    "read_conll": Reader(".txt", lambda pick, p: _conll(pick, p), read_conll, lost_posts),
    "read_jsonl": Reader(".jsonl", lambda pick, p: write_jsonl(p, posts(pick)), read_jsonl, lost_lines),
    "read_predictions, JSON lines": Reader(".jsonl", make_predictions, read_predictions, lost_rows),
    "read_predictions, CoNLL": Reader(".txt", make_columns, read_predictions, lost_rows),
    "read_context, JSON lines": Reader(".jsonl", make_json_context, read_context, lost_texts),
    "read_context, plain lines": Reader(".txt", make_plain_context, read_context, lost_texts),
    "mner tag, lines": Reader(".jsonl", make_lines, tag_lines, lost_given),
    "mner tag, folder": Reader(".txt", make_text, tag_folder, lost_file),
}


def _conll(pick: random.Random, path: Path) -> None:
    write_conll(path, posts(pick, one_id=True))


def non_empty(raw: bytes, name: str) -> list[str]:
    """The lines that must have an outcome: only a line feed ends one."""
    if name.startswith("mner tag"):
        lines = raw.split(b"\n")
        return [line.decode(errors="replace") for line in lines if line.strip() or len(line) > MAX_BYTES]
    lines = (line.removesuffix("\r") for line in raw.decode("utf-8-sig").split("\n"))
    return [line for line in lines if line]


def outcome(name: str, path: Path, raw: bytes) -> tuple[Outcome, str]:
    """What a reader makes of a file, and the details of what must not be."""
    reader = READERS[name]
    try:
        found = reader.read(path)
    except DataFormatError as error:
        good = error.path == str(path) and error.line is not None and error.found and error.expected
        return ("refused", "") if good else ("an error that does not say where", str(error))
    except Exception as error:
        return type(error).__name__, traceback.format_exc()
    try:
        lost = reader.lost(non_empty(raw, name), found)
    except (ValueError, KeyError) as error:  # what was read should have been refused
        lost = repr(error)
    return ("lost something", lost) if lost else ("read", "")


def store_outcome(folder: Path) -> tuple[Outcome, str]:
    """As `outcome`, for stored features."""
    try:
        store = FeatureStore(folder)
        _ = [store[key] for key in store], store.broken
    except DataFormatError:
        return "refused", ""
    except Exception as error:
        return type(error).__name__, traceback.format_exc()
    return "read", ""


def make_store(pick: random.Random, folder: Path) -> None:
    """Stored features of a few images."""
    import numpy as np

    kind: Any = pick.choice(["grid", "regions"])
    counts = [2, 2, 2] if kind == "grid" else [1, 0, 3]
    features = [np.zeros((count, 4), np.float32) for count in counts]
    more: dict[str, Any] = {}
    if kind == "regions":
        more["boxes"] = [np.zeros((count, 4), np.float32) for count in counts]
        more["scores"] = [np.zeros(count, np.float32) for count in counts]
        more["names"] = [["dog"] * count for count in counts]
    with FeatureWriter(folder, kind=kind, encoder="test", width=4, weights="none", classes=["dog"]) as writer:
        writer.append(["a", "b", "c"], features, **more)
        writer.finish()


def fuzz(inputs: int, seed: int = 0, stores: bool = True) -> tuple[dict[str, Counter[str]], list[str]]:
    """Break `inputs` files; the outcomes of each reader, and the details of what must not be."""
    pick = random.Random(seed)
    counts: dict[str, Counter[str]] = {name: Counter() for name in READERS}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        valid: dict[str, list[bytes]] = {}
        for name, reader in READERS.items():
            path = Path(folder) / f"valid{reader.suffix}"
            valid[name] = []
            while len(valid[name]) < 60:
                reader.make(pick, path)
                raw = path.read_bytes()
                if raw.strip() and (name == "mner tag, folder" or outcome(name, path, raw) == ("read", "")):
                    valid[name].append(raw)
            path.unlink()
        every = [raw for some in valid.values() for raw in some]
        names = list(READERS)
        for number in range(inputs):
            name = names[number % len(names)]
            raw = pick.choice(valid[name])
            for _ in range(pick.choice((1, 1, 1, 2, 2, 3, 5))):
                other = pick.choice(valid[name] if pick.random() < 0.7 else every)
                raw = pick.choice(BREAKS)(pick, raw, other) if raw else raw
            path = Path(folder) / f"a{READERS[name].suffix}"
            path.write_bytes(raw)
            result, details = outcome(name, path, raw)
            counts[name][result] += 1
            if details:
                wrong.append(f"{name}: {result}: {details}\n{raw[:500]!r}")
            path.unlink()
        if stores:
            counts["FeatureStore"] = fuzz_stores(inputs // 20, pick, Path(folder), wrong)
    return counts, wrong


def fuzz_stores(inputs: int, pick: random.Random, folder: Path, wrong: list[str]) -> Counter[str]:
    """As `fuzz`, for the files of stored features."""
    counts: Counter[str] = Counter()
    stores = []
    for number in range(4):
        make_store(pick, folder / f"store{number}")
        stores.append({file.name: file.read_bytes() for file in (folder / f"store{number}").iterdir()})
    place = folder / "store"
    place.mkdir()
    for _ in range(inputs):
        files = dict(pick.choice(stores))
        name = pick.choice([name for name in files if name != "lock"])
        raw = files[name]
        for _ in range(pick.choice((1, 1, 2, 3))):
            raw = pick.choice(BREAKS)(pick, raw, pick.choice(list(files.values()))) if raw else raw
        if pick.random() < 0.3 and name == "meta.json":
            value = pick.choice((b"0", b"-1", b"1e9", b"true", b"null", b'"4"', b"99999999999999999999", b"[]", b"{}"))
            key = pick.choice((b"width", b"images", b"regions", b"dtype", b"kind", b"complete", b"encoder"))
            raw = files[name].replace(b'"%s": ' % key, b'"%s": %s, "x": ' % (key, value))
        files[name] = raw
        for file, content in files.items():
            (place / file).write_bytes(content)
        result, details = store_outcome(place)
        counts[result] += 1
        if details:
            wrong.append(f"FeatureStore: {result}: {details}\n{name}: {raw[:500]!r}")
        for file in place.iterdir():
            file.unlink()
    return counts


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=5, help="how many of the wrong outcomes to show")
    given = parser.parse_args()
    begin = time.perf_counter()
    counts, wrong = fuzz(given.inputs, given.seed)
    columns = ["read", "refused", *sorted({name for some in counts.values() for name in some} - {"read", "refused"})]
    print("| reader | files | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    for name, some in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"| {name} | {some.total()} | " + " | ".join(str(some[column]) for column in columns) + " |")
    print(f"\n{len(wrong)} wrong, {time.perf_counter() - begin:.0f} s")
    for one in wrong[: given.show]:
        print(f"\n{one}")
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
