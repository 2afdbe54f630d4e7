"""Which image an id names: one look-up for folders, stored features and captions.

An id means, in this order,

1. the file of exactly that name, whatever its suffix, or in a sub-folder;
2. the one file that has the name and a suffix of images, where the id has none;
3. the one file whose name differs in its suffix, in letter case, or in how Unicode writes a letter (`ü` as one
   character or as `u` and dots). These are *loose*, and reported.

Two files that would do equally well are an error that names both.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from mner.errors import DataFormatError

SUFFIXES = (
    *(".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".ico", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc"),
    *(".jpe", ".jpeg", ".jpeg_large", ".jpf", ".jpg", ".jpg_large", ".jpg_medium", ".jpg_orig", ".jpg_small", ".jpx"),
    *(".mpo", ".pbm", ".pfm", ".pgm", ".pjp", ".pjpeg", ".png", ".png_large", ".png_orig", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
"""Of names of image files, in any letter case; Twitter's own downloads are called `.jpg_large` and the like."""
_SUFFIX = re.compile(f"({'|'.join(map(re.escape, SUFFIXES))})$", re.IGNORECASE)


def split_name(name: str) -> tuple[str, str]:
    """A name and its suffix of images; a name that is a suffix only has none.

    >>> split_name("a.b.PNG"), split_name("130"), split_name(".jpg")
    (('a.b', '.PNG'), ('130', ''), ('.jpg', ''))
    """
    found = _SUFFIX.search(name)
    return (name[: found.start()], found.group()) if found and found.start() else (name, "")


def image_key(image_id: str) -> str:
    """An image id, or the name of an image file, without its suffix.

    >>> image_key("17_06_4705.jpg"), image_key("130"), image_key("a.b.PNG")
    ('17_06_4705', '130', 'a.b')
    """
    return split_name(image_id)[0]


def fold(name: str) -> str:
    r"""A name without regard to letter case and to how Unicode composes it (canonical caseless matching).

    >>> fold("F") == fold("f"), fold("Zu\u0308rich") == fold("Z\u00fcrich"), fold("a") == fold("b")
    (True, True, False)
    """
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def unusable(name: str) -> bool:
    """Whether a name can stand in no index: not UTF-8, with a tab or line break, or a suffix only."""
    suffix_only = name.startswith(".") and _SUFFIX.fullmatch(name) is not None
    return not name or suffix_only or any(ord(c) < 32 or ord(c) == 127 or "\ud800" <= c <= "\udfff" for c in name)


def shown(name: str) -> str:
    r"""A name as it can be printed and written anywhere.

    >>> shown("a\tb")
    'a\\tb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


class ImageNames:
    """Names of image files, and which of them an id means.

    A name weighs little more than its own text: it is kept without its suffix, which most have in common.

    Args:
        names: The names.
        place: What messages call their place.

    Attributes:
        loose: Name by id, of ids that were found by another suffix, letter case or form of Unicode.
    """

    def __init__(self, names: Iterable[str], place: object) -> None:
        self.place = place
        self.loose: dict[str, str] = {}
        self._suffixes: dict[str, tuple[str, ...]] = {}
        self._folded: dict[str, list[str]] | None = None
        known: dict[tuple[str, ...], tuple[str, ...]] = {}  # one tuple for all names of one suffix
        for name in names:
            stem, suffix = split_name(name)
            found = (*self._suffixes.get(stem, ()), suffix)
            self._suffixes[stem] = known.setdefault(found, found)

    def __iter__(self) -> Iterator[str]:
        return (stem + suffix for stem, suffixes in self._suffixes.items() for suffix in suffixes)

    def has(self, name: str) -> bool:
        """Whether there is exactly this name."""
        stem, suffix = split_name(name)
        return suffix in self._suffixes.get(stem, ())

    def find(self, image_id: str) -> str | None:
        """The name that an id means, or None.

        Raises:
            DataFormatError: If it may mean one of several.
        """
        if self.has(image_id):
            return image_id
        stem, suffix = split_name(image_id)
        plain = self._of(stem)
        if not suffix and plain:
            return self._one(image_id, plain)
        found = self._loosely(image_id, stem, suffix, plain)
        if found is not None:
            self.loose[image_id] = found
        return found

    def _loosely(self, image_id: str, stem: str, suffix: str, plain: list[str]) -> str | None:
        if self._folded is None:  # of the names that are not folded as they stand, which are few
            self._folded = {}
            for other in self._suffixes:
                if (folded := fold(other)) != other:
                    self._folded.setdefault(folded, []).append(other)
        folded = fold(stem)
        stems = [*([folded] if folded in self._suffixes else []), *self._folded.get(folded, ())]
        alike = [name for other in stems for name in self._of(other)]
        same = [name for name in alike if fold(name) == fold(image_id)]  # but for case and form
        # `e.jpg` may also be the name, without suffix, of `e.jpg.jpg`.
        longer = self._of(image_id)
        form = unicodedata.normalize("NFC", image_id)
        for some in ([name for name in same if unicodedata.normalize("NFC", name) == form], same, plain, longer, alike):
            if some:
                return self._one(image_id, some)
        return None

    def _of(self, stem: str) -> list[str]:
        return [stem + suffix for suffix in self._suffixes.get(stem, ())]

    def _one(self, image_id: str, names: list[str]) -> str:
        if len(names) > 1:
            found = f"{' and '.join(shown(name) for name in sorted(names))} for the image {shown(image_id)!r}"
            advice = "Give the id with its suffix, or move one away."
            raise DataFormatError(self.place, None, found, "one file", advice)
        return names[0]

    def report(self, show: int = 5) -> str:
        """A line on what was found loosely; "" where nothing was."""
        if not self.loose:
            return ""
        named = ", ".join(f"{shown(id_)} as {shown(name)}" for id_, name in list(self.loose.items())[:show])
        more = ", ..." if len(self.loose) > show else ""
        return f"{len(self.loose)} images were found under another suffix, letter case or form: {named}{more}"
