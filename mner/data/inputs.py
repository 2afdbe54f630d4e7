"""Inputs beyond words and regions: what a strategy can say that it `needs`, and how a post gets it.

::

    | need | field of `Batch` | where it comes from |
    |---|---|---|
    | `boxes` | `region_boxes` (b, r, 4) | stored regions; of a grid, its cells |
    | `scores` | `region_scores` (b, r) | stored regions; 1 for the cells of a grid |
    | `object_names` | `object_names`, b lists | option `object_names`, stored regions, or a context called `tags` |
    | `relation` | `relation` (b,) | option `relations`, a file (`mner relations`) |
    | `groups` | `region_group` (b, r) | which image of a post, or which crop of an image, a region is of |
    | `contexts` | `context_ids` (b, t) | which source of the option `context` a piece is of; two sources or more |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mner.data.examples import Example
from mner.data.formats.context import find_text
from mner.data.formats.images import image_key

NEEDS = frozenset({"boxes", "scores", "object_names", "relation", "groups", "contexts"})
TAGS = "tags"
"""The context source whose texts are names of objects."""
OF_REGIONS = frozenset({"boxes", "scores", "groups"})
"""Those that have a value for each region."""


def check_needs(needs: Iterable[str], owner: str = "The model") -> frozenset[str]:
    """What a strategy needs, if every name is known.

    Raises:
        ValueError: If one is not.
    """
    unknown = sorted(set(needs) - NEEDS)
    if unknown:
        raise ValueError(f"{owner} needs {unknown}; expected some of {sorted(NEEDS)}")
    return frozenset(needs)


class RegionSet(NamedTuple):
    """The regions of an image, or of a post with several; None for what is not known or not asked for."""

    features: NDArray[np.floating[Any]]  # (r, f)
    boxes: NDArray[np.float32] | None = None  # (r, 4) left, top, right, bottom in 0..1
    scores: NDArray[np.float32] | None = None  # (r,)
    groups: NDArray[np.int64] | None = None  # (r,) which image or crop; None for one image
    names: list[str] | None = None  # r names; "" for a region that is no object


class Regions(Protocol):
    """What the data set needs of a feature store: features (r, f) by image id."""

    def __contains__(self, image_id: str) -> bool: ...

    def __getitem__(self, image_id: str) -> NDArray[np.floating]: ...


def stored_regions(store: Regions, image_id: str, needs: frozenset[str] = frozenset()) -> RegionSet | None:
    """The stored regions of an image with what is needed of them; None where it has none.

    Args:
        store: A `FeatureStore`; where nothing more is needed, any mapping from image ids to features does.
        image_id: The image.
        needs: Some of `NEEDS`.
    """
    if image_id not in store or not len(features := store[image_id]):
        return None
    if not needs:
        return RegionSet(features)
    known: Any = store
    detected = known.kind == "regions"
    whole = np.ones(len(features), np.float32)  # a cell of a grid is there for certain
    return RegionSet(
        features,
        known.places(image_id) if "boxes" in needs else None,
        None if "scores" not in needs else known.scores(image_id) if detected else whole,
        known.groups(image_id) if "groups" in needs else None,
        known.names(image_id) if detected and "object_names" in needs else None,
    )


def join_regions(parts: Sequence[RegionSet | None]) -> RegionSet | None:
    """The regions of a post's images as one set, whose `groups` say which is of which; None without any.

    Args:
        parts: For each image in order its regions; None where it is missing, which keeps its number.
    """
    if not any(part is not None for part in parts):
        return None
    if len(parts) == 1:
        return parts[0]
    groups, found, first = [], [], 0
    for part in parts:
        if part is None:
            first += 1
            continue
        own = np.zeros(len(part.features), np.int64) if part.groups is None else part.groups
        groups.append(own + first)
        first += 1 + int(own.max(initial=0))
        found.append(part)
    boxes = [part.boxes for part in found if part.boxes is not None]
    scores = [part.scores for part in found if part.scores is not None]
    names = [part.names for part in found if part.names is not None]
    return RegionSet(
        np.concatenate([part.features for part in found]),
        np.concatenate(boxes) if len(boxes) == len(found) else None,
        np.concatenate(scores) if len(scores) == len(found) else None,
        np.concatenate(groups),
        [name for some in names for name in some] if len(names) == len(found) else None,
    )


def cell_boxes(rows: int, columns: int) -> NDArray[np.float32]:
    """The boxes (rows * columns, 4) of a grid's cells in row-major order, in 0..1 of what the encoder saw.

    >>> cell_boxes(1, 2).tolist()
    [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]
    """
    row, column = (part.ravel() for part in np.mgrid[:rows, :columns])
    edges = [column / columns, row / rows, (column + 1) / columns, (row + 1) / rows]
    return np.stack(edges, axis=1).astype(np.float32)


def split_names(text: str) -> list[str]:
    """The names of objects in a text, which commas part.

    >>> split_names("person, traffic light,")
    ['person', 'traffic light']
    """
    return [name for part in text.split(",") if (name := part.strip())]


def join_names(names: Iterable[str], scores: Iterable[float], min_score: float = 0.0) -> str:
    """The text that `split_names` reads again: each name once, in order, without those of a lower score.

    >>> join_names(["person", "", "dog", "person", "tree"], [0.9, 0.8, 0.7, 0.6, 0.1], min_score=0.5)
    'person, dog'
    """
    named = zip(names, scores, strict=True)
    return ", ".join(dict.fromkeys(name for name, score in named if name and score >= min_score))


@dataclass(frozen=True)
class PostInputs:
    """What a post needs beyond its regions.

    Attributes:
        needs: Some of `NEEDS`.
        names: Texts with the names of objects, by post id or image id.
        tags_place: Where in a post's context the names of objects are, in place of `names`.
        relations: Values by image key.
    """

    needs: frozenset[str] = frozenset()
    names: Mapping[str, str] | None = None
    tags_place: int | None = None
    relations: Mapping[str, float] | None = None

    def object_names(self, post: Example, regions: RegionSet | None) -> list[str]:
        """Names of objects: those of its regions in their order, or of its texts."""
        if self.names is not None:
            return split_names(find_text(self.names, post))
        if self.tags_place is not None:
            return split_names(post.context[self.tags_place]) if self.tags_place < len(post.context) else []
        return [] if regions is None or regions.names is None else regions.names

    def relation(self, post: Example) -> float:
        """How far its image adds to its text, 0 to 1; of several images the mean; NaN where it is not known."""
        known = self.relations or {}
        values = [known[key] for image_id in post.image_ids if (key := image_key(image_id)) in known]
        return float(np.mean(values)) if values else float("nan")


def described(data: Mapping[str, Any], label_set: str | None) -> dict[str, Any]:
    """What a checkpoint says of its data; of a label set's own, where it was trained with several.

    Args:
        data: What `describe` gave.
        label_set: The set's name; None for a model with one list of labels.
    """
    return {**data, **data.get("label_sets", {}).get(label_set, {})}
