"""A format of one's own: a post a line, each word with its tag behind a slash, `Anna/B-PER visits/O Lagos/B-LOC`."""

from pathlib import Path

from mner.data import Example
from mner.errors import DataFormatError


def read_slashes(path):
    posts = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        pairs = [pair.rpartition("/") for pair in line.split()]
        if not all(word and tag for word, _, tag in pairs):
            raise DataFormatError(path, number, repr(line), "words with their tags, word/TAG")
        words, _, tags = zip(*pairs, strict=True)
        posts.append(Example(id=f"{Path(path).stem}-{number}", image_id=None, words=words, tags=tags))
    return posts
