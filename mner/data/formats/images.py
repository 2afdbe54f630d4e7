"""Image files: which there are, opening them whatever their state, and making tensors of them."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mner.data.formats.image_names import SUFFIXES as SUFFIXES
from mner.data.formats.image_names import ImageNames, split_name, unusable
from mner.data.formats.image_names import image_key as image_key
from mner.data.formats.image_names import shown as shown
from mner.errors import DataNotFoundError
from mner.files import name_as_text, name_on_disk

Reason = Literal[
    "", "missing", "unreadable", "empty", "not an image", "too large", "truncated or damaged", "unusable name",
    "no regions",
]  # fmt: skip
"""Why an image could not be opened, or has none of what was asked for; empty where it could."""
MAX_PIXELS = 89_478_485
"""More than this many pixels is taken for a decompression bomb, as Pillow does by default."""
MANY_PIXELS = 16_000_000
"""A picture with more is made smaller as soon as it is decoded, where less is needed: a batch would fill the memory."""
# Not all that Pillow opens: for EPS, for instance, it runs another program.
_FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")


def load_image(
    path: str | os.PathLike[str] | BinaryIO, size: int | None = None, most: int = MAX_PIXELS
) -> tuple[Image.Image | None, Reason]:
    """Open and decode an image file as upright RGB.

    Transparent parts become white, the orientation in EXIF is applied, of an animation the first frame is taken.

    Args:
        path: The file, or an open one.
        size: The shorter side that is needed. A JPEG file is then decoded at 1/2, 1/4 or 1/8 of its size where that is
            still at least `size`, which is about twice as fast; any file of more than 16 million pixels is then made
            smaller likewise. None keeps every pixel.
        most: A file with more pixels is "too large" and is not decoded.

    Returns:
        The image and "", or None and the reason. A broken image is data, not an exception.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # damaged EXIF and the like, of which the pixels know nothing
            with Image.open(path, formats=_formats()) as file:
                if file.width * file.height > most:
                    return None, "too large"
                if size is not None:
                    file.draft(None, (size, size))
                file.load()
                return _reduced(to_rgb(file), size), ""
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None, "missing"
    except PermissionError:
        return None, "unreadable"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return None, "too large"
    except UnidentifiedImageError:
        return None, "not an image" if _has_content(path) else "empty"
    except Exception:  # Pillow's decoders raise OSError, SyntaxError, struct.error, zlib.error, EOFError, ...
        return None, "truncated or damaged"


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image as `load_image` gives it: upright RGB. Decoding it may raise what its decoder raises."""
    return _rgb(_upright(image))


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _reduced(image: Image.Image, size: int | None) -> Image.Image:
    """A huge picture at 1/2, 1/3, ... of its size, so that its shorter side is still at least `size`."""
    factor = 1 if size is None else min(image.size) // size
    return image.reduce(factor) if factor > 1 and image.width * image.height > MANY_PIXELS else image


def _has_content(path: str | os.PathLike[str] | BinaryIO) -> bool:
    return os.path.getsize(path) > 0 if isinstance(path, (str, os.PathLike)) else path.seek(0, os.SEEK_END) > 0


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF that cannot be parsed says nothing about the pixels
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image.copy()  # cuts the tie to the file, which is about to close
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # more than 8 bits, which Pillow would clip
        pixels = np.asarray(image, dtype=np.float32)
        top = 65535.0 if image.mode != "F" else max(float(pixels.max(initial=0.0)), 1e-12)
        return Image.fromarray((pixels.clip(0, top) * (255.0 / top)).astype(np.uint8)).convert("RGB")
    if image.mode == "La":  # which Pillow makes nothing else of
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


class ImageSource(Protocol):
    """Where the images of posts are: `ImageFolder`, or a column of a Hugging Face data set.

    Attributes:
        size: Shorter side that `open` needs; see `load_image`.
    """

    size: int | None

    @property
    def folder(self) -> object:
        """What messages call the place."""
        ...

    def __contains__(self, image_id: str) -> bool: ...

    def open(self, image_id: str) -> Image.Image | None:
        """The image, or None where it is missing or broken."""
        ...


class ImageFolder:
    """The image files of one folder, from one listing of it: by their suffix, or without any dot in their name.

    `mner.data.formats.image_names` says which file an image id means. Files of sub-folders are found by exactly their
    name (`sub/7.jpg`) and are not listed. No name leads out of the folder: `../secret` finds nothing.

    Args:
        folder: The folder.
        size: Shorter side that `open` needs; see `load_image`.

    Attributes:
        unusable: Names of image files that no index can hold, such as one with a line break.

    Raises:
        DataNotFoundError: If there is no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str], size: int | None = None) -> None:
        self.folder = Path(folder)
        self.size = size
        if not self.folder.is_dir():
            raise DataNotFoundError(f"Expected a folder with images at {str(folder)!r}, but there is none")
        with os.scandir(self.folder) as entries:
            listed = (entry.name for entry in entries if _looks_like_image(entry.name) and not _is_folder(entry))
            names = sorted(map(name_as_text, listed))
        self.unusable = [name for name in names if unusable(name)]
        bad = set(self.unusable)
        self.names = ImageNames((name for name in names if name not in bad) if bad else names, self.folder)
        self._size = len(names) - len(bad)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        """The names of the image files, in alphabetical order but for those that differ in their suffix."""
        return iter(self.names)

    def __contains__(self, image_id: str) -> bool:
        return self.find(image_id) is not None

    def find(self, image_id: str) -> Path | None:
        """The file of an image id, or None.

        Raises:
            DataFormatError: If it may be one of several, which are named.
        """
        if "/" in image_id or os.sep in image_id or image_id in ("", ".", ".."):
            return self._below(image_id)
        if self.names.has(image_id) or self._is_file(image_id):
            return self.folder / name_on_disk(image_id)
        name = self.names.find(image_id)
        return None if name is None else self.folder / name_on_disk(name)

    def missing(self, image_ids: Iterable[str]) -> list[str]:
        """Those of `image_ids` that have no file, each once."""
        return [image_id for image_id in dict.fromkeys(image_ids) if image_id not in self]

    def load(self, image_id: str) -> tuple[Image.Image | None, Reason]:
        """The image and "", or None and why there is none."""
        path = self.find(image_id)
        return (None, "missing") if path is None else load_image(path, self.size)

    def open(self, image_id: str) -> Image.Image | None:
        """The image, or None where it is missing or broken."""
        return self.load(image_id)[0]

    def _below(self, image_id: str) -> Path | None:
        """A file of a sub-folder, by exactly its name."""
        path = self.folder / name_on_disk(image_id)
        try:
            inside = ".." not in path.parts and path.is_file() and path.resolve().parent.is_relative_to(self._root)
        except (OSError, ValueError, RuntimeError):  # too long, a null byte, a circle of links
            return None
        return path if inside and image_id else None

    @cached_property
    def _root(self) -> Path:
        return self.folder.resolve()

    def _is_file(self, name: str) -> bool:
        """Whether there is a file of exactly this name, which need not look like an image."""
        if _looks_like_image(name):
            return False  # it would be listed; millions of ids are not to be asked for one by one
        try:
            return os.path.isfile(self.folder / name_on_disk(name))
        except (OSError, ValueError):
            return False


def _looks_like_image(name: str) -> bool:
    """By its suffix; a name without a dot may be an image, as downloads by id are, and `.jpg` has no other name."""
    return "." not in name or split_name(f"x{name}")[1] != ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def report_broken(broken: dict[str, Reason], total: int, show: int = 5) -> str:
    """A line a user can act on: how many images could not be read, why, and the first few by name.

    >>> report_broken({"7": "missing", "9": "missing"}, 40)
    '2 of 40 images could not be read (missing 2): 7, 9'
    """
    counts = ", ".join(f"{reason} {count}" for reason, count in Counter(broken.values()).most_common())
    names = ", ".join(list(broken)[:show]) + (", ..." if len(broken) > show else "")
    return f"{len(broken)} of {total} images could not be read ({counts}): {names}"
