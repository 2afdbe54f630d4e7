"""`mner retrieve`: the texts most like a post, from any folder of texts or the training split, as a text source.

Wang et al. (2022, MoRe) retrieve by the post's words and by its image; neighbours from the training split need nothing
else. What would give the answer away is left out: the post itself, posts of its image, near-duplicates of its text by
the rule that `mner.data.splitting` keeps splits apart with.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mner.data.examples import Example
from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.image_names import image_key
from mner.data.formats.posts import read_posts
from mner.data.sources import find_posts
from mner.data.splitting import near_duplicates, text_pieces
from mner.errors import DataFormatError, DataNotFoundError
from mner.files import STANDARD, digest
from mner.preprocessing.bm25 import BM25, Found
from mner.preprocessing.corpus import Corpus, Kind, Text, build_corpus, text_of
from mner.preprocessing.growing_texts import GrowingTexts

SPARE = 16
"""Texts that are looked at beyond those that are wanted, before more are asked for."""
ITSELF, SAME_IMAGE = "the post itself", "of its image"
DUPLICATE, REPEATED = "near-duplicates of it", "near-duplicates of a better one"


class Search(Protocol):
    """Finds texts of a corpus."""

    name: str
    corpus: Corpus

    def search(self, queries: Sequence[Text], count: int) -> list[Found]:
        """The `count` best texts for each query, best first."""


class Neighbours(NamedTuple):
    """What was retrieved for a post.

    Attributes:
        texts: The texts, best first.
        numbers: Their numbers in the corpus.
        dropped: How many better ones were left out, by reason.
    """

    texts: list[Text]
    numbers: list[int]
    dropped: dict[str, int]


def find_neighbours(search: Search, posts: Sequence[Text], k: int) -> list[Neighbours]:
    """The k best texts for each post that do not give its answer away.

    Left out are texts of its id or its image, near-duplicates of its text, and near-duplicates of a better neighbour.

    Args:
        search: Finds texts.
        posts: The posts.
        k: Texts for each; fewer where the corpus has no more.
    """
    found = []
    for post, candidates in zip(posts, search.search(posts, k + SPARE), strict=True):
        count, kept = k + SPARE, _chosen(search.corpus, post, candidates, k)
        while len(kept.texts) < k and len(candidates) == count < len(search.corpus):
            count = min(4 * count, len(search.corpus))
            candidates = search.search([post], count)[0]
            kept = _chosen(search.corpus, post, candidates, k)
        found.append(kept)
    return found


def _chosen(corpus: Corpus, post: Text, candidates: Found, k: int) -> Neighbours:
    own = text_pieces(post.text)
    texts: list[Text] = []
    numbers: list[int] = []
    pieces: list[frozenset[int]] = []
    dropped: Counter[str] = Counter()
    for number, _ in candidates:
        if len(texts) == k:
            break
        text = corpus[number]
        its = text_pieces(text.text)
        if text.id is not None and text.id == post.id:
            dropped[ITSELF] += 1
        elif text.image_id is not None and post.image_id and image_key(text.image_id) == image_key(post.image_id):
            dropped[SAME_IMAGE] += 1
        elif near_duplicates(own, its):
            dropped[DUPLICATE] += 1
        elif any(near_duplicates(one, its) for one in pieces):
            dropped[REPEATED] += 1
        else:
            texts.append(text)
            numbers.append(number)
            pieces.append(its)
    return Neighbours(texts, numbers, dict(dropped))


def read_all_posts(posts: Path) -> list[Example]:
    """The posts of a file, or of all splits of a folder.

    Raises:
        DataNotFoundError: If there are none.
        DataFormatError: If two splits have posts of one id, to which one file of texts cannot give two.
    """
    found: dict[str, Example] = {}
    for split, file in find_posts(posts).items():
        for post in read_posts(file):
            if post.id in found:
                advice = "Name the file of one split at a time, each with an output of its own."
                raise DataFormatError(file, None, f"post {post.id!r} in two splits", "each id once", advice)
            found[post.id] = post
        if not found:
            raise DataNotFoundError(f"No posts in {file} ({split})")
    return list(found.values())


def retrieve(
    posts: Path,
    corpus: Path | None = None,
    out: Path | None = None,
    by: Literal["bm25", "dense", "image"] = "bm25",
    k: int = 5,
    index: Path | None = None,
    corpus_kind: Kind = "auto",
    model: str | None = None,
    features: Path | None = None,
    approximate: bool = False,
    k1: float = 1.2,
    b: float = 0.75,
    separator: str = " | ",
    max_words: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
) -> None:
    """Retrieve the texts that are most like each post.

    Run again, it goes on where it stopped. The texts are lines `{"id": ..., "text": ..., "model": ..., "from": [...],
    "dropped": {...}}`, with the numbers of the texts in the corpus and what was left out before them: the post itself,
    posts of its image, near-duplicates of its text or of a better neighbour (`mner.data.splitting`: 80 % of their
    pieces of four characters in common, without URLs, users and signs).

    Args:
        posts: File of posts, or folder whose splits are all taken.
        corpus: What is retrieved from: a data set's folder, for its training split; a file of posts; JSON lines with
            `text` or `tokens`; a folder of text files, whose paragraphs are the texts.
        out: JSON lines file; `-` is the standard output. It goes on only with the same posts, corpus and options, which
            OUT.mner.json keeps.
        by: What is compared: words (`bm25`), vectors of an encoder (`dense`), or the posts' images (`image`).
        k: Texts for each post.
        index: Folder for what is built of the corpus once; several outputs may share it. None for OUT.index.
        corpus_kind: How the corpus is read: `posts`, `json`, `lines` (a text a line), `files`; `auto` goes by what it
            is.
        model: For `dense`: transformers model (Hub name or folder) whose word pieces' mean is compared, or a checkpoint
            that `mner fit` wrote.
        features: For `image`: store of features (`mner features`) with the images of posts and corpus.
        approximate: For `dense` and `image`: an approximate index (usearch) in place of all comparisons.
        k1: Of BM25: how fast the repetition of a word stops to count.
        b: Of BM25: how much the length of a text counts.
        separator: Between the texts.
        max_words: Words of each text that are kept; None for all.
        batch_size: Posts, and texts of the encoder, in a batch.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        DataNotFoundError: If posts, corpus or features are missing.
        DataFormatError: If `out` or `index` hold something else, or were made otherwise.
        MissingDependencyError: Without bm25s, or usearch for `approximate`.
    """
    if corpus is None or out is None:
        raise DataNotFoundError(f"Expected {'--corpus' if corpus is None else '--out'}, but got none")
    if (by == "dense") != (model is not None) or (by == "image") != (features is not None):
        raise ValueError(f"Expected --model with --by dense and --features with --by image alone, but got --by {by}")
    if k < 1 or batch_size < 1 or (max_words is not None and max_words < 1):
        raise ValueError(f"Expected `k`, `batch_size`, `max_words` of at least 1, got {k}, {batch_size}, {max_words}")
    if index is None and str(out) == STANDARD:
        raise ValueError("Expected --index, the folder for what is built of the corpus, with --out -")
    examples = read_all_posts(posts)
    texts = build_corpus(corpus, index or out.with_name(f"{out.name}.index"), corpus_kind)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        search: Search
        if by == "bm25":
            search, made = BM25(texts, k1, b), {"k1": k1, "b": b}
        else:
            from mner.preprocessing.vectors import Encoder, ImageVectors, MeanEncoder, Nearest  # torch, for these alone

            encoder: Encoder
            if model is not None:
                encoder = MeanEncoder(model, batch_size, device)
            else:
                encoder = ImageVectors(FeatureStore(str(features)))
            task = progress.add_task("vectors of the corpus", total=len(texts))
            search = Nearest(texts, encoder, approximate, lambda done: progress.update(task, completed=done))
            progress.update(task, completed=len(texts))
            made = {**encoder.facts, "approximate": approximate}
        facts = {
            "model": search.name, "posts": digest(posts) if posts.is_file() else str(posts.resolve()),
            "corpus": json.loads((texts.folder / "corpus.json").read_text("utf-8"))["facts"],
            "k": k, "separator": separator, "max_words": max_words, **made,
        }  # fmt: skip
        with GrowingTexts(out, "text", facts, [posts, corpus], "id") as growing:
            wanted = [post for post in examples if post.id not in growing.done]
            task = progress.add_task("posts", total=len(examples), completed=len(examples) - len(wanted))
            for start in range(0, len(wanted), batch_size):
                batch = wanted[start : start + batch_size]
                found = find_neighbours(search, [text_of(post) for post in batch], k)
                records = [{"from": one.numbers, "dropped": one.dropped} for one in found]
                joined = [_joined(one, separator, max_words) for one in found]
                growing.write([post.id for post in batch], joined, records)
                progress.update(task, advance=len(batch))
    print(report(out, len(examples), len(wanted), k), file=sys.stderr)


def _joined(found: Neighbours, separator: str, max_words: int | None) -> str:
    return separator.join(" ".join(text.text.split()[:max_words]) for text in found.texts)


def report(out: Path, posts: int, new: int, k: int) -> str:
    """What was done, for the user; with the counts of the whole file, whichever run wrote its lines.

    Args:
        out: The file of texts.
        posts: Number of posts.
        new: How many of them this run did.
        k: Texts that were wanted for each.
    """
    done = f"{new} posts done" + (f", {posts - new} were done before" if posts > new else "")
    if not Path(out).is_file():
        return done
    few, none = 0, 0
    dropped: Counter[str] = Counter()
    with Path(out).open(encoding="utf-8") as stream:
        for line in stream:
            record = json.loads(line)
            few += len(record["from"]) < k
            none += not record["from"]
            dropped.update(record["dropped"])
    named = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "none"
    return f"{done}\n{few} posts have fewer than {k} texts, {none} of them none\ntexts left out: {named}"
