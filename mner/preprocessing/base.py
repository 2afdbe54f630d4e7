"""A pass over a folder of images, in batches: what extracting features and describing images share."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.images import ImageFolder, Reason, report_broken, shown
from mner.data.transforms import ImageTransform
from mner.runtime import keep_memory


class StoredRegions:
    """Stored features in place of a folder of images: what is opened by name is the regions (r, f) of an image.

    Args:
        store: The features.
    """

    unusable: Sequence[str] = ()

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.folder = store.path

    def __len__(self) -> int:
        return len(self.store) + len(self.store.broken)

    def __iter__(self) -> Iterator[str]:
        yield from self.store
        yield from self.store.broken

    def load(self, image_id: str) -> tuple[NDArray[Any] | None, Reason]:
        """The regions and "", or None and why there are none."""
        if image_id not in self.store:
            return None, self.store.broken[image_id]
        regions = self.store[image_id]
        return (regions, "") if len(regions) else (None, "no regions")


class Sweep:
    """Yields the images of a folder that are not done yet, in batches, under a progress bar.

    Images that cannot be read are left out, and collected in `broken`.

    Args:
        folder: The images, or their stored regions.
        done: Names of images that need no more work.
        batch_size: Images in a batch.
        num_workers: Processes that open images.
        transform: Image -> tensor; without one, images come as RGB PIL images.
        title: Words before the bar.

    Attributes:
        broken: Reason by name, of the images that could not be read or whose name no index can hold.
    """

    def __init__(
        self,
        folder: ImageFolder | StoredRegions,
        done: Container[str],
        batch_size: int,
        num_workers: int = 0,
        transform: ImageTransform | None = None,
        title: str = "images",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"Expected argument `batch_size` to be at least 1, but got {batch_size}")
        keys = [key for key in folder if key not in done]
        self._unusable: dict[str, Reason] = {shown(name): "unusable name" for name in folder.unusable}
        self.folder = folder
        self.title = title
        self.skipped = len(folder) - len(keys)
        self.broken: dict[str, Reason] = dict(self._unusable)
        self._loader: DataLoader[Any] = DataLoader(
            ImageFiles(folder, keys, transform),
            batch_size=batch_size,
            collate_fn=list,
            num_workers=num_workers,
            generator=torch.Generator(),  # else each pass would draw a number from the caller's
        )

    def __iter__(self) -> Iterator[tuple[list[str], list[Any]]]:
        keep_memory()
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(file=sys.stderr)) as progress:
            bar = progress.add_task(self.title, total=len(self.folder), completed=self.skipped)
            for batch in self._loader:
                self.broken |= {key: reason for key, image, reason in batch if image is None}
                good = [(key, image) for key, image, _ in batch if image is not None]
                if good:
                    yield [key for key, _ in good], [image for _, image in good]
                progress.update(bar, advance=len(batch))

    def report(self) -> str:
        """What was done, for the user."""
        made = len(self.folder) - self.skipped - (len(self.broken) - len(self._unusable))
        lines = [f"{made} images done" + (f", {self.skipped} were done before" if self.skipped else "")]
        if self.broken:
            lines.append(report_broken(self.broken, len(self.folder) + len(self._unusable)))
        return "\n".join(lines)


class ImageFiles(Dataset[tuple[str, Any, Reason]]):
    """Images one by one for a DataLoader: key, image (or None), reason. Images are tensors where a transform is given.

    Args:
        folder: Where they are.
        keys: Which of them, in which order.
        transform: Image -> tensor.
    """

    def __init__(
        self, folder: ImageFolder | StoredRegions, keys: Sequence[str], transform: ImageTransform | None = None
    ) -> None:
        self.folder = folder
        self.keys = list(keys)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[str, Any, Reason]:
        key = self.keys[index]
        loaded: tuple[Any, Reason] = self.folder.load(key)
        image, reason = loaded
        return key, image if image is None or self.transform is None else self.transform(image), reason
