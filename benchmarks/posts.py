"""What the benchmarks run on: posts of a file or made-up ones, and an encoder from a folder or a random one."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from mner.data import read_conll, read_jsonl
from mner.data.examples import Example
from mner.files import locate
from mner.labels import bio_labels

TYPES = ("PER", "LOC", "ORG", "MISC")
SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in ("a", "e", "i", "o", "u", "an", "er", "ol")]


def made_up(
    count: int, words: tuple[int, int] | None = None, types: Sequence[str] = TYPES, seed: int = 0
) -> Iterator[Example]:
    """Posts of invented words, with lengths and entities about as in tweets.

    Args:
        count: How many.
        words: Fewest and most words of a post; None for those of tweets.
        types: Of the entities.
        seed: The same seed makes the same posts.
    """
    pick = random.Random(seed)
    known = ["".join(pick.choices(SYLLABLES, k=pick.choice((1, 1, 2, 2, 3)))) for _ in range(30_000)]
    for number in range(count):
        length = pick.randint(*words) if words else min(max(int(pick.gauss(16, 6)), 3), 35)
        # Zipf's law: few words are most of the text, and there is no end of rare ones.
        post = [known[int(len(known) ** pick.random()) - 1] for _ in range(length)]
        tags = ["O"] * length
        for _ in range(pick.choice((0, 1, 1, 2, 2, 3))):
            start, type_ = pick.randrange(length), pick.choice(types)
            tags[start] = f"B-{type_}"
            if start + 1 < length:
                # Either the entity has two words, or what follows cannot be left as an I- of another.
                tags[start + 1] = f"I-{type_}" if pick.random() < 0.4 else "O"
            if start + 2 < length and tags[start + 2].startswith("I-"):
                tags[start + 2] = "O"
        if pick.random() < 0.3:
            post[-1] = f"https://t.co/{pick.randrange(16**8):08x}"
            tags[-1] = "O"
        yield Example(f"p{number}", f"p{number}", tuple(post), tuple(tags))


def load(path: Path | None, count: int | None = None) -> list[Example]:
    """The posts of a file (CoNLL, or JSON lines by its suffix), or made-up ones; `count` of them, drawn at random."""
    if path is None:
        return list(made_up(count or 4000))
    posts = read_jsonl(path) if path.suffix in (".jsonl", ".json") else read_conll(path)
    if count is not None and count < len(posts):
        posts = random.Random(0).sample(posts, count)
    return posts


def labels_of(posts: Sequence[Example]) -> list[str]:
    """The BIO labels of all types in the posts."""
    return bio_labels(sorted({tag[2:] for post in posts for tag in post.tags or () if tag != "O"}))


def write_plain(path: Path, posts: Sequence[Example]) -> None:
    """JSON lines that every contestant reads without `mner`."""
    with path.open("w", encoding="utf-8") as file:
        for post in posts:
            file.write(json.dumps({"words": post.words, "tags": post.tags}) + "\n")


def encoder_folder(name: str | None, work: Path) -> str:
    """The folder of an encoder; without a name, a random BERT of 6 layers of 384 with the built-in vocabulary."""
    if name is not None:
        return locate(name)
    from transformers import BertConfig, BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = work / "encoder"
    shutil.copytree(locate("tiny"), folder)
    options = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    BertModel(BertConfig(**{**options, **size})).save_pretrained(folder)
    return str(folder)
