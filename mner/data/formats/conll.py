"""Files of posts: CoNLL with `IMGID:` lines, and JSON lines. Both are read strictly and written back unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike
from sys import intern

from mner.data.examples import Example, Posts
from mner.data.formats.images import image_key
from mner.data.formats.lines import UniqueIds, read_lines, shown
from mner.data.formats.schemes import SchemeOf
from mner.errors import DataFormatError
from mner.files import in_folder

CONLL_SUFFIXES = (".txt", ".conll")
IMGID = "IMGID:"


def read_conll(path: str | PathLike[str]) -> Posts:
    r"""Read posts in the format of the public Twitter-2015 and Twitter-2017 files.

    A post is a line `IMGID:<id>`, then a line `token<TAB>tag` for each word, then a blank line. Lines are split at the
    tab alone, since a word may be a no-break space. The image id is the post's id too. Tags in IOB1, IOBES or BILOU
    become IOB2 (`mner.data.formats.schemes`); a stray `I-` among `B-` is kept as it is.

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: For a wrong tag, a missing or additional column, a post without image id or without words,
            a repeated id, a file that is empty or not UTF-8; with the line.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "train.txt")
    ...     with open(path, "w", encoding="utf-8") as file:
    ...         _ = file.write("IMGID:1\nAnna\tB-PER\nvisits\tO\nLagos\tB-LOC\n")
    ...     (post,) = read_conll(path)
    >>> post.image_id, post.words, post.tags
    ('1', ('Anna', 'visits', 'Lagos'), ('B-PER', 'O', 'B-LOC'))
    """
    ids = UniqueIds(path)
    scheme = SchemeOf(path)
    posts = []
    for block in post_blocks(read_lines(path)):
        number, line = block[0]
        if not is_id_line(line):
            expected = f"'{IMGID}<id>' as the first line of a post"
            advice = "One blank line ends a post. JSON lines are read from files named .jsonl."
            raise DataFormatError(path, number, shown(line), expected, advice)
        id_ = line.removeprefix(IMGID).strip(" ")
        if not id_:
            raise DataFormatError(path, number, f"{shown(line)}, without an id", f"'{IMGID}<id>'")
        ids.add(id_, number)
        if len(block) == 1:
            advice = "Remove the post, or the blank line after its id."
            raise DataFormatError(path, number, f"post {id_!r} without words", "at least one word", advice)
        pairs = [_word_and_tag(path, number, line, scheme) for number, line in block[1:]]
        words, tags = zip(*pairs, strict=True)
        posts.append(Example(id=id_, image_id=id_, words=words, tags=tags))
    return scheme.posts(posts)


def write_conll(path: str | PathLike[str], examples: Iterable[Example]) -> None:
    """Write posts so that `read_conll` gives them back. Context is not written.

    `.mner.json` in the folder keeps what was written there, which alone is replaced.

    Raises:
        DataFormatError: If there is a file that mner did not write, or that somebody changed since.
        ValueError: If a post cannot be expressed: no tags, an image id that is not its id, several images, a tab or
            line break in it.
    """
    blocks = []
    for example in examples:
        if example.tags is None or len(example.tags) != len(example.words) or not example.words:
            raise ValueError(f"Expected words and a tag for each in post {example.id!r}; or use write_jsonl")
        if example.image_id is not None and image_key(example.image_id) != image_key(example.id):
            raise ValueError(
                f"CoNLL has one id a post, but post {example.id!r} has image {example.image_id!r}; use write_jsonl"
            )
        if example.more_images:
            raise ValueError(f"CoNLL has one image a post, but {example.id!r} has several; use write_jsonl")
        fields = (example.id, *example.words, *example.tags)
        good = all(field and "\t" not in field and "\n" not in field for field in fields)
        if not good or example.id != example.id.strip(" \r"):
            raise ValueError(f"Post {example.id!r} has an empty field or a tab or line break in one; use write_jsonl")
        rows = zip(example.words, example.tags, strict=True)
        blocks.append("".join([f"{IMGID}{example.id}\n", *(f"{word}\t{tag}\n" for word, tag in rows)]))
    with in_folder(path) as file:
        file.write("\n".join(blocks).encode())


def is_id_line(line: str) -> bool:
    """Whether a line gives a post's id."""
    return line.startswith(IMGID) and "\t" not in line  # with a tab it is a word


def post_blocks(lines: list[str]) -> Iterator[list[tuple[int, str]]]:
    """The numbered lines of each post: a blank line, or an `IMGID:` line, begins the next."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate(lines, start=1):
        if block and (not line or is_id_line(line)):
            yield block
            block = []
        if line:
            block.append((number, line))
    if block:
        yield block


def _word_and_tag(path: str | PathLike[str], number: int, line: str, scheme: SchemeOf) -> tuple[str, str]:
    columns = line.split("\t")
    if len(columns) != 2:
        found = f"{len(columns)} column{'s' * (len(columns) > 1)} in {shown(line)}"
        advice = "Columns are separated by one tab, posts by a line with nothing in it."
        raise DataFormatError(path, number, found, "two columns, word<TAB>tag", advice)
    word, tag = columns
    if not word:
        raise DataFormatError(path, number, f"no word before the tab in {shown(line)}", "word<TAB>tag")
    scheme.check(number, tag)
    return intern(word), intern(tag)  # the same few words again and again: half of the memory of a large file
