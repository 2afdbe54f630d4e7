"""Which posts have no image, and why: counted and said before a run begins."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mner.data.batch import Example
from mner.data.features import FeatureStore
from mner.data.images import ImageSource
from mner.errors import DataNotFoundError

log = logging.getLogger(__name__)


def report_images(
    posts: Sequence[Example], split: str, folder: ImageSource | None = None, store: FeatureStore | None = None
) -> None:
    """Log how many posts have no image. Files that cannot be read are known only once they are used.

    Args:
        posts: The posts.
        split: Their split, for the message.
        folder: Where their images are, or
        store: where their features are.

    Raises:
        DataNotFoundError: If no post has any: then the folder or the ids are wrong.
    """
    if not posts or (store is None and folder is None):
        return
    counts = _from_store(posts, store) if store is not None else _from_folder(posts, folder)
    counts = {"without image id": sum(post.image_id is None for post in posts), **counts}
    listed = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    if sum(counts.values()) == len(posts):
        place = folder.folder if store is None and folder is not None else getattr(store, "path", "the feature store")
        advice = "" if store is None else ", or extract them with `mner features --images … --out …`"
        raise DataNotFoundError(
            f"{place} has none of the images of the {len(posts)} {split} posts ({listed}); check folder and ids{advice}"
        )
    if listed:
        log.warning(
            "%s: %d of %d posts have no image (%s); they get the learned 'no image' vector",
            split, sum(counts.values()), len(posts), listed,
        )  # fmt: skip


def _from_folder(posts: Sequence[Example], folder: ImageSource | None) -> dict[str, int]:
    ids = [post.image_id for post in posts if post.image_id is not None]
    return {"missing": sum(folder is None or image_id not in folder for image_id in ids)}


def _from_store(posts: Sequence[Example], store: FeatureStore) -> dict[str, int]:
    absent = [post.image_id for post in posts if post.image_id is not None and post.image_id not in store]
    never = set(store.missing(absent))
    unknown = sum(image_id in never for image_id in absent)
    return {"broken when they were extracted": len(absent) - unknown, "never extracted": unknown}
